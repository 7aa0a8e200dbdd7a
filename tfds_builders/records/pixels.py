"""From encoded images to the pixels a model sees: decode.py's pixels, and the one resize.

Training, evaluation, the registered model and serving all go through these functions, so the same image is the same
uint8 array everywhere. TensorFlow is imported inside: builders import this package without paying for it.
"""

from typing import Any

import numpy as np

from tfds_builders.records.decode import decode_rgb

RESIZE = "resize"  # the aspect that squeezes an image instead of cutting a square out of it


def decode_uint8(plain: Any) -> Any:
    """TensorFlow's half of the decoder: one image that `plain_bytes` made or let through, bit-equal to `decode_rgb`.

    Args:
      plain: scalar string tensor.

    Returns:
      uint8 tensor (height, width, 3), RGB in 0..255.
    """
    import tensorflow as tf

    # decode_jpeg reads PNG as well. Only it has dct_method: decode_image always takes the fast transform, which is off
    # by up to 18 of 255 on a photograph of quality 95.
    return tf.io.decode_jpeg(plain, channels=3, dct_method="INTEGER_ACCURATE")


def resize_uint8(image: Any, image_size: int) -> Any:
    """Resizes one RGB image to a square: bilinear, half-pixel centres, rounded to the nearest integer.

    Where a side shrinks to less than two thirds, the kernel is widened against aliasing. Measured on photographs,
    against a Lanczos filter: up to 1.6 times smaller the plain kernel is the nearer one (and three times faster,
    0.4 ms for 256 -> 224); from 1.75 times on it makes edges that are not there.

    Args:
      image: uint8 tensor or array (height, width, 3).
      image_size: side of the result in pixels.

    Returns:
      uint8 tensor (image_size, image_size, 3). An image already of that size comes back unchanged.
    """
    import tensorflow as tf

    def resized(antialias: bool) -> Any:
        pixels = tf.image.resize(image, (image_size, image_size), method="bilinear", antialias=antialias)
        return tf.cast(tf.round(pixels), tf.uint8)  # bilinear weights are convex: the range stays 0..255

    sides = tf.shape(image)[:2]
    result = tf.cond(
        tf.reduce_all(sides == image_size),
        lambda: tf.convert_to_tensor(image),
        lambda: tf.cond(tf.reduce_any(2 * sides > 3 * image_size), lambda: resized(True), lambda: resized(False)),
    )
    return tf.ensure_shape(result, (image_size, image_size, 3))


def crop_square(image: Any, place: Any = 0.5) -> Any:
    """The largest square of one RGB image; `place`, 0 to 1, says where along the longer side it lies.

    Args:
      image: uint8 tensor or array (height, width, 3).
      place: 0 the left or upper end, 0.5 the middle, 1 the other end. May be a scalar float32 tensor.

    Returns:
      uint8 tensor (side, side, 3), side = min(height, width).
    """
    import tensorflow as tf

    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    top, left = (tf.cast(tf.round(tf.cast(length - side, tf.float32) * place), tf.int32) for length in (height, width))
    return tf.convert_to_tensor(image)[top : top + side, left : left + side]


def load_pixels(data: bytes, image_size: int, aspect: str = RESIZE) -> np.ndarray:
    """The pixels a model of input size `image_size` sees for one image file of any accepted format.

    Args:
      aspect: how the image becomes a square: "resize" squeezes it; with anything else its middle is cut out.

    Returns:
      uint8 array (image_size, image_size, 3), RGB.

    Raises:
      BadImage: the bytes are no image, or one that cannot be read; the message says why.
    """
    image = decode_rgb(data)
    return resize_uint8(image if aspect == RESIZE else crop_square(image), image_size).numpy()

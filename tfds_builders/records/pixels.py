"""From encoded images to the pixels a model sees: decode.py's pixels, and the three ways to a square.

Training, evaluation, the registered model and serving all go through these functions, so the same image is the same
uint8 array everywhere. TensorFlow is imported inside: builders import this package without paying for it.
"""

from typing import Any

import numpy as np

from tfds_builders.records.decode import decode_rgb

# Aspects: how an image becomes a square.
RESIZE = "resize"  # it is squeezed
CENTRE_CROP = "centre_crop"  # the largest square in its middle is resized
RANDOM_CROP = "random_crop"  # a window is cut out, and nothing resampled
MIDDLE = (0.5, 0.5)


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


def middle_square(image: Any) -> Any:
    """The largest square in the middle of one RGB image.

    Args:
      image: uint8 tensor or array (height, width, 3).

    Returns:
      uint8 tensor (side, side, 3), side = min(height, width).
    """
    import tensorflow as tf

    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    top, left = (tf.cast(tf.round(tf.cast(length - side, tf.float32) / 2), tf.int32) for length in (height, width))
    return tf.convert_to_tensor(image)[top : top + side, left : left + side]


def cut_window(image: Any, image_size: int, place: Any = MIDDLE) -> Any:
    """A square window of an image's own pixels: nothing is resampled, so the traces of how it was made stay.

    Where a side is shorter than the window, the whole side is in it and what lies beyond is mirrored at the image's
    edges, again and again if need be; the outermost pixels are not repeated.

    Args:
      image: uint8 tensor or array (height, width, channels).
      image_size: side of the window in pixels.
      place: of the window, down and to the right: two numbers, or float32 tensor (2,), in [0, 1). From 0, the upper
        or left end, over 0.5, the middle, every whole number of pixels is as likely.

    Returns:
      uint8 tensor (image_size, image_size, channels).
    """
    import tensorflow as tf

    image = tf.convert_to_tensor(image)
    for axis, share in enumerate(tf.unstack(tf.convert_to_tensor(place, tf.float32))):
        length = tf.shape(image)[axis]
        start = tf.cast(tf.floor(share * tf.cast(length - image_size + 1, tf.float32)), tf.int32)
        last = tf.maximum(length - 1, 1)
        # start + k, folded back at 0 and at the last pixel: the identity where the window lies inside.
        indices = last - tf.abs((start + tf.range(image_size)) % (2 * last) - last)
        image = tf.gather(image, tf.minimum(indices, length - 1), axis=axis)
    return tf.ensure_shape(image, (image_size, image_size, None))


def square_uint8(image: Any, image_size: int, aspect: str = RESIZE, place: Any = MIDDLE) -> Any:
    """The square that a model sees of one RGB image.

    Args:
      image: uint8 tensor or array (height, width, 3).
      aspect: RESIZE, CENTRE_CROP or RANDOM_CROP.
      place: of that window, as of `cut_window`; in training drawn, everywhere else the middle.

    Returns:
      uint8 tensor (image_size, image_size, 3).
    """
    if aspect == RANDOM_CROP:
        return cut_window(image, image_size, place)
    return resize_uint8(image if aspect == RESIZE else middle_square(image), image_size)


def load_pixels(data: bytes, image_size: int, aspect: str = RESIZE) -> np.ndarray:
    """The pixels a model of input size `image_size` sees for one image file of any accepted format.

    Args:
      aspect: how the image becomes a square, see `square_uint8`.

    Returns:
      uint8 array (image_size, image_size, 3), RGB.

    Raises:
      BadImage: the bytes are no image, or one that cannot be read; the message says why.
    """
    return square_uint8(decode_rgb(data), image_size, aspect).numpy()

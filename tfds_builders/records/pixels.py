"""From encoded images to the pixels a model sees: the one decoder and the one resize.

Training, evaluation, the registered model and serving all go through these functions, so the same image is the same
uint8 array everywhere. TensorFlow is imported inside: builders import this package without paying for it.
"""

from typing import Any

import numpy as np

from tfds_builders.records.decode import plain_bytes


def decode_uint8(plain: Any) -> Any:
    """Decodes one image that every decoder agrees about (see `plain_bytes`), as a TensorFlow operation.

    Args:
      plain: scalar string tensor or bytes, the encoded JPEG, PNG or BMP.

    Returns:
      uint8 tensor (height, width, 3), RGB in 0..255.
    """
    import tensorflow as tf

    image = tf.io.decode_image(plain, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))  # decode_image leaves even the rank open
    return image


def resize_uint8(image: Any, image_size: int) -> Any:
    """Resizes one RGB image to a square: bilinear, half-pixel centres, no antialiasing, rounded to the nearest integer.

    Args:
      image: uint8 tensor or array (height, width, 3).
      image_size: side of the result in pixels.

    Returns:
      uint8 tensor (image_size, image_size, 3). An image already of that size comes back unchanged.
    """
    import tensorflow as tf

    resized = tf.image.resize(image, (image_size, image_size), method="bilinear", antialias=False)
    return tf.cast(tf.round(resized), tf.uint8)  # bilinear weights are convex: the range stays 0..255


def load_pixels(data: bytes, image_size: int) -> np.ndarray:
    """The pixels a model of input size `image_size` sees for one image file of any accepted format.

    Returns:
      uint8 array (image_size, image_size, 3), RGB.

    Raises:
      BadImage: the bytes are no image, or one that cannot be read; the message says why.
    """
    return resize_uint8(decode_uint8(plain_bytes(data)), image_size).numpy()

"""One file, the same pixels everywhere: training, validation, prediction and serving.

Two decoders, one result. TensorFlow decodes the many plain files inside tf.data (`decode_tensor(plain_bytes(data))`);
Pillow decodes the odd ones, and everything outside tf.data (`decode_rgb(data)`). The two are bit-equal, on one
condition: TensorFlow's default JPEG transform is a fast approximation, off by up to 18 of 255 on a photograph of
quality 95, so `decode_tensor` asks for the accurate one (about 5 % slower), and no other decoding op may be used.

What either does: the EXIF orientation is applied, the first frame of an animation is taken, alpha is dropped, 16 bits
become 8 by `>> 8`, grey and CMYK become RGB.

This file travels inside registered models: NumPy, Pillow, and `header.py` with the two modules it imports.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfds_builders.records.header import BadImage, ImageFacts, inspect

if TYPE_CHECKING:
    import tensorflow as tf

# EXIF orientation -> what makes the image upright (Exif 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PNG compression: none for what is decoded again at once, zlib's usual level for what is stored.
_TRANSIENT_LEVEL = 0
_STORED_LEVEL = 6


def plain_bytes(data: bytes) -> bytes:
    """The image as bytes that `decode_tensor` turns into its upright pixels: `data` itself for most files.

    Odd files (CMYK, BMP, GIF, WebP, TIFF, rotated by EXIF) come back as an uncompressed PNG of their pixels.

    Raises:
      BadImage: `data` is not an image that can be read.
    """
    facts = inspect(data)
    return data if facts.plain else _png(_upright(data, facts), _TRANSIENT_LEVEL)


def decode_rgb(data: bytes) -> np.ndarray:
    """The pixels of an encoded image: uint8 [height, width, 3], RGB, 0..255, upright.

    Bit-equal to `decode_tensor(plain_bytes(data))`.

    Raises:
      BadImage: `data` is not an image that can be read, or is damaged.
    """
    return np.asarray(_upright(data, inspect(data)))


def to_png(data: bytes) -> bytes:
    """A PNG of the image's pixels (8-bit RGB, upright), for formats that TFDS cannot store.

    Lossless but for what decoding drops (alpha, further frames, the lower 8 bits of 16). The same bytes every time
    under one version of Pillow.

    Raises:
      BadImage: `data` is not an image that can be read, or is damaged.
    """
    return _png(_upright(data, inspect(data)), _STORED_LEVEL)


def decode_tensor(encoded: tf.Tensor) -> tf.Tensor:
    """TensorFlow's half: a scalar string tensor made by `plain_bytes` -> uint8 [height, width, 3], RGB, upright."""
    import tensorflow as tf

    # decode_jpeg reads PNG as well. It alone has dct_method: decode_image always takes the fast approximation.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _upright(data: bytes, facts: ImageFacts) -> Image.Image:
    """Decodes with Pillow: mode RGB, orientation applied."""
    try:
        with Image.open(io.BytesIO(data), formats=[facts.format]) as image:
            image.load()
            if image.mode.startswith("I;16"):  # `convert` would clip at 255
                high = (np.asarray(image) >> 8).astype(np.uint8)
                rgb = Image.fromarray(high).convert("RGB")
            else:
                rgb = image.convert("RGB")
    except MemoryError:  # says something about the machine, not about the file
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged files
        code = "truncated" if "truncated" in str(error).lower() else "undecodable"
        raise BadImage(code, f"the {facts.format} file cannot be decoded: {type(error).__name__}: {error}") from None
    # Pillow itself turns TIFF upright on loading.
    if facts.orientation != 1 and facts.format != "TIFF":
        rgb = rgb.transpose(_UPRIGHT[facts.orientation])
    return rgb


def _png(image: Image.Image, level: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "PNG", compress_level=level)  # without metadata
    return buffer.getvalue()

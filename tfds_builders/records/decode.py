"""One file, the same pixels everywhere: training, validation, prediction and serving.

Two decoders, one result. TensorFlow decodes the many plain files inside tf.data, `pixels.decode_uint8` of
`plain_bytes(data)`; Pillow decodes the odd ones, and everything outside tf.data (`decode_rgb(data)`). The two are
bit-equal, on one condition: TensorFlow's default JPEG transform is a fast approximation, off by up to 18 of 255 on a
photograph of quality 95, so `decode_uint8` asks for the accurate one (3 to 5 % slower), and no other decoding op may be
used.

What either does: the EXIF orientation is applied, the first frame of an animation is taken, alpha is dropped, 16 bits
become 8 by `>> 8`, grey and CMYK become RGB.

This file travels inside registered models: NumPy, Pillow, `header.py` and `bare.py` with the modules they import.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tfds_builders.records.bare import PNG_SIGNATURE, bare
from tfds_builders.records.facts import BadImage, ImageFacts, describe
from tfds_builders.records.header import inspect

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
_PAETH = 4  # PNG filter type
_BLOCK_BYTES = 1 << 20  # of pixels filtered at a time, so that a huge image needs no huge temporary arrays


def plain_bytes(data: bytes) -> bytes:
    """The image as bytes that `decode_uint8` turns into its upright pixels: `data` itself for most files.

    Odd files (CMYK, BMP, GIF, WebP, TIFF, rotated by EXIF) come back as an uncompressed PNG of their pixels.

    Raises:
      BadImage: `data` is not an image that can be read.
    """
    facts = inspect(data)
    return data if facts.plain else encode_png(np.asarray(_upright(data, facts)), compress=False)


def decode_rgb(data: bytes) -> np.ndarray:
    """The pixels of an encoded image: uint8 [height, width, 3], RGB, 0..255, upright.

    Bit-equal to `pixels.decode_uint8(plain_bytes(data))`.

    Raises:
      BadImage: `data` is not an image that can be read, or is damaged.
    """
    return np.asarray(_upright(data, inspect(data)))


def to_png(data: bytes) -> bytes:
    """A PNG of the image's pixels (8-bit RGB, upright), for formats that TFDS cannot store.

    Lossless but for what decoding drops: alpha, further frames, the lower 8 bits of 16.

    Raises:
      BadImage: `data` is not an image that can be read, or is damaged.
    """
    return encode_png(decode_rgb(data))


def _upright(data: bytes, facts: ImageFacts) -> Image.Image:
    """Decodes with Pillow: mode RGB, orientation applied."""
    try:
        with Image.open(io.BytesIO(bare(data, facts)), formats=[facts.format]) as image:
            image.load()
            image.info.pop("transparency", None)  # alpha is dropped; `convert` would warn about it
            if image.mode.startswith("I;16"):  # `convert` would clip at 255
                high = (np.asarray(image) >> 8).astype(np.uint8)
                rgb = Image.fromarray(high).convert("RGB")
            else:
                rgb = image.convert("RGB")
    except (BadImage, MemoryError):  # the latter says something about the machine, not about the file
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged files
        code = "truncated" if "truncated" in str(error).lower() else "undecodable"
        raise BadImage(code, f"the {facts.format} file cannot be decoded: {describe(error)}") from None
    # Pillow itself turns TIFF upright on loading.
    if facts.orientation != 1 and facts.format != "TIFF":
        rgb = rgb.transpose(_UPRIGHT[facts.orientation])
    return rgb


def encode_png(rgb: np.ndarray, compress: bool = True) -> bytes:
    """An 8-bit RGB PNG without metadata.

    Args:
      rgb: uint8 [height, width, 3].
      compress: False stores the pixels as they are, 15 times faster, for bytes that are decoded again at once.

    Returns:
      The file; always the same bytes for the same pixels. Photographs come out as small as Pillow makes them, in a
      fifth of its time: one filter (Paeth) for all rows, and run lengths instead of a search for repetitions.
    """
    height, width, _ = rgb.shape
    rows = rgb.reshape(height, 3 * width)
    deflater = zlib.compressobj(strategy=zlib.Z_RLE) if compress else zlib.compressobj(level=0)
    parts = []
    rows_per_block = max(1, _BLOCK_BYTES // (3 * width))
    for begin in range(0, height, rows_per_block):
        block = rows[begin : begin + rows_per_block]
        above = rows[begin - 1] if begin else np.zeros_like(rows[0])
        filtered = np.zeros((len(block), 1 + 3 * width), np.uint8)  # the first byte of a row names its filter
        if compress:
            filtered[:, 0] = _PAETH
            filtered[:, 1:] = block - _paeth_prediction(block, above)
        else:
            filtered[:, 1:] = block
        parts.append(deflater.compress(filtered.data))
    parts.append(deflater.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(parts)) + _chunk(b"IEND", b"")


def _paeth_prediction(rows: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The Paeth predictor (PNG specification 9.4) of RGB rows: uint8 [n, 3 * width]; `above` is the row before them."""
    padded = np.zeros((len(rows) + 1, rows.shape[1] + 3), np.int16)
    padded[0, 3:], padded[1:, 3:] = above, rows
    left, up, corner = padded[1:, :-3], padded[:-1, 3:], padded[:-1, :-3]
    to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    nearest = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest).astype(np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

"""Is this file a whole, undamaged image? Three depths, each including the one before.

    header    the file says what it is and how large (`records.header`): 3 microseconds
    checksum  its structure is walked to the end marker: PNG chunk checksums, JPEG segments and scans, sizes of BMP,
              blocks of GIF and WebP: 15 microseconds for a JPEG of 25 KB, 35 for a PNG of 140 KB
    decode    every pixel is decoded: 1 millisecond and 3.5 for the same files

What passes `checksum` and can be decoded has the same pixels in both decoders (`records.decode`); what passes `decode`
is decoded by both. A JPEG has no checksums: a flipped bit in its data shows as wrong pixels, at no level as an error.
"""

from tfds_builders.records.convertible import gif_blocks
from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.facts import BadImage, ImageFacts
from tfds_builders.records.header import inspect
from tfds_builders.sharding.jpeg_structure import has_all_data, walk_jpeg
from tfds_builders.sharding.png_structure import check_pixels, walk_png

LEVELS = ("header", "checksum", "decode")


def validate(data: bytes, level: str) -> ImageFacts:
    """Checks one whole image file.

    Args:
      data: the file.
      level: one of LEVELS.

    Returns:
      The facts of its header; from `checksum` on with the flag `trailing_bytes` if something follows the image's end.

    Raises:
      BadImage: the file is damaged, or no image; the code is one of `records.facts.CODES`.
      ValueError: no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"validation must be one of {', '.join(LEVELS)}; received {level!r}")
    facts = inspect(data)
    if level == "header":
        return facts
    try:
        end = _WALKS[facts.format](data, facts)
    except IndexError:  # a field that lies past the end of `data`
        raise BadImage("truncated", f"the {facts.format} file ends after {len(data)} bytes, inside a segment") from None
    if end < len(data):
        facts = facts._replace(flags=(*facts.flags, "trailing_bytes"))
    if level == "decode":
        _decode(data, facts, end)
    return facts


def _walk_bmp(data: bytes, facts: ImageFacts) -> int:
    """The size that the header promises. Returns the end of the file: a BMP has no end marker."""
    offset, header = int.from_bytes(data[10:14], "little"), int.from_bytes(data[14:18], "little")
    bits = int.from_bytes(data[24:26] if header == 12 else data[28:30], "little")
    compression = 0 if header == 12 else int.from_bytes(data[30:34], "little")
    rows = facts.height * ((facts.width * bits + 31) // 32 * 4)  # each padded to 4 bytes
    if offset < 14 + header:
        raise BadImage("undecodable", f"the pixels of the BMP file would begin inside its header, at byte {offset}")
    if compression in (0, 3, 6) and offset + rows > len(data):
        raise BadImage("truncated", f"the BMP file has {len(data)} bytes; its header promises {offset + rows}")
    return len(data)


def _walk_gif(data: bytes, facts: ImageFacts) -> int:
    return max(end for _, _, end in gif_blocks(data))


def _walk_webp(data: bytes, facts: ImageFacts) -> int:
    """The chunks inside the RIFF container."""
    end = 8 + int.from_bytes(data[4:8], "little")
    position, has_image = 12, False
    while position + 8 <= min(end, len(data)):
        has_image = has_image or data[position : position + 4] in (b"VP8 ", b"VP8L", b"ANMF")
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + (length & 1)
    if max(end, position) > len(data):
        raise BadImage("truncated", f"the WebP file has {len(data)} bytes; its header promises {max(end, position)}")
    if not has_image:
        raise BadImage("undecodable", "the WebP file holds no image")
    return end


def _walk_tiff(data: bytes, facts: ImageFacts) -> int:
    """TIFF has neither checksums nor an order of its parts: nothing short of decoding tells."""
    decode_rgb(data)
    return len(data)


_WALKS = {
    "JPEG": walk_jpeg,
    "PNG": walk_png,
    "BMP": _walk_bmp,
    "GIF": _walk_gif,
    "WEBP": _walk_webp,
    "TIFF": _walk_tiff,
}


def _decode(data: bytes, facts: ImageFacts, end: int) -> None:
    """Decodes the image that ends at `end`, and catches what the decoders pass over in silence."""
    if facts.format == "JPEG":
        if not has_all_data(data[: end - 2], data[end:]):
            raise BadImage("truncated", "the JPEG file reaches its end marker before the end of the image data")
        return
    if facts.format == "PNG":
        check_pixels(data[:end], facts)
    decode_rgb(data)

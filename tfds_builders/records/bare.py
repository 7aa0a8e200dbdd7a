"""Image files without what their pixels do not need, before Pillow reads them.

Pillow keeps and partly interprets all metadata. PNG files with long texts or odd profiles it refuses. Of TIFF
directories, which EXIF blocks are too, it reads the data of every tag, all of which may be the same bytes: a thousand
tags on one megabyte take a gigabyte. Comments in GIF files take it time that grows with their square: five megabytes of
them half a minute.

    data = bare(data, inspect(data))  # decodes to the same pixels, and states the same orientation if not a PNG
"""

import re
import struct

from tfds_builders.records.convertible import first_page, gif_blocks
from tfds_builders.records.facts import BadImage, ImageFacts

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# JFIF and Adobe: libjpeg takes from them whether the samples are YCbCr.
_JPEG_SEGMENTS = (0xE0, 0xEE)
_JPEG_WITHOUT_CONTENT = (0x00, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE))
_FILL = re.compile(rb"\xff+")  # before a marker's number


def bare(data: bytes, facts: ImageFacts) -> bytes:
    """The file with only what its pixels need; `data` itself if there is nothing else.

    Args:
      data: a whole file.
      facts: what `inspect` says of it.

    Raises:
      BadImage: the metadata of a JPEG or TIFF cannot be told from the rest.
    """
    if facts.format == "PNG":
        return _bare_png(data)
    if facts.format == "JPEG":
        return _bare_jpeg(data, facts.orientation)
    if facts.format == "GIF":
        return _bare_gif(data)
    return first_page(data)[0] if facts.format == "TIFF" else data


def _bare_png(png: bytes) -> bytes:
    parts, begin = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while begin < len(png):
        end = begin + 12 + int.from_bytes(png[begin : begin + 4])
        if png[begin + 4 : begin + 8] in _PNG_CHUNKS:
            parts.append(png[begin:end])
        begin = end
    return b"".join(parts)


def _bare_gif(gif: bytes) -> bytes:
    """The screen, and the first image with the controls before it."""
    parts: list[bytes] = []
    for introducer, begin, end in gif_blocks(gif):
        if not parts:
            parts.append(gif[:begin])
        if introducer == 0x2C or gif[begin + 1] == 0xF9:
            parts.append(gif[begin:end])
        if introducer == 0x2C:
            break
    first = b"".join(parts) + b";"
    return gif if first == gif else first


def _bare_jpeg(jpeg: bytes, orientation: int) -> bytes:
    """Walks the segments up to the first scan, passing over what is no marker, as Pillow does."""
    begins, ends = [], [2]  # of what is dropped; what is kept lies between an end and the next begin
    position = 2
    while (fill := _FILL.search(jpeg, position)) and fill.end() < len(jpeg):
        marker, position = jpeg[fill.end()], fill.end() + 1
        if marker == 0xDA:
            break
        if marker in _JPEG_WITHOUT_CONTENT:
            continue
        length = int.from_bytes(jpeg[position : position + 2])
        if length < 2:
            raise BadImage("undecodable", f"the JPEG file has no valid segment at byte {fill.start()}")
        position += length
        if 0xE0 <= marker <= 0xEF and marker not in _JPEG_SEGMENTS:
            begins.append(fill.start())  # with the fill bytes, lest they make a marker of what follows
            ends.append(position)
    if not begins:
        return jpeg
    exif = _exif_segment(orientation) if orientation != 1 else b""
    kept = [jpeg[end:begin] for end, begin in zip(ends, [*begins, len(jpeg)], strict=True)]
    return b"".join([jpeg[:2], exif, *kept])


def _exif_segment(orientation: int) -> bytes:
    """An APP1 segment that states the orientation and nothing else."""
    exif = b"Exif\0\0MM\0\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif

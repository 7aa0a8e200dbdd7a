"""Image files without what their pixels do not need, before Pillow reads them.

Pillow keeps and partly interprets all metadata. PNG files with long texts or odd profiles it refuses. Of TIFF
directories, which EXIF blocks are too, it reads the data of every tag, all of which may be the same bytes: a thousand
tags on one megabyte take a gigabyte.

    data = bare(data, inspect(data))  # decodes to the same pixels, and states the same orientation if not a PNG
"""

import re
import struct

from tfds_builders.records.facts import BadImage, ImageFacts

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# JFIF and Adobe: libjpeg takes from them whether the samples are YCbCr.
_JPEG_SEGMENTS = (0xE0, 0xEE)
_JPEG_WITHOUT_CONTENT = (0x00, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE))
_FILL = re.compile(rb"\xff+")  # before a marker's number
# TIFF 6.0, its technical notes, and what libtiff's codecs and Pillow know besides; 48129 is what Pillow refuses.
_TIFF_TAGS = frozenset(
    (*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339)
    + (347, *range(512, 522), *range(529, 533), *range(32996, 32999), 48129, 50674)
)
_TIFF_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
}  # type -> of one
_TIFF_OPAQUE = (1, 2, 7)  # types that stay bytes; the values of others become objects of 30 bytes and more
_MAX_ENTRIES = 2**16 - 1  # of a directory; BigTIFF could have more
_MAX_VALUES = 2**18  # of a tag: four planes of the largest image in strips of one row


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
    return first_page(data)[0] if facts.format == "TIFF" else data


def _bare_png(png: bytes) -> bytes:
    parts, begin = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while begin < len(png):
        end = begin + 12 + int.from_bytes(png[begin : begin + 4])
        if png[begin + 4 : begin + 8] in _PNG_CHUNKS:
            parts.append(png[begin:end])
        begin = end
    return b"".join(parts)


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


def first_page(tiff: bytes) -> tuple[bytes, bool]:
    """The TIFF with only its first directory, and in that only the tags that pixels need; and whether there were more
    directories.

    Nothing moves: the shorter directory takes the place of the one that was there.

    Raises:
      BadImage: truncated (inside the directory), or undecodable: the tags hold more than the file, or one of them too
        many numbers or what another one says, too.
    """
    order, is_big = "<" if tiff[0] == 0x49 else ">", 43 in tiff[2:4]
    number, pointer, in_place, header = ("Q", "Q", "8s", 16) if is_big else ("H", "I", "4s", 8)
    (begin,) = struct.unpack_from(order + pointer, tiff, header // 2)
    first = begin + struct.calcsize(order + number)
    if first > len(tiff):
        raise _cut_off(tiff)
    (num_entries,) = struct.unpack_from(order + number, tiff, begin)
    entry = struct.Struct(order + "HH" + pointer + in_place)
    end = first + num_entries * entry.size
    if end > len(tiff):
        raise _cut_off(tiff)
    if begin < header or num_entries > _MAX_ENTRIES:
        raise BadImage("undecodable", f"the TIFF file has a directory of {num_entries} tags at byte {begin}")
    kept: dict[int, bytes] = {}
    num_bytes = 0
    for position in range(first, end, entry.size):
        tag, kind, count, _ = entry.unpack_from(tiff, position)
        if tag not in _TIFF_TAGS or kind not in _TIFF_BYTES:
            continue
        num_bytes += count * _TIFF_BYTES[kind]
        if tag in kept or num_bytes > len(tiff) or (count > _MAX_VALUES and kind not in _TIFF_OPAQUE):
            raise BadImage(
                "undecodable",
                f"the TIFF file of {len(tiff)} bytes cannot be what its tag {tag} says: each is there once, has at "
                f"most {_MAX_VALUES} numbers, and all together hold no more than the file; received {count} values",
            )
        kept[tag] = tiff[position : position + entry.size]
    following = tiff[end : end + struct.calcsize(order + pointer)]
    has_more = int.from_bytes(following, "little" if order == "<" else "big") not in (0, begin)
    if len(kept) == num_entries and not any(following):
        return tiff, False
    directory = struct.pack(order + number, len(kept)) + b"".join(kept.values()) + bytes(len(following))
    return tiff[:begin] + directory + tiff[begin + len(directory) :], has_more


def _cut_off(tiff: bytes) -> BadImage:
    return BadImage("truncated", f"the TIFF file ends after {len(tiff)} bytes, inside its directory")

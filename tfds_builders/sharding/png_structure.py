"""A PNG's chunks and their checksums, followed to the end marker (PNG specification 5 and 8)."""

import zlib
from typing import NoReturn

from tfds_builders.records.facts import BadImage, ImageFacts

_DEFLATE_RATIO = 1032  # the most that deflate can expand: RFC 1951, 258 bytes from 2 bits
_FIRST_BYTES = 512  # of a PNG's compressed data are inflated: enough to see that it is none
_PIXEL_CHUNK_BYTES = 1 << 20
# Of each pass of an interlaced PNG: first row, first column, and the steps to the next (specification 8.2).
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def walk_png(data: bytes, facts: ImageFacts) -> int:
    """Walks the chunks of a file with valid header to IEND, and compares each with its checksum.

    Returns:
      Where the image ends: the number of bytes up to and including IEND.

    Raises:
      BadImage: bad_checksum, truncated, missing_end_marker, undecodable.
    """
    view, position, length = memoryview(data), 8, len(data)
    compressed, last_kind, kinds = 0, b"", set()
    while True:
        begin = position
        if begin + 12 > length:
            _explain_missing_end(data, begin, compressed, facts)
        kind = data[begin + 4 : begin + 8]
        position = begin + 12 + int.from_bytes(data[begin : begin + 4])
        if position > length:
            raise BadImage("truncated", f"the PNG file ends after {length} bytes, inside a chunk {kind!r}")
        if zlib.crc32(view[begin + 4 : position - 4]) != int.from_bytes(data[position - 4 : position]):
            raise BadImage(
                "bad_checksum", f"the chunk {kind!r} at byte {begin} of the PNG file is not what its checksum says"
            )
        if kind == b"IDAT":
            if not compressed:
                _check_compressed(data[begin + 8 : min(begin + 8 + _FIRST_BYTES, position - 4)])
            elif last_kind != b"IDAT":
                raise BadImage(
                    "undecodable", f"other chunks stand between the image data of the PNG file, before {begin}"
                )
            compressed += position - begin - 12
        elif kind == b"IEND":
            break
        elif not kind[0] & 0x20:  # upper case: critical
            if kind not in (b"IHDR", b"PLTE") or kind in kinds:
                raise BadImage("undecodable", f"the PNG file has an unknown or repeated critical chunk {kind!r}")
            if kind == b"PLTE" and not 3 <= position - begin - 12 <= 768:
                raise BadImage("undecodable", "the palette of the PNG file is empty or has more than 256 colours")
        kinds.add(kind)
        last_kind = kind
    if compressed * _DEFLATE_RATIO < _count_pixel_bytes(facts, is_interlaced=False):
        raise BadImage("truncated", f"the PNG file's {compressed} compressed bytes cannot hold its pixels")
    return position


def _check_compressed(beginning: bytes) -> None:
    """Refuses what is no zlib stream from its first bytes."""
    try:
        zlib.decompressobj().decompress(beginning, 64)
    except zlib.error as error:
        raise BadImage("undecodable", f"the compressed data of the PNG file is damaged: {error}") from None


def _explain_missing_end(data: bytes, end: int, compressed: int, facts: ImageFacts) -> NoReturn:
    """Of a PNG that ends at `end`, after a chunk, either IEND alone is missing, or image data as well."""
    if compressed and end == len(data):
        try:
            check_pixels(data, facts)
        except BadImage:
            pass
        else:
            raise BadImage("missing_end_marker", "the PNG file holds all of the image but not the end marker (IEND)")
    raise BadImage("truncated", f"the PNG file ends after {len(data)} bytes, before all of the image")


def check_pixels(data: bytes, facts: ImageFacts) -> None:
    """Inflates all image data of a PNG: Pillow may pass over missing rows, and over a cut end of the stream.

    Raises:
      BadImage: undecodable, or truncated.
    """
    inflater, num_bytes, position, view = zlib.decompressobj(), 0, 8, memoryview(data)
    try:
        while position + 12 <= len(data):
            length = int.from_bytes(data[position : position + 4])
            if data[position + 4 : position + 8] == b"IDAT":
                pending: bytes | memoryview = view[position + 8 : position + 8 + length]
                while pending and not inflater.eof:  # in pieces: a large image needs no large buffer
                    num_bytes += len(inflater.decompress(pending, _PIXEL_CHUNK_BYTES))
                    pending = inflater.unconsumed_tail
            position += 12 + length
    except zlib.error as error:
        raise BadImage("undecodable", f"the compressed data of the PNG file is damaged: {error}") from None
    needed = _count_pixel_bytes(facts, is_interlaced=data[28] == 1)
    if num_bytes < needed:
        raise BadImage("truncated", f"the PNG file holds {num_bytes} of the {needed} bytes of its pixels")
    if not inflater.eof:
        raise BadImage("truncated", "the compressed data of the PNG file has no end")


def _count_pixel_bytes(facts: ImageFacts, is_interlaced: bool) -> int:
    """What the image data of a PNG inflates to: every row of every pass with a byte for its filter."""
    bits_per_pixel = {"RGB": 3, "RGBA": 4, "LA": 2}.get(facts.mode, 1) * facts.bits
    num_bytes = 0
    for top, left, down, along in _ADAM7 if is_interlaced else ((0, 0, 1, 1),):
        height, width = -((top - facts.height) // down), -((left - facts.width) // along)
        if height > 0 and width > 0:
            num_bytes += height * (1 + (width * bits_per_pixel + 7) // 8)
    return num_bytes

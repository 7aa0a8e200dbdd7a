"""Is this file a whole, undamaged image? Three depths, each including the one before.

    header    the file says what it is and how large (`records.header`): 3 microseconds
    checksum  its structure is walked to the end marker: PNG chunk checksums, JPEG segments and scans, sizes of BMP,
              blocks of GIF and WebP: 15 microseconds for a JPEG of 25 KB, 35 for a PNG of 140 KB
    decode    every pixel is decoded: 1 millisecond and 3.5 for the same files

What passes `checksum` and can be decoded has the same pixels in both decoders (`records.decode`); what passes `decode`
is decoded by both. A JPEG has no checksums: a flipped bit in its data shows as wrong pixels, at no level as an error.
"""

import dataclasses
import re
import zlib
from typing import NoReturn

from tfds_builders.records.convertible import gif_blocks
from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.facts import BadImage, ImageFacts
from tfds_builders.records.header import inspect

LEVELS = ("header", "checksum", "decode")

# In the entropy-coded data of a JPEG, 0xFF is followed by 0 (a stuffed byte), by a restart marker where the file
# announces them, or by another 0xFF (fill). Anything else ends the scan.
_SCAN_END = re.compile(rb"\xff[^\x00\xff]")
_SCAN_END_WITH_RESTARTS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EOI = b"\xff\xd9"
# Entropy-coded data that no decoder may look at: whether the pixels change tells whether data was missing before it.
_PADDING = bytes(range(0x13, 0xF3, 5))
_SMOOTHED = 10  # libjpeg-turbo smooths blocks whose first 10 coefficients are not known exactly, each version otherwise

_DEFLATE_RATIO = 1032  # the most that deflate can expand: RFC 1951, 258 bytes from 2 bits
_FIRST_BYTES = 512  # of a PNG's compressed data are inflated: enough to see that it is none
_PIXEL_CHUNK_BYTES = 1 << 20


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
        facts = dataclasses.replace(facts, flags=(*facts.flags, "trailing_bytes"))
    if level == "decode":
        _decode(data, facts, end)
    return facts


def _walk_jpeg(data: bytes, facts: ImageFacts) -> int:
    """Walks segments and scans to the end marker (ITU T.81 annex B); returns where the image ends."""
    position, scan_end = 2, _SCAN_END
    tables: set[int] = set()  # quantisation tables defined so far
    table_of: dict[int, int] = {}  # component id -> its quantisation table
    precision: dict[int, bytearray] = {}  # component id -> per coefficient the bits still missing; 255: nothing sent
    while True:
        begin = position
        while data[position] == 0xFF == data[position + 1]:  # fill bytes
            position += 1
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise BadImage("undecodable", f"the JPEG file has no marker at byte {position}, where a segment must begin")
        if marker == 0xD9:
            break
        length = (data[position + 2] << 8) | data[position + 3]
        if marker < 0xC0 or 0xD0 <= marker <= 0xD8 or length < 2:
            raise BadImage("undecodable", f"the JPEG file has no valid segment at byte {begin}")
        content, position = position + 4, position + 2 + length
        if position > len(data):
            raise BadImage("truncated", f"the JPEG file ends after {len(data)} bytes, inside a segment")
        if marker == 0xDB:
            while content < position:
                tables.add(data[content] & 15)
                content += 129 if data[content] >> 4 else 65
        elif marker == 0xDD:
            scan_end = _SCAN_END_WITH_RESTARTS if data[content] or data[content + 1] else _SCAN_END
        elif marker in (0xC0, 0xC1, 0xC2):
            if table_of:
                raise BadImage("undecodable", f"the JPEG file has a second frame header at byte {begin}")
            for component in range(content + 6, content + 6 + 3 * data[content + 5], 3):
                table_of[data[component]] = data[component + 2]
        elif marker == 0xDA:
            count = data[content]
            components = data[content + 1 : content + 1 + 2 * count : 2]
            for component in components:
                if table_of.get(component) not in tables:
                    raise BadImage("undecodable", f"the JPEG scan at byte {begin} lacks a component or its table")
                sent = precision.get(component)
                if sent is None:
                    sent = precision[component] = bytearray(b"\xff" * 64)
                if facts.progressive:
                    first, last, bits = (data[content + 1 + 2 * count + field] for field in range(3))
                    if not first <= last <= 63:
                        raise BadImage(
                            "undecodable", f"the JPEG scan at byte {begin} covers coefficients that do not exist"
                        )
                    sent[first : last + 1] = bytes((bits & 15,)) * (last + 1 - first)
            found = scan_end.search(data, position)
            if found is None:
                _check_scans(facts, table_of, precision)
                _explain_missing_eoi(data)
            position = found.start()
    _check_scans(facts, table_of, precision)
    return position + 2


def _check_scans(facts: ImageFacts, components: dict[int, int], precision: dict[int, bytearray]) -> None:
    """Refuses a JPEG some of whose scans never came."""
    if len(precision) < len(components) or not precision:
        raise BadImage("truncated", "the JPEG file ends before all of its colour components")
    if facts.progressive and any(any(sent[:_SMOOTHED]) for sent in precision.values()):
        raise BadImage("truncated", "the progressive JPEG file ends before its last scans")


def _explain_missing_eoi(data: bytes) -> NoReturn:
    """Of a JPEG that ends inside its last scan, either the end marker alone is missing, or image data as well."""
    if data.endswith(bytes(16)):
        raise BadImage("truncated", "the JPEG file ends in zeros: its last part was never written")
    try:
        is_complete = _jpeg_is_complete(data.rstrip(b"\xff"), b"")
    except BadImage:
        is_complete = False
    if is_complete:
        raise BadImage("missing_end_marker", "the JPEG file holds all of the image but not the end marker (EOI)")
    raise BadImage("truncated", f"the JPEG file ends after {len(data)} bytes, before all of the image")


def _jpeg_is_complete(before_end: bytes, after_end: bytes) -> bool:
    """Whether a JPEG's last scan holds all of its data. libjpeg fills what is missing with grey, without an error."""
    padded = decode_rgb(before_end + _PADDING + _EOI + after_end)
    return bool((decode_rgb(before_end + _EOI + after_end) == padded).all())


def _walk_png(data: bytes, facts: ImageFacts) -> int:
    """Walks the chunks to IEND, checking the checksum of each (PNG specification 5.3); returns where the image ends."""
    view, position, length = memoryview(data), 8, len(data)
    compressed, last_kind, kinds = 0, b"", set()
    while True:
        begin = position
        if begin + 12 > length:
            _explain_missing_iend(data, begin, compressed)
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
    samples = {"RGB": 3, "RGBA": 4, "LA": 2}.get(facts.mode, 1)
    if compressed * _DEFLATE_RATIO < facts.height * ((facts.width * samples * facts.bits + 7) // 8):
        raise BadImage("truncated", f"the PNG file's {compressed} compressed bytes cannot hold its pixels")
    return position


def _check_compressed(beginning: bytes) -> None:
    """Refuses what is no zlib stream from its first bytes."""
    try:
        zlib.decompressobj().decompress(beginning, 64)
    except zlib.error as error:
        raise BadImage("undecodable", f"the compressed data of the PNG file is damaged: {error}") from None


def _explain_missing_iend(data: bytes, end: int, compressed: int) -> NoReturn:
    """Of a PNG that ends at `end`, after a chunk, either IEND alone is missing, or image data as well."""
    if compressed and end == len(data):
        try:
            _check_pixel_stream(data)
        except BadImage:
            pass
        else:
            raise BadImage("missing_end_marker", "the PNG file holds all of the image but not the end marker (IEND)")
    raise BadImage("truncated", f"the PNG file ends after {len(data)} bytes, before all of the image")


def _check_pixel_stream(data: bytes) -> None:
    """Inflates all image data of a PNG: Pillow stops at the last pixel and misses a cut or wrong end of the stream."""
    inflater, position, view = zlib.decompressobj(), 8, memoryview(data)
    try:
        while position + 12 <= len(data):
            length = int.from_bytes(data[position : position + 4])
            if data[position + 4 : position + 8] == b"IDAT":
                pending: bytes | memoryview = view[position + 8 : position + 8 + length]
                while pending and not inflater.eof:  # in pieces: a large image needs no large buffer
                    inflater.decompress(pending, _PIXEL_CHUNK_BYTES)
                    pending = inflater.unconsumed_tail
            position += 12 + length
    except zlib.error as error:
        raise BadImage("undecodable", f"the compressed data of the PNG file is damaged: {error}") from None
    if not inflater.eof:
        raise BadImage("truncated", "the compressed data of the PNG file has no end")


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
    "JPEG": _walk_jpeg,
    "PNG": _walk_png,
    "BMP": _walk_bmp,
    "GIF": _walk_gif,
    "WEBP": _walk_webp,
    "TIFF": _walk_tiff,
}


def _decode(data: bytes, facts: ImageFacts, end: int) -> None:
    """Decodes the image that ends at `end`, and catches what the decoders pass over in silence."""
    if facts.format == "JPEG":
        if not _jpeg_is_complete(data[: end - 2], data[end:]):
            raise BadImage("truncated", "the JPEG file reaches its end marker before the end of the image data")
        return
    decode_rgb(data)
    if facts.format == "PNG":
        _check_pixel_stream(data)

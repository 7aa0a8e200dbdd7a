"""One file of every bad kind, made in code, with the reason and the depth at which it must be refused.

    BAD["png_checksum"]()  # Bad(name="png_checksum.png", data=..., code="bad_checksum", level="checksum")

Each entry is a function, so that importing this module makes nothing.
"""

import dataclasses
import functools
import struct
import zlib
from collections.abc import Callable

import numpy as np
from odd_images import (
    HEIGHT,
    WIDTH,
    chunks,
    drop_segment,
    encode,
    insert,
    interlaced_png,
    join,
    patch_sof,
    png_header,
    png_of_samples,
    png_with_stream,
    rgb,
)
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Bad:
    """A file that must be refused with `code`, from `level` on."""

    name: str
    data: bytes
    code: str
    level: str


BAD: dict[str, Callable[[], Bad]] = {}


def _bad(name: str, code: str, level: str, make: Callable[[], bytes]) -> None:
    BAD[name.rpartition(".")[0]] = functools.cache(lambda: Bad(name, make(), code, level))


def _jpeg() -> bytes:
    return encode(rgb(), "JPEG")


def _png() -> bytes:
    return encode(rgb(), "PNG")


def _gif() -> bytes:
    return encode(Image.fromarray(rgb()).quantize(60), "GIF")


def _zeroed_tail(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 0x10,)) + data[position + 1 :]


def _without_later_scans() -> bytes:
    """A progressive JPEG cut before the tables of its second scan, with an end marker put there."""
    jpeg = encode(rgb(), "JPEG", progressive=True)
    second = jpeg.index(b"\xff\xda", jpeg.index(b"\xff\xda") + 2)
    return jpeg[: jpeg.rindex(b"\xff\xc4", 0, second)] + b"\xff\xd9"


def _frame_header() -> bytes:
    begin = _jpeg().index(b"\xff\xc0")
    return _jpeg()[begin : begin + 2 + int.from_bytes(_jpeg()[begin + 2 : begin + 4])]


def _with_segment(segment: bytes) -> bytes:
    """The plain JPEG with one more segment before its Huffman tables, after its frame header."""
    begin = _jpeg().index(b"\xff\xc4")
    return _jpeg()[:begin] + segment + _jpeg()[begin:]


def _progressive_beyond_block() -> bytes:
    """A progressive JPEG whose second scan ends at coefficient 64 of 0..63."""
    jpeg = bytearray(encode(rgb(), "JPEG", progressive=True))
    second = jpeg.index(b"\xff\xda", jpeg.index(b"\xff\xda") + 2)
    jpeg[second + 8] = 64  # marker, length, number of components (1), its number and tables, first, last
    return bytes(jpeg)


def _interlaced_without_last_row() -> bytes:
    parts = chunks(interlaced_png(rgb()))
    return join([parts[0], (b"IDAT", zlib.compress(zlib.decompress(parts[1][1])[: -3 * WIDTH - 1])), parts[2]])


def _before_end(kind: bytes, content: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The plain PNG with further chunks before the last one."""
    parts = chunks(_png())
    return join([*parts[:-1], (kind, content), *more, parts[-1]])


def _with_header_byte(place: int, value: int) -> bytes:
    """The plain PNG with one byte of its IHDR changed; its checksum holds."""
    (kind, content), *others = chunks(_png())
    return join([(kind, content[:place] + bytes((value,)) + content[place + 1 :]), *others])


def _bmp_with(offset: int, value: int) -> bytes:
    """A plain BMP with one byte of its header changed."""
    bmp = encode(rgb(), "BMP")
    return bmp[:offset] + bytes((value,)) + bmp[offset + 1 :]


def _tiff_declaring(width: int, height: int) -> bytes:
    """A TIFF of a few bytes that says how large it is, in its directory."""
    entries = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 9))
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(40)


_HTML = b'<!DOCTYPE html>\n<html lang="en"><head><title>404 Not Found</title></head></html>'
_MP4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41"

_bad("empty.jpg", "zero_bytes", "header", lambda: b"")
_bad("never_written.png", "zero_bytes", "header", lambda: bytes(5000))
_bad("html.jpg", "not_an_image", "header", lambda: _HTML)
_bad("text.png", "not_an_image", "header", lambda: "Überraschung: keine Bilder.\n".encode() * 90)
_bad("text_that_begins_like_a_bmp.bmp", "not_an_image", "header", lambda: b"BMW and other makers of cars\n" * 3)
_bad("json.jpg", "not_an_image", "header", lambda: b'{"error": "rate limit exceeded"}')
_bad("xml.jpg", "not_an_image", "header", lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')
_bad("zip.png", "not_an_image", "header", lambda: b"PK\x03\x04" + bytes(range(200)))
_bad("lfs_pointer.png", "not_an_image", "header", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
_bad("video.jpg", "not_an_image", "header", lambda: _MP4 + bytes(64))
_bad("noise.jpg", "not_an_image", "header", lambda: np.random.default_rng(3).bytes(3000))
_bad("svg.png", "unsupported", "header", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>')
_bad("heic.jpg", "unsupported", "header", lambda: b"\0\0\0\x18ftypheic" + bytes(64))
_bad("jpeg_12_bits.jpg", "unsupported", "header", lambda: patch_sof(_jpeg(), 4, 12))
_bad("jpeg_arithmetic.jpg", "unsupported", "header", lambda: _jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1))
_bad("jpeg_cut_in_header.jpg", "truncated", "header", lambda: _jpeg()[:100])
_bad("jpeg_without_frame.jpg", "undecodable", "header", lambda: drop_segment(_jpeg(), 0xC0))
_bad("jpeg_broken_segment.jpg", "undecodable", "header", lambda: _jpeg().replace(b"\xff\xdb", b"\xfe\xdb", 1))
_bad("jpeg_cut_in_data.jpg", "truncated", "checksum", lambda: _jpeg()[: len(_jpeg()) * 3 // 4])
_bad("jpeg_zeroed_tail.jpg", "truncated", "checksum", lambda: _jpeg()[:-60] + bytes(60))
_bad("jpeg_without_end.jpg", "missing_end_marker", "checksum", lambda: _jpeg()[:-2])
_bad("jpeg_without_half_of_end.jpg", "missing_end_marker", "checksum", lambda: _jpeg()[:-1])
_bad("jpeg_without_table.jpg", "undecodable", "checksum", lambda: drop_segment(_jpeg(), 0xDB))
_bad("jpeg_marker_in_data.jpg", "undecodable", "checksum", lambda: _jpeg()[:-40] + b"\xff\x10" + _jpeg()[-38:])
_bad("jpeg_without_scans.jpg", "truncated", "checksum", lambda: _jpeg()[: _jpeg().index(b"\xff\xda")] + b"\xff\xd9")
_bad("jpeg_restart_as_segment.jpg", "undecodable", "checksum", lambda: _with_segment(b"\xff\xd0\0\x04ab"))
_bad("jpeg_second_frame.jpg", "undecodable", "checksum", lambda: _with_segment(_frame_header()))
_bad("jpeg_scan_beyond_block.jpg", "undecodable", "checksum", _progressive_beyond_block)
_bad("jpeg_without_later_scans.jpg", "truncated", "checksum", _without_later_scans)
_bad("jpeg_cut_and_ended.jpg", "truncated", "decode", lambda: _jpeg()[: len(_jpeg()) * 3 // 4] + b"\xff\xd9")
_bad("jpeg_taller_than_data.jpg", "truncated", "decode", lambda: patch_sof(_jpeg(), 6, 2 * HEIGHT))
_bad("jpeg_bomb.jpg", "decompression_bomb", "header", lambda: patch_sof(patch_sof(_jpeg(), 5, 250), 7, 250))
_bad("png_cut_in_header.png", "truncated", "header", lambda: _png()[:20])
_bad("png_cut_in_data.png", "truncated", "checksum", lambda: _png()[: len(_png()) // 2])
_bad(
    "png_cut_between_chunks.png",
    "truncated",
    "checksum",
    lambda: join([*chunks(_png())[:-2], (b"IDAT", chunks(_png())[-2][1][:-99])]),
)
_bad("png_without_end.png", "missing_end_marker", "checksum", lambda: _png()[:-12])
_bad("png_checksum_of_header.png", "bad_checksum", "checksum", lambda: _flipped(_png(), 30))
_bad("png_checksum.png", "bad_checksum", "checksum", lambda: _flipped(_png(), len(_png()) // 2))
_bad("png_checksum_of_text.png", "bad_checksum", "checksum", lambda: _flipped(insert(_png(), b"tEXt", b"a\0b"), 42))
_bad("png_zeroed_tail.png", "bad_checksum", "checksum", lambda: _zeroed_tail(_png()))
_bad(
    "png_noise_as_stream.png",
    "undecodable",
    "checksum",
    lambda: png_with_stream(lambda _: b"\x78\x9c" + np.random.default_rng(4).bytes(3000)),
)
_bad(
    "png_larger_than_data.png",
    "truncated",
    "checksum",
    lambda: join([png_header(9000, 9000, 8, 2), *chunks(_png())[1:]]),
)
_bad(
    "png_damaged_stream.png",
    "undecodable",
    "decode",
    lambda: png_with_stream(lambda stream: _flipped(stream, len(stream) - 3)),
)
_bad(
    "png_without_last_rows.png",
    "truncated",
    "decode",
    lambda: png_with_stream(lambda stream: zlib.compress(zlib.decompress(stream)[:-500])),
)
_bad(
    "png_taller_than_data.png",
    "truncated",
    "decode",
    lambda: join([png_header(WIDTH, 2 * HEIGHT, 8, 2), *chunks(_png())[1:]]),
)
_bad("png_interlaced_cut.png", "truncated", "decode", _interlaced_without_last_row)
_bad("png_stream_without_end.png", "truncated", "decode", lambda: png_with_stream(lambda stream: stream[:-4]))
_bad(
    "png_unknown_filter.png",
    "undecodable",
    "decode",
    lambda: png_with_stream(lambda stream: zlib.compress(b"\x09" + zlib.decompress(stream)[1:])),
)
_bad("png_without_palette.png", "undecodable", "header", lambda: png_of_samples(np.zeros((9, 9, 1), int), 8, 3))
_bad("png_unknown_critical.png", "undecodable", "header", lambda: insert(_png(), b"ABCD", b"must be understood"))
_bad("png_unknown_critical_at_end.png", "undecodable", "checksum", lambda: _before_end(b"ABCD", b"must be understood"))
_bad("png_second_header.png", "undecodable", "checksum", lambda: insert(_png(), *chunks(_png())[0]))
_bad("png_empty_palette.png", "undecodable", "checksum", lambda: insert(_png(), b"PLTE", b""))
_bad("png_long_palette.png", "undecodable", "checksum", lambda: insert(_png(), b"PLTE", bytes(771)))
_bad("png_text_between_data.png", "undecodable", "checksum", lambda: _before_end(b"tEXt", b"a\0b", (b"IDAT", b"")))
_bad("png_without_data.png", "undecodable", "header", lambda: join([chunks(_png())[0], chunks(_png())[-1]]))
for _place in (10, 11, 12):  # compression, filter, interlacing
    _bad(f"png_unknown_method_{_place}.png", "undecodable", "header", lambda place=_place: _with_header_byte(place, 2))
_bad("png_bad_depth.png", "undecodable", "header", lambda: join([png_header(9, 9, 3, 2), *chunks(_png())[1:]]))
_bad("png_no_pixels.png", "undecodable", "header", lambda: join([png_header(0, 9, 8, 2), *chunks(_png())[1:]]))
_bad(
    "png_bomb.png",
    "decompression_bomb",
    "header",
    lambda: join([png_header(60_000, 60_000, 8, 2), *chunks(_png())[1:]]),
)
_bad("bmp_of_2_bits.bmp", "unsupported", "header", lambda: _bmp_with(28, 2))
_bad("bmp_that_holds_a_jpeg.bmp", "unsupported", "header", lambda: _bmp_with(30, 4))
_bad("bmp_cut.bmp", "truncated", "checksum", lambda: encode(rgb(), "BMP")[:-1000])
_bad(
    "bmp_bomb.bmp",
    "decompression_bomb",
    "header",
    lambda: encode(rgb(), "BMP")[:18] + struct.pack("<ii", 40_000, 40_000) + encode(rgb(), "BMP")[26:],
)
_bad("gif_cut.gif", "truncated", "header", lambda: _gif()[:-200])
_bad("gif_without_trailer.gif", "missing_end_marker", "checksum", lambda: _gif()[:-1])
_bad(
    "gif_bomb.gif",
    "decompression_bomb",
    "header",
    lambda: b"GIF89a\xff\xfe\xff\xfe" + _gif()[10:],
)
_bad("webp_cut.webp", "truncated", "checksum", lambda: encode(rgb(), "WEBP")[:-100])
_bad(
    "webp_bomb.webp",
    "decompression_bomb",
    "header",
    lambda: (
        encode(np.dstack([rgb(), rgb()[..., 0]]), "WEBP", lossless=False)[:24] + b"\xff\x3f\0\xff\x3f\0" + bytes(90)
    ),
)
_bad("tiff_cut.tif", "truncated", "checksum", lambda: encode(rgb(), "TIFF")[:-1000])
_bad("tiff_bomb.tif", "decompression_bomb", "header", lambda: _tiff_declaring(50_000, 50_000))
_bad("tiff_cut_in_header.tif", "truncated", "header", lambda: encode(rgb(), "TIFF")[:12])
_bad("tiff_floating_point.tif", "unsupported", "header", lambda: encode(rgb()[..., 0].astype(np.float32), "TIFF"))

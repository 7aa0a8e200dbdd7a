"""What the file around the pixels tells: quantisation tables, subsampling, metadata, read without decoding.

    container_facts(data)["jpeg_quality"]   # 90.0

Numbers, NaN where the format has no such thing. JPEG: ITU T.81 annex B; PNG: the W3C recommendation, section 5.
"""

import functools
import math
import struct

import numpy as np

# What decides the pixels, or leaves traces in them.
ENCODING = (
    "jpeg_quality",  # nearest quality of the IJG scale, 1..100
    "jpeg_quality_distance",  # how far the luma table is from that scale's, mean absolute difference of an entry
    "luma_table_sum",
    "chroma_table_sum",
    "luma_dc_step",
    "subsampling_x",  # luma samples for one chroma sample
    "subsampling_y",
    "progressive",
    "png_bits",
    "png_interlaced",
)
# What no decoder turns into pixels; it tells which program wrote the file.
METADATA = (
    "has_exif",
    "has_icc_profile",
    "has_jfif",
    "has_adobe_marker",
    "has_comment",
    "num_metadata_segments",
    "metadata_bytes",
    "restart_interval",
    "custom_huffman",
    "has_gamma",
    "has_resolution",
    "zlib_level",
    "idat_bytes",  # how the compressed data is cut into chunks, where there are several
)

# The luma table of quality 50, in zigzag order (T.81 table K.1), which the IJG library scales.
_IJG_LUMA = np.array(
    [16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51,
     61, 60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77,
     113, 121, 112, 100, 120, 92, 101, 103, 99]
)  # fmt: skip
_STANDARD_HUFFMAN_BYTES = 418  # payload of the four default tables (T.81 K.3) together with their segment lengths


def container_facts(data: bytes) -> dict[str, float]:
    """Every name of ENCODING and METADATA -> a number, or NaN where the format of `data` has no such thing.

    A file that ends or breaks inside its header gives what was read until there.
    """
    facts = dict.fromkeys(ENCODING + METADATA, math.nan)
    try:
        if data.startswith(b"\xff\xd8\xff"):
            _jpeg(data, facts)
        elif data.startswith(b"\x89PNG"):
            _png(data, facts)
    except (IndexError, struct.error):
        pass
    return facts


def _jpeg(data: bytes, facts: dict[str, float]) -> None:
    names = ("has_exif", "has_icc_profile", "has_jfif", "has_adobe_marker", "has_comment", "num_metadata_segments")
    facts |= dict.fromkeys((*names, "metadata_bytes", "restart_interval", "custom_huffman"), 0.0)
    tables: dict[int, np.ndarray] = {}
    huffman_bytes, position = 0, 2
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:  # fill bytes
            position += 1
        marker, length = struct.unpack_from(">BH", data, position + 1)
        body = data[position + 4 : position + 2 + length]
        if marker == 0xDB:
            tables |= _quantisation_tables(body)
        elif marker == 0xC4:
            huffman_bytes += len(body)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            facts["progressive"] = float(marker in (0xC2, 0xC6, 0xCA, 0xCE))
            sampling = [(body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, 6 + 3 * body[5], 3)]
            if len(sampling) >= 3 and all(sampling[1]):
                facts["subsampling_x"] = sampling[0][0] / sampling[1][0]
                facts["subsampling_y"] = sampling[0][1] / sampling[1][1]
        elif marker == 0xDD:
            facts["restart_interval"] = float(int.from_bytes(body[:2]))
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            facts["num_metadata_segments"] += 1
            facts["metadata_bytes"] += len(body)
            facts["has_jfif"] = max(facts["has_jfif"], float(body.startswith(b"JFIF")))
            facts["has_exif"] = max(facts["has_exif"], float(body.startswith(b"Exif\0")))
            facts["has_icc_profile"] = max(facts["has_icc_profile"], float(body.startswith(b"ICC_PROFILE")))
            facts["has_adobe_marker"] = max(facts["has_adobe_marker"], float(body.startswith(b"Adobe")))
            facts["has_comment"] = max(facts["has_comment"], float(marker == 0xFE))
        elif marker in (0xD9, 0xDA):
            break
        position += 2 + length
    facts["custom_huffman"] = float(huffman_bytes not in (0, _STANDARD_HUFFMAN_BYTES - 2))
    if 0 in tables:
        facts["jpeg_quality"], facts["jpeg_quality_distance"] = _ijg_quality(tables[0].tobytes())
        facts["luma_table_sum"], facts["luma_dc_step"] = float(tables[0].sum()), float(tables[0][0])
    if 1 in tables:
        facts["chroma_table_sum"] = float(tables[1].sum())


def _quantisation_tables(body: bytes) -> dict[int, np.ndarray]:
    """The tables of one DQT segment: number -> int64 [64] in zigzag order."""
    tables, at = {}, 0
    while at < len(body):
        wide, number = body[at] >> 4, body[at] & 15
        size = 128 if wide else 64
        values = np.frombuffer(body[at + 1 : at + 1 + size], ">u2" if wide else "u1").astype(np.int64)
        if len(values) == 64:
            tables[number] = values
        at += 1 + size
    return tables


@functools.lru_cache(4096)
def _ijg_quality(table: bytes) -> tuple[float, float]:
    """The quality whose scaled table (jcparam.c, jpeg_quality_scaling) is nearest, and how far away that is."""
    luma = np.frombuffer(table, np.int64)
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled = np.clip((_IJG_LUMA * scale[:, None] + 50) // 100, 1, 255)
    # distance: mean absolute difference of each quality's table, (100,).
    distance = np.abs(scaled - luma).mean(axis=1)
    best = int(distance.argmin())
    return float(quality[best]), float(distance[best])


def _png(data: bytes, facts: dict[str, float]) -> None:
    names = ("has_exif", "has_icc_profile", "has_comment", "has_gamma", "has_resolution", "num_metadata_segments")
    facts |= dict.fromkeys((*names, "metadata_bytes"), 0.0)
    facts["png_bits"], facts["png_interlaced"] = float(data[24]), float(data[28])
    position = 33
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            break
        if kind not in (b"PLTE", b"tRNS"):
            facts["num_metadata_segments"] += 1
            facts["metadata_bytes"] += length
        found = {
            b"eXIf": "has_exif", b"iCCP": "has_icc_profile", b"gAMA": "has_gamma", b"pHYs": "has_resolution",
            b"tEXt": "has_comment", b"zTXt": "has_comment", b"iTXt": "has_comment",
        }.get(kind)  # fmt: skip
        if found:
            facts[found] = 1.0
        position += 12 + length
    if data[position + length + 16 : position + length + 20] == b"IDAT":  # a single chunk is as long as the picture
        facts["idat_bytes"] = float(length)
    facts["zlib_level"] = float(data[position + 9] >> 6)  # FLEVEL, RFC 1950: 0 fastest .. 3 smallest

"""A JPEG's segments and scans, followed to the end marker without decoding them (ITU T.81 annex B)."""

import re
from typing import NoReturn

from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.facts import BadImage, ImageFacts

# In the entropy-coded data of a JPEG, 0xFF is followed by 0 (a stuffed byte), by a restart marker where the file
# announces them, or by another 0xFF (fill). Anything else ends the scan.
_SCAN_END = re.compile(rb"\xff[^\x00\xff]")
_SCAN_END_WITH_RESTARTS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EOI = b"\xff\xd9"
# Entropy-coded data that no decoder may look at: whether the pixels change tells whether data was missing before it.
_PADDING = bytes(range(0x13, 0xF3, 5))
_SMOOTHED = 10  # libjpeg-turbo smooths blocks whose first 10 coefficients are not known exactly, each version otherwise


def walk_jpeg(data: bytes, facts: ImageFacts) -> int:
    """Walks the segments and scans of a file with valid header to the end marker, EOI.

    Returns:
      Where the image ends: the number of bytes up to and including EOI.

    Raises:
      BadImage: truncated, missing_end_marker, undecodable.
      IndexError: a field lies past the end of `data`, so it is truncated.
    """
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
                _explain_missing_end(data)
            position = found.start()
    _check_scans(facts, table_of, precision)
    return position + 2


def _check_scans(facts: ImageFacts, components: dict[int, int], precision: dict[int, bytearray]) -> None:
    """Refuses a JPEG some of whose scans never came."""
    if len(precision) < len(components) or not precision:
        raise BadImage("truncated", "the JPEG file ends before all of its colour components")
    if facts.progressive and any(any(sent[:_SMOOTHED]) for sent in precision.values()):
        raise BadImage("truncated", "the progressive JPEG file ends before its last scans")


def _explain_missing_end(data: bytes) -> NoReturn:
    """Of a JPEG that ends inside its last scan, either the end marker alone is missing, or image data as well."""
    if data.endswith(bytes(16)):
        raise BadImage("truncated", "the JPEG file ends in zeros: its last part was never written")
    try:
        is_complete = has_all_data(data.rstrip(b"\xff"), b"")
    except BadImage:
        is_complete = False
    if is_complete:
        raise BadImage("missing_end_marker", "the JPEG file holds all of the image but not the end marker (EOI)")
    raise BadImage("truncated", f"the JPEG file ends after {len(data)} bytes, before all of the image")


def has_all_data(before_end: bytes, after_end: bytes) -> bool:
    """Whether the last scan of a JPEG holds all of its data: libjpeg fills what is missing with grey, without an error.

    If it does, no decoder looks at further data put behind it, and the pixels stay the same.

    Args:
      before_end, after_end: the file around its end marker.

    Raises:
      BadImage: it cannot be decoded at all.
    """
    padded = decode_rgb(before_end + _PADDING + _EOI + after_end)
    return bool((decode_rgb(before_end + _EOI + after_end) == padded).all())

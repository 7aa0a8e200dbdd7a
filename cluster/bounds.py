"""What images may cost to decode, told from what their headers declare.

error = objection(data)        # of one image: not decoded here
work_of(data)                  # of one image: pixels to go over
"""

import contextlib

from tfds_builders.records.decode import plain_bytes
from tfds_builders.records.facts import BadImage, ImageFacts
from tfds_builders.records.header import inspect

MAX_PIXELS = 64 << 20  # of an image; resizing takes 12 bytes for each
MAX_SCANS = 100  # of a JPEG: each makes the decoder go over all pixels, and photographs have about ten
_SCANS_LIKE_ONE = 10  # scans cost about as much again as pixels do in a file of one


def objection(data: bytes) -> str | None:
    """Why an image is not decoded here though it may be sound: decoding would take too much memory or time."""
    with contextlib.suppress(BadImage):  # the detector says what is wrong with it
        facts = inspect(data)
        if facts.width * facts.height > MAX_PIXELS:
            return f"the image has {facts.width} x {facts.height} pixels; at most {MAX_PIXELS} are taken here"
        scans = _scans(data, facts)
        if scans > MAX_SCANS:
            return f"the JPEG file has {scans} scans; at most {MAX_SCANS} are taken here"
    return None


def work_of(data: bytes) -> int:
    """Pixels that decoding an image goes over, those of a JPEG again for every ten scans; 0 where none is decoded.

    A core does 30 to 80 million in a second (measured on large PNG, WebP and JPEG files).
    """
    try:
        facts = inspect(data)
    except BadImage:
        return 0
    pixels, scans = facts.width * facts.height, _scans(data, facts)
    return 0 if pixels > MAX_PIXELS or scans > MAX_SCANS else pixels * (1 + scans // _SCANS_LIKE_ONE)


def one_page(data: bytes) -> bytes:
    """The first page of a TIFF of several as a file of its own, anything else as it is.

    Models registered before convertible.py looked at the first page alone carry a decoder that counts them, which takes
    minutes for thousands.
    """
    if data.startswith((b"II", b"MM")):
        with contextlib.suppress(BadImage):
            if inspect(data).animated:
                return plain_bytes(data)
    return data


def _scans(data: bytes, facts: ImageFacts) -> int:
    return data.count(b"\xff\xda") if facts.format == "JPEG" else 1

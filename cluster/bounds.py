"""What images may cost to decode, told from what their headers declare.

data = admit(data)  # BadImage: is not decoded here
work_of(data)       # pixels to go over
"""

from tfds_builders.records.bare import bare
from tfds_builders.records.facts import BadImage, ImageFacts
from tfds_builders.records.header import inspect

MAX_PIXELS = 64 << 20  # of an image; resizing takes 12 bytes for each
MAX_SCANS = 100  # of a JPEG: each makes the decoder go over all pixels, and photographs have about ten
_SCANS_LIKE_ONE = 10  # scans cost about as much again as pixels do in a file of one


def admit(data: bytes) -> bytes:
    """An image as registered models may decode it: the same pixels, to be turned the same way.

    A model carries the decoder of its time. Those from before bare.py read all the metadata of other files than PNG,
    and count the pages of a TIFF, which takes minutes for thousands.

    Raises:
      BadImage: it cannot be read, or decoding would take too much memory or time, though it may be sound.
    """
    facts = inspect(data)
    if facts.width * facts.height > MAX_PIXELS:
        size = f"{facts.width} x {facts.height}"
        raise BadImage("unsupported", f"the image has {size} pixels; at most {MAX_PIXELS} are taken here")
    scans = _scans(data, facts)
    if scans > MAX_SCANS:
        raise BadImage("unsupported", f"the JPEG file has {scans} scans; at most {MAX_SCANS} are taken here")
    return data if facts.format == "PNG" else bare(data, facts)  # of PNG files every decoder drops the metadata itself


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


def _scans(data: bytes, facts: ImageFacts) -> int:
    return data.count(b"\xff\xda") if facts.format == "JPEG" else 1

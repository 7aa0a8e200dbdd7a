"""What is known of an image before it is decoded, and the two ways of not knowing it."""

import struct
from typing import NamedTuple, NoReturn

# The largest image both decoders take: TensorFlow's refuses 2**29 bytes of RGB, Pillow more than this many pixels.
MAX_PIXELS = 2**29 // 3
MAX_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
HUGE_PIXELS = 2**25  # flagged, not refused: 100 MB as RGB is too much for a reader that holds dozens of images

# The reasons for which a file is refused, here and in the checks that read all of it (BadImage.code).
CODES = (
    "zero_bytes",  # empty, or nothing but NUL bytes
    "not_an_image",  # HTML, text, archives, ...
    "unsupported",  # an image, of a kind that is not read here
    "truncated",  # ends before its content does
    "missing_end_marker",  # all of the content is there, the end marker is not
    "bad_checksum",
    "undecodable",
    "decompression_bomb",  # by what the header declares
)


_GREY_MODES = ("1", "L", "LA", "I;16")


class BadImage(Exception):
    """A file that is no usable image. `code` is one of CODES; the message is one sentence for people."""

    def __init__(self, code: str, sentence: str):
        super().__init__(code, sentence)  # both, so that the exception survives pickling
        self.code = code
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class NeedMore(Exception):
    """The prefix ends before the header does: ask again with at least `num_bytes` (never more than the file has)."""

    def __init__(self, num_bytes: int):
        super().__init__(num_bytes)
        self.num_bytes = num_bytes


class ImageFacts(NamedTuple):  # made in a quarter of the time of a frozen dataclass
    """What the header of one image says."""

    format: str  # Pillow's name: JPEG, PNG, BMP, GIF, WEBP, TIFF
    width: int  # pixels, as stored, before the orientation is applied
    height: int
    mode: str  # Pillow's name: RGB, L, P, RGBA, LA, CMYK, 1, I;16
    bits: int  # per sample
    orientation: int  # EXIF, 1..8; 1 if none
    has_alpha: bool
    animated: bool
    progressive: bool  # JPEG only
    plain: bool  # TensorFlow's JPEG/PNG decoder gives the upright RGB pixels from these very bytes
    flags: tuple[str, ...]  # what is odd: cmyk, grey, palette, alpha, sixteen_bit, animated, exif_rotated, ...

    @property
    def storable(self) -> bool:
        """Whether TFDS's Image feature can hold these bytes; what it cannot hold becomes a lossless PNG."""
        return self.format in ("JPEG", "PNG", "BMP")


def make_facts(
    format: str,
    width: int,
    height: int,
    mode: str,
    bits: int = 8,
    orientation: int = 1,
    has_alpha: bool = False,
    animated: bool = False,
    progressive: bool = False,
    plain: bool = False,
) -> ImageFacts:
    """The facts with their flags; refuses sizes that must not be decoded. The arguments are ImageFacts' fields."""
    pixels = width * height
    if pixels <= 0:
        raise BadImage("undecodable", f"the {format} header declares an image of {width} x {height} pixels")
    if pixels > MAX_PIXELS or width > MAX_SIDE or height > MAX_SIDE:
        raise BadImage(
            "decompression_bomb",
            f"the {format} header declares {width} x {height} pixels; at most {MAX_PIXELS} pixels and {MAX_SIDE} on a "
            "side are decoded",
        )
    flags: tuple[str, ...] = ()
    if mode != "RGB" or bits != 8 or orientation != 1 or has_alpha or animated or progressive or pixels > HUGE_PIXELS:
        odd = {
            "cmyk": mode == "CMYK",
            "grey": mode in _GREY_MODES,
            "palette": mode == "P",
            "alpha": has_alpha,
            "sixteen_bit": bits == 16,
            "animated": animated,
            "exif_rotated": orientation != 1,
            "progressive": progressive,
            "huge": pixels > HUGE_PIXELS,
        }
        flags = tuple(name for name, holds in odd.items() if holds)
    plain = plain and orientation == 1
    return ImageFacts(format, width, height, mode, bits, orientation, has_alpha, animated, progressive, plain, flags)


def need(needed: int, data: bytes, size: int) -> NoReturn:
    """`data`, of a file of `size` bytes, is too short: `needed` bytes would do."""
    if len(data) < size and needed <= size:
        raise NeedMore(min(size, needed + 1024))  # what comes next is usually short
    raise BadImage("truncated", f"the file ends after {size} bytes, inside its header")


def exif_orientation(exif: bytes) -> int:
    """The orientation tag (0x0112) of an EXIF block, 1..8; 1 if there is none or it is damaged.

    Args:
      exif: a TIFF structure: b"II" or b"MM", 42, the offset of the directory.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, offset)
        for entry in range(offset + 2, offset + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", exif, entry)
            if tag == 0x0112:
                if kind not in (3, 4) or count != 1:  # SHORT; some writers use LONG
                    return 1
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def describe(error: Exception) -> str:
    """Pillow's error in words that are the same in every run: some of its messages hold a memory address."""
    message = str(error).partition(" <_io.BytesIO")[0].rstrip(".")
    return f"{type(error).__name__}: {message}"

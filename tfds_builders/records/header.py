"""What an image file says about itself: format, size, colour, orientation, read from its first bytes.

    facts = inspect(path.read_bytes())  # ImageFacts(format='JPEG', width=512, height=384, mode='RGB', ...)
    facts = inspect(first_bytes, size=path.stat().st_size)  # a prefix is enough, or NeedMore says how much is

Nothing is decoded, so a decompression bomb is refused at the cost of a few microseconds. JPEG, PNG, BMP, GIF and WebP
are parsed in pure Python; Pillow is asked about TIFF alone. This module, `facts`, `bare` and `convertible` travel
inside registered models: they import nothing else from this project.
"""

import struct
from typing import NoReturn

from tfds_builders.records.bare import PNG_SIGNATURE
from tfds_builders.records.convertible import inspect_gif, inspect_tiff, inspect_webp
from tfds_builders.records.facts import BadImage, ImageFacts, NeedMore, exif_orientation, make_facts, need

_EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "png": "PNG", "apng": "PNG", "bmp": "BMP",
    "dib": "BMP", "gif": "GIF", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF",
}  # fmt: skip

# colour type -> (Pillow's mode, allowed bit depths), PNG specification table 11.1
_PNG_COLOURS = {
    0: ("L", (1, 2, 4, 8, 16)),
    2: ("RGB", (8, 16)),
    3: ("P", (1, 2, 4, 8)),
    4: ("LA", (8, 16)),
    6: ("RGBA", (8, 16)),
}


def extension_flag(id: str, format: str) -> tuple[str, ...]:
    """("wrong_extension",) if the name `id` ends like another image format than `format`, else ()."""
    named = _EXTENSIONS.get(id.rpartition(".")[2].lower())
    return () if named in (None, format) else ("wrong_extension",)


def inspect(data: bytes, size: int | None = None) -> ImageFacts:
    """The facts of the image whose first bytes are `data`.

    Args:
      data: the whole file, or a prefix of it (4 KiB are enough for most).
      size: length of the whole file in bytes; default: `data` is all of it.

    Raises:
      BadImage: not an image that can be read here; see CODES. Whether all of it is there is checked only where the
        header tells; `sharding.validate` looks further.
      NeedMore: the header reaches beyond the prefix.
    """
    if size is None:
        size = len(data)
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data, size)
        if data.startswith(PNG_SIGNATURE):
            return _png(data, size)
        if data.startswith(b"BM"):
            return _bmp(data, size)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return inspect_gif(data, size)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return inspect_webp(data, size)
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return inspect_tiff(data, size)
    except (IndexError, struct.error):  # a field that lies past the end of `data`
        if len(data) < size:
            raise NeedMore(min(size, max(2 * len(data), 65_536))) from None
        raise BadImage("truncated", f"the file ends after {size} bytes, inside its header") from None
    if len(data) < min(size, 16):
        raise NeedMore(min(size, 4096))
    return _refuse_unknown(data, size)


def _jpeg(data: bytes, size: int) -> ImageFacts:
    """Walks the segments (ITU T.81 annex B) up to the frame header, SOFn."""
    position, orientation, seen_exif = 2, 1, False
    while True:
        while data[position + 1] == 0xFF and data[position] == 0xFF:  # fill bytes
            position += 1
        marker = data[position + 1]
        length = (data[position + 2] << 8) | data[position + 3]
        if data[position] != 0xFF or length < 2:
            raise BadImage("undecodable", f"the JPEG file has no valid segment at byte {position}")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            break
        if marker in (0xD9, 0xDA):
            raise BadImage("undecodable", "the JPEG file has no frame header (SOF) before its data")
        following = position + 2 + length
        if marker == 0xE1 and not seen_exif and data[position + 4 : position + 10] == b"Exif\0\0":
            if following > len(data):
                need(following, data, size)
            orientation, seen_exif = exif_orientation(data[position + 10 : following]), True
        position = following
        if position + 4 > len(data):
            need(position + 4, data, size)
    bits = data[position + 4]
    height = (data[position + 5] << 8) | data[position + 6]
    width = (data[position + 7] << 8) | data[position + 8]
    components = data[position + 9]
    if marker > 0xC2 or bits != 8:
        kind = f"SOF{marker - 0xC0}, {bits} bits"
        raise BadImage("unsupported", f"the JPEG is of a kind that few decoders read ({kind}): only 8-bit SOF0-2 are")
    if components not in (1, 3, 4):
        raise BadImage("unsupported", f"the JPEG has {components} colour components; 1, 3 or 4 are read")
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[components]
    return make_facts(
        "JPEG", width, height, mode, orientation=orientation, progressive=marker == 0xC2, plain=components != 4
    )  # fmt: skip


def _png(data: bytes, size: int) -> ImageFacts:
    """IHDR, then the chunks before the image data: tRNS, acTL, eXIf."""
    if data[12:16] != b"IHDR" or data[8:12] != b"\0\0\0\r":
        if len(data) < 16:
            need(33, data, size)
        raise BadImage("undecodable", "the PNG file does not begin with an IHDR chunk")
    width, height, bits, colour, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    mode, depths = _PNG_COLOURS.get(colour, ("", ()))
    if bits not in depths or compression or filtering or interlace > 1:
        raise BadImage(
            "undecodable",
            f"the PNG header is not valid: colour type {colour}, {bits} bits, compression {compression}, "
            f"filter {filtering}, interlace {interlace}",
        )
    if colour == 0:
        mode = {1: "1", 16: "I;16"}.get(bits, "L")
    orientation, has_alpha, animated, has_palette = 1, colour in (4, 6), False, False
    position = 33
    while (kind := data[position + 4 : position + 8]) != b"IDAT":
        if len(kind) < 4:
            need(position + 8, data, size)
        following = position + 12 + int.from_bytes(data[position : position + 4])
        if kind == b"tRNS":
            has_alpha = True
        elif kind == b"acTL":
            animated = int.from_bytes(data[position + 8 : position + 12]) > 1
        elif kind == b"PLTE":
            has_palette = True
        elif kind == b"eXIf":
            if following > len(data):
                need(following, data, size)
            orientation = exif_orientation(data[position + 8 : following - 4])
        elif kind == b"IEND":
            raise BadImage("undecodable", "the PNG file has no image data (IDAT)")
        elif not kind[0] & 0x20 and kind != b"IHDR":  # an upper-case first letter: cannot be decoded without knowing it
            raise BadImage("undecodable", f"the PNG file has an unknown critical chunk, {kind!r}")
        position = following
    if colour == 3 and not has_palette:
        raise BadImage("undecodable", "the PNG file needs a palette (PLTE) before its image data and has none")
    return make_facts("PNG", width, height, mode, bits, orientation, has_alpha, animated, plain=True)


def _bmp(data: bytes, size: int) -> ImageFacts:
    """BITMAPFILEHEADER and the DIB header after it."""
    header = int.from_bytes(data[14:18], "little")
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        if len(data) < 26:
            need(26, data, size)
        _refuse_unknown(data, size)  # two letters are a weak signature: most files that begin with BM are text
    if bits not in (1, 4, 8, 16, 24, 32) or compression not in (0, 1, 2, 3, 6):
        raise BadImage("unsupported", f"the BMP has {bits} bits a pixel and compression {compression}")
    has_alpha = bits == 32 and compression in (3, 6)
    mode = "P" if bits <= 8 else "RGBA" if has_alpha else "RGB"
    return make_facts("BMP", width, abs(height), mode, has_alpha=has_alpha)  # height < 0: rows from the top


# How files begin that are found under image names, and what to call them.
_KNOWN = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded"),
    (b"\x7fELF", "a program"),
)
_UNSUPPORTED = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\x01\0", "Windows icon"),
    (b"qoif", "QOI"),
)


def _refuse_unknown(data: bytes, size: int) -> NoReturn:
    """Says what a file without a known signature looks like."""
    if size == 0:
        raise BadImage("zero_bytes", "the file is empty")
    if not data.strip(b"\0"):
        raise BadImage("zero_bytes", f"the file's {size} bytes begin with nothing but zeros: it was never written")
    for signature, name in _KNOWN:
        if data.startswith(signature):
            raise BadImage("not_an_image", f"the file is {name}, not an image")
    unsupported = next((name for signature, name in _UNSUPPORTED if data.startswith(signature)), None)
    if data[4:8] == b"ftyp":
        unsupported = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}.get(
            data[8:12]
        )
        if unsupported is None:
            raise BadImage("not_an_image", "the file is a video (MP4), not an image")
    if unsupported:
        raise BadImage("unsupported", f"the file is a {unsupported} image; JPEG, PNG, BMP, GIF, WebP and TIFF are read")
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise BadImage(
            "not_an_image", "the file is an HTML page, not an image: a download probably returned an error page"
        )
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        raise BadImage("unsupported", "the file is an SVG drawing; JPEG, PNG, BMP, GIF, WebP and TIFF are read")
    if start.startswith(b"<?xml"):
        raise BadImage("not_an_image", "the file is an XML document, not an image")
    if _is_text(data[:1024]):
        beginning = data[:40].decode("utf-8", "replace")
        raise BadImage("not_an_image", f"the file is text, not an image; it begins with {beginning!r}")
    raise BadImage("not_an_image", f"the file has no known image signature; it begins with {data[:8].hex(' ')}")


def _is_text(data: bytes) -> bool:
    """Whether `data` is UTF-8 without control characters; a character cut off at the end does not count."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:
            return False
        text = data[: error.start].decode("utf-8")
    return not any(ord(character) < 32 and character not in "\t\r\n\f" for character in text)

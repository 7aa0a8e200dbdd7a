"""Headers of the formats that are converted before TensorFlow sees them: GIF, WebP, TIFF."""

import io
import struct
from collections.abc import Iterator

from tfds_builders.records.facts import BadImage, ImageFacts, NeedMore, describe, exif_orientation, make_facts, need

# TIFF 6.0, its technical notes, and what libtiff's codecs and Pillow know besides; 48129 is what Pillow refuses.
_TIFF_TAGS = frozenset(
    (*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339)
    + (347, *range(512, 522), *range(529, 533), 48129, 50674)
)
_TIFF_BYTES = {  # type -> length of one value
    kind: size
    for size, kinds in {1: (1, 2, 6, 7), 2: (3, 8), 4: (4, 9, 11, 13), 8: (5, 10, 12, 16)}.items()
    for kind in kinds
}
_TIFF_OPAQUE = (1, 2, 7)  # types that stay bytes; the values of others become objects of 30 bytes and more
_MAX_ENTRIES = 2**16 - 1  # of a directory; BigTIFF could have more
_SMALL_TILE = 2**22  # pixels: so many may be decoded for an image of any size
_MAX_VALUES = 2**16  # of a tag: the highest image in strips of one row. Each strip takes Pillow a few microseconds


def gif_blocks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The blocks of a whole GIF file: (introducer byte, begin, end), the last being the trailer 0x3B.

    Raises:
      BadImage: truncated, missing_end_marker, or undecodable (a block of an unknown kind).
    """
    begin, has_image = 0, False
    try:
        position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        while True:
            begin = position
            introducer = data[position]
            if introducer == 0x3B:
                yield introducer, begin, begin + 1
                return
            if introducer == 0:  # a stray terminator: some writers leave one, every reader passes over it
                position += 1
                continue
            if introducer == 0x21:  # extension: label, sub-blocks
                position += 2
            elif introducer == 0x2C:  # image: descriptor, colour table, code size, sub-blocks
                flags = data[position + 9]
                position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            else:
                raise BadImage("undecodable", f"the GIF file has a block of unknown kind {introducer} at byte {begin}")
            while data[position]:
                position += 1 + data[position]
            position += 1
            yield introducer, begin, position
            has_image = has_image or introducer == 0x2C
    except IndexError:
        if begin == len(data) and has_image:
            raise BadImage("missing_end_marker", "the GIF file ends without its trailer") from None
        raise BadImage("truncated", f"the GIF file ends after {len(data)} bytes, inside a block") from None


def inspect_gif(data: bytes, size: int) -> ImageFacts:
    """The screen and the blocks: only a walk through the file tells a still picture from an animation."""
    if len(data) < size:
        raise NeedMore(size)
    width, height = struct.unpack_from("<HH", data, 6)
    images, has_alpha = 0, False
    try:
        for introducer, begin, _ in gif_blocks(data):
            if introducer == 0x2C:
                images += 1
                if images == 1:
                    left, top, image_width, image_height = struct.unpack_from("<HHHH", data, begin + 1)
                    width, height = max(width, left + image_width), max(height, top + image_height)
            elif introducer == 0x21 and data[begin + 1] == 0xF9 and not images:
                has_alpha = bool(data[begin + 3] & 1)
    except BadImage:
        if not images:
            raise
    if not images:
        raise BadImage("undecodable", "the GIF file holds no image")
    return make_facts("GIF", width, height, "P", has_alpha=has_alpha, animated=images > 1)


def inspect_webp(data: bytes, size: int) -> ImageFacts:
    """The first chunk: VP8 (lossy), VP8L (lossless), or VP8X (extended: alpha, animation, EXIF)."""
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width = int.from_bytes(data[24:27], "little") + 1
        height = data[27] + (data[28] << 8) + (data[29] << 16) + 1
        has_alpha, animated, orientation = bool(flags & 0x10), bool(flags & 0x02), 1
        if flags & 0x08:  # the EXIF chunk comes after the image
            if len(data) < size:
                raise NeedMore(size)
            position = 12
            while position + 8 <= size:
                length = int.from_bytes(data[position + 4 : position + 8], "little")
                if data[position : position + 4] == b"EXIF":
                    exif = data[position + 8 : position + 8 + length]
                    orientation = exif_orientation(exif.removeprefix(b"Exif\0\0"))
                    break
                position += 8 + length + (length & 1)
        mode = "RGBA" if has_alpha else "RGB"
        return make_facts(
            "WEBP", width, height, mode, orientation=orientation, has_alpha=has_alpha, animated=animated
        )  # fmt: skip
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        if data[23:26] != b"\x9d\x01\x2a":
            raise BadImage("undecodable", "the WebP file has no VP8 key frame")
        return make_facts("WEBP", width & 0x3FFF, height & 0x3FFF, "RGB")
    if kind == b"VP8L":
        signature, packed = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise BadImage("undecodable", "the WebP file has no VP8L signature")
        has_alpha = bool(packed >> 28 & 1)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        return make_facts("WEBP", width, height, "RGBA" if has_alpha else "RGB", has_alpha=has_alpha)
    if len(data) < 16:
        need(30, data, size)
    raise BadImage("undecodable", f"the WebP file begins with an unknown chunk, {kind!r}")


def inspect_tiff(data: bytes, size: int) -> ImageFacts:
    """Pillow reads the first directory, which lies anywhere in the file, without the tags that pixels do not need.
    Further ones, of which a small file can hold thousands, are not walked: counting them would take Pillow time that
    grows with their square."""
    from PIL import Image, TiffImagePlugin

    if len(data) < size:
        raise NeedMore(size)
    page, animated = first_page(data)
    try:
        with Image.open(io.BytesIO(page), formats=["TIFF"]) as image:
            assert isinstance(image, TiffImagePlugin.TiffImageFile)
            tags, mode = image.tag_v2, image.mode
            width, height, orientation = int(tags[256]), int(tags[257]), tags.get(274, 1)
            bits = int(max(tags.get(258, (1,))))
            tile = int(tags.get(322, width)), int(tags.get(323, height))
    except Image.DecompressionBombError as error:
        raise BadImage("decompression_bomb", f"the TIFF header declares too many pixels: {describe(error)}") from None
    except MemoryError:  # says something about the machine, not about the file
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged directories
        raise BadImage("undecodable", f"the TIFF header cannot be read: {describe(error)}") from None
    if min(tile) <= 0 or _tiled(width, tile[0]) * _tiled(height, tile[1]) > max(_SMALL_TILE, 4 * width * height):
        raise BadImage(
            "decompression_bomb",
            f"the TIFF header declares tiles of {tile[0]} x {tile[1]} for {width} x {height} pixels",
        )
    if mode.startswith("I;16"):
        mode, bits = "I;16", 16
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16"):
        raise BadImage("unsupported", f"the TIFF holds samples without an agreed scale: mode {mode}, {bits} bits")
    orientation = orientation if orientation in range(1, 9) else 1
    has_alpha = mode in ("LA", "PA", "RGBA")
    return make_facts("TIFF", width, height, mode, bits, orientation, has_alpha, animated)


def _tiled(side: int, tile: int) -> int:
    """The side of an image that whole tiles make up."""
    return -(-side // tile) * tile


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

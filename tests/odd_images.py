"""One golden file of every odd kind that must be accepted, made in code. `bad_images` is its counterpart.

    ODD["jpeg_cmyk"]()  # Odd(name="jpeg_cmyk.jpg", data=..., flags=("cmyk",), pixels=None)

Each entry is a function, so that importing this module makes nothing.
"""

import dataclasses
import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 45, 30  # neither a multiple of 8


@dataclasses.dataclass(frozen=True)
class Odd:
    """A file that must be accepted."""

    name: str
    data: bytes
    flags: tuple[str, ...]  # what `inspect` must say
    pixels: np.ndarray | None = None  # upright uint8 [height, width, 3], where the file is lossless


def rgb(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, without symmetry: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(5 * x + y), np.cos(4 * y - 2 * x), np.sin(9 * x * y + x)], -1)
    noise = np.random.default_rng(seed).normal(0, 6, waves.shape)
    return np.clip(128 + 110 * waves + noise, 0, 255).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, format: str, **options) -> bytes:
    """The image as a file made by Pillow."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    """An EXIF block that says how the camera was held, among other things."""
    block = Image.Exif()
    block[0x010F] = "a camera maker"
    block[0x0112] = orientation
    return block


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright image of stored `pixels`, from the definition of the EXIF tag: where row 0 and column 0 belong."""
    rows_are_columns = orientation >= 5
    turned = pixels.swapaxes(0, 1) if rows_are_columns else pixels
    bottom = orientation in (3, 4, 7, 8)
    right = orientation in (2, 3, 6, 7)
    return turned[:: -1 if bottom else 1, :: -1 if right else 1]


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    """uint8 [height, width] -> [height, width, 3]."""
    return np.repeat(grey[..., None], 3, axis=2)


# --- PNG by hand: kinds that Pillow cannot write ---------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, content) of every chunk."""
    found, position = [], 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4])
        found.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def join(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The inverse of `chunks`."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_header(width: int, height: int, bits: int, colour: int, interlace: int = 0) -> tuple[bytes, bytes]:
    """The IHDR chunk; colour 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)


def png_of_samples(samples: np.ndarray, bits: int, colour: int, extra: tuple = ()) -> bytes:
    """A PNG without filters of uint [height, width, samples per pixel], values below 2**bits."""
    height, width, _ = samples.shape
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        ones = (samples.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in ones]
    stream = zlib.compress(b"".join(b"\0" + row for row in rows))
    return join([png_header(width, height, bits, colour), *extra, (b"IDAT", stream), (b"IEND", b"")])


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Adam7: seven images, each a grid of pixels of the whole."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [
        b"\0" + row.tobytes() for top, left, down, along in passes for row in pixels[top::down, left::along] if row.size
    ]
    height, width, _ = pixels.shape
    header = png_header(width, height, 8, 2, interlace=1)
    return join([header, (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")])


def insert(png: bytes, kind: bytes, content: bytes) -> bytes:
    """The PNG with one more chunk before its image data."""
    parts = chunks(png)
    index = [name for name, _ in parts].index(b"IDAT")
    return join([*parts[:index], (kind, content), *parts[index:]])


def png_with_stream(change: Callable[[bytes], bytes]) -> bytes:
    """A plain PNG whose compressed stream is `change(stream)`; all checksums hold."""
    parts = chunks(encode(rgb(), "PNG"))
    stream = b"".join(content for kind, content in parts if kind == b"IDAT")
    return join([parts[0], (b"IDAT", change(stream)), (b"IEND", b"")])


# --- JPEG by hand ----------------------------------------------------------------------------------------------------


def patch_sof(jpeg: bytes, offset: int, value: int) -> bytes:
    """The JPEG with one byte of its frame header changed: 4 bits, 5-6 height, 7-8 width, 11 sampling of the luma."""
    position = next(jpeg.index(bytes((0xFF, marker))) for marker in (0xC0, 0xC2) if bytes((0xFF, marker)) in jpeg)
    return jpeg[: position + offset] + bytes((value,)) + jpeg[position + offset + 1 :]


def drop_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without the first segment of that kind."""
    begin = jpeg.index(bytes((0xFF, marker)))
    return jpeg[:begin] + jpeg[begin + 2 + int.from_bytes(jpeg[begin + 2 : begin + 4]) :]


# --- TIFF by hand ----------------------------------------------------------------------------------------------------


def tiled_tiff(grey: np.ndarray, tile_width: int, tile_height: int) -> bytes:
    """A deflated TIFF of uint8 [height, width] in a single tile, which must be as large."""
    height, width = grey.shape
    samples = np.zeros((tile_height, tile_width), np.uint8)
    samples[:height, :width] = grey
    stream = zlib.compress(samples.tobytes())
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile_width, 323: tile_height}
    tags |= {324: 8, 325: len(stream)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(stream)) + stream + struct.pack("<H", len(tags)) + directory + bytes(4)


# --- the odd ---------------------------------------------------------------------------------------------------------

ODD: dict[str, Callable[[], Odd]] = {}


def _odd(name: str, flags: tuple[str, ...] = ()):
    """Registers a function that returns the bytes, or the bytes and the upright pixels."""

    def register(make: Callable) -> Callable:
        @functools.cache
        def golden() -> Odd:
            made = make()
            return Odd(name, *((made, flags) if isinstance(made, bytes) else (made[0], flags, made[1])))

        ODD[name.rpartition(".")[0]] = golden
        return make

    return register


def _alpha() -> np.ndarray:
    return np.dstack([rgb(), np.tile(np.arange(WIDTH, dtype=np.uint8) * 5, (HEIGHT, 1))])


def _palette_image() -> tuple[Image.Image, np.ndarray]:
    image = Image.fromarray(rgb()).quantize(60)
    return image, np.asarray(image.convert("RGB"))


def _sixteen_bit(channels: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**16, (HEIGHT, WIDTH, channels), dtype=np.uint16)


_odd("jpeg_plain.jpg")(lambda: encode(rgb(), "JPEG"))
_odd("jpeg_extended.jpg")(lambda: encode(rgb(), "JPEG").replace(b"\xff\xc0", b"\xff\xc1", 1))  # SOF1
_odd("jpeg_full_chroma.jpg")(lambda: encode(rgb(), "JPEG", quality=97, subsampling=0))
_odd("jpeg_grey.jpg", ("grey",))(lambda: encode(rgb()[..., 0], "JPEG"))
_odd("jpeg_progressive.jpg", ("progressive",))(lambda: encode(rgb(), "JPEG", progressive=True))
_odd("jpeg_grey_progressive.jpg", ("grey", "progressive"))(lambda: encode(rgb()[..., 0], "JPEG", progressive=True))
_odd("jpeg_cmyk.jpg", ("cmyk",))(lambda: encode(Image.fromarray(rgb()).convert("CMYK"), "JPEG"))
_odd("jpeg_stored_as_rgb.jpg")(lambda: encode(rgb(), "JPEG", keep_rgb=True))
_odd("jpeg_restart_markers.jpg")(lambda: encode(rgb(), "JPEG", restart_marker_blocks=2))
# Fill bytes before a marker are allowed anywhere (ITU T.81 B.1.1.2).
_odd("jpeg_fill_bytes.jpg")(lambda: encode(rgb(), "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1))
# 64 x 64 in units of 16 x 16 and of 32 x 8 need the same number of blocks, so the data fits both headers.
_odd("jpeg_sampled_4_1_1.jpg")(lambda: patch_sof(encode(rgb(64, 64), "JPEG", subsampling=2), 11, 0x41))
_odd("jpeg_sampled_4_4_0.jpg")(lambda: patch_sof(encode(rgb(64, 64), "JPEG", subsampling=1), 11, 0x12))
_odd("jpeg_without_huffman_tables.jpg")(
    lambda: functools.reduce(drop_segment, (0xC4,) * 4, encode(rgb(), "JPEG"))  # as in Motion JPEG: the standard ones
)
_odd("jpeg_trailing_bytes.jpg")(lambda: encode(rgb(), "JPEG") + b"a second picture, or rubbish")
_odd("jpeg_with_icc_and_thumbnail.jpg")(
    lambda: encode(rgb(), "JPEG", icc_profile=bytes(70_000), comment=encode(rgb(8, 8), "JPEG"))
)


_odd("jpeg_rgb_with_jfif.jpg")(  # the marker says YCbCr, the components' names say RGB: the marker counts
    lambda: (lambda jpeg: jpeg[:2] + encode(rgb(), "JPEG")[2:20] + drop_segment(jpeg, 0xEE)[2:])(
        encode(rgb(), "JPEG", keep_rgb=True)
    )
)


def _register_orientations() -> None:
    for orientation in range(1, 9):
        flags = ("exif_rotated",) if orientation > 1 else ()
        upright = turn(rgb(), orientation)
        _odd(f"jpeg_exif_{orientation}.jpg", flags)(
            lambda orientation=orientation: encode(rgb(), "JPEG", exif=exif(orientation))
        )
        for name, format, options in (
            ("png_exif", "PNG", {}),
            ("webp_exif", "WEBP", {"lossless": True}),
            ("tiff_exif", "TIFF", {}),
        ):
            _odd(f"{name}_{orientation}.{format.lower()}", flags)(
                lambda orientation=orientation, upright=upright, format=format, options=options: (
                    encode(rgb(), format, exif=exif(orientation), **options),
                    upright,
                )
            )


_register_orientations()

_odd("png_plain.png")(lambda: (encode(rgb(), "PNG"), rgb()))
_odd("png_of_another_name.jpg")(lambda: (encode(rgb(), "PNG"), rgb()))
_odd("png_interlaced.png")(lambda: (interlaced_png(rgb()), rgb()))
_odd("png_alpha.png", ("alpha",))(lambda: (encode(_alpha(), "PNG"), rgb()))
_odd("png_transparent_colour.png", ("alpha",))(
    lambda: (encode(rgb(), "PNG", transparency=tuple(map(int, rgb()[3, 4]))), rgb())
)
_odd("png_animated.png", ("animated",))(
    lambda: (encode(rgb(), "PNG", save_all=True, append_images=[Image.fromarray(rgb(seed=1))]), rgb())
)
# What generators leave behind: a workflow of megabytes, and a profile that is none. Pillow alone would refuse both.
_odd("png_long_text.png")(
    lambda: (insert(encode(rgb(), "PNG"), b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3_000_000))), rgb())
)
_odd("png_broken_profile.png")(
    lambda: (insert(encode(rgb(), "PNG"), b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))), rgb())
)
_odd("png_trailing_bytes.png")(lambda: (encode(rgb(), "PNG") + b"rubbish", rgb()))


@_odd("png_grey_alpha.png", ("grey", "alpha"))
def _grey_alpha():
    return encode(Image.fromarray(_alpha()[..., 2:]), "PNG"), grey_as_rgb(rgb()[..., 2])


@_odd("png_palette.png", ("palette",))
def _palette():
    image, pixels = _palette_image()
    return encode(image, "PNG"), pixels


@_odd("png_palette_alpha.png", ("palette", "alpha"))
def _palette_alpha():
    image, pixels = _palette_image()
    return encode(image, "PNG", transparency=bytes(range(0, 240, 4))), pixels


@_odd("png_short_palette.png", ("palette",))
def _short_palette():
    """Indices past the end of the palette."""
    samples = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 64
    return png_of_samples(samples, 8, 3, ((b"PLTE", bytes(range(90))),))


def _register_depths() -> None:
    for bits in (1, 2, 4, 8):
        samples = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, 1))
        colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), dtype=np.uint8)
        _odd(f"png_grey_{bits}_bits.png", ("grey",))(
            lambda bits=bits, samples=samples: (
                png_of_samples(samples, bits, 0),
                grey_as_rgb((samples[..., 0] * (255 // (2**bits - 1))).astype(np.uint8)),
            )
        )
        _odd(f"png_palette_{bits}_bits.png", ("palette",))(
            lambda bits=bits, samples=samples, colours=colours: (
                png_of_samples(samples, bits, 3, ((b"PLTE", colours.tobytes()),)),
                colours[samples[..., 0]],
            )
        )
    for name, colour, channels, flags in (
        ("grey", 0, 1, ("grey", "sixteen_bit")),
        ("rgb", 2, 3, ("sixteen_bit",)),
        ("grey_alpha", 4, 2, ("grey", "alpha", "sixteen_bit")),
        ("rgb_alpha", 6, 4, ("alpha", "sixteen_bit")),
    ):
        high = (_sixteen_bit(channels) >> 8).astype(np.uint8)
        pixels = high[..., :3] if channels > 2 else grey_as_rgb(high[..., 0])
        _odd(f"png_{name}_16_bits.png", flags)(
            lambda channels=channels, colour=colour, pixels=pixels: (
                png_of_samples(_sixteen_bit(channels), 16, colour),
                pixels,
            )
        )


_register_depths()


@_odd("png_huge.png", ("grey", "huge"))
def _huge():
    """More pixels than a reader likes, in 10 KB."""
    width, height = 8192, 4100
    stream = zlib.compress(bytes((1 + width // 8) * height))
    return join([png_header(width, height, 1, 0), (b"IDAT", stream), (b"IEND", b"")])


_odd("bmp_plain.bmp")(lambda: (encode(rgb(), "BMP"), rgb()))
_odd("bmp_grey.bmp", ("palette",))(lambda: (encode(rgb()[..., 0], "BMP"), grey_as_rgb(rgb()[..., 0])))


@_odd("bmp_palette.bmp", ("palette",))
def _bmp_palette():
    image, pixels = _palette_image()
    return encode(image, "BMP"), pixels


@_odd("bmp_one_bit.bmp", ("palette",))
def _bmp_one_bit():
    image = Image.fromarray(rgb()).convert("1")
    return encode(image, "BMP"), np.asarray(image.convert("RGB"))


@_odd("bmp_from_the_top.bmp")
def _bmp_from_the_top():
    """A negative height: the first row is the top one."""
    data, padding = bytearray(encode(rgb(), "BMP")), -3 * WIDTH % 4
    data[22:26] = struct.pack("<i", -HEIGHT)
    data[54:] = b"".join(row[:, ::-1].tobytes() + bytes(padding) for row in rgb())
    return bytes(data), rgb()


@_odd("bmp_of_os2.bmp")
def _bmp_of_os2():
    """The oldest header, with sizes of 16 bits."""
    rows = b"".join(row[:, ::-1].tobytes() + bytes(-3 * WIDTH % 4) for row in rgb()[::-1])
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    return b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + header + rows, rgb()


@_odd("bmp_bit_fields.bmp", ("alpha",))
def _bmp_bit_fields():
    """Where red, green, blue and alpha are is said by masks."""
    rows = _alpha()[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(rows), 0, 0, 122) + header + rows, rgb()


@_odd("gif_plain.gif", ("palette",))
def _gif():
    image, pixels = _palette_image()
    return encode(image, "GIF"), pixels


@_odd("gif_transparent.gif", ("palette", "alpha"))
def _gif_transparent():
    image, pixels = _palette_image()
    return encode(image, "GIF", transparency=7), pixels


@_odd("gif_animated.gif", ("palette", "animated"))
def _gif_animated():
    image, pixels = _palette_image()
    return encode(image, "GIF", save_all=True, append_images=[Image.fromarray(rgb(seed=1)).quantize(60)]), pixels


_odd("webp_lossy.webp")(lambda: encode(rgb(), "WEBP"))
_odd("webp_lossless.webp")(lambda: (encode(rgb(), "WEBP", lossless=True), rgb()))
_odd("webp_alpha.webp", ("alpha",))(lambda: (encode(_alpha(), "WEBP", lossless=True, exact=True), rgb()))
_odd("webp_animated.webp", ("animated",))(
    lambda: (
        encode(rgb(), "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(rgb(seed=1))]),
        rgb(),
    )
)
_odd("tiff_plain.tif")(lambda: (encode(rgb(), "TIFF"), rgb()))
_odd("tiff_compressed.tif")(lambda: (encode(rgb(), "TIFF", compression="tiff_lzw"), rgb()))
_odd("tiff_cmyk.tif", ("cmyk",))(lambda: encode(Image.fromarray(rgb()).convert("CMYK"), "TIFF"))
_odd("tiff_pages.tif", ("animated",))(
    lambda: (encode(rgb(), "TIFF", save_all=True, append_images=[Image.fromarray(rgb(seed=1))]), rgb())
)


_odd("tiff_big.tif")(lambda: (encode(rgb(), "TIFF", big_tiff=True), rgb()))
_odd("tiff_jpeg.tif")(lambda: encode(rgb(), "TIFF", compression="jpeg"))
_odd("tiff_predictor.tif")(lambda: (encode(rgb(), "TIFF", compression="tiff_lzw", tiffinfo={317: 2}), rgb()))
_odd("tiff_strips.tif")(lambda: (encode(rgb(), "TIFF", tiffinfo={278: 7}, compression="tiff_adobe_deflate"), rgb()))


_odd("tiff_tiled.tif", ("grey",))(lambda: (tiled_tiff(rgb()[..., 0], 256, 256), grey_as_rgb(rgb()[..., 0])))


@_odd("tiff_big_endian.tif", ("grey",))
def _tiff_big_endian():
    grey = rgb()[..., 0]
    tags = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: 8, 278: HEIGHT, 279: grey.size}
    directory = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = b"MM\0*" + struct.pack(">I", 8 + grey.size)
    return start + grey.tobytes() + struct.pack(">H", len(tags)) + directory + bytes(4), grey_as_rgb(grey)


@_odd("tiff_fax.tif", ("grey",))
def _tiff_fax():
    """With a description, a resolution and a workflow of 100 kB beside what the pixels need."""
    image, more = Image.fromarray(rgb()).convert("1"), {270: "a fax", 37724: bytes(100_000)}
    data = encode(image, "TIFF", compression="group4", dpi=(300, 300), tiffinfo=more)
    return data, np.asarray(image.convert("RGB"))


@_odd("tiff_palette.tif", ("palette",))
def _tiff_palette():
    image, pixels = _palette_image()
    return encode(image, "TIFF"), pixels


@_odd("tiff_16_bits.tif", ("grey", "sixteen_bit"))
def _tiff_16_bits():
    samples = _sixteen_bit(1)[..., 0]
    return encode(samples, "TIFF"), grey_as_rgb((samples >> 8).astype(np.uint8))

"""One definition of an image's pixels: Pillow, TensorFlow and the known originals agree on every odd kind."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from bad_images import BAD
from bad_requests import gif_comments, huge_tile, jpeg_exif, tiff_tags
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import ODD, encode, exif, rgb, turn
from PIL import Image

from tfds_builders.records.bare import bare
from tfds_builders.records.decode import decode_rgb, encode_png, plain_bytes, to_png
from tfds_builders.records.facts import BadImage
from tfds_builders.records.header import inspect
from tfds_builders.records.pixels import decode_uint8

LOSSLESS = [kind for kind in ODD if ODD[kind]().pixels is not None]
CONVERTED = [kind for kind in ODD if kind.startswith(("gif", "webp", "tiff"))]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_give_their_pixels(kind):
    odd = ODD[kind]()
    np.testing.assert_array_equal(decode_rgb(odd.data), odd.pixels)


@pytest.mark.parametrize("kind", ODD)
def test_both_decoders_give_the_same_pixels(kind):
    data = ODD[kind]().data
    pixels = decode_rgb(data)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(decode_uint8(plain_bytes(data)).numpy(), pixels)


def test_the_decoders_agree_inside_a_pipeline():
    files = [plain_bytes(ODD[kind]().data) for kind in ("jpeg_full_chroma", "png_palette", "jpeg_cmyk", "gif_plain")]
    images = tf.data.Dataset.from_tensor_slices(files).map(decode_uint8)
    assert images.element_spec == tf.TensorSpec([None, None, 3], tf.uint8)
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(image.numpy(), decode_rgb(file))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright(orientation):
    stored = decode_rgb(encode(rgb(), "JPEG"))
    turned = decode_rgb(encode(rgb(), "JPEG", exif=exif(orientation)))
    np.testing.assert_array_equal(turned, turn(stored, orientation))


def test_files_that_need_nothing_are_passed_through():
    for kind in ("jpeg_plain", "jpeg_grey", "jpeg_progressive", "jpeg_exif_1", "png_plain", "png_alpha", "png_palette"):
        data = ODD[kind]().data
        assert plain_bytes(data) is data
    for kind in ("jpeg_cmyk", "jpeg_exif_6", "png_exif_3", "bmp_plain", "gif_plain", "webp_lossy", "tiff_plain"):
        assert plain_bytes(ODD[kind]().data).startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", CONVERTED)
def test_formats_that_cannot_be_stored_become_equal_pngs(kind):
    data = ODD[kind]().data
    png = to_png(data)
    facts = inspect(png)
    assert not inspect(data).storable
    assert (facts.format, facts.mode, facts.orientation, facts.storable, facts.plain) == ("PNG", "RGB", 1, True, True)
    np.testing.assert_array_equal(decode_rgb(png), decode_rgb(data))
    assert to_png(data) == png


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.booleans())
def test_our_png_is_lossless(width, height, seed, compress):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels, compress))) as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_our_png_is_lossless_across_blocks_of_rows():
    pixels = rgb(1000, 800)  # 2.4 MB: three blocks
    png = encode_png(pixels)
    np.testing.assert_array_equal(decode_rgb(png), pixels)
    assert len(png) < 1.02 * len(encode(pixels, "PNG"))


def test_our_png_takes_any_layout_of_the_array():
    pixels = rgb()[::2, ::-1]
    np.testing.assert_array_equal(decode_rgb(encode_png(pixels)), pixels)


@pytest.mark.parametrize("kind", ["jpeg_cut_in_data", "png_cut_in_data", "png_noise_as_stream", "tiff_cut", "gif_cut"])
def test_damaged_files_are_refused(kind):
    bad = BAD[kind]()
    with pytest.raises(BadImage) as refusal:
        decode_rgb(bad.data)
    assert refusal.value.code == bad.code
    assert "0x" not in str(refusal.value)  # an address would make two ledgers of one build differ


@pytest.mark.parametrize(
    "data",
    [tiff_tags(), tiff_tags(within=True), jpeg_exif()],
    ids=["TIFF", "directory within", "JPEG"],
)
def test_metadata_take_no_memory(data):
    """Pillow would read each tag's data, which may all be the same bytes."""
    tracemalloc.start()
    assert inspect(data).width == 56
    assert decode_rgb(data).shape == (40, 56, 3)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 * len(data)


def test_a_tiff_whose_tags_hold_more_than_the_file_is_refused():
    with pytest.raises(BadImage, match="tag 513"):
        inspect(tiff_tags(20, first=512))
    offsets = bytearray(tiff_tags(0, 8 << 18))
    (directory,) = struct.unpack_from("<I", offsets, 4)
    at = offsets.index(struct.pack("<HH", 273, 4), directory)
    struct.pack_into("<II", offsets, at + 4, 2**16 + 1, 8)
    with pytest.raises(BadImage, match="65537 values"):
        inspect(bytes(offsets))


def test_a_tile_that_is_much_larger_than_its_image_is_refused():
    with pytest.raises(BadImage, match="tiles of 4096 x 4096 for 56 x 40 pixels") as refusal:
        inspect(huge_tile(4096))
    assert refusal.value.code == "decompression_bomb"


def test_comments_take_no_time():
    """Pillow would copy those that it has read at each further one: a million takes it half a minute."""
    gif = gif_comments(1_000_000)
    without = bare(gif, inspect(gif))
    assert without == bare(gif_comments(0), inspect(gif))
    np.testing.assert_array_equal(decode_rgb(gif), decode_rgb(gif_comments(0)))


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind.startswith(("jpeg", "tiff", "gif"))])
def test_without_metadata_a_file_has_the_same_pixels_for_any_decoder(kind):
    data = ODD[kind]().data
    facts = inspect(data)
    without = bare(data, facts)
    assert bare(without, facts) == without
    assert len(without) <= len(data)
    assert inspect(without).orientation == facts.orientation
    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(without)) as same:
        np.testing.assert_array_equal(np.asarray(same.convert("RGB")), np.asarray(image.convert("RGB")))
        assert same.getexif().get(0x0112, 1) in (facts.orientation, 1)
        assert not same.info.keys() & {"icc_profile", "comment", "xmp"} - {"comment"}


def test_metadata_cannot_hide_behind_fill_bytes():
    """FF FF E1, an empty segment: with its last three bytes gone, the first would make a segment of what follows."""
    jpeg, exif_segment = encode(rgb(), "JPEG"), b"\xe1" + struct.pack(">H", 30) + b"Exif\0\0" + bytes(22)
    scan = jpeg.index(b"\xff\xda")
    data = jpeg[:scan] + b"\xff\xff\xe1\0\2" + exif_segment + jpeg[scan:]
    with Image.open(io.BytesIO(bare(data, inspect(data)))) as image:
        assert "exif" not in image.info
    data = jpeg[:scan] + b"\xff\xe1\0\0" + jpeg[scan:]
    with pytest.raises(BadImage, match="no valid segment"):
        decode_rgb(data)


def test_want_of_memory_is_not_the_files_fault(monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(MemoryError):
        decode_rgb(encode(rgb(), "JPEG"))

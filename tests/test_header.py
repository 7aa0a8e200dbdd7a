"""What the first bytes of a file say: every odd kind recognised, every bad kind refused, nothing else raised."""

import io
import pickle

import numpy as np
import pytest
from bad_images import BAD
from bad_requests import tiff_pages
from hypothesis import given
from hypothesis import strategies as st
from odd_images import ODD, encode, exif, join, png_header, rgb
from PIL import Image

from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.facts import CODES, MAX_PIXELS, BadImage, ImageFacts, NeedMore, exif_orientation
from tfds_builders.records.header import extension_flag, inspect

SIGNATURES = (
    *(b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8"),
    *(b"II*\0", b"MM\0*"),
)


def outcome(data: bytes, size: int) -> ImageFacts | BadImage | NeedMore:
    """What `inspect` returns or raises. Anything else that it raises fails the test."""
    try:
        return inspect(data, size)
    except (BadImage, NeedMore) as error:
        return error


def inspect_from_the_beginning(data: bytes, prefix: int) -> tuple[ImageFacts, list[int]]:
    """The facts as a scan gets them, from as little of the file as it is asked for; and how much that was each time."""
    asked = []
    while isinstance(found := outcome(data[:prefix], len(data)), NeedMore):
        assert prefix < found.num_bytes <= len(data)
        prefix = found.num_bytes
        asked.append(prefix)
    assert isinstance(found, ImageFacts)
    return found, asked


@pytest.mark.parametrize("kind", ODD)
def test_odd_kinds_are_recognised(kind):
    odd = ODD[kind]()
    assert inspect(odd.data).flags == odd.flags


@pytest.mark.parametrize("kind", sorted(ODD.keys() - {"png_long_text", "png_broken_profile"}))  # which Pillow refuses
def test_facts_agree_with_pillow(kind):
    data = ODD[kind]().data
    facts = inspect(data)
    with Image.open(io.BytesIO(data)) as image:
        assert facts.format == image.format
        assert facts.animated == (getattr(image, "n_frames", 1) > 1)
        # Of a BMP's palette, Pillow makes L or 1 where its colours are grey; of 16-bit LA it makes RGBA.
        if facts.format != "BMP" and (facts.mode, facts.bits) != ("LA", 16):
            assert facts.mode == image.mode
        if facts.format == "TIFF" and facts.orientation > 4:  # Pillow gives the upright size of TIFF
            assert (facts.height, facts.width) == image.size
        else:
            assert (facts.width, facts.height) == image.size
            assert facts.orientation == image.getexif().get(0x0112, 1)


def test_of_a_tiff_the_first_page_alone_is_looked_at():
    """The second cannot be read. Counting 20,000 takes Pillow half a minute, and four times that for twice as many."""
    data = bytearray(tiff_pages(2))
    assert inspect(bytes(data)).animated
    expected = decode_rgb(bytes(data))
    data[-200:] = b"\xff" * 200
    assert inspect(bytes(data)).animated
    np.testing.assert_array_equal(decode_rgb(bytes(data)), expected)
    assert inspect(tiff_pages(20_000)).animated


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("prefix", [1, 17, 45, 100, 4096])
def test_a_prefix_gives_the_same_facts(kind, prefix):
    data = ODD[kind]().data
    facts, _ = inspect_from_the_beginning(data, prefix)
    assert facts == inspect(data)


def test_a_header_behind_a_long_profile_is_asked_for_at_once():
    data = encode(rgb(256, 256), "JPEG", quality=100, icc_profile=bytes(60_000), exif=exif(6))
    facts, asked = inspect_from_the_beginning(data, 4096)
    assert facts.orientation == 6
    assert len(asked) == 1
    assert asked[0] < 65_000 < len(data)


@pytest.mark.parametrize("kind", [kind for kind in BAD if BAD[kind]().level == "header"])
def test_bad_kinds_are_refused(kind):
    bad = BAD[kind]()
    with pytest.raises(BadImage) as refusal:
        inspect(bad.data)
    assert refusal.value.code == bad.code
    assert str(refusal.value) == refusal.value.sentence


def test_what_was_found_instead_is_named():
    def sentence(kind: str) -> str:
        with pytest.raises(BadImage) as refusal:
            inspect(BAD[kind]().data)
        return str(refusal.value)

    assert "HTML page" in sentence("html")
    assert "rate limit exceeded" in sentence("json")
    assert "Git LFS pointer" in sentence("lfs_pointer")
    assert "60000 x 60000" in sentence("png_bomb")


@pytest.mark.parametrize(
    ("beginning", "says"),
    [
        (b"%PDF-1.7", "not_an_image: the file is a PDF document"),
        (b"PK\x03\x04", "not_an_image: the file is a zip archive"),
        (b"\x1f\x8b\x08", "not_an_image: the file is a gzip archive"),
        (b"\x7fELF", "not_an_image: the file is a program"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image: the file has no known image signature"),
        (b"\xef\xbb\xbf \n<HTML>", "not_an_image: the file is an HTML page"),
        (b'<?xml version="1.0"?><error>', "not_an_image: the file is an XML document"),
        (b'<?xml version="1.0"?><svg>', "unsupported: the file is an SVG drawing"),
        (b"\0\0\0\x0cjP  \r\n", "unsupported: the file is a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51", "unsupported: the file is a JPEG 2000 image"),
        (b"\0\0\0\x0cJXL \r\n", "unsupported: the file is a JPEG XL image"),
        (b"\xff\x0a", "unsupported: the file is a JPEG XL image"),
        (b"8BPS\0\x01", "unsupported: the file is a Photoshop image"),
        (b"\0\0\x01\0\x01", "unsupported: the file is a Windows icon image"),
        (b"qoif", "unsupported: the file is a QOI image"),
    ],
)
def test_other_formats_are_called_by_their_names(beginning, says):
    with pytest.raises(BadImage) as refusal:
        inspect(beginning + b" and more" * 3)
    assert f"{refusal.value.code}: {refusal.value}".startswith(says)


def test_the_largest_image_is_a_boundary():
    def png(width: int, height: int) -> bytes:
        return join([png_header(width, height, 8, 0), (b"IDAT", b"")])

    side = 13_377
    assert side * side < MAX_PIXELS < side * (side + 1)
    assert inspect(png(side, side)).flags == ("grey", "huge")
    with pytest.raises(BadImage) as refusal:
        inspect(png(side, side + 1))
    assert refusal.value.code == "decompression_bomb"
    for width, height in ((65_501, 1), (1, 65_501)):
        assert inspect(png(width - width // 65_501, height - height // 65_501)).flags == ("grey",)
        with pytest.raises(BadImage) as refusal:
            inspect(png(width, height))
        assert refusal.value.code == "decompression_bomb"


def test_refusals_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(BadImage("truncated", "the file ends early")))
    assert (type(error), error.code, error.sentence, str(error)) == (
        BadImage,
        "truncated",
        "the file ends early",
        "the file ends early",
    )
    assert pickle.loads(pickle.dumps(NeedMore(70_000))).num_bytes == 70_000


@pytest.mark.parametrize(
    ("id", "format", "flags"),
    [
        ("train/a.jpg", "JPEG", ()),
        ("train/a.JPEG", "JPEG", ()),
        ("a.jpg", "PNG", ("wrong_extension",)),
        ("a.png", "JPEG", ("wrong_extension",)),
        ("a.jpg.png", "PNG", ()),
        ("a.jpg.png", "JPEG", ("wrong_extension",)),
        ("a.jfif", "JPEG", ()),
        ("a.jpe", "PNG", ("wrong_extension",)),
        ("a.tif", "TIFF", ()),
        ("a.webp", "WEBP", ()),
        ("a.dat", "PNG", ()),  # no image extension: nothing is claimed
        ("a", "PNG", ()),
        ("folder.png/a", "JPEG", ()),
    ],
)
def test_wrong_extensions_are_flagged(id, format, flags):
    assert extension_flag(id, format) == flags


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (b"", 1),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 6),
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", 8),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x03\0\0\0", 3),  # as LONG
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x03", 3),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\0\0", 1),  # two of them
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0", 1),  # no such orientation
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0", 1),  # as text
        (b"II*\0\x08\0\0\0\xff\xff\x0f\x01\x03\0\x01\0\0\0\x06\0\0\0", 1),  # entries past the end
        (b"II*\0\xff\xff\xff\xff", 1),
        (b"XX*\0\x08\0\0\0", 1),
    ],
)
def test_damaged_exif_means_upright(block, orientation):
    assert exif_orientation(block) == orientation


@given(st.sampled_from(SIGNATURES), st.binary(max_size=300), st.integers(0, 1000))
def test_arbitrary_bytes_are_refused_or_described(signature, noise, missing):
    data = signature + noise
    found = outcome(data, len(data) + missing)
    if isinstance(found, BadImage):
        assert found.code in CODES
    elif isinstance(found, NeedMore):
        assert len(data) < found.num_bytes <= len(data) + missing


@given(st.sampled_from(sorted(ODD)), st.data())
def test_damaged_headers_are_refused_or_described(kind, draw):
    data = bytearray(ODD[kind]().data[:5000])
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, min(len(data), 200) - 1))] = draw.draw(st.integers(0, 255))
    found = outcome(bytes(data), len(data))
    assert isinstance(found, ImageFacts) or found.code in CODES

"""Three depths of validation: every bad kind refused at its depth for its reason, no good file refused at any."""

import functools
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from bad_images import BAD
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import ODD, chunks, encode, interlaced_png, join, rgb

from tfds_builders.records.decode import decode_rgb, plain_bytes
from tfds_builders.records.facts import CODES, BadImage
from tfds_builders.records.pixels import decode_uint8
from tfds_builders.sharding.validate import LEVELS, validate

PHOTOGRAPHS = [
    path
    for path in sorted(Path(skimage.__file__, "../data").resolve().iterdir())
    if path.suffix in (".jpg", ".jpeg", ".png", ".gif", ".bmp")
]


def refusal(data: bytes, level: str) -> str | None:
    """The code for which `level` refuses `data`; None if it accepts."""
    try:
        validate(data, level)
    except BadImage as error:
        return error.code
    return None


@pytest.mark.parametrize("kind", BAD)
def test_bad_kinds_are_refused_from_their_level_on(kind):
    bad = BAD[kind]()
    depth = LEVELS.index(bad.level)
    assert [refusal(bad.data, level) for level in LEVELS] == [None] * depth + [bad.code] * (3 - depth)


@pytest.mark.parametrize("kind", ODD)
def test_odd_kinds_are_accepted_and_recorded(kind):
    odd = ODD[kind]()
    trailing = ("trailing_bytes",) if "trailing_bytes" in kind else ()
    assert validate(odd.data, "header").flags == odd.flags
    assert validate(odd.data, "checksum").flags == (*odd.flags, *trailing)
    assert validate(odd.data, "decode").flags == (*odd.flags, *trailing)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda path: path.name)
def test_photographs_of_many_programs_are_accepted(photograph):
    assert refusal(photograph.read_bytes(), "decode") is None


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="received 'deep'"):
        validate(encode(rgb(), "PNG"), "deep")


def test_every_flipped_bit_of_a_png_is_found():
    png = encode(rgb(9, 9), "PNG")
    for bit in range(8 * len(png)):
        damaged = bytearray(png)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(damaged), "checksum") is not None, f"bit {bit}"


@pytest.mark.parametrize(
    "kind", ["png_plain", "png_interlaced", "png_exif_6", "jpeg_plain", "jpeg_progressive", "gif_plain"]
)
def test_every_cut_is_found(kind):
    data = ODD[kind]().data
    for length in range(len(data)):
        assert refusal(data[:length], "checksum") in CODES, f"{length} bytes"


@pytest.mark.parametrize("kind", ["jpeg_plain", "jpeg_progressive", "jpeg_restart_markers", "jpeg_grey"])
def test_a_missing_end_is_told_from_missing_pixels(kind):
    data = ODD[kind]().data
    assert refusal(data[:-1], "checksum") == "missing_end_marker"
    assert refusal(data[:-2], "checksum") == "missing_end_marker"
    assert refusal(data[:-12], "checksum") == "truncated"


@pytest.mark.parametrize("height", range(1, 10))
@pytest.mark.parametrize("make", [interlaced_png, lambda pixels: encode(pixels, "PNG")], ids=["interlaced", "plain"])
def test_the_last_byte_of_every_png_is_missed(make, height):
    for width in range(1, 10):
        header, (_, stream), end = chunks(make(rgb(width, height)))
        for pixels, expected in ((zlib.decompress(stream), None), (zlib.decompress(stream)[:-1], "truncated")):
            assert refusal(join([header, (b"IDAT", zlib.compress(pixels)), end]), "decode") == expected


@given(st.data())
def test_damage_to_a_png_is_found(draw):
    png = ODD["png_plain"]().data
    begin = draw.draw(st.integers(0, len(png) - 1))
    replaced = png[begin : begin + draw.draw(st.integers(0, 40))]
    replacement = draw.draw(st.binary(min_size=0, max_size=40).filter(lambda bytes: bytes != replaced))
    damaged = png[:begin] + replacement + png[begin + len(replaced) :]
    if damaged != png:
        assert refusal(damaged, "checksum") is not None


def damage(draw: st.DataObject, data: bytes) -> bytes:
    """Bytes changed, cut out, put in, or the end cut off and an end marker put there."""
    begin = draw.draw(st.integers(0, len(data) - 1))
    how = draw.draw(st.sampled_from(("change", "remove", "insert", "end")))
    if how == "change":
        new = draw.draw(st.binary(min_size=1, max_size=3))
        return data[:begin] + new + data[begin + len(new) :]
    if how == "remove":
        return data[:begin] + data[begin + draw.draw(st.integers(1, 20)) :]
    if how == "insert":
        return data[:begin] + draw.draw(st.binary(min_size=1, max_size=20)) + data[begin:]
    return data[:begin] + b"\xff\xd9"


def with_right_checksums(png: bytes) -> bytes:
    """The PNG as a broken writer would have made it."""
    parts, position = [], 8
    while position + 12 <= len(png):
        length = int.from_bytes(png[position : position + 4])
        parts.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += 12 + length
    return join(parts)


@settings(max_examples=400)
@given(st.sampled_from(sorted(kind for kind in ODD if kind != "png_huge")), st.data())
def test_what_decoding_accepts_has_one_set_of_pixels(kind, draw):
    damaged = damage(draw, ODD[kind]().data)
    if kind.startswith("png") and draw.draw(st.booleans()):
        damaged = with_right_checksums(damaged)
    if refusal(damaged, "decode") is None:
        np.testing.assert_array_equal(decode_uint8(plain_bytes(damaged)).numpy(), decode_rgb(damaged))


@settings(max_examples=100)
@given(st.sampled_from(sorted(kind for kind in ODD if kind.startswith("jpeg"))), st.data())
def test_what_the_structure_of_a_jpeg_accepts_has_one_set_of_pixels_or_none(kind, draw):
    damaged = functools.reduce(lambda data, _: damage(draw, data), range(2), ODD[kind]().data)
    if refusal(damaged, "checksum") is None:
        try:
            pixels = decode_rgb(damaged)
        except BadImage:
            return
        np.testing.assert_array_equal(decode_uint8(plain_bytes(damaged)).numpy(), pixels)

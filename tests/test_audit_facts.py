"""What the audit takes of one image, and the search for near hashes: against references and by hand."""

import io

import numpy as np
import pytest
from audit_corpus import crops, encode, through_jpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tfds_builders.audit.container import container_facts
from tfds_builders.audit.grid import GRID, grid_facts
from tfds_builders.audit.hashing import MIN_DETAIL, MIN_SIMILARITY, detail, perceptual_hash, similarity, thumbnail
from tfds_builders.audit.neighbours import near_pairs
from tfds_builders.audit.shortcut import severity_of, weighted_auc


def grey(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("L")


def brute_force(hashes: np.ndarray, radius: int) -> list[tuple[int, int]]:
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return sorted(zip(*(side.tolist() for side in np.nonzero(np.triu(distances <= radius, 1))), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 20), st.integers(0, 200), st.integers(0, 12))
def test_the_search_finds_every_near_pair_once(seed, radius, count, spread):
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, np.uint64)
    # Most are a few bits from one of the others; some are equal.
    for _ in range(spread):
        copied = random.integers(0, max(count, 1), count // 2)
        hashes[: count // 2] = hashes[copied] ^ (np.uint64(1) << random.integers(0, 64, count // 2, np.uint64))
    found = [
        pair for batch in near_pairs(hashes, radius) for pair in zip(*(side.tolist() for side in batch), strict=True)
    ]
    assert sorted(found) == brute_force(hashes, radius)


def test_the_search_handles_equal_hashes_and_refuses_what_it_cannot_do():
    equal = np.full(50, 0x0123456789ABCDEF, np.uint64)
    assert sum(len(left) for left, _ in near_pairs(equal, 8)) == 50 * 49 // 2
    with pytest.raises(ValueError, match="received 30"):
        next(near_pairs(equal, 30))


def test_the_hash_is_that_of_imagehash():
    """Values of imagehash 4.3.2, phash with its defaults."""
    import skimage.data

    assert f"{perceptual_hash(grey(skimage.data.astronaut())):016x}" == "c2924c5532bddfc8"
    assert f"{perceptual_hash(grey(skimage.data.coffee())):016x}" == "bb8320376c0f3637"


def test_different_pictures_are_told_apart_and_featureless_ones_left_out():
    ramp = np.repeat(np.linspace(0, 200, 96, dtype=np.uint8)[None], 96, axis=0)
    sky, wall = np.stack([ramp] * 3, axis=-1), np.full((96, 96, 3), 180, np.uint8)
    thumbnails = np.stack([thumbnail(grey(pixels)) for pixels in (sky, wall, crops()[0][1])])
    assert (detail(thumbnails) >= MIN_DETAIL).tolist() == [False, False, True]
    detailed = [pixels for _, pixels in crops() if detail(thumbnail(grey(pixels))[None])[0] >= MIN_DETAIL]
    rows = np.stack([thumbnail(grey(pixels)) for pixels in detailed])
    left, right = np.triu_indices(len(rows), 1)
    assert np.mean([(similarity(rows[a], rows[b]) >= MIN_SIMILARITY).mean() for a, b in zip(
        np.array_split(left, 20), np.array_split(right, 20), strict=True)]) < 0.001  # fmt: skip
    brighter = np.stack([thumbnail(grey(np.minimum(255, 1.2 * pixels).astype(np.uint8))) for pixels in detailed])
    assert (similarity(rows, brighter) >= MIN_SIMILARITY).mean() > 0.97


@pytest.mark.parametrize("quality", [25, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_table(quality):
    pixels = crops()[0][1]
    facts = container_facts(encode(pixels, "JPEG", quality=quality, subsampling="4:2:0", optimize=True))
    assert (facts["jpeg_quality"], facts["jpeg_quality_distance"]) == (quality, 0)
    assert (facts["subsampling_x"], facts["subsampling_y"]) == (2, 2)
    assert (facts["has_jfif"], facts["has_exif"], facts["custom_huffman"], facts["progressive"]) == (1, 0, 1, 0)
    assert np.isnan(facts["zlib_level"])


def test_other_facts_of_containers():
    pixels = crops()[0][1]
    exif = Image.Exif()
    exif[0x010E] = "a caption"
    facts = container_facts(
        encode(pixels, "JPEG", subsampling=0, progressive=True, exif=exif, comment=b"hello", icc_profile=b"x" * 200)
    )
    assert (facts["subsampling_x"], facts["subsampling_y"], facts["progressive"]) == (1, 1, 1)
    assert (facts["has_exif"], facts["has_comment"], facts["has_icc_profile"]) == (1, 1, 1)
    assert facts["num_metadata_segments"] == 4
    assert container_facts(encode(pixels, "JPEG", qtables=[[16] * 64, [17] * 64]))["jpeg_quality_distance"] > 5

    facts = container_facts(encode(pixels, "PNG", dpi=(72, 72), exif=exif, compress_level=9))
    assert (facts["png_bits"], facts["has_resolution"], facts["has_exif"], facts["zlib_level"]) == (8, 1, 1, 3)
    assert np.isnan(facts["jpeg_quality"])
    grey_jpeg = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(grey_jpeg, "JPEG")
    assert np.isnan(container_facts(grey_jpeg.getvalue())["subsampling_x"])


@pytest.mark.parametrize("cut", [2, 4, 11, 25, 60, 400])
def test_a_file_cut_off_anywhere_gives_what_was_read(cut):
    for image_format in ("JPEG", "PNG"):
        facts = container_facts(encode(crops()[0][1], image_format)[:cut])
        assert facts.keys() == container_facts(b"").keys()


def facts_of(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(GRID, grid_facts(pixels), strict=True))


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Crops of photographs without a trace of JPEG."""
    return [pixels for _, pixels in crops() if pixels.std() > 10][::6]


def test_the_grid_of_jpeg_is_found_in_decoded_pixels(photographs):
    before = np.array([grid_facts(pixels) for pixels in photographs])[:, 0]
    assert np.percentile(np.abs(before), 90) < 0.08
    for quality, least in ((95, 0.15), (75, 0.45)):
        after = [facts_of(through_jpeg(pixels, quality)) for pixels in photographs]
        assert np.percentile([facts["grid_zeros"] for facts in after], 10) > least
        assert np.mean([facts["grid_at_origin"] for facts in after]) > 0.95


def test_a_grid_that_a_crop_has_shifted_is_found_at_its_phase(photographs):
    shifted = [facts_of(through_jpeg(pixels, 60)[3:, 5:]) for pixels in photographs]
    assert np.percentile([facts["grid_zeros"] for facts in shifted], 10) > 0.45
    assert np.percentile([facts["grid_zeros_at_origin"] for facts in shifted], 90) < 0.08
    assert np.mean([facts["grid_at_origin"] for facts in shifted]) < 0.05


def test_patterns_of_up_sampling_are_not_taken_for_a_grid(photographs):
    """Period 2, as transposed convolutions leave it, and period 4."""
    for period in (2, 4):
        stripes = np.where(np.arange(72) % period == 0, 6, 0)
        patterned = [np.clip(p + stripes[:, None, None] + stripes[None, :, None], 0, 255) for p in photographs]
        found = np.array([grid_facts(pixels.astype(np.uint8)) for pixels in patterned])[:, 0]
        assert np.percentile(np.abs(found), 90) < 0.08


def test_flat_pictures_have_no_grid():
    for level in (0, 128, 255):
        flat = np.full((72, 72, 3), level, np.uint8)
        assert facts_of(flat)["grid_zeros"] == facts_of(through_jpeg(flat, 50))["grid_zeros"] == 0


def test_images_too_small_for_a_grid_have_none():
    assert all(np.isnan(value) for value in grid_facts(np.zeros((31, 200, 3), np.uint8)))
    assert not np.isnan(grid_facts(np.zeros((32, 33, 3), np.uint8))[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=40))
def test_the_weighted_auc_is_that_of_scikit_learn(rows):
    from sklearn.metrics import roc_auc_score

    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    ours = weighted_auc(labels, scores, weights.astype(float))
    if len(np.unique(labels[weights > 0])) < 2:
        assert ours == 0.5
    else:
        assert ours == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def test_severities_go_by_the_lower_end_of_the_interval():
    assert [severity_of("encoding", low) for low in (0.5, 0.56, 0.66, 0.81)] == [None, "low", "medium", "high"]
    assert [severity_of("metadata", low) for low in (0.5, 0.56, 0.66, 0.81)] == [None, "low", "medium", "medium"]

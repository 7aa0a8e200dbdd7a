"""The cure: one encoding for both classes, everything else as it was; and that it does cure."""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_sources as sources
from PIL import Image
from skimage import data as photographs

from tfds_builders.deepfake_faces.deepfake_faces_dataset_builder import Builder as DeepfakeFaces
from tfds_builders.harmonised.harmonised_dataset_builder import Builder
from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder as RealFakeFolder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, QUARANTINE
from tfds_builders.sharding.harmonise import harmonise

KEPT = ("id", "split", "label", "category", "group", "video", "generator", "scheme_balanced")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("original")
    return sources.build(DeepfakeFaces, sources.deepfake_faces(root / "manual"), root)


@pytest.fixture(scope="module")
def built(original, tmp_path_factory) -> Path:
    return sources.build(Builder, original, tmp_path_factory.mktemp("built"))


def _kept(folder: Path) -> list[tuple]:
    return sorted(tuple(row[name] for name in KEPT) for row in sources.manifest(folder))


def test_all_but_the_images_stays(original, built):
    assert _kept(built) == _kept(original)


def test_the_manifest_tells_of_the_new_images(built):
    hashes = {}
    for row in sources.manifest(built):
        assert (row["format"], row["source_format"], row["mode"], row["flags"]) == (
            "JPEG",
            "JPEG",
            "RGB",
            ["harmonised"],
        )
        assert (row["width"], row["height"], row["orientation"]) == (224, 224, 1)
        hashes[row["id"]] = row["sha256"]
    for record in sources.records(built, "test"):
        assert hashlib.sha256(record["image"]).digest() == hashes[record["id"].decode()]
        assert Image.open(io.BytesIO(record["image"])).size == (224, 224)


def test_it_says_what_it_was_made_from(original, built):
    build, source = (json.loads((folder / BUILD).read_text()) for folder in (built, original))
    assert build["made_with"] == {
        "dataset": "deepfake_faces", "version": "1.1.0", "fingerprint": source["fingerprint"], "side": 224
    }  # fmt: skip


def test_the_archives_behind_its_source_are_told(tmp_path):
    manual = sources.zipped(sources.deepfake_faces(tmp_path / "plain"), tmp_path / "zipped")
    source = sources.build(DeepfakeFaces, manual, tmp_path)
    built = sources.build(Builder, source, tmp_path / "once")
    archives = json.loads((source / BUILD).read_text())["archives"]
    assert archives
    assert json.loads((built / BUILD).read_text())["archives"] == archives
    again = sources.build(Builder, built, tmp_path / "twice")
    assert json.loads((again / BUILD).read_text())["archives"] == archives


def test_it_is_found_below_the_folder_too_and_the_same(original, built, tmp_path):
    other = sources.build(Builder, original.parent.parent, tmp_path)
    assert (other / BUILD).read_bytes() == (built / BUILD).read_bytes()


def test_another_size_is_another_dataset(original, built, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_HARMONISED_SIDE", "32")
    other = sources.build(Builder, original, tmp_path)
    assert {row["width"] for row in sources.manifest(other)} == {32}
    one, two = (json.loads((folder / BUILD).read_text())["fingerprint"] for folder in (built, other))
    assert one != two


def test_it_can_be_harmonised_again(built, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_HARMONISED_SIDE", "32")
    assert _kept(sources.build(Builder, built, tmp_path)) == _kept(built)


def test_a_damaged_shard_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.5")
    source = sources.build(RealFakeFolder, sources.categories(tmp_path / "manual"), tmp_path)
    row = next(row for row in sources.manifest(source) if row["format"] == "PNG")
    with open(source / row["shard"], "r+b") as shard:
        shard.seek(row["offset"] + 12 + row["image_offset"] + row["bytes"] - 30)
        shard.write(b"damaged")
    built = sources.build(Builder, source, tmp_path / "data")
    assert sources.outcomes(built, QUARANTINE) == {row["id"]: "bad_checksum"}
    cut = next(row for row in sources.manifest(source) if row["split"] == "test")
    os.truncate(source / cut["shard"], 10)
    built = sources.build(Builder, source, tmp_path / "other")
    bad = sources.outcomes(built, QUARANTINE)
    assert len(bad) == sum(other["split"] == "test" for other in sources.manifest(source)) + (row["split"] != "test")
    assert {reason for id, reason in bad.items() if id != row["id"]} == {"truncated"}


def test_what_is_no_built_dataset_is_refused(original, tmp_path):
    with pytest.raises(Refused, match="holds 0"):
        sources.build(Builder, sources.write(tmp_path / "manual", {"a.png": b"x"}), tmp_path)
    two = tmp_path / "two"
    two.mkdir()
    for name in "ab":
        (two / name).symlink_to(original)
    with pytest.raises(Refused, match="holds 2"):
        sources.build(Builder, two, tmp_path)


@pytest.mark.parametrize("side", ["0", "7", "large", "-5", "70000"])
def test_sizes_that_cannot_be_are_refused(side, original, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_HARMONISED_SIDE", side)
    with pytest.raises(Refused, match="REALSHARD_HARMONISED_SIDE must be"):
        sources.build(Builder, original, tmp_path)


def test_the_middle_is_kept_and_not_distorted():
    """A wide picture: the red middle square of 300 x 300 fills the result, whose corners show 281 x 281 of it."""
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[:, 300:600, 0] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    result = np.asarray(Image.open(io.BytesIO(harmonise(file.getvalue(), 64))))
    assert result.shape == (64, 64, 3)
    assert result[..., 0].min() > 240
    assert result[..., 1:].max() < 15


def test_it_turns_rotated_photographs_upright():
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[:40] = 255
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    result = np.asarray(Image.open(io.BytesIO(harmonise(file.getvalue(), 64))))
    assert result[0].max() < 20
    assert result[-1].min() > 235
    assert b"Exif" not in harmonise(file.getvalue(), 64)


def _grid(pixels: np.ndarray) -> float:
    """Strength of an 8 x 8 grid: steps between columns at its lines, against those elsewhere."""
    grey = pixels.astype(np.float64).mean(axis=2)
    steps = np.abs(np.diff(grey, n=3, axis=1)).mean(axis=0)
    by_phase = [steps[phase::8].mean() for phase in range(8)]
    return max(by_phase) / float(np.median(by_phase))


@pytest.mark.parametrize("side", [128, 96])
def test_the_trace_of_an_earlier_jpeg_is_gone(side):
    """PNG files, half of which were JPEG before: told apart by the grid in their pixels, and no longer afterwards."""
    photograph = photographs.astronaut()
    random = np.random.default_rng(0)
    before: list[list[float]] = [[], []]
    after: list[list[float]] = [[], []]
    for number in range(80):
        top, left = random.integers(0, 512 - 128, 2)
        crop = Image.fromarray(photograph[top : top + 128, left : left + 128])
        file = io.BytesIO()
        if number % 2:
            crop.save(file, "JPEG", quality=60)
            crop = Image.open(io.BytesIO(file.getvalue()))
            file = io.BytesIO()
        crop.save(file, "PNG")
        before[number % 2].append(_grid(np.asarray(crop)))
        after[number % 2].append(_grid(np.asarray(Image.open(io.BytesIO(harmonise(file.getvalue(), side))))))
    assert _auc(*before) > 0.9
    assert 0.35 < _auc(*after) < 0.65


def _auc(low: list[float], high: list[float]) -> float:
    """The chance that one of `high` is greater than one of `low`."""
    return float((np.array(high)[:, None] > np.array(low)).mean())

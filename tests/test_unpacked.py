"""A zip beside its unpacked copy is refused; a zip beside other files is not; repeated names cost no hashing first."""

import io
import shutil
import zipfile

import pyarrow.parquet as pq
import pytest
import tiny_sources as sources
from PIL import Image

from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import QUARANTINE
from tfds_builders.sharding import build as engine

NAMES = [f"The Set/{label}/{number:02d}.png" for label in ("real", "fake") for number in range(20)]


def _files(seed: str = "") -> dict[str, bytes]:
    return {name: sources.image(name + seed) for name in NAMES}


def _bitmaps(seed: str) -> dict[str, bytes]:
    """Files of one length."""
    files = {}
    for name, data in _files(seed).items():
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).save(file, "BMP")
        files[name] = file.getvalue()
    return files


@pytest.mark.parametrize("where", ["", "archive/", "more/archive/"])
@pytest.mark.parametrize("part", [1, 17])
@pytest.mark.parametrize("windows", [False, True])
def test_a_zip_beside_its_unpacked_copy_is_refused(where, part, windows, tmp_path):
    files = _files()
    manual = sources.zipped(sources.write(tmp_path / "unpacked", files), tmp_path / "manual")
    if windows:
        with zipfile.ZipFile(manual / "archive.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name.replace("/", "\\")), data)
    sources.write(manual, {where + name: files[name] for name in NAMES[::part]})
    said = rf"; {len(NAMES[::part])} files of .* unpacked too, {where}The .*archive\.zip or"
    with pytest.raises(Refused, match=said):
        sources.build(Builder, manual, tmp_path)


def test_what_was_moved_up_after_unpacking_is_found_too(tmp_path):
    manual = sources.zipped(sources.write(tmp_path / "unpacked", _files()), tmp_path / "manual")
    shutil.move(tmp_path / "unpacked" / "The Set" / "real", manual / "real")
    with pytest.raises(Refused, match=r"; 20 files .* real/\d\d\.png for one"):
        sources.build(Builder, manual, tmp_path)


def test_the_right_one_of_several_zips_is_named(tmp_path):
    manual = tmp_path / "manual"
    for part in ("one", "two"):
        unpacked = sources.write(tmp_path / part, _bitmaps(part))
        sources.zipped(unpacked / "The Set", manual)
        (manual / "archive.zip").rename(manual / f"{part}.zip")
    (tmp_path / "two" / "The Set").rename(manual / "two")
    with pytest.raises(Refused, match=r"; 40 files .* Take away either the zip two\.zip or"):
        sources.build(Builder, manual, tmp_path)


def test_a_zip_that_was_downloaded_twice_is_refused(tmp_path):
    manual = sources.zipped(sources.write(tmp_path / "unpacked", _files()), tmp_path / "manual")
    shutil.copyfile(manual / "archive.zip", manual / "archive (1).zip")
    with pytest.raises(Refused, match=r"the zips archive \(1\)\.zip and archive\.zip hold the same files"):
        sources.build(Builder, manual, tmp_path)


def test_a_zip_beside_other_images_is_no_copy_whatever_their_names_and_sizes(tmp_path, capfd):
    manual = sources.zipped(sources.write(tmp_path / "unpacked", _bitmaps("a")), tmp_path / "manual")
    sources.write(manual, {f"more/{name}": data for name, data in _bitmaps("b").items()})
    assert len(sources.manifest(sources.build(Builder, manual, tmp_path))) == 80
    assert "of the files, 40 are in zips and 40 beside them" in capfd.readouterr().err


def test_empty_files_are_no_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.1")
    empty = {"The Set/real/empty.png": b""}
    manual = sources.zipped(sources.write(tmp_path / "unpacked", _files() | empty), tmp_path / "manual")
    sources.write(manual, {f"more/{name}": data for name, data in empty.items()})
    assert len(sources.manifest(sources.build(Builder, manual, tmp_path))) == 40


def test_names_that_tfds_does_not_tell_apart_are_not_both_written(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.1")
    alike = ["real/a/b.png", "real/a\\b.png"]
    files = _files() | {f"The Set/{name}": sources.image(name) for name in alike}
    built = sources.build(Builder, sources.write(tmp_path / "manual", files), tmp_path)
    assert sources.outcomes(built, QUARANTINE) == {"The Set/real/a\\b.png": "duplicate_id"}
    assert len(sources.manifest(built)) == 41


def test_the_budget_is_checked_before_repeated_names_are_hashed(tmp_path, monkeypatch):
    manual = sources.zipped(sources.write(tmp_path / "unpacked", _files()), tmp_path / "manual")
    others = sources.write(manual, _files("other content"))
    monkeypatch.setattr(engine, "hash_content", None)
    with pytest.raises(Refused, match=r"40 of 80 are\. See"):
        sources.build(Builder, others, tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.5")
    built = sources.build(Builder, others, tmp_path)
    assert sources.outcomes(built, QUARANTINE) == dict.fromkeys(NAMES, "duplicate_id")
    assert pq.read_table(built / QUARANTINE)["sha256"].null_count == 0

"""Anybody's own images: folders or lists, splits given in whole, in part or not at all, groups, wrong rows."""

import importlib
import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import tiny_sources as sources

from tfds_builders.real_fake_folder import real_fake_folder_dataset_builder as builder
from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, EXCLUDED, QUARANTINE, SPLITS
from tfds_builders.sharding import table
from trainers.mixture import find_all, load_all


def _folders(root: Path, pattern: str, per_folder: int, **names: tuple[str, ...]) -> Path:
    """Writes `per_folder` images into each folder that `pattern` and `names` make."""
    folders = [""]
    for part in pattern.split("/"):
        folders = [f"{above}/{name}".lstrip("/") for above in folders for name in names[part]]
    paths = [f"{folder}/{number:02d}.png" for folder in folders for number in range(per_folder)]
    return sources.write(root, {path: sources.image(path) for path in paths})


CLASSES = ("real", "fake")


def test_classes_alone_are_split_by_label(tmp_path):
    built = sources.build(Builder, _folders(tmp_path / "manual", "c", 20, c=CLASSES), tmp_path)
    counts = Counter((row["split"], row["label"]) for row in sources.manifest(built))
    assert counts == {(split, label): {"train": 16}.get(split, 2) for split in SPLITS for label in (0, 1)}


def test_the_command_of_the_readme_builds_from_the_root_of_the_repository(repository, tmp_path):
    (command,) = re.findall(
        r"^(tfds build \S+) --manual_dir \S+ --data_dir \S+$", (repository / "README.md").read_text(), re.M
    )
    manual = _folders(tmp_path / "manual", "c", 10, c=CLASSES)
    program, *arguments = [*command.split(), "--manual_dir", str(manual), "--data_dir", str(tmp_path / "data")]
    tfds = Path(sys.executable).with_name(program)
    done = subprocess.run([tfds, *arguments], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    built = tmp_path / "data" / "real_fake_folder" / str(Builder.VERSION)
    assert len(sources.manifest(built)) == sum(len(list(sources.records(built, split))) for split in SPLITS) == 20


def test_given_splits_stay(tmp_path, capfd):
    manual = _folders(tmp_path / "manual", "s/c", 4, s=("Train", "valid", "TEST"), c=CLASSES)
    names = {"Train": "train", "valid": "validation", "TEST": "test"}
    for row in sources.manifest(sources.build(Builder, manual, tmp_path)):
        assert row["split"] == names[row["id"].split("/")[0]]
    assert "laid out as <split>/<class>/" in capfd.readouterr().err


def test_a_missing_test_split_is_half_of_the_validation_images(tmp_path):
    manual = _folders(tmp_path / "manual", "s/c", 8, s=("train", "val"), c=CLASSES)
    counts = Counter(
        (row["id"].split("/")[0], row["split"]) for row in sources.manifest(sources.build(Builder, manual, tmp_path))
    )
    assert counts == {("train", "train"): 16, ("val", "validation"): 8, ("val", "test"): 8}


def test_a_missing_validation_split_is_a_part_of_the_training_images(tmp_path):
    manual = _folders(tmp_path / "manual", "s/c", 18, s=("train", "test"), c=CLASSES)
    counts = Counter(
        (row["id"].split("/")[0], row["split"]) for row in sources.manifest(sources.build(Builder, manual, tmp_path))
    )
    assert counts == {("train", "train"): 32, ("train", "validation"): 4, ("test", "test"): 36}


def test_one_split_alone_is_no_split(tmp_path, capfd):
    manual = _folders(tmp_path / "manual", "s/c", 20, s=("train",), c=CLASSES)
    rows = sources.manifest(sources.build(Builder, manual, tmp_path))
    assert {row["split"] for row in rows} == set(SPLITS)
    assert "splits are drawn" in capfd.readouterr().err


def test_given_splits_that_share_a_group_are_said_so(tmp_path, capfd):
    manual = _folders(tmp_path / "manual", "s/c", 0, s=("train", "val", "test"), c=CLASSES)
    names = [
        f"{split}/{label}/{photograph}__{split}.png"
        for split, photographs in (("train", "abcdhij"), ("val", "de"), ("test", "fg"))
        for photograph in photographs
        for label in CLASSES
    ]
    rows = sources.manifest(
        sources.build(Builder, sources.write(manual, {name: sources.image(name) for name in names}), tmp_path)
    )
    assert "1 groups are in more than one of the given splits, d for one" in capfd.readouterr().err
    assert len(rows) == len(names)
    assert all(row["id"].startswith(row["split"][:3]) for row in rows)


def test_categories_of_folders(tmp_path):
    manual = _folders(tmp_path / "manual", "k/c", 10, k=("nature", "train"), c=CLASSES)
    for row in sources.manifest(sources.build(Builder, manual, tmp_path)):
        assert row["category"] == row["id"].split("/")[0]
        assert row["label"] == ("/fake/" in row["id"])


def test_an_image_in_folders_of_both_classes_is_quarantined(tmp_path, monkeypatch):
    manual = _folders(tmp_path / "manual", "c", 10, c=CLASSES)
    sources.write(manual, {"fake/real/a.png": sources.image("a")})
    with pytest.raises(Refused, match=r"1 of 21 are\."):
        sources.build(Builder, manual, tmp_path)
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.05")
    assert sources.outcomes(sources.build(Builder, manual, tmp_path), QUARANTINE) == {
        "fake/real/a.png": "contradicting_labels"
    }


def test_groups_by_a_regular_expression(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_GROUP_REGEX", r"clip(\d+)_frame")
    names = [f"{label}/clip{clip}_frame{frame}.png" for label in CLASSES for clip in range(10) for frame in range(3)]
    names += [f"{label}/still.png" for label in CLASSES]
    manual = sources.write(tmp_path / "manual", {name: sources.image(name) for name in names})
    rows = sources.manifest(sources.build(Builder, manual, tmp_path))
    side: dict[str, str] = {}
    for row in rows:
        assert row["group"] == ("" if "still" in row["id"] else row["id"].split("clip")[1].split("_")[0])
        if row["group"]:
            assert side.setdefault(row["group"], row["split"]) == row["split"]
    assert len(side) == 10


def test_a_regular_expression_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_GROUP_REGEX", "clip(")
    manual = _folders(tmp_path / "manual", "c", 1, c=CLASSES)
    with pytest.raises(Refused, match="must be a regular expression"):
        sources.build(Builder, manual, tmp_path)


def _rows(count: int) -> list[dict[str, str]]:
    """A list of images of both labels, two a group."""
    return [
        {
            "path": f"pictures/{number:02d} ä.png",
            "label": CLASSES[number % 2],
            "group": f"g{number // 4}",
            "category": ("cat", "dog")[number // 4 % 2],
            "generator": "gan" if number % 2 else "",
        }
        for number in range(count)
    ]


def _write_listed(root: Path, rows: list[dict[str, str]], below: str = "") -> Path:
    return sources.write(root, {f"{below}{row['path']}": sources.image(row["path"]) for row in rows})


def _as_parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "encode"), [("list.csv", sources.as_csv), ("my images.parquet", _as_parquet)], ids=["csv", "parquet"]
)
@pytest.mark.parametrize("below", ["", "a wrapping folder/"])
def test_a_list_says_what_the_images_are(name, encode, below, tmp_path):
    rows = _rows(40)
    manual = _write_listed(tmp_path / "manual", rows, below)
    sources.write(manual, {f"{below}{name}": encode(rows)})
    manifest = sources.manifest(sources.build(Builder, manual, tmp_path))
    said = {f"{below}{row['path']}": row for row in rows}
    assert len(manifest) == 40
    for row in manifest:
        expected = said[row["id"]]
        assert CLASSES[row["label"]] == expected["label"]
        assert all(row[column] == expected[column] for column in ("group", "category", "generator"))
    assert len({(row["group"], row["split"]) for row in manifest}) == 10


def test_what_macos_leaves_beside_a_list_is_none(tmp_path):
    rows = _rows(40)
    manual = _write_listed(tmp_path / "manual", rows)
    left = {f"{above}._list.{suffix}": b"\0\5\x16\7x" for above in ("", "__MACOSX/") for suffix in ("csv", "parquet")}
    sources.write(manual, {"list.csv": sources.as_csv(rows), **left})
    built = sources.build(Builder, manual, tmp_path)
    assert sources.outcomes(built, EXCLUDED) == {"list.csv": "not_data", **dict.fromkeys(left, "system_file")}


def test_numbers_are_labels_and_paths_may_begin_at_the_top(tmp_path):
    rows = [row | {"label": str(CLASSES.index(row["label"]))} for row in _rows(40)]
    manual = _write_listed(tmp_path / "manual", rows)
    sources.write(manual, {"lists/all.csv": sources.as_csv([row | {"path": "./" + row["path"]} for row in rows])})
    manifest = sources.manifest(sources.build(Builder, manual, tmp_path))
    assert {row["id"]: str(row["label"]) for row in manifest} == {row["path"]: row["label"] for row in rows}


def test_lists_of_several_folders_may_name_the_same_paths(tmp_path):
    files = {}
    for number, split in enumerate(SPLITS):
        rows = [{"path": f"images/{image}.png", "label": CLASSES[(image + number) % 2]} for image in range(20)]
        files[f"{split}/labels.csv"] = sources.as_csv(rows)
        files |= {f"{split}/{row['path']}": sources.image(f"{split} {row['path']}") for row in rows}
    built = sources.build(Builder, sources.write(tmp_path / "manual", files), tmp_path)
    rows = sources.manifest(built)
    assert len(rows) == 60
    for row in rows:
        split, _, name = row["id"].split("/")
        assert row["label"] == (int(name.partition(".")[0]) + SPLITS.index(split)) % 2


def test_a_list_beside_the_image_is_meant_before_the_top_of_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "1")
    rows = _rows(40)
    below = [row | {"label": CLASSES[1 - CLASSES.index(row["label"])]} for row in rows]
    manual = _write_listed(_write_listed(tmp_path / "manual", rows), rows, "lists/")
    gone = [rows[0] | {"path": "gone.png"}]
    sources.write(manual, {"list.csv": sources.as_csv(rows + gone), "lists/list.csv": sources.as_csv(below + gone)})
    built = sources.build(Builder, manual, tmp_path)
    expected = {row["path"]: row["label"] for row in rows} | {f"lists/{row['path']}": row["label"] for row in below}
    assert {row["id"]: CLASSES[row["label"]] for row in sources.manifest(built)} == expected
    assert sources.outcomes(built, QUARANTINE) == {"gone.png": "missing_file", "lists/gone.png": "missing_file"}


def test_a_list_written_on_windows(tmp_path):
    rows = _rows(40)
    manual = _write_listed(tmp_path / "manual", rows)
    windows = sources.as_csv([row | {"path": row["path"].replace("/", "\\")} for row in rows])
    sources.write(manual, {"list.csv": b"\xef\xbb\xbf" + windows.replace(b"\n", b"\r\n")})
    assert len(sources.manifest(sources.build(Builder, manual, tmp_path))) == 40


def test_names_that_are_no_utf8(tmp_path):
    names = [b"%02d \xe9.png" % number for number in range(40)]
    for name in names:
        path = tmp_path / "manual" / name.decode("utf-8", "surrogateescape")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sources.image(str(name)))
    lines = [name + b"," + CLASSES[index % 2].encode() for index, name in enumerate(names)]
    (tmp_path / "manual" / "list.csv").write_bytes(b"path,label\n" + b"\n".join(lines))
    manifest = sources.manifest(sources.build(Builder, tmp_path / "manual", tmp_path))
    assert sorted(row["id"] for row in manifest) == [f"{number:02d} \\xe9.png" for number in range(40)]


def test_given_splits_of_a_list(tmp_path):
    rows = [row | {"split": ("Train", "val", "test")[number // 4 % 3]} for number, row in enumerate(_rows(36))]
    manual = sources.write(_write_listed(tmp_path / "manual", rows), {"list.csv": sources.as_csv(rows)})
    said = {row["path"]: row["split"].lower() for row in rows}
    for row in sources.manifest(sources.build(Builder, manual, tmp_path)):
        assert row["split"].startswith(said[row["id"]])


def test_folders_say_what_the_list_leaves_open(tmp_path):
    manual = _folders(tmp_path / "manual", "s/k/c", 3, s=("train", "val", "test"), k=("cat", "dog"), c=CLASSES)
    paths = [str(path.relative_to(manual)) for path in sorted(manual.rglob("*.png"))]
    rows = [{"path": path, "label": path.split("/")[2]} for path in paths]
    sources.write(manual, {"list.csv": sources.as_csv(rows)})
    for row in sources.manifest(sources.build(Builder, manual, tmp_path)):
        split, category, _, _ = row["id"].split("/")
        assert row["split"].startswith(split)
        assert row["category"] == category


def test_rows_and_files_that_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "1")
    rows = [row | {"split": ("train", "val", "test")[number // 4 % 3]} for number, row in enumerate(_rows(48))]
    manual = _write_listed(tmp_path / "manual", rows)
    sources.write(manual, {"extra.png": sources.image("extra"), "fake/real.png": sources.image("x"), "real/y.png": b""})
    rows += [rows[3] | {"label": "real"}, rows[4] | {"split": "test"}, rows[6]]  # the last one is a mere repetition
    rows += [rows[0] | {"path": "gone.png"}, rows[0] | {"path": "../outside.png"}, rows[0] | {"path": "fake/real.png"}]
    rows[7] |= {"label": "photo"}
    rows[8] |= {"split": "holdout"}
    rows[9] |= {"split": ""}
    sources.write(manual, {"list.csv": sources.as_csv(rows), "other.csv": b"a,b\n1,2\n"})
    built = sources.build(Builder, manual, tmp_path)
    assert sources.outcomes(built, QUARANTINE) == {
        "pictures/03 ä.png": "contradicting_labels",
        "pictures/04 ä.png": "contradicting_splits",
        "pictures/07 ä.png": "unknown_label",
        "pictures/08 ä.png": "unknown_split",
        "gone.png": "missing_file",
        "../outside.png": "missing_file",
        "fake/real.png": "contradicting_labels",
    }
    assert sources.outcomes(built, EXCLUDED) == {
        "pictures/09 ä.png": "outside_splits",
        "extra.png": "not_in_list",
        "real/y.png": "not_in_list",
        "list.csv": "not_data",
        "other.csv": "not_data",
    }
    summary = json.loads((built / BUILD).read_text())
    assert summary["found"] == 55 == summary["written"] + 7 + 5


@pytest.mark.parametrize("short", [0, 7])
def test_a_row_that_ends_early_is_a_bad_file(short, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "1")
    rows = _rows(40)
    lines = sources.as_csv(rows).split(b"\n")
    lines[1 + short] = rows[short]["path"].encode()
    manual = sources.write(_write_listed(tmp_path / "manual", rows), {"list.csv": b"\n".join(lines)})
    built = sources.build(Builder, manual, tmp_path)
    assert sources.outcomes(built, QUARANTINE) == {rows[short]["path"]: "unknown_label"}
    assert len(sources.manifest(built)) == 39


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_list_that_cannot_be_read_is_refused(name, tmp_path):
    manual = _folders(tmp_path / "manual", "c", 5, c=CLASSES)
    sources.write(manual, {name: b'path,label\n"a\0' + b"x" * 200_000})
    with pytest.raises(Refused, match=f"{name} must be a CSV or Parquet file"):
        sources.build(Builder, manual, tmp_path)


def test_parquet_with_a_damaged_end_is_refused(tmp_path):
    manual = _folders(tmp_path / "manual", "c", 5, c=CLASSES)
    sources.write(manual, {"list.parquet": b"PAR1" + b"x" * 100 + (100).to_bytes(4, "little") + b"PAR1"})
    with pytest.raises(Refused, match=r"list\.parquet must be a CSV or Parquet file"):
        sources.build(Builder, manual, tmp_path)


def test_parquet_without_these_columns_is_no_list_and_not_read(tmp_path, monkeypatch):
    manual = _folders(tmp_path / "manual", "c", 20, c=CLASSES)
    file = io.BytesIO()
    pa.parquet.write_table(pa.table({"path": ["a"], "image": [b"x"]}), file)
    sources.write(manual, {"embeddings.parquet": file.getvalue()})
    monkeypatch.setattr(table, "read", None)
    monkeypatch.setattr(pa.parquet.ParquetFile, "read", None)
    assert len(sources.manifest(sources.build(Builder, manual, tmp_path))) == 40


def test_a_folder_as_the_readme_has_it_gives_a_dataset_its_own_name(tmp_path, monkeypatch):
    """So that two own datasets can be mixed, and so that a harmonised one can be called as one likes."""
    readme = Path(builder.__file__).with_name("README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    for name, text in {"my_faces": code, "my_alike": code.replace("real_fake_folder", "harmonised")}.items():
        sources.write(tmp_path / "own", {f"{name}/{name}_dataset_builder.py": text.encode()})
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.setenv("REALSHARD_HARMONISED_SIDE", "16")
    my_faces, my_alike = (
        importlib.import_module(f"{name}.{name}_dataset_builder").Builder for name in ("my_faces", "my_alike")
    )
    manual, data_dir = _folders(tmp_path / "manual", "c", 10, c=CLASSES), tmp_path / "data"
    sources.build(Builder, manual, data_dir)
    sources.build(my_alike, sources.build(my_faces, manual, data_dir), data_dir)
    mixed = load_all(find_all("real_fake_folder,my_faces,my_alike", data_dir))
    assert mixed.title == f"real_fake_folder:{Builder.VERSION}+my_faces:{Builder.VERSION}+my_alike:1.0.0"
    assert len(mixed.select("train")) == 3 * 16

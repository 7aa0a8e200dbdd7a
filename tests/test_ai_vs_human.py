"""ai_vs_human's layouts: which folders are categories, which only wrap; and the scheme that leaves categories out."""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_sources as sources

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import CATEGORIES, Builder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import LABELS
from tfds_builders.sharding.manifest import Record
from tfds_builders.sharding.sources import Source


def _records(root: Path, tmp_path: Path) -> list[Record]:
    described = Builder(data_dir=str(tmp_path / "data")).records(Source(root))
    return [record for record in described if isinstance(record, Record)]


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        # file -> category
        ("<category>/<class>/", {"car/0_real/1.png": "car", "cat/1_fake/1.png": "cat", "dog/Real/1.png": "dog"}),
        ("<category>/<class>/", {"The Set/car/real/1.png": "car", "The Set/cat/fake/1.png": "cat"}),
        ("<category>/<class>/", {"people/real/a__1.png": "people", "nature/fake/b__1.png": "nature"}),
        ("<category>/<class>/", {"part/car/real/1.png": "car", "other part/cat/fake/1.png": "cat"}),
        # A cat in the folder of the dogs: the folder says so.
        ("<category>/<class>/", {"car/real/car_1.png": "car", "dog/fake/cat_1.png": "dog"}),
        ("<class>/<category>*", {"Real/car_1.png": "car", "Fake/Cat_1.png": "cat", "Fake/nothing.png": ""}),
        ("<class>/<category>*", {"AI vs Human/Real/car_0.png": "car", "AI vs Human/Fake/cat_0.png": "cat"}),
        ("<class>/<category>*", {"train/Real/car_0.png": "car", "train/Fake/cat_0.png": "cat"}),
        ("<class>/<category>*", {"train/Real/car_0.png": "car", "test/Fake/cat_0.png": "cat"}),
        ("<class>/<category>*", {"part 1/Real/car_0.png": "car", "part 2/Fake/cat_0.png": "cat"}),
        (
            "<class>/<category>*",
            {"part 1/Real/car_0.png": "car", "part 2/Fake/cat_0.png": "cat", "part 1/Real/._car_0.png": None},
        ),
        # One category alone.
        ("<class>/<category>*", {"car/0_real/1.png": "car", "car/1_fake/1.png": "car"}),
    ],
)
def test_categories_come_from_folders_that_mean_one_else_from_names(layout, files, tmp_path, capfd):
    manual = sources.write(tmp_path / "manual", dict.fromkeys(files, b"x"))
    described = {record.entry.id: (record.category, record.label) for record in _records(manual, tmp_path)}
    is_fake = {file: any(name in file.lower() for name in ("fake/", "ai/")) for file in files}
    expected = {file: (category, int(is_fake[file])) for file, category in files.items() if category is not None}
    assert described == expected
    assert f"laid out as {layout}" in capfd.readouterr().err


def test_zips_without_category_folders_are_parts(tmp_path):
    (tmp_path / "manual").mkdir()
    for number, category in enumerate(("car", "dog")):
        with zipfile.ZipFile(tmp_path / "manual" / f"part_{number}.zip", "w") as archive:
            for folder in ("Real", "Fake"):
                archive.writestr(f"{folder}/{category}_0.png", b"x")
    assert {record.category for record in _records(tmp_path / "manual", tmp_path)} == {"car", "dog"}


def test_an_image_in_folders_of_both_classes_has_no_label(tmp_path):
    files = ["car/real/1.png", "car/fake/1.png", "cat/real/1.png", "cat/fake/real/1.png"]
    manual = sources.write(tmp_path / "manual", dict.fromkeys(files, b"x"))
    problems = {record.entry.id: record.entry.problem for record in _records(manual, tmp_path)}
    assert [id for id, problem in problems.items() if problem.startswith("contradicting_labels")] == [files[-1]]


@pytest.mark.parametrize("around", ["", "The Set/"])
def test_generators_are_named_by_a_list_beside_the_folders(around, tmp_path):
    paths = [f"{category}/{label}/1.png" for category in ("car", "cat") for label in LABELS]
    rows = [{"path": path, "generator": f"gan {path}"} for path in paths if "fake" in path]
    manual = sources.write(tmp_path / "manual", {f"{around}{path}": b"x" for path in paths})
    sources.write(manual, {f"{around}generators.csv": sources.as_csv(rows)})
    found = {record.entry.id: record.generator for record in _records(manual, tmp_path)}
    assert found == {f"{around}{path}": f"gan {path}" * ("fake" in path) for path in paths}
    sources.write(manual, {f"{around}generators.csv": b"a,b\n1,2\n"})
    with pytest.raises(Refused, match=r"generators\.csv must be a CSV file with columns path and generator"):
        _records(manual, tmp_path)


@pytest.mark.parametrize(
    ("categories", "tested"),
    [
        (CATEGORIES, {"sheep", "sofa", "train", "tvmonitor"}),
        (CATEGORIES[:18], {"sheep", "sofa"}),
        ([name.upper() for name in CATEGORIES], {"SHEEP", "SOFA", "TRAIN", "TVMONITOR"}),
        ([f"thing {letter}" for letter in "abcdefghijk"], {"thing j", "thing k"}),
        (["only one"], None),
        ([""], None),
    ],
)
def test_the_same_objects_are_always_left_out(categories, tested, tmp_path):
    rows = [(category, number % 2) for category in categories for number in range(60)]
    scan = pa.table(
        {
            "id": [f"{category}/{number}" for number, (category, _) in enumerate(rows)],
            "label": pa.array([label for _, label in rows], pa.int8()),
            "category": [category for category, _ in rows],
            "group": [""] * len(rows),
        }
    )
    columns = Builder(data_dir=str(tmp_path)).assign_splits(scan)
    if tested is None:
        assert "scheme_leave_categories_out" not in columns
        return
    scheme = columns["scheme_leave_categories_out"]
    assert {category for (category, _), split in zip(rows, scheme, strict=True) if split == "test"} == tested
    is_left_out = np.array([category in tested for category, _ in rows])
    assert (scheme[~is_left_out] == np.where(columns["split"] == "test", "", columns["split"])[~is_left_out]).all()

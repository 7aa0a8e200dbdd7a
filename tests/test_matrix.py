"""Every model on every dataset, and that none is tested on what it was made from."""

import csv
import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_model
from PIL import Image
from small_dataset import write_dataset

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import MANIFEST
from trainers import evaluate, matrix, tracking
from trainers.config import Config, to_dict
from trainers.data_config import DataConfig
from trainers.dataset import load
from trainers.mixture import find_all, load_all
from trainers.origin import identities, origin_of, overlap
from trainers.run_logger import RunLogger

NAMES = ("realshard-one", "realshard-two")
MODELS = [f"models:/{name}@champion" for name in NAMES]


def regroup(directory, suffix: str) -> None:
    """Appends to every group's name."""
    table = pq.read_table(directory / MANIFEST)
    groups = pa.array([f"{group}{suffix}" for group in table["group"].to_pylist()], pa.string())
    pq.write_table(table.set_column(table.column_names.index("group"), "group", groups), directory / MANIFEST)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two models, made from the datasets `first` and `second`, which share nothing."""
    root = tmp_path_factory.mktemp("matrix")
    data = root / "built data"  # a blank in a path is nothing special
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(root / "home"))
        for number, dataset in enumerate(("first", "second")):
            directory = write_dataset(data, {"train": 12, "validation": 4, "test": 20}, name=dataset, seed=number)
            regroup(directory, f"-{dataset}")
            run_id = small_model.new_run(f"job-{dataset}")
            fingerprint = load(directory).fingerprint
            source = {"sources": [str(directory)], "profile": {"records": 12}}
            tracking.log_dataset(run_id, f"{dataset}:1.0.0/train", fingerprint, "train", **source)
            keras_file = small_model.save_model(root / f"{dataset}.keras", seed=number)
            tags = {"fingerprint": fingerprint, "dataset": f"{dataset}:1.0.0"}
            small_model.register(run_id, keras_file, registered_name=NAMES[number], tags=tags)
        yield types.SimpleNamespace(root=root, data=str(data))


def test_every_model_meets_every_dataset(built, tmp_path, capsys):
    arguments = ["--models", *MODELS, "--datasets", "first", "second", "--data-dir", built.data]
    assert matrix.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "out" / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["dataset"]) for row in rows] == [
        (f"{name} v1", dataset) for name in NAMES for dataset in ("first", "second")
    ]
    card = evaluate.evaluate(MODELS[0], ["second"], built.data, "test", tmp_path / "card")
    assert float(rows[1]["auc"]) == pytest.approx(card["summary"]["auc"])
    assert float(rows[1]["balanced_accuracy"]) == pytest.approx(card["summary"]["balanced_accuracy"])
    assert rows[1]["trained_on"] == "first:1.0.0"
    assert printed.startswith("| model | trained on | first | second |\n|---|---|---|---|\n| realshard-one v1 |")
    assert f"{card['summary']['auc']:.3f}" in printed
    with Image.open(tmp_path / "out" / "matrix.png") as picture:
        assert picture.width > 500


def test_its_intervals_are_those_of_the_card(built, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.metrics.resamples_for", lambda num_images: 2 * num_images)
    (row,) = matrix.measure([MODELS[0]], evaluate.select(["second"], built.data, "test"))
    card = evaluate.evaluate(MODELS[0], ["second"], built.data, "test", tmp_path)
    assert (row["auc_low"], row["auc_high"]) == card["summary"]["auc_interval"]
    assert card["summary"]["resamples"] == 40


def test_the_test_part_of_a_split_scheme(built, tmp_path, capsys):
    directory = write_dataset(tmp_path, {"test": 9}, name="divided", seed=8)
    table = pq.read_table(directory / MANIFEST)
    scheme = pa.array(["test"] * 6 + ["train"] * 3)
    pq.write_table(table.append_column("scheme_published", scheme), directory / MANIFEST)
    arguments = [
        "--models",
        MODELS[0],
        "--datasets",
        "divided",
        "--data-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert matrix.main([*arguments, "--split-scheme", "published"]) == 0
    assert "On test of the split scheme published: ROC AUC" in capsys.readouterr().out
    with (tmp_path / "out" / "matrix.csv").open() as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["6"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_records_that_made_a_model_are_refused(built, split):
    parts = evaluate.select(["first"], built.data, split)
    with pytest.raises(Refused, match=f"realshard-one v1 on first, of which .* '{split}/"):
        matrix.measure([MODELS[0]], parts)
    with pytest.raises(Refused, match="share their content"):
        matrix.measure([MODELS[0]], parts, by_group=False)
    assert len(matrix.measure([MODELS[1]], parts)) == 1


def test_a_group_of_the_training_part_is_refused_unless_its_name_is_an_accident(built):
    directory = write_dataset(built.root / "built data", {"test": 9}, name="third", seed=9)
    table = pq.read_table(directory / MANIFEST)
    groups = ["train-0-first", *table["group"].to_pylist()[1:]]
    table = table.set_column(table.column_names.index("group"), "group", pa.array(groups, pa.string()))
    pq.write_table(table, directory / MANIFEST)
    parts = evaluate.select(["third"], built.data, "test")
    with pytest.raises(Refused, match=r"third, of which 1 records .* 'test/real/00000.png' for example"):
        matrix.measure([MODELS[0]], parts)
    assert matrix.measure([MODELS[0]], parts, by_group=False)[0]["n"] == 9


def test_a_model_of_unknown_origin_is_refused(built, tmp_path):
    small_model.register(
        small_model.new_run("job-unknown"),
        small_model.save_model(tmp_path / "model.keras"),
        registered_name="realshard-unknown",
    )
    with pytest.raises(Refused, match="must be known"):
        matrix.measure(["models:/realshard-unknown@champion"], evaluate.select(["first"], built.data, "test"))


def test_the_origin_is_the_part_of_each_dataset_that_took_part(built, tmp_path):
    directories = [built.root / "built data" / name / "1.0.0" for name in ("first", "second")]
    dataset = load_all(directories)
    run_id = small_model.new_run("job-mixed")
    sources = [str(directory) for directory in directories]
    tracking.log_dataset(run_id, f"{dataset.title}/train", dataset.fingerprint, "train", sources=sources, profile={})
    config = Config(data=DataConfig(dataset="first,second", train_split="train[:4]+train[10:]"))
    (tmp_path / "config.json").write_text(json.dumps({"config": to_dict(config)}))
    RunLogger(run_id).artifact(tmp_path / "config.json")
    origin = origin_of(run_id)
    assert sorted(origin.train["id"].to_pylist()) == sorted(origin.records["train"].ids())
    for directory in directories:
        single = load(directory)
        train = identities(single, single.select("train").ids())
        taken = [id for id in origin.records["train"].ids() if id.startswith(f"{single.name}/")]
        assert 0 < len(taken) < len(train)
        assert [f"{single.name}/{id}" for id in overlap(train, origin.train, by_group=False)["id"].to_pylist()] == taken


def test_data_that_are_gone_or_others_are_no_origin(built, tmp_path):
    directory = write_dataset(tmp_path, {"train": 4, "validation": 2, "test": 2})
    for number, fingerprint in enumerate((load(directory).fingerprint, "0" * 64)):
        run_id = small_model.new_run(f"job-gone-{number}")
        tracking.log_dataset(run_id, "toy/train", fingerprint, "train", sources=[str(directory)], profile={})
        assert (origin_of(run_id) is None) == (number == 1)
    directory.rename(tmp_path / "elsewhere")
    assert origin_of(run_id) is None


@pytest.mark.parametrize("dataset", ["toy", "toy,other"])
def test_data_that_were_moved_are_found_by_name_version_and_fingerprint(realshard_home, tmp_path, monkeypatch, dataset):
    splits = {"train": 4, "validation": 2, "test": 2}
    for name in ("toy", "other"):
        write_dataset(tmp_path / "before", splits, name=name)
    before = load_all(find_all(dataset, tmp_path / "before"))
    run_id = small_model.new_run("job-moved")
    sources = [str(source) for source in before.sources]
    tracking.log_dataset(run_id, f"{before.title}/train", before.fingerprint, "train", sources=sources, profile={})
    trained = origin_of(run_id).train
    (tmp_path / "before").rename(tmp_path / "after")
    assert origin_of(run_id) is None
    write_dataset(tmp_path / "after", splits, name="toy", version="1.1.0", seed=1)  # a newer one is not meant
    found = origin_of(run_id, str(tmp_path / "after"))
    assert found.train.equals(trained)
    assert found.trained_on == before.title
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "after"))
    assert origin_of(run_id).train.equals(trained)
    for name in ("toy", "other"):
        write_dataset(tmp_path / "others", splits, name=name, seed=2)
    assert origin_of(run_id, str(tmp_path / "others")) is None


def test_a_model_whose_data_were_moved_is_compared_again(built, tmp_path):
    """Of the fixture's data both are moved; that they are put back is for the other tests."""
    data = built.root / "built data"
    moved = data.rename(built.root / "moved data")
    arguments = ["--models", MODELS[0], "--datasets", "second", "--out", str(tmp_path / "out"), "--data-dir"]
    try:
        assert matrix.main([*arguments, str(moved)]) == 0
        with pytest.raises(Refused, match="share their content"):
            matrix.main([*arguments, str(moved), "--split", "train", "--models", MODELS[1]])
        write_dataset(tmp_path / "tested", {"test": 6}, name="second", seed=5)
        with pytest.raises(Refused, match="Say with --data-dir where"):
            matrix.main([*arguments, str(tmp_path / "tested")])
    finally:
        moved.rename(data)


def test_blank_groups_are_nobodys():
    def table(groups, contents):
        columns = {"id": [f"{index}" for index in range(len(groups))], "group": groups, "sha256": contents}
        return pa.table(columns)

    used = table(["", "a"], [b"1", b"2"])
    test = table(["", "a", "b", "b"], [b"3", b"4", b"1", b"5"])
    assert overlap(test, used)["id"].to_pylist() == ["1", "2"]
    assert overlap(test, used, by_group=False)["id"].to_pylist() == ["2"]

"""Built dataset directories and selections of their records."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import CATEGORIES, write_dataset

from tfds_builders.records.errors import Refused
from tfds_builders.records.framing import read_payload
from trainers.dataset import find, load
from trainers.selection import with_shuffled_labels


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": 24, "validation": 6, "test": 7}, num_shards=3)


@pytest.fixture(scope="module")
def dataset(directory):
    return load(directory)


def test_the_splits_are_the_manifests(dataset):
    assert dataset.name == "toy"
    assert dataset.version == "1.0.0"
    assert len(dataset.fingerprint) == 64
    assert [len(dataset.select(split)) for split in ("train", "validation", "test")] == [24, 6, 7]
    assert dataset.select("test").labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert dataset.select("test").ids()[:2] == ["test/real/00000.png", "test/fake/00001.png"]
    assert dataset.select("test").ids(np.array([3, 0])) == ["test/fake/00003.png", "test/real/00000.png"]


def test_the_arrays_say_where_each_image_lies(dataset):
    records = dataset.select("validation")
    for row in range(len(records)):
        with (records.directory / records.shard_names[records.shards[row]]).open("rb") as shard:
            payload = read_payload(shard.fileno(), records.offsets[row], records.lengths[row])
        start = records.image_offsets[row]
        assert payload[start : start + 4] == b"\x89PNG"
        assert payload[start : start + records.image_bytes[row]].endswith(b"IEND\xaeB`\x82")


def test_parts_of_splits(dataset):
    every = {split: dataset.select(split).ids() for split in ("train", "validation", "test")}
    assert dataset.select("train[:25%]").ids() == every["train"][:6]
    assert dataset.select("test[2:-1]").ids() == every["test"][2:-1]
    assert dataset.select("train[-2:]+validation").ids() == every["train"][-2:] + every["validation"]
    assert dataset.select("test[:50%]+test[50%:]").ids() == every["test"]
    # The slice is taken first: a further selection does not move it.
    assert dataset.select("train[:6]", only={"category": {"animals"}}).ids() == every["train"][0:6:3]


def test_only_and_exclude(dataset):
    animals = dataset.select("train", only={"category": {"animals"}})
    assert set(animals.table["category"].to_pylist()) == {"animals"}
    assert len(animals) == 8
    others = dataset.select("train", exclude={"category": {"animals"}, "generator": ["splice"]})
    assert len(others) == 24 - 8 - 4
    assert "splice" not in others.table["generator"].to_pylist()
    assert len(dataset.select("train", only={"category": set(CATEGORIES)})) == 24
    assert set(dataset.select("validation", only={"label": {"fake"}}).labels) == {1}
    assert set(dataset.select("validation", exclude={"label": {1}}).labels) == {0}


def test_a_further_split_scheme(tmp_path):
    directory = write_dataset(tmp_path, 8)
    manifest = pq.read_table(directory / "manifest.parquet")
    column = pa.array(["test"] * 3 + ["train"] * 3 + [""] * 2)
    pq.write_table(manifest.append_column("scheme_published", column), directory / "manifest.parquet")
    dataset = load(directory)
    test = dataset.select("test", scheme="published")
    assert (test.ids(), set(test.table["split"].to_pylist())) == (manifest["id"].to_pylist()[:3], {"test"})
    assert len(dataset.select("train", scheme="published")) == 3
    with pytest.raises(Refused, match="no split 'validation'; it has: 'test', 'train'"):
        dataset.select("validation", scheme="published")
    with pytest.raises(Refused, match="no split scheme 'balanced'; it has: 'published'"):
        dataset.select("train", scheme="balanced")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "train[5]"}, r"written NAME, or NAME\[START:STOP\].*Received: 'train\[5\]'"),
        ({"split": "train+"}, "is written NAME"),
        ({"split": "train[:1]"}, "both classes; all 1 records"),
        ({"split": "test[3:2]"}, "no record in this selection"),
        ({"split": "holdout"}, "no split 'holdout'; it has: 'test', 'train', 'validation'"),
        ({"split": "train", "only": {"colour": {"red"}}}, "no column 'colour' .* it has: 'id', 'split', 'label', "),
        ({"split": "train", "exclude": {"category": {"animal"}}}, "category = 'animal'; there is: 'animals', 'obj"),
        ({"split": "train", "only": {"generator": {""}}}, "both classes; all 12 records .* 'real'"),
        ({"split": "train", "exclude": {"label": {"real"}}}, "both classes; all 12 records .* 'fake'"),
        ({"split": "test", "exclude": {"category": set(CATEGORIES)}}, "no record in this selection"),
    ],
)
def test_what_cannot_be_selected_is_refused(dataset, arguments, sentence):
    with pytest.raises(Refused, match=sentence):
        dataset.select(**arguments)


def test_shuffled_labels_are_the_same_ones_of_other_records(dataset):
    records = dataset.select("train")
    shuffled = with_shuffled_labels(records, seed=0)
    assert shuffled.ids() == records.ids()
    assert shuffled.labels.dtype == np.int8
    assert sorted(shuffled.labels) == sorted(records.labels)
    assert shuffled.labels.tolist() != records.labels.tolist()
    assert shuffled.labels.tolist() == with_shuffled_labels(records, seed=0).labels.tolist()
    assert records.labels.tolist() == [0, 1] * 12


@pytest.mark.parametrize("name", ["manifest.parquet", "build.json", "dataset_info.json"])
def test_a_directory_without_our_files_is_refused(tmp_path, name):
    directory = write_dataset(tmp_path, 4)
    (directory / name).unlink()
    with pytest.raises(Refused, match=rf"holds no {name}.*tfds build"):
        load(directory)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_shards_are_there_at_full_length(tmp_path, damage):
    directory = write_dataset(tmp_path, 4)
    shard = directory / "toy-train.tfrecord-00001-of-00002"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(Refused, match=r"toy-train\.tfrecord-00001-of-00002, which (is missing|has \d+ bytes)"):
        load(directory)


def test_find_takes_the_newest_version(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.3"):
        write_dataset(tmp_path, 2, version=version)
    assert find("toy", tmp_path) == tmp_path / "toy" / "1.10.0"


def test_find_takes_a_version_by_its_name(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        write_dataset(tmp_path, 2, version=version)
    assert find("toy:1.9.0", tmp_path) == tmp_path / "toy" / "1.9.0"
    with pytest.raises(Refused, match=r"no version '1\.0\.0' in .*: '1\.9\.0', '1\.10\.0'\. Say toy:1\.10\.0"):
        find("toy:1.0.0", tmp_path)
    with pytest.raises(Refused, match="tfds build tfds_builders/other --data_dir"):
        find("other:1.0.0", tmp_path)


def test_any_folder_name_will_do(tmp_path):
    directory = write_dataset(tmp_path / "a [b]*?", 2)
    assert find("toy", directory.parents[1]) == directory


def test_what_is_not_built_is_refused_with_the_command_that_builds_it(tmp_path):
    (tmp_path / "toy" / "incomplete.X_1.0.0").mkdir(parents=True)
    (tmp_path / "toy" / "incomplete.X_1.0.0" / "dataset_info.json").write_text(json.dumps({}))
    with pytest.raises(Refused, match=f"tfds build tfds_builders/toy --data_dir {tmp_path}"):
        find("toy", tmp_path)

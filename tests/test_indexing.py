"""TFDS directories that other builders wrote are indexed by one scan."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fsspec.implementations.local import LocalFileSystem
from small_dataset import picture

from tests.test_loop import outcome, training
from tests.test_loop import tiny as tiny
from tests.test_options import told
from tfds_builders.records.errors import Refused
from trainers.dataset import load
from trainers.inputs import BatchIterator, evaluation_batches
from trainers.origin import identities, overlap


class Stock(tfds.core.GeneratorBasedBuilder):
    """A stock TFDS builder: image and label, and whatever else `FEATURES` says."""

    VERSION = tfds.core.Version("2.0.0")
    NAMES = ("fake", "real")  # the other way round than ours
    FEATURES: dict = {}

    def _info(self):
        label = tfds.features.ClassLabel(names=self.NAMES)
        image = tfds.features.Image(shape=(None, None, 3))
        features = tfds.features.FeaturesDict({"image": image, "label": label, **self.FEATURES})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40, 0), "test": self._generate_examples(12, 1000)}

    def _generate_examples(self, count, first):
        for index in range(first, first + count):
            given = {"id": f"picture-{index}", "group": f"group-{index // 4}"}
            example = {"image": picture(index % 2, (32, 32), index), "label": self.NAMES[1 - index % 2]}
            yield index, example | {name: given[name] for name in self.FEATURES}


class WithIds(Stock):
    FEATURES = {"id": tfds.features.Text(), "group": tfds.features.Text()}


class WithOneId(WithIds):
    def _generate_examples(self, count, first):
        return ((index, example | {"id": "the same"}) for index, example in super()._generate_examples(count, first))


class ThreeClasses(Stock):
    NAMES = ("fake", "real", "unsure")


class OtherNames(Stock):
    NAMES = ("ai", "nature")


def build(builder_class, tmp_path):
    builder = builder_class(data_dir=tmp_path)
    builder.download_and_prepare()
    return builder


def test_a_scan_finds_what_tfds_reads(tmp_path, caplog):
    builder = build(Stock, tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = load(builder.data_dir)
    assert "its shards are scanned once" in caplog.text
    assert (dataset.title, len(dataset.fingerprint)) == ("stock:2.0.0", 64)
    assert dataset.fingerprint == load(builder.data_dir).fingerprint
    for split in ("train", "test"):
        records = dataset.select(split)
        theirs = list(builder.as_dataset(split=split).as_numpy_iterator())
        with BatchIterator(evaluation_batches(records, image_size=32, batch_size=len(records))) as batches:
            images = next(batches)["image"].numpy()
        assert np.array_equal(images, [example["image"] for example in theirs])
        assert records.labels.tolist() == [1 - example["label"] for example in theirs]
        assert len(set(records.ids())) == len(records)


def overwritten(shard):
    """Other content under the same length and time: who reads it finds no record."""
    state = shard.stat()
    shard.write_bytes(bytes(state.st_size))
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_what_was_scanned_is_scanned_again_only_if_it_changed(tmp_path, monkeypatch, realshard_home):
    directory = Path(build(WithIds, tmp_path).data_dir)
    shard = next(directory.glob("with_ids-test*"))
    first, content = load(directory), shard.read_bytes()
    overwritten(shard)
    again = load(directory)
    assert again.table.equals(first.table, check_metadata=True)
    assert again.fingerprint == first.fingerprint
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("REALSHARD_HOME", str(tmp_path / "another machine's"))
        with pytest.raises(Refused, match="cannot be read: the record at offset 0 has a damaged length"):
            load(directory)
    os.utime(shard)
    with pytest.raises(Refused, match="cannot be read: the record at offset 0 has a damaged length"):
        load(directory)
    shard.write_bytes(content)
    assert load(directory).fingerprint == first.fingerprint


def test_half_an_index_is_none(tmp_path, realshard_home):
    directory = Path(build(Stock, tmp_path).data_dir)
    first = load(directory)
    (file,) = (realshard_home / "indexes").iterdir()
    for num_bytes in (0, 1000):
        os.truncate(file, num_bytes)
        assert load(directory).table.equals(first.table)


def test_where_there_is_no_place_for_an_index_it_is_scanned_each_time(tmp_path, realshard_home):
    (realshard_home / "indexes").write_text("no directory")
    directory = build(Stock, tmp_path).data_dir
    assert load(directory).table.equals(load(directory).table)


def test_where_changes_are_not_seen_no_index_is_kept(tmp_path, monkeypatch, realshard_home):
    def modified(self, path):
        raise NotImplementedError

    monkeypatch.setattr(LocalFileSystem, "modified", modified)
    directory = Path(build(Stock, tmp_path).data_dir)
    load(directory)
    overwritten(next(directory.glob("stock-test*")))
    with pytest.raises(Refused, match="cannot be read"):
        load(directory)
    assert not (realshard_home / "indexes").exists()


def test_records_are_recognised_by_their_content(tmp_path):
    dataset = load(build(Stock, tmp_path).data_dir)
    test, train = (identities(dataset, dataset.select(split).ids()) for split in ("test", "train"))
    assert len(overlap(test, test)) == 12
    assert len(overlap(test, train)) == 0
    assert "sha256" not in dataset.table.column_names


def test_ids_and_groups_are_used_where_they_are_features(tmp_path):
    records = load(build(WithIds, tmp_path).data_dir).select("test")
    numbers = [int(id.removeprefix("picture-")) for id in records.ids()]
    assert sorted(numbers) == list(range(1000, 1012))
    assert records.table["group"].to_pylist() == [f"group-{number // 4}" for number in numbers]
    assert records.labels.tolist() == [number % 2 for number in numbers]


def test_it_is_trained_on_like_any_other(tiny, tmp_path):
    directory = build(Stock, tmp_path).data_dir
    options = told({"train_split": "train[:75%]", "validation_split": "train[75%:]"}, epochs=1)
    training(directory, options, tmp_path / "job").run()
    _, (entry,), table = outcome(tmp_path / "job")
    assert np.isfinite(entry["train/loss"])
    assert table.num_rows == 10 + 12


def test_ids_that_come_twice_are_refused(tmp_path):
    with pytest.raises(Refused, match="must be unique"):
        load(build(WithOneId, tmp_path).data_dir)


def test_three_classes_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"a feature label of 2 classes\. Received: image, label, 3 classes"):
        load(build(ThreeClasses, tmp_path).data_dir)


def test_without_names_of_the_classes_they_are_taken_for_ours(tmp_path):
    directory = Path(build(Stock, tmp_path).data_dir)
    named = load(directory).select("test").labels
    (directory / "label.labels.txt").unlink()
    assert load(directory).select("test").labels.tolist() == (1 - named).tolist()


def test_another_file_format_is_refused(tmp_path):
    directory = Path(build(Stock, tmp_path).data_dir)
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace('"fileFormat": "tfrecord"', '"fileFormat": "array_record"'))
    with pytest.raises(Refused, match=r"must be written as tfrecord\. Received: array_record"):
        load(directory)


def test_classes_of_other_names_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"must be called real and fake, .* Received: ai, nature"):
        load(build(OtherNames, tmp_path).data_dir)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: flipped(data, 100), "the record at offset 0 has damaged content: its checksum does not hold"),
        (lambda data: flipped(data, 5), "the record at offset 0 has a damaged length: its checksum does not hold"),
        (lambda data: data[:-1], r"the record at offset \d+ is truncated: \d+ of \d+ bytes"),
        (lambda data: data + b"12345", r"the record at offset \d+ is truncated: 5 bytes"),
    ],
    ids=["content", "length", "short", "long"],
)
def test_a_damaged_record_is_named(tmp_path, damage, sentence):
    directory = build(Stock, tmp_path).data_dir
    shard = next(Path(directory).glob("stock-test*"))
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(Refused, match=rf"{shard.name} cannot be read: {sentence}\. Build the dataset again"):
        load(directory)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


class WithUnknown(Stock):
    """TFDS's own way to say that a class is not known."""

    def _generate_examples(self, count, first):
        for index, example in super()._generate_examples(count, first):
            yield index, example | {"label": -1} if index == 1007 else example


def test_a_record_of_no_known_class_is_refused(tmp_path):
    directory = build(WithUnknown, tmp_path).data_dir
    with pytest.raises(Refused, match=r"-test\.tfrecord.*the record at offset \d+ holds 1 .* the labels \[-1\]"):
        load(directory)


class Texts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "a"}


def test_records_that_are_no_images_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"must have a feature image and a feature label of 2 classes\. Received: text"):
        load(build(Texts, tmp_path).data_dir)

"""A damaged record ends a training with one sentence that names it, and leaves nothing."""

import pytest
import tensorflow as tf

from tests.small_dataset import write_dataset
from tests.test_loop import tiny as tiny
from tests.test_loop import training
from tests.test_options import told
from tfds_builders.records.framing import CorruptRecord
from trainers import reader
from trainers.dataset import load
from trainers.reader import find_damage, naming_damage


def damage(dataset, split, row, place=60):
    """Flips a bit of a record; returns its shard, offset and id."""
    records = load(dataset).select(split)
    shard = records.shard_names[records.shards[row]]
    data = bytearray((dataset / shard).read_bytes())
    data[records.offsets[row] + place] ^= 1
    (dataset / shard).write_bytes(data)
    return shard, int(records.offsets[row]), records.ids()[row]


@pytest.mark.parametrize(
    ("split", "devices", "data"),
    [
        ("train", 1, {}),
        ("train", 2, {}),
        ("validation", 1, {}),
        ("test", 1, {}),
        ("train", 1, {"pixel_cache": "memory"}),
    ],
)
def test_training_ends_with_the_record_named(tiny, tmp_path, split, devices, data):
    dataset = write_dataset(tmp_path / "data", {"train": 200, "validation": 37, "test": 41})
    shard, offset, id = damage(dataset, split, 33)
    with pytest.raises(CorruptRecord) as caught:
        training(dataset, told(data, epochs=1), tmp_path / "job", devices).run()
    message = str(caught.value)
    assert f"{shard}, offset {offset}, id {id!r}" in message
    assert "its checksum does not hold" in message
    assert "\n" not in message
    assert not (tmp_path / "job" / "latest" / "model.keras").exists()


def test_a_shard_cut_short_while_training_is_named(tiny, tmp_path):
    dataset = write_dataset(tmp_path / "data", {"train": 60, "validation": 8, "test": 8})
    begun = training(dataset, told(epochs=1), tmp_path / "job")
    shard = dataset / "toy-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(CorruptRecord, match=rf"{shard.name}, offset \d+, id 'train/fake/00059.png': .* truncated"):
        begun.run()


def test_what_has_been_scored_is_not_read_again_to_find_the_damage(tiny, tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", {"train": 60, "validation": 8, "test": 300})
    _, _, id = damage(dataset, "test", 290)
    searched = []

    def noting(records, rows):
        searched.append(rows)
        return find_damage(records, rows)

    monkeypatch.setattr(reader, "find_damage", noting)
    with pytest.raises(CorruptRecord, match=id):
        training(dataset, told(epochs=1), tmp_path / "job").run()
    (rows,) = searched
    assert 128 <= rows.min() <= 290  # batches of 32, of which 128 records are read together


@pytest.mark.parametrize(
    "kind", ["ResourceExhaustedError", "UnavailableError", "AbortedError", "CancelledError", "InternalError"]
)
def test_errors_that_are_about_no_record_stay_what_they_are(kind):
    """And nothing is read again for them: of a damaged record TensorFlow says other things."""
    error = getattr(tf.errors, kind)(None, None, "no memory, or a worker is gone")
    with pytest.raises(type(error)) as caught, naming_damage(None, lambda: pytest.fail("looks for damage")):
        raise error
    assert caught.value is error

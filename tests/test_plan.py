"""The plan: TFDS's own order and boundaries, computed from names."""

import numpy as np
import pyarrow as pa
import pytest
from tensorflow_datasets.core import hashing
from tensorflow_datasets.core.utils.shard_utils import ShardConfig, get_shard_boundaries

from tfds_builders.sharding.plan import hash_order, plan_shards, read_plan, write_plan


def _table(count: int, size: int = 1000) -> pa.Table:
    return pa.table({"id": [f"folder/{number}.png" for number in range(count)], "size": np.full(count, size)})


@pytest.mark.parametrize("split", ["train", "test"])
def test_order_is_tfds_own(split):
    ids = _table(500)["id"].combine_chunks()
    hasher = hashing.Hasher(split)
    expected = sorted(range(500), key=lambda row: hasher.hash_key(ids[row].as_py()))
    assert hash_order(split, ids).tolist() == expected


def test_equal_ids_are_refused():
    with pytest.raises(ValueError, match="unique"):
        hash_order("train", pa.array(["a", "b", "a"]))


@pytest.mark.parametrize(("count", "num_shards"), [(1, 1), (10, 3), (7, 7), (1000, 16), (5, 8)])
def test_boundaries_are_tfds_own(count, num_shards):
    splits = np.full(count, "train", dtype=object)
    planned = list(plan_shards("toy", _table(count), splits, ShardConfig(num_shards=num_shards)))
    lengths = [shard.num_planned for shard, _ in planned]
    ends = get_shard_boundaries(count, min(num_shards, count))
    assert np.cumsum(lengths).tolist() == ends
    assert [rows.num_rows for _, rows in planned] == lengths
    assert planned[0][0].name == f"toy-train.tfrecord-00000-of-{len(ends):05d}"


@pytest.mark.parametrize(("size", "num_shards"), [(1000, 1), (134_000, 1), (134_090, 2), (10_000_000, 128)])
def test_shards_are_as_many_as_tfds_makes_of_so_many_bytes(size, num_shards):
    # TFDS makes two from 2 * 64 MiB on; with what surrounds an image, a thousand of 134,090 bytes are more.
    planned = list(plan_shards("toy", _table(1000, size), np.full(1000, "train", dtype=object), ShardConfig()))
    assert len(planned) == num_shards


def test_every_row_of_a_split_is_planned_once_and_others_never():
    splits = np.array(["train", "test", ""] * 100, dtype=object)
    table = _table(300)
    planned = list(plan_shards("toy", table, splits, ShardConfig(num_shards=4)))
    for name in ("train", "test"):
        ids = [id for shard, rows in planned if shard.split == name for id in rows["id"].to_pylist()]
        expected = table.filter(pa.array(splits == name))["id"].combine_chunks()
        assert ids == expected.take(pa.array(hash_order(name, expected))).to_pylist()
    assert {shard.split for shard, _ in planned} == {"train", "test"}
    assert [shard.number for shard, _ in planned] == list(range(8))


def test_a_stored_plan_comes_back(tmp_path):
    table = _table(20)
    planned = list(plan_shards("toy", table, np.full(20, "train", dtype=object), ShardConfig(num_shards=3)))
    shards = write_plan(tmp_path / "plan.arrow", iter(planned), table.schema)
    for shard, (_, rows) in zip(shards, planned, strict=True):
        assert read_plan(tmp_path / "plan.arrow", shard.number).to_pylist() == rows.to_pylist()

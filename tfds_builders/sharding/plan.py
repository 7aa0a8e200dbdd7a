"""Every shard's content, known before any image is read.

TFDS orders a split by md5(split name + key) and cuts it at round(n * i / shards); both depend on names alone. So the
plan is computed first, and each shard is then written once, by one task, with no shuffle files in between.
Source: tensorflow_datasets/core/{hashing,shuffle,writer}.py and core/utils/shard_utils.py.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from tfds_builders.records.framing import OVERHEAD_BYTES
from tfds_builders.records.schema import SPLITS

if TYPE_CHECKING:  # writers import this module, and must not pay for importing TFDS
    from tensorflow_datasets.core.utils.shard_utils import ShardConfig

# What an Example adds to the image and the texts: tags, lengths and feature names. An upper bound that only decides the
# number of shards.
_EXAMPLE_OVERHEAD_BYTES = 120


class Shard(NamedTuple):
    """One shard of the plan."""

    number: int  # of the batch in the plan file
    split: str
    name: str  # file name
    num_planned: int  # records, before any is found bad when its bytes are read


def hash_order(split: str, ids: pa.Array) -> np.ndarray:
    """TFDS's order of a split: row numbers sorted by md5(split name + id) as a 128-bit number, int64 [n].

    Raises:
      ValueError: two ids hash alike, i.e. are equal (or differ only in `\\` for `/`, which TFDS treats alike).
    """
    salt = hashlib.md5(split.encode())
    digests = bytearray()
    for id in ids.to_pylist():
        hashed = salt.copy()
        hashed.update(id.replace("\\", "/").encode())
        digests += hashed.digest()
    # halves: (n, 2), most significant first.
    halves = np.frombuffer(bytes(digests), dtype=">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if same.size:
        first, second = ids[int(order[same[0]])], ids[int(order[same[0] + 1])]
        raise ValueError(f"ids must be unique; {first} and {second} name the same record")
    return order


def plan_shards(
    name: str, table: pa.Table, splits: np.ndarray, shard_config: "ShardConfig"
) -> Iterator[tuple[Shard, pa.Table]]:
    """Yields each shard with its rows of `table`, in the order in which they will lie in the file.

    Args:
      name: of the dataset, for the file names.
      table: one row a record; needs columns id and size.
      splits: object [n], split names; rows with "" are in no shard.
      shard_config: TFDS's; decides the number of shards from the bytes.
    """
    index = 0
    for split in (split for split in SPLITS if (splits == split).any()):
        rows = np.flatnonzero(splits == split)
        ids = table["id"].take(pa.array(rows)).combine_chunks()
        rows = rows[hash_order(split, ids)]
        sizes = table["size"].to_numpy()[rows]
        total_bytes = int(sizes.sum()) + len(rows) * (_EXAMPLE_OVERHEAD_BYTES + OVERHEAD_BYTES)
        num_shards = min(shard_config.get_number_shards(total_bytes, len(rows)), len(rows))
        start = 0
        for number in range(num_shards):
            end = round(len(rows) * (number + 1) / num_shards)
            shard_name = f"{name}-{split}.tfrecord-{number:05d}-of-{num_shards:05d}"
            yield Shard(index, split, shard_name, end - start), table.take(pa.array(rows[start:end]))
            index, start = index + 1, end


def write_plan(path: Path, shards: Iterable[tuple[Shard, pa.Table]], schema: pa.Schema) -> list[Shard]:
    """Writes the rows of each shard as one record batch of an Arrow file, for the writers to map into memory."""
    planned = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for shard, rows in shards:
            writer.write_batch(pa.RecordBatch.from_struct_array(rows.to_struct_array().combine_chunks()))
            planned.append(shard)
    return planned


def read_plan(path: Path, index: int) -> pa.RecordBatch:
    """The rows of shard `index`, in order."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(index)

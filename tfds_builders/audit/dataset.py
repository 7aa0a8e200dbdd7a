"""What the audit reads: a built dataset directory, and nothing else.

dataset = load(directory)
rows = sample_rows(dataset.table, 100_000)
for row, image, error in read_images(directory, dataset.table.take(rows)): ...
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from tfds_builders.records.framing import CorruptRecord, read_payload
from tfds_builders.records.schema import (
    BUILD,
    EXCLUDED,
    LEDGER_SCHEMA,
    MANIFEST,
    MANIFEST_SCHEMA,
    QUARANTINE,
    SCHEME_PREFIX,
)


@dataclasses.dataclass(frozen=True)
class BuiltDataset:
    """A built dataset: its manifest, its ledgers and what the build said of itself.

    Attributes:
      table: the manifest, one row a record.
      quarantine, excluded: the ledgers; empty tables where the build left none.
      build: the contents of build.json.
    """

    directory: Path
    table: pa.Table = dataclasses.field(repr=False)
    quarantine: pa.Table = dataclasses.field(repr=False)
    excluded: pa.Table = dataclasses.field(repr=False)
    build: dict = dataclasses.field(repr=False)

    @property
    def schemes(self) -> list[str]:
        """Names of the columns that assign records to splits: "split", then every scheme."""
        return ["split"] + [name for name in self.table.column_names if name.startswith(SCHEME_PREFIX)]

    @property
    def labels(self) -> np.ndarray:
        """int8 [n]: 0 real, 1 fake."""
        return self.table["label"].to_numpy()


def load(directory: str | Path) -> BuiltDataset:
    """Reads what a build left in `directory`.

    Raises:
      Refused: not a built dataset, or a manifest without records or of another layout.
    """
    directory = Path(directory).expanduser().absolute()
    for name in (MANIFEST, BUILD):
        if not (directory / name).is_file():
            raise Refused(
                f"An audit needs a built dataset directory (<data_dir>/<name>/<version>); {directory} holds no {name}. "
                "Build one with: tfds build tfds_builders/NAME --data_dir DATA_DIR"
            )
    table = pq.read_table(directory / MANIFEST)
    missing = sorted(set(MANIFEST_SCHEMA.names) - set(table.column_names))
    if missing or not table.num_rows:
        received = f"has no column {', '.join(missing)}" if missing else "has no records"
        raise Refused(f"An audit needs a manifest with records; {directory / MANIFEST} {received}. Build it again.")
    build = json.loads((directory / BUILD).read_text())
    return BuiltDataset(directory, table, _ledger(directory / QUARANTINE), _ledger(directory / EXCLUDED), build)


def _ledger(path: Path) -> pa.Table:
    return pq.read_table(path) if path.is_file() else LEDGER_SCHEMA.empty_table()


def sample_rows(table: pa.Table, limit: int) -> np.ndarray:
    """At most `limit` row numbers, rising: the records whose sha256 is smallest, so the same ones every time.

    Equal images have equal hashes, so copies are drawn together. int64 [min(n, limit)].
    """
    num_rows = table.num_rows
    if num_rows <= limit:
        return np.arange(num_rows)
    # The first 8 bytes of a cryptographic hash are as good as a random number.
    keys = sha256_bytes(table)[:, :8].copy().view(">u8").ravel()
    return np.sort(np.argsort(keys, kind="stable")[:limit])


def sha256_bytes(table: pa.Table) -> np.ndarray:
    """The manifest's content hashes, uint8 [n, 32]."""
    column = table["sha256"].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[column.offset * 32 : (column.offset + len(column)) * 32].reshape(-1, 32)


def content_codes(table: pa.Table) -> np.ndarray:
    """int64 [n]: equal numbers for equal content (sha256), 0..distinct-1 in the order of first appearance."""
    encoded = pc.dictionary_encode(table["sha256"].combine_chunks())
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.indices.to_numpy().astype(np.int64)


def column_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list]:
    """A column as int32 [n] indices into its distinct values, and those values."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def read_images(directory: Path, table: pa.Table) -> Iterator[tuple[int, bytes | None, str]]:
    """The encoded images of the table's rows, in its order: (row, bytes, "") or (row, None, what is wrong)."""
    columns = [table[name].to_pylist() for name in ("shard", "offset", "length", "image_offset", "bytes")]
    name, descriptor = None, -1
    try:
        for row, (shard, offset, length, start, num_bytes) in enumerate(zip(*columns, strict=True)):
            if shard != name:  # rows come in the order of the shards
                if descriptor >= 0:
                    os.close(descriptor)
                    descriptor = -1
                name = shard
                try:
                    descriptor = os.open(directory / shard, os.O_RDONLY)
                except FileNotFoundError:
                    descriptor = -1
            if descriptor < 0:
                yield row, None, f"the shard {shard} is missing"
                continue
            try:
                payload = read_payload(descriptor, offset, length)
            except CorruptRecord as error:
                yield row, None, f"{shard}: {error}"
                continue
            yield row, payload[start : start + num_bytes], ""
    finally:
        if descriptor >= 0:
            os.close(descriptor)

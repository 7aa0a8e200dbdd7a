"""What a builder says of its files, as a table; and the identity of the dataset that is made of them.

listing = list_records(builder.records(Source(manual_dir)))   names and sizes only
listing.key                                                  changes when anything of the records does
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.facts import BadImage
from tfds_builders.records.schema import LEDGER_SCHEMA, MANIFEST_SCHEMA, SCHEME_PREFIX
from tfds_builders.sharding.collector import collector_off
from tfds_builders.sharding.sources import Entry

CHUNK_RECORDS = 4096  # of a batch of the listing, and of one task of the scan

ENTRY_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("container", pa.string()),
        ("path", pa.binary()),
        ("size", pa.int64()),
        ("offset", pa.int64()),
        ("packed", pa.int64()),
        ("method", pa.int32()),
        ("stamp", pa.int64()),
        ("problem", pa.string()),
    ]
)
_SAID = ("label", "category", "group", "video", "generator")
LISTING_SCHEMA = pa.schema(
    [
        *ENTRY_SCHEMA,
        *(MANIFEST_SCHEMA.field(name) for name in _SAID),
        ("given_split", pa.string()),
        ("frames", pa.int32()),
        ("side", pa.int32()),
    ]
)
_FINGERPRINTED = ("id", "sha256", "label", "split", "category", "group", "video", "generator")


class Record(NamedTuple):
    """What a builder says of one file."""

    entry: Entry
    label: int
    category: str = ""
    group: str = ""
    video: str = ""
    generator: str = ""
    split: str = ""  # as given by the source; "" if splits are to be drawn
    frames: int = 0  # of a video: how many frames to take (`video.choose_frames`); 0 for an image
    side: int = 0  # in pixels: store the image re-encoded as a square of this side (`harmonise`); 0: as it is


class Excluded(NamedTuple):
    """A file that a rule of the builder leaves out."""

    entry: Entry
    rule: str  # a short code
    detail: str = ""  # one sentence


class Listing(NamedTuple):
    """Every file of the source, by name and size."""

    table: pa.Table  # LISTING_SCHEMA, in chunks
    excluded: pa.Table  # LEDGER_SCHEMA
    key: str  # 64 hexadecimal digits over `table`: what is left out changes no shard


def list_records(
    records: Iterable[Record | Excluded], on_batch: Callable[[pa.RecordBatch], object] = lambda batch: None
) -> Listing:
    """Streams what a builder says of its files into Arrow tables; `on_batch` is given each batch of `Listing.table`."""
    digest = hashlib.sha256()
    batches: list[pa.RecordBatch] = []
    left_out: list[pa.RecordBatch] = []
    waiting: list[Record] = []
    records = iter(records)

    def add_batch(kept: list[Record]) -> None:
        columns = zip(*((*record.entry, *record[1:]) for record in kept), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, LISTING_SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=LISTING_SCHEMA))
        digest.update(batches[-1].serialize())
        on_batch(batches[-1])

    while chunk := _take(records, CHUNK_RECORDS):
        waiting += [record for record in chunk if isinstance(record, Record)]
        dropped = [
            ledger_row(BadImage(record.rule, record.detail), "", record.entry, -1)
            for record in chunk
            if isinstance(record, Excluded)
        ]
        left_out.append(pa.RecordBatch.from_pylist(dropped, LEDGER_SCHEMA))
        if len(waiting) >= CHUNK_RECORDS:  # of one length, whatever is left out in between
            add_batch(waiting[:CHUNK_RECORDS])
            del waiting[:CHUNK_RECORDS]
    if waiting:
        add_batch(waiting)
    return Listing(
        pa.Table.from_batches(batches, LISTING_SCHEMA),
        pa.Table.from_batches(left_out, LEDGER_SCHEMA).sort_by("id"),
        digest.hexdigest(),
    )


def _take(records: Iterator[Record | Excluded], count: int) -> list[Record | Excluded]:
    with collector_off():
        return list(islice(records, count))


def entries_of(rows: pa.RecordBatch | pa.Table) -> Iterator[Entry]:
    """The files of rows that have LISTING_SCHEMA's columns."""
    return map(Entry._make, zip(*(rows[name].to_pylist() for name in Entry._fields), strict=True))


def ledger_row(error: BadImage, split: str, entry: Entry, label: int, sha256: bytes | None = None) -> dict:
    """One row of LEDGER_SCHEMA for a file that is quarantined."""
    values = (entry.id, split, label, error.code, error.sentence, entry.size, sha256)
    return dict(zip(LEDGER_SCHEMA.names, values, strict=True))


class Fingerprint:
    """The dataset's identity, from its manifest, shard by shard.

    It changes with any id, content, label, split or other column that a training can see, and with how deeply files
    were checked; not with the number of shards, and not with how the rows are cut into updates.
    """

    def __init__(self, validation: str):
        self._validation = validation
        self._digests: dict[str, tuple] = {}
        self._num_rows = 0

    def update(self, manifest: pa.Table) -> None:
        """Adds rows (MANIFEST_SCHEMA and scheme columns), in the order of the manifest."""
        schemes = sorted(name for name in manifest.column_names if name.startswith(SCHEME_PREFIX))
        for name in (*_FINGERPRINTED, *schemes):
            lengths, content = self._digests.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            for chunk in manifest[name].chunks:
                values = _as_bytes(chunk)
                offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
                # Lengths and content apart: no two different columns of values can look alike.
                lengths.update(np.diff(offsets).astype("<u4"))
                content.update(memoryview(values.buffers()[2] or b"")[offsets[0] : offsets[-1]])
        self._num_rows += manifest.num_rows

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        whole = hashlib.sha256(f"realshard manifest 1, validation {self._validation}, rows {self._num_rows}".encode())
        for name, digests in sorted(self._digests.items()):
            whole.update(name.encode() + b"".join(digest.digest() for digest in digests))
        return whole.hexdigest()


def _as_bytes(values: pa.Array) -> pa.Array:
    """Strings and binaries as they are, numbers in decimal, null as `None`."""
    if not pa.types.is_binary(values.type) and not pa.types.is_fixed_size_binary(values.type):
        values = values.cast(pa.large_string())
    return pc.fill_null(values.cast(pa.large_binary()), b"None")

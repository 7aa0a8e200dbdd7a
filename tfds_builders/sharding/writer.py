"""One shard: read, check, serialise, frame, rename. And the journal that makes a build resumable.

A finished shard is four files in the staging folder: the shard, its manifest rows, its ledger rows, and last a mark
that holds their checksums. The marks are the journal: what has a mark that holds is done, all else is written anew.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from tfds_builders.records.decode import to_png
from tfds_builders.records.example import surround
from tfds_builders.records.facts import BadImage, ImageFacts
from tfds_builders.records.framing import OVERHEAD_BYTES, ends
from tfds_builders.records.header import inspect
from tfds_builders.records.schema import LEDGER_SCHEMA, MANIFEST_SCHEMA, SCHEME_PREFIX
from tfds_builders.sharding.collector import collector_off
from tfds_builders.sharding.harmonise import harmonise
from tfds_builders.sharding.manifest import entries_of, ledger_row
from tfds_builders.sharding.plan import Shard, read_plan
from tfds_builders.sharding.provenance import hash_content
from tfds_builders.sharding.shard_file import ShardFile
from tfds_builders.sharding.sources import read, read_ahead
from tfds_builders.sharding.staging import size_and_crc, write_atomically
from tfds_builders.sharding.validate import validate

# glibc gives freed memory back to the kernel at once, and each page of the next image is a fault again: a sixth of the
# writer's time. It keeps twice the largest block, of up to 32 MB, that was ever freed.
_FREED_BYTES = 16 << 20
_IMAGES_PER_REPORT = 32  # to whoever shows the progress

PROGRESS_COLUMNS = ("images", "bytes", "quarantined")


class Done(NamedTuple):
    """The mark of a finished shard."""

    num_records: int
    num_bytes: int  # of the serialised records, without framing
    checksums: dict[str, list[int]]  # file name -> [size in bytes, crc32c]


@collector_off()
def write_shard(staging: str, shard: Shard, validation: str) -> Done:
    """Writes one shard of the plan into the staging folder, under a unique temporary name that is renamed at the end.

    Args:
      staging: path of the folder with the plan.
      shard: which.
      validation: how deeply to check the bytes: header, checksum or decode.

    Raises:
      OSError: the disk is full, or the folder is gone. Files that are bad do not raise: they go to the ledger.
      SourceLost: the source cannot be read; nothing is marked as done.
    """
    bytes(_FREED_BYTES)  # made and freed: see there
    folder = Path(staging)
    plan = read_plan(folder / "plan.arrow", shard.number)
    labels, categories, groups, videos, sides = (
        plan[name].to_pylist() for name in ("label", "category", "group", "video", "side")
    )
    progress = open_progress(folder, mode="r+")
    counts = np.zeros(len(PROGRESS_COLUMNS), dtype=np.int64)
    stored: list[Stored] = []
    ledger: list[dict] = []
    temporary = folder / f".{shard.name}.{uuid.uuid4().hex}.tmp"
    offset, num_bytes, crc = 0, 0, 0
    with ShardFile(temporary) as output:
        for row, (entry, fd) in enumerate(read_ahead(entries_of(plan))):
            data = None
            try:
                data = read(entry, fd=fd)
                image, facts, flags = _checked(data, validation, sides[row])
            except BadImage as error:
                digest = hash_content(entry) if data is None else hashlib.sha256(data).digest()
                ledger.append(ledger_row(error, shard.split, entry, labels[row], digest))
                counts[2] += 1
                continue
            digest = hashlib.sha256(image if sides[row] else data).digest()
            before, after = surround(len(image), labels[row], entry.id, categories[row], groups[row], videos[row])
            header, footer = ends(before, image, after)
            length = len(before) + len(image) + len(after)
            stored.append(Stored(row, facts, flags, digest, len(image), offset, length + OVERHEAD_BYTES, len(before)))
            pieces = header + before, image, after + footer  # the image is copied once, into the output's buffer
            output.write(*pieces)
            for piece in pieces:
                crc = google_crc32c.extend(crc, piece)
            offset += length + OVERHEAD_BYTES
            num_bytes += length
            counts[0] += 1
            counts[1] = offset
            if not row % _IMAGES_PER_REPORT:
                progress[shard.number] = counts
    progress[shard.number] = counts
    checksums = {shard.name: [offset, crc]}
    os.rename(temporary, folder / shard.name)
    for suffix, table in (
        (".manifest", _manifest(plan, shard, stored)),
        (".ledger", pa.Table.from_pylist(ledger, LEDGER_SCHEMA)),
    ):
        _write_table(folder, shard.name + suffix, table)
        checksums[shard.name + suffix] = size_and_crc(folder / (shard.name + suffix))
    done = Done(len(stored), num_bytes, checksums)
    write_atomically(folder / (shard.name + ".done"), json.dumps(done._asdict()).encode())
    return done


class Stored(NamedTuple):
    """One record that was written: its row of the plan, and what the manifest says besides."""

    row: int
    facts: ImageFacts  # of the image as stored
    flags: tuple[str, ...]
    sha256: bytes
    num_bytes: int
    offset: int
    length: int
    image_offset: int


def _checked(data: bytes, validation: str, side: int) -> tuple[bytes, ImageFacts, tuple[str, ...]]:
    """The bytes to store, what is known of them, and what is odd about the file.

    Raises:
      BadImage: the bytes do not pass the validation.
    """
    facts = validate(data, validation)
    if side:
        image = harmonise(data, side)
        return image, inspect(image), ("harmonised",)
    if facts.storable:
        return data, facts, facts.flags
    image = to_png(data)
    return image, inspect(image), (*facts.flags, "converted")


def _manifest(plan: pa.RecordBatch, shard: Shard, stored: list[Stored]) -> pa.Table:
    """The manifest rows of a shard: the plan's columns of the records written, and what was learnt on the way."""
    kept = plan.take(pa.array([record.row for record in stored], pa.int64()))
    facts = [record.facts for record in stored]
    columns = {
        "split": [shard.split] * len(stored),
        "shard": [shard.name] * len(stored),
        # Flags of the name (wrong extension, ...) were found in the scan; those of the content here.
        "flags": [
            sorted({*planned, *record.flags}) for planned, record in zip(kept["flags"].to_pylist(), stored, strict=True)
        ],
        "format": [image.format for image in facts],
        "width": [image.width for image in facts],
        "height": [image.height for image in facts],
        "orientation": [image.orientation for image in facts],
        "sha256": [record.sha256 for record in stored],
        "bytes": [record.num_bytes for record in stored],
        "offset": [record.offset for record in stored],
        "length": [record.length for record in stored],
        "image_offset": [record.image_offset for record in stored],
    }
    if pc.any(pc.not_equal(kept["side"], 0)).as_py():  # nothing of the file is left to tell of
        columns["flags"] = [list(record.flags) for record in stored]
        columns["mode"] = [image.mode for image in facts]
        columns["source_format"] = columns["format"]
    schema = _manifest_schema(plan)
    return pa.table(
        [pa.array(columns[field.name], field.type) if field.name in columns else kept[field.name] for field in schema],
        schema=schema,
    )


def _manifest_schema(plan: pa.RecordBatch) -> pa.Schema:
    """The manifest's schema with the plan's split schemes."""
    return pa.schema([*MANIFEST_SCHEMA, *(field for field in plan.schema if field.name.startswith(SCHEME_PREFIX))])


def finished(staging: Path, shard: Shard) -> Done | None:
    """The mark of a shard, if it is there and every file it names has the size and checksum that it says."""
    try:
        done = Done(**json.loads((staging / (shard.name + ".done")).read_bytes()))
        for name, expected in done.checksums.items():
            if (staging / name).stat().st_size != expected[0] or size_and_crc(staging / name) != expected:
                return None
    except (OSError, ValueError, TypeError):
        return None
    return done


def create_progress(staging: Path, num_shards: int) -> np.ndarray:
    """Makes the file through which writers show how far they are: int64 (shards, 3), see PROGRESS_COLUMNS."""
    np.zeros((num_shards, len(PROGRESS_COLUMNS)), dtype=np.int64).tofile(staging / "progress")
    return open_progress(staging, mode="r")


def open_progress(staging: Path, mode: Literal["r", "r+"]) -> np.ndarray:
    """Maps the progress file into memory."""
    return np.memmap(staging / "progress", dtype=np.int64, mode=mode).reshape(-1, len(PROGRESS_COLUMNS))


def read_tables(staging: Path, shards: list[Shard], suffix: str) -> Iterator[pa.Table]:
    """The finished shards' manifest (`.manifest`) or ledger (`.ledger`) rows, in the order of the plan."""
    for shard in shards:
        yield feather.read_table(staging / (shard.name + suffix))


def _write_table(folder: Path, name: str, table: pa.Table) -> None:
    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
    feather.write_feather(table, temporary, compression="uncompressed")  # a tenth of Parquet's time, there and back
    os.rename(temporary, folder / name)

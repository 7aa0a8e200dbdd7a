"""The scan: from a listing to a table of records whose headers were read, in parallel.

scan = scan_headers(listing.table, workers, advance, frames_dir)
scan.table        SCAN_SCHEMA, one row a record with a good header, sorted by id
scan.quarantined  LEDGER_SCHEMA, what cannot be read or is no image by its header
ledger_of_repeats(scan.repeats, hash_content)   the same for records whose id is taken
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.facts import BadImage, ImageFacts, NeedMore
from tfds_builders.records.header import extension_flag, inspect
from tfds_builders.records.schema import LEDGER_SCHEMA, MANIFEST_SCHEMA
from tfds_builders.sharding.collector import collector_off
from tfds_builders.sharding.manifest import CHUNK_RECORDS, LISTING_SCHEMA, entries_of, ledger_row
from tfds_builders.sharding.provenance import hash_content
from tfds_builders.sharding.sources import Entry, read, read_ahead
from tfds_builders.sharding.video import frames_of
from tfds_builders.sharding.workers import Workers

_PREFIX_BYTES = 4096  # holds the header of nearly every JPEG and of every PNG; more is read when it does not
_CHUNK_VIDEOS = 8  # of one task: a video takes a thousand times longer than a file's header
_MIN_PHOTOGRAPHS = 9  # three for each of three splits: see splits.grouped

FACTS = ("width", "height", "mode", "orientation", "flags", "source_format")
SCAN_SCHEMA = pa.schema([*LISTING_SCHEMA, *(MANIFEST_SCHEMA.field(name) for name in FACTS)])


class Scan(NamedTuple):
    """The outcome of a scan."""

    table: pa.Table  # SCAN_SCHEMA, sorted by id
    quarantined: pa.Table  # LEDGER_SCHEMA, sorted by id
    repeats: pa.Table  # SCAN_SCHEMA: records whose id is taken
    num_added: int  # rows more than the listing has: frames of videos


def begin_scan(batch: pa.RecordBatch, workers: Workers) -> Any:
    """Begins to scan the next batch of a listing that still goes on; None if it holds videos, which have to wait."""
    return None if _has_videos(batch) else workers.begin(scan_chunk, batch, "")


def scan_headers(
    listing: pa.Table,
    workers: Workers,
    advance: Callable[[int], object],
    frames_dir: Path,
    begun: Sequence[Any] = (),
) -> Scan:
    """Reads the header of every file, in parallel; `advance` is told how many more files are done.

    `begun` are what `begin_scan` gave for the first batches of the listing.

    The frames taken from videos are put into `frames_dir`, as PNG files, and stand for the video from then on.
    Groups come from the file names where the builder knows of none (`with_photograph_groups`).
    Two records whose ids are equal, or would be with `\\` as `/`, cannot both be kept: the later is among `repeats`.
    """
    tables, bad = [SCAN_SCHEMA.empty_table()], [LEDGER_SCHEMA.empty_table()]
    num_added = 0
    rest = listing.slice(len(begun) * CHUNK_RECORDS)
    chunks = rest.to_batches(max_chunksize=_CHUNK_VIDEOS if _has_videos(rest) else CHUNK_RECORDS)
    arguments = ((chunk, str(frames_dir)) for chunk in chunks)
    for good_rows, bad_rows, num_files in workers.map(scan_chunk, arguments, begun=begun):
        tables.append(good_rows)
        bad.append(bad_rows)
        advance(num_files)
        num_added += good_rows.num_rows + bad_rows.num_rows - num_files
    # The tie-break makes the outcome independent of which task finished first.
    by_name = [("id", "ascending"), ("container", "ascending"), ("offset", "ascending")]
    table = pa.concat_tables(tables).sort_by(by_name)
    names = pc.replace_substring(table["id"], "\\", "/")  # TFDS's order knows no difference between them
    codes = names.combine_chunks().dictionary_encode().indices
    is_first = np.zeros(table.num_rows, bool)
    is_first[np.unique(codes, return_index=True)[1]] = True
    repeats = table.filter(pa.array(~is_first))
    if repeats.num_rows:
        table = table.filter(pa.array(is_first))
    return Scan(with_photograph_groups(table), pa.concat_tables(bad).sort_by("id"), repeats, num_added)


def ledger_of_repeats(repeats: pa.Table, hash_of: Callable[[Entry], bytes | None]) -> pa.Table:
    """Rows of LEDGER_SCHEMA for `repeats` of a scan, which are quarantined as `duplicate_id`."""
    error = BadImage("duplicate_id", "another file of the source has the same name, \\ taken for /")
    said = (repeats[name].to_pylist() for name in ("label", "given_split"))
    rows = [
        ledger_row(error, split, entry, label, hash_of(entry))
        for entry, label, split in zip(entries_of(repeats), *said, strict=True)
    ]
    return pa.Table.from_pylist(rows, LEDGER_SCHEMA)


@collector_off()
def scan_chunk(listing: pa.RecordBatch, frames_dir: str) -> tuple[pa.Table, pa.Table, int]:
    """Reads the headers of some files.

    Returns:
      The good rows (SCAN_SCHEMA), the quarantined (LEDGER_SCHEMA), and of how many files these are.
    """
    num_files = listing.num_rows
    if _has_videos(listing):
        listing = _with_frames(listing, Path(frames_dir))
    facts: list[ImageFacts] = []
    flags: list[list[str]] = []
    is_good: list[bool] = []
    bad = []
    said = (listing[name].to_pylist() for name in ("label", "given_split", "frames"))
    entries = read_ahead(entries_of(listing), _PREFIX_BYTES)
    for (entry, fd), label, split, frames in zip(entries, *said, strict=True):
        try:
            found = read_header(entry, fd)
        except BadImage as error:
            bad.append(ledger_row(error, split, entry, label, hash_content(entry)))
            is_good.append(False)
        else:
            is_good.append(True)
            facts.append(found)
            flags.append([*found.flags, *extension_flag(entry.id, found.format), *(["video_frame"] if frames else [])])
    columns = {
        "width": [found.width for found in facts],
        "height": [found.height for found in facts],
        "mode": [found.mode for found in facts],
        "orientation": [found.orientation for found in facts],
        "flags": flags,
        "source_format": [
            "VIDEO" if "video_frame" in odd else found.format for found, odd in zip(facts, flags, strict=True)
        ],
    }
    table = pa.Table.from_batches([listing]).filter(pa.array(is_good, pa.bool_()))
    for name in FACTS:
        field = SCAN_SCHEMA.field(name)
        table = table.append_column(field, pa.array(columns[name], field.type))
    return table, pa.Table.from_pylist(bad, LEDGER_SCHEMA), num_files


def _has_videos(listing: pa.RecordBatch | pa.Table) -> bool:
    return bool(pc.any(pc.not_equal(listing["frames"], 0)).as_py())


def _with_frames(listing: pa.RecordBatch, frames_dir: Path) -> pa.RecordBatch:
    """Puts the frames taken from each video in its place."""
    rows = []
    for row, entry in zip(listing.to_pylist(), entries_of(listing), strict=True):
        entries = frames_of(entry, row["frames"], frames_dir) if row["frames"] else [entry]
        rows += [row | entry._asdict() for entry in entries]
    return pa.RecordBatch.from_pylist(rows, LISTING_SCHEMA)


def read_header(entry: Entry, fd: int = -1) -> ImageFacts:
    """What the header of the file says, reading no more of it than needed; `fd` as for `sources.read`.

    Raises:
      BadImage: not an image, or one that must not be decoded.
    """
    wanted = _PREFIX_BYTES
    while True:
        prefix = read(entry, wanted, fd)
        try:
            return inspect(prefix, entry.size)
        except NeedMore as more:
            if len(prefix) < wanted or wanted >= entry.size:
                raise BadImage("truncated", "the file ends before its header does") from None
            wanted = min(max(2 * wanted, more.num_bytes), entry.size)


def with_photograph_groups(table: pa.Table) -> pa.Table:
    """Makes what stands before `__` in the file names the group, where no row has one and every name has it.

    So images that were cut from one photograph stay on one side of a split. A few beginnings are no photographs: a
    name that the whole set bears, or its categories.
    """
    if pc.any(pc.not_equal(table["group"], "")).as_py():
        return table
    prefixes = pc.extract_regex(table["id"], r"(?:^|/)(?P<group>[^/]+?)__[^/]*$")
    if prefixes.null_count or not table.num_rows:
        return table
    groups = pc.struct_field(prefixes, "group")
    if pc.count_distinct(groups).as_py() < _MIN_PHOTOGRAPHS:
        return table
    if pc.all(pc.equal(pc.utf8_lower(groups), pc.utf8_lower(table["category"]))).as_py():
        return table
    return table.set_column(table.column_names.index("group"), SCAN_SCHEMA.field("group"), groups)

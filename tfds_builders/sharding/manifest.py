"""From what a builder says of its files to a table of records whose headers were read.

listing = list_records(builder.records(list_entries(manual_dir)))   names and sizes only
listing.key                                                        changes when anything of the records does
scan = scan_headers(listing.table, workers, advance, frames_dir)
scan.table        SCAN_SCHEMA, one row a record with a good header, sorted by id
scan.quarantined  LEDGER_SCHEMA, what cannot be read or is no image by its header
ledger_of_repeats(scan.repeats, hash_content)   the same for records whose id is taken
"""

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.header import BadImage, ImageFacts, NeedMore, extension_flag, inspect
from tfds_builders.records.schema import LEDGER_SCHEMA, MANIFEST_SCHEMA, SCHEME_PREFIX
from tfds_builders.sharding.provenance import hash_content
from tfds_builders.sharding.sources import Entry, read, read_ahead
from tfds_builders.sharding.video import frames_of
from tfds_builders.sharding.workers import Workers

_PREFIX_BYTES = 4096  # holds the header of nearly every JPEG and of every PNG; more is read when it does not
_CHUNK_RECORDS = 4096  # of one task of the scan
_MIN_PHOTOGRAPHS = 9  # three for each of three splits: see splits.grouped
_CHUNK_VIDEOS = 8  # a video takes a thousand times longer than a file's header

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
_FACTS = ("width", "height", "mode", "orientation", "flags", "source_format")
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
SCAN_SCHEMA = pa.schema([*LISTING_SCHEMA, *(MANIFEST_SCHEMA.field(name) for name in _FACTS)])


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


class Scan(NamedTuple):
    """The outcome of a scan."""

    table: pa.Table  # SCAN_SCHEMA, sorted by id
    quarantined: pa.Table  # LEDGER_SCHEMA, sorted by id
    repeats: pa.Table  # SCAN_SCHEMA: records whose id is taken
    num_added: int  # rows more than the listing has: frames of videos


def list_records(records: Iterable[Record | Excluded]) -> Listing:
    """Streams what a builder says of its files into Arrow tables."""
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

    while chunk := _take(records, _CHUNK_RECORDS):
        waiting += [record for record in chunk if isinstance(record, Record)]
        dropped = [
            ledger_row(BadImage(record.rule, record.detail), "", record.entry, -1)
            for record in chunk
            if isinstance(record, Excluded)
        ]
        left_out.append(pa.RecordBatch.from_pylist(dropped, LEDGER_SCHEMA))
        if len(waiting) >= _CHUNK_RECORDS:  # of one length, whatever is left out in between
            add_batch(waiting[:_CHUNK_RECORDS])
            del waiting[:_CHUNK_RECORDS]
    if waiting:
        add_batch(waiting)
    return Listing(
        pa.Table.from_batches(batches, LISTING_SCHEMA),
        pa.Table.from_batches(left_out, LEDGER_SCHEMA).sort_by("id"),
        digest.hexdigest(),
    )


def _take(records: Iterator[Record | Excluded], count: int) -> list[Record | Excluded]:
    """The next records. Python's collector is off meanwhile: it looks for cycles among them, a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return list(islice(records, count))
    finally:
        if was_enabled:
            gc.enable()


def scan_headers(listing: pa.Table, workers: Workers, advance: Callable[[int], object], frames_dir: Path) -> Scan:
    """Reads the header of every file, in parallel; `advance` is told how many more files are done.

    The frames taken from videos are put into `frames_dir`, as PNG files, and stand for the video from then on.
    Groups come from the file names where the builder knows of none (`with_photograph_groups`).
    Two records whose ids are equal, or would be with `\\` as `/`, cannot both be kept: the later is among `repeats`.
    """
    tables, bad = [SCAN_SCHEMA.empty_table()], [LEDGER_SCHEMA.empty_table()]
    num_added = 0
    has_videos = pc.any(pc.not_equal(listing["frames"], 0)).as_py()
    chunks = listing.to_batches(max_chunksize=_CHUNK_VIDEOS if has_videos else _CHUNK_RECORDS)
    for good_rows, bad_rows, num_files in workers.map(scan_chunk, ((chunk, str(frames_dir)) for chunk in chunks)):
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


def scan_chunk(listing: pa.RecordBatch, frames_dir: str) -> tuple[pa.Table, pa.Table, int]:
    """Reads the headers of some files.

    Returns:
      The good rows (SCAN_SCHEMA), the quarantined (LEDGER_SCHEMA), and of how many files these are.
    """
    num_files = listing.num_rows
    if pc.any(pc.not_equal(listing["frames"], 0)).as_py():
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
    for name in _FACTS:
        field = SCAN_SCHEMA.field(name)
        table = table.append_column(field, pa.array(columns[name], field.type))
    return table, pa.Table.from_pylist(bad, LEDGER_SCHEMA), num_files


def _with_frames(listing: pa.RecordBatch, frames_dir: Path) -> pa.RecordBatch:
    """Puts the frames taken from each video in its place."""
    rows = []
    for row, entry in zip(listing.to_pylist(), entries_of(listing), strict=True):
        entries = frames_of(entry, row["frames"], frames_dir) if row["frames"] else [entry]
        rows += [row | entry._asdict() for entry in entries]
    return pa.RecordBatch.from_pylist(rows, LISTING_SCHEMA)


def entries_of(rows: pa.RecordBatch | pa.Table) -> Iterator[Entry]:
    """The files of rows that have LISTING_SCHEMA's columns."""
    return map(Entry._make, zip(*(rows[name].to_pylist() for name in Entry._fields), strict=True))


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

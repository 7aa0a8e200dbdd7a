"""A built dataset directory, and selections of its records.

    dataset = load(find("ai_vs_human", data_dir))
    train = dataset.select("train", exclude={"generator": {"splice"}})
    train.labels, len(train), train.ids()

Everything comes from the manifest beside the shards: where each record lies, how long it is, what it shows. Columns
are arrow or numpy arrays throughout, so that a manifest of 700,000 rows stays at some hundred megabytes.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, LABELS, MANIFEST, SCHEME_PREFIX
from trainers.indexing import FEATURES, index_shards
from trainers.storage import Location, filesystem, join, locate, sizes
from trainers.subsplit import Part, parse

DATASET_INFO = "dataset_info.json"
TRAIN = "train"
MEMBER = "dataset"  # the column of a mixture that names the dataset a record comes from

Values = Mapping[str, Collection]  # column -> the values that are meant


@dataclasses.dataclass(frozen=True)
class Records:
    """Some records of one dataset, in manifest order. Row r, 0 <= r < len, names the same record in every array.

    Attributes:
      directory: what the shards' names are relative to; an fsspec URL for remote datasets.
      table: the manifest's rows of these records.
    """

    directory: Location
    table: pa.Table = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return self.table.num_rows

    def ids(self, rows: np.ndarray | None = None) -> list[str]:
        """The ids of `rows` (int [k]), or of all records: unique, '/'-separated paths in the source."""
        column = self.table["id"]
        return (column if rows is None else column.take(pa.array(rows))).to_pylist()

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int8 [n]: 0 real, 1 fake."""
        return self._numpy("label")

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 [n]: where the TFRecord frame begins in its shard, bytes."""
        return self._numpy("offset")

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [n]: length of the frame, bytes."""
        return self._numpy("length")

    @functools.cached_property
    def image_offsets(self) -> np.ndarray:
        """int32 [n]: where the encoded image begins inside the payload, bytes."""
        return self._numpy("image_offset")

    @functools.cached_property
    def image_bytes(self) -> np.ndarray:
        """int64 [n]: length of the encoded image."""
        return self._numpy("bytes")

    @functools.cached_property
    def shard_names(self) -> list[str]:
        """The file names that `shards` counts through."""
        return self._shard_codes.dictionary.to_pylist()

    @functools.cached_property
    def shards(self) -> np.ndarray:
        """int32 [n]: index into `shard_names`."""
        return self._shard_codes.indices.to_numpy(zero_copy_only=False).astype(np.int32)

    @functools.cached_property
    def is_plain(self) -> np.ndarray:
        """bool [n]: TensorFlow decodes the stored bytes as they are; others go through `plain_bytes` first.

        The manifest's version of `records.header`'s `ImageFacts.plain`.
        """
        table = self.table
        is_jpeg = pc.and_(pc.equal(table["format"], "JPEG"), pc.not_equal(table["mode"], "CMYK"))
        is_decoded = pc.or_(pc.equal(table["format"], "PNG"), is_jpeg)
        return pc.and_(is_decoded, pc.equal(table["orientation"], 1)).to_numpy()

    @functools.cached_property
    def _shard_codes(self) -> pa.DictionaryArray:
        return self.table["shard"].combine_chunks().dictionary_encode()

    def _numpy(self, column: str) -> np.ndarray:
        return self.table[column].to_numpy()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A built dataset.

    Attributes:
      directory: <data_dir>/<name>/<version>, a local path or an fsspec URL.
      name, version: as TFDS knows them.
      fingerprint: 64 hex digits over ids, contents, labels, splits and build settings.
      table: the manifest without its content hashes, one row a record.
      build: what `build.json` says (counts per split, validation, ...).
      sources: the directories that were loaded: its own, or those of a mixture.
    """

    directory: Location
    name: str
    version: str
    fingerprint: str
    table: pa.Table = dataclasses.field(repr=False)
    build: dict = dataclasses.field(repr=False)
    sources: tuple[Location, ...] = ()

    @property
    def title(self) -> str:
        """NAME:VERSION; of a mixture NAME:VERSION+NAME:VERSION."""
        parts = zip(self.name.split("+"), self.version.split("+"), strict=True)
        return "+".join(f"{name}:{version}" for name, version in parts)

    def select(
        self,
        split: str,
        only: Values | None = None,
        exclude: Values | None = None,
        scheme: str | None = None,
    ) -> Records:
        """The records of `split`, of them those with one of the `only` values and none of the `exclude` values.

        Args:
          split: "train", "validation" or "test"; or an expression of them, "train[:10%]+validation". Of a mixture,
            that part of each dataset in it.
          only, exclude: {column: values}; "real" and "fake" (or 0 and 1) in the column "label".
          scheme: name of a further split scheme of the manifest, instead of the split that was written; its splits are
            then in the records' column "split".

        Raises:
          Refused: no such split, scheme, column or value; nothing left; one class left to train on.
        """
        column = "split" if scheme is None else SCHEME_PREFIX + scheme
        if column not in self.table.column_names:
            schemes = [c.removeprefix(SCHEME_PREFIX) for c in self.table.column_names if c.startswith(SCHEME_PREFIX)]
            raise Refused(f"{self.name} has no split scheme {scheme!r}; it has: {_listed(schemes) or 'none'}.")
        parts = self._parts(split, column)
        kept = self._is_in(parts, column)
        table = with_column(self.table, "split", self.table[column])
        for column, values in (only or {}).items():
            kept = pc.and_(kept, self._is_one_of(column, values))
        for column, values in (exclude or {}).items():
            kept = pc.and_(kept, pc.invert(self._is_one_of(column, values)))
        records = Records(self.directory, table.filter(kept))

        selection = f"split {split!r}, only {dict(only or {})}, exclude {dict(exclude or {})}"
        if not len(records):
            raise Refused(f"{self.name} has no record in this selection: {selection}. Select less strictly.")
        if any(part.split == TRAIN for part in parts) and len(classes := np.unique(records.labels)) < len(LABELS):
            raise Refused(
                f"Training needs both classes; all {len(records)} records of {self.name} in this selection are "
                f"{LABELS[classes[0]]!r}: {selection}. Select less strictly."
            )
        return records

    def _parts(self, expression: str, column: str) -> list[Part]:
        try:
            parts = parse(expression)
        except ValueError as error:
            raise Refused(str(error)) from None
        splits = sorted(self._values(column) - {""})  # "" is in none of them
        for part in parts:
            if part.split not in splits:
                raise Refused(f"{self.name} has no split {part.split!r}; it has: {_listed(splits)}.")
        return parts

    def _is_in(self, parts: list[Part], column: str) -> pa.Array:
        kept = np.zeros(self.table.num_rows, bool)
        for part in parts:
            is_in_split = pc.equal(self.table[column], part.split).to_numpy()
            for is_member in self._members():
                rows = np.flatnonzero(is_in_split & is_member)
                kept[rows[slice(*part.bounds(len(rows)))]] = True
        return pa.array(kept)

    def _members(self) -> list[np.ndarray]:
        """bool [n] for each dataset of a mixture: whether a record comes from it; all true if this is none."""
        if MEMBER not in self.table.column_names:
            return [np.ones(self.table.num_rows, bool)]
        return [pc.equal(self.table[MEMBER], name).to_numpy() for name in pc.unique(self.table[MEMBER]).to_pylist()]

    def _is_one_of(self, column: str, values: Collection) -> pa.ChunkedArray:
        selectable = [f.name for f in self.table.schema if pa.types.is_string(f.type) or pa.types.is_integer(f.type)]
        if column not in selectable:
            raise Refused(f"{self.name} has no column {column!r} to select by; it has: {_listed(selectable)}.")
        values = {values} if isinstance(values, str) else set(values)
        if column == "label":
            values = {LABELS.index(v) if v in LABELS else v for v in values}
        wanted = {str(value) for value in values}
        known = {str(value) for value in self._values(column)}
        if wanted - known:  # a misspelt value would silently select or exclude nothing
            raise Refused(
                f"No record of {self.name} has {column} = {_listed(sorted(wanted - known))}; "
                f"there is: {_listed(sorted(known)[:20])}{', ...' if len(known) > 20 else ''}."
            )
        return pc.is_in(self.table[column].cast(pa.string()), value_set=pa.array(sorted(wanted), pa.string()))

    def _values(self, column: str) -> set:
        return set(pc.unique(self.table[column]).to_pylist())


def load(directory: str | Path) -> Dataset:
    """Reads the manifest of a built dataset, in a local folder or at an fsspec URL, and checks its shards' lengths.

    A TFDS directory that another builder wrote has no manifest; it is scanned instead (trainers/indexing.py).

    Raises:
      Refused: not a built dataset, or a shard is missing or cut short.
    """
    location = locate(directory)
    files, root = _filesystem(location)
    has_manifest = files.isfile(f"{root}/{MANIFEST}") or not files.isfile(f"{root}/{FEATURES}")
    for name in (DATASET_INFO, MANIFEST, BUILD) if has_manifest else (DATASET_INFO,):
        if not files.isfile(f"{root}/{name}"):
            raise Refused(
                f"{location} holds no {name}: it is not a dataset built by this project's builders. "
                f"Build one with: tfds build tfds_builders/NAME --data_dir DATA_DIR"
            )
    info = json.loads(files.cat_file(f"{root}/{DATASET_INFO}"))
    if not has_manifest:
        table, fingerprint = index_shards(location, info)
        build = {"written": table.num_rows}
        table = table.drop_columns("sha256")
        return Dataset(location, info["name"], info["version"], fingerprint, table, build, (location,))
    build = json.loads(files.cat_file(f"{root}/{BUILD}"))
    with files.open(f"{root}/{MANIFEST}") as file:
        manifest = pq.ParquetFile(file)
        table = manifest.read(columns=[name for name in manifest.schema_arrow.names if name != "sha256"])
    _check_shards(location, table)
    return Dataset(location, info["name"], info["version"], build["fingerprint"], table, build, (location,))


def find(name: str, data_dir: str | Path) -> Location:
    """Where dataset `name`, NAME or NAME:VERSION, built under `data_dir` is: a local folder, or below an fsspec URL.
    Without a version the newest.

    Raises:
      Refused: it is not built there; the sentence holds the command that builds it, or the versions that there are.
    """
    location = locate(data_dir)
    files, root = _filesystem(location)
    name, _, wanted = name.partition(":")
    folder = f"{root}/{name}"
    names = [path.rpartition("/")[2] for path in files.ls(folder, detail=False)] if files.isdir(folder) else []
    versions = [
        version
        for version in names
        if re.fullmatch(r"\d+\.\d+\.\d+", version) and files.isfile(f"{folder}/{version}/{DATASET_INFO}")
    ]
    if not versions:
        raise Refused(
            f"The dataset {name!r} is not built in {location}. Build it with: "
            f"tfds build tfds_builders/{name} --data_dir {location} --manual_dir FOLDER_WITH_ITS_IMAGES"
        )
    versions.sort(key=lambda version: [int(part) for part in version.split(".")])
    if wanted and wanted not in versions:
        raise Refused(
            f"The dataset {name!r} has no version {wanted!r} in {location}; it has: {_listed(versions)}. "
            f"Say {name}:{versions[-1]}, or {name} for the newest."
        )
    return join(location, name, wanted or versions[-1])


def _filesystem(location: Location) -> tuple[Any, str]:
    try:
        return filesystem(location)
    except (ImportError, ValueError) as error:
        raise Refused(f"{location} cannot be read: {error}") from None


def _check_shards(location: Location, table: pa.Table) -> None:
    ends = pa.table({"shard": table["shard"], "end": pc.add(table["offset"], table["length"])})
    needed = {row["shard"]: row["end_max"] for row in ends.group_by("shard").aggregate([("end", "max")]).to_pylist()}
    found = sizes(location, sorted(needed))
    for name, end in needed.items():
        if found[name] < end:
            state = "is missing" if found[name] < 0 else f"has {found[name]} bytes"
            raise Refused(f"The manifest needs {end} bytes of {join(location, name)}, which {state}. Build it again.")


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """`table` with `values` in its column `name`, at its place."""
    return table.set_column(table.column_names.index(name), name, values)


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)

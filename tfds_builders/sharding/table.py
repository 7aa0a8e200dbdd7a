"""A CSV or Parquet file that lists images: path, label and, if it likes, split, group, category, generator.

table = read_table(source)      None if the source holds no such file
yield from table.records(source, group_of)
"""

import io
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.sharding.build import say
from tfds_builders.sharding.layout import FolderLayout, label_of, split_of, unlabelled
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.metadata import parse_csv
from tfds_builders.sharding.sources import Entry, Source, absent, is_system_file, read

_NEEDED = {"path", "label"}
_COLUMNS = _NEEDED | {"split", "group", "category", "generator"}


class ImageTable:
    """The rows of all lists of a source, found by the paths that they name."""

    def __init__(self) -> None:
        self._rows: list[dict[str, str]] = []
        self._folders: list[str] = []  # that each row's list lies in
        self.has_splits = False

    def add(self, folder: str, row: Mapping[str, str]) -> None:
        """Adds a row of a list that lies in `folder`: its path begins there, or else at the top of the source."""
        self._rows.append(dict(row))
        self._folders.append(folder)
        self.has_splits = self.has_splits or bool(row.get("split", "").strip())

    def records(self, source: Source, group_of: Callable[[str], str]) -> Iterator[Record | Excluded]:
        """Describes the images: what the row says comes first, then what the folders and `group_of` say."""
        layout = FolderLayout(source.ids())
        row_of, problems = self._find(set(source.ids()))
        for entry in source.entries():
            number = row_of.pop(entry.id, None)
            if number is None:
                yield from unlabelled(entry, "not_in_list", "an image that the list does not name")
            else:
                yield self._record(entry, number, problems.get(number, ""), layout, group_of)
        for id in sorted(row_of):
            yield Record(absent(id, "the list names the file, but it is not there"), -1)

    def _find(self, ids: Collection[str]) -> tuple[dict[str, int], dict[int, str]]:
        """The first row that names each file, and what is wrong with such rows ("reason: sentence").

        A file that is not there is found as the one that its row most likely means.
        """
        row_of: dict[str, int] = {}
        problems: dict[int, str] = {}
        for number, (row, folder) in enumerate(zip(self._rows, self._folders, strict=True)):
            # A backslash is a Windows separator, or a part of an escaped name: either may be meant.
            spellings = (row["path"], row["path"].replace("\\", "/"))
            meant = [posixpath.normpath(posixpath.join(above, path)) for above in (folder, "") for path in spellings]
            before = row_of.setdefault(next((id for id in meant if id in ids), meant[0]), number)
            for column in ("label", "split"):
                if self._rows[before].get(column, "") != row.get(column, ""):
                    problems[before] = f"contradicting_{column}s: two rows of the list give different {column}s"
        return row_of, problems

    def _record(
        self, entry: Entry, number: int, problem: str, layout: FolderLayout, group_of: Callable[[str], str]
    ) -> Record | Excluded:
        row = self._rows[number]
        place = layout.place(entry.id)
        label, split = label_of(row["label"]), split_of(row.get("split", ""))
        problem = entry.problem or problem
        if label is None:
            problem = problem or f"unknown_label: the list's label is {row['label']!r}, neither real nor fake"
        elif place is not None and layout.has_classes and place.label != label:
            problem = problem or "contradicting_labels: the list says one class, the image lies in the other's folder"
        if self.has_splits and not split:
            if not row.get("split", "").strip():
                return Excluded(entry, "outside_splits", "the list gives a split to other images, to this one none")
            problem = problem or f"unknown_split: the list's split is {row['split']!r}"
        return Record(
            entry._replace(problem=problem),
            -1 if problem or label is None else label,
            category=row.get("category", "") or (place.category if place else ""),
            group=row.get("group", "") or group_of(entry.id),
            generator=row.get("generator", ""),
            split=split or (place.split if place else ""),
        )


def read_table(source: Source) -> ImageTable | None:
    """Reads every CSV and Parquet file that has columns path and label; None if there is none.

    Raises:
      Refused: a file that is named like one of these and cannot be read.
    """
    table, found = ImageTable(), []
    for entry in source.entries():
        if not entry.id.lower().endswith((".csv", ".parquet")) or is_system_file(entry.id):
            continue
        rows = _rows(entry)
        if rows and rows[0].keys() >= _NEEDED:
            found.append(entry.id)
            for row in rows:
                table.add(posixpath.dirname(entry.id), row)
    if not found:
        return None
    say(f"labels come from {', '.join(found)}")
    return table


def _rows(entry: Entry) -> list[dict[str, str]]:
    try:
        if entry.id.lower().endswith(".csv"):
            return parse_csv(read(entry))
        with _opened(entry) as file:
            listed = pq.ParquetFile(file)
            names = [name for name in listed.schema_arrow.names if name.lower() in _COLUMNS]
            if not {name.lower() for name in names} >= _NEEDED:
                return []
            columns = listed.read(columns=names)
        return [
            {name.lower(): "" if value is None else str(value) for name, value in row.items()}
            for row in columns.to_pylist()
        ]
    except (BadImage, OSError, ValueError, pa.ArrowException) as error:
        raise Refused(f"{entry.id} must be a CSV or Parquet file; it cannot be read as one: {error}.") from None


def _opened(entry: Entry) -> IO[bytes]:
    """The file, of which Parquet reads what it needs: it may hold the images themselves. A member of a zip is read."""
    return io.BytesIO(read(entry)) if entry.container or entry.problem else open(entry.path, "rb")

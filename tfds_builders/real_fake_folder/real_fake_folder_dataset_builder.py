"""Anybody's own real and fake images: a folder that tells the class, or a list."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from tfds_builders.records.errors import Refused
from tfds_builders.sharding import settings
from tfds_builders.sharding.builder import ShardedBuilder, given_splits
from tfds_builders.sharding.layout import place_by_folders
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.sources import Source
from tfds_builders.sharding.splits import FRACTIONS, balanced
from tfds_builders.sharding.table import read_table

_GROUP_REGEX = "REALSHARD_GROUP_REGEX"


class Builder(ShardedBuilder):
    """DatasetBuilder for real_fake_folder."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "Lists in several folders may name the same paths: images that were quarantined for it are written. "
        "Fewer than nine beginnings of file names, before __, or the categories there, are no groups.",
        "1.0.0": "First version: folders, or a CSV or Parquet list; splits given or drawn.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Nothing is downloaded. Put your images (a folder or a zip) into --manual_dir as <split>/<class>/, <class>/ or "
        "<category>/<class>/, where <class> is real or fake; or add a CSV or Parquet file with columns path and label "
        "and, if you like, split, group, category and generator."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """By the list if there is one, else by the folders; groups from the list, or REALSHARD_GROUP_REGEX."""
        group_of = _group_of()
        table = read_table(source)
        yield from place_by_folders(source, group_of) if table is None else table.records(source, group_of)

    def made_with(self, manual_dir: Path) -> Mapping[str, str | int]:
        """The regular expression of the groups."""
        return {"group_regex": settings.text(_GROUP_REGEX)}

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """Given, completed or drawn 80/10/10; scheme_balanced with as many real as fake."""
        labels = scan["label"].to_numpy().astype(np.int64)
        split = given_splits(scan, FRACTIONS, self.SPLIT_SEED)
        return {"split": split, "scheme_balanced": balanced(labels, split, scan["id"], seed=self.SPLIT_SEED)}


def _group_of() -> Callable[[str], str]:
    """From an image's path to its group: what the regular expression's first group, or all of it, matches."""
    pattern = settings.text(_GROUP_REGEX)
    if not pattern:
        return lambda id: ""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise Refused(f"{_GROUP_REGEX} must be a regular expression; {pattern!r} is none: {error}.") from None

    def group_of(id: str) -> str:
        found = regex.search(id)
        return "" if found is None else found[min(1, regex.groups)] or ""

    return group_of

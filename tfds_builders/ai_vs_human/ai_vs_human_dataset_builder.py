"""AI vs Human generated images: objects of 20 categories, photographed or generated."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds

from tfds_builders.records.schema import SPLITS
from tfds_builders.sharding.builder import ShardedBuilder
from tfds_builders.sharding.layout import class_folder, is_system_file, unlabelled
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.sources import Source
from tfds_builders.sharding.splits import leave_out, stratified

CATEGORIES = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LEFT_OUT_CATEGORIES = CATEGORIES[-4:]  # sheep, sofa, train, tvmonitor
PUBLISHED_FRACTIONS = {"train": 0.8, "test": 0.2}
PUBLISHED_SEED = 42


class Builder(ShardedBuilder):
    """DatasetBuilder for ai_vs_human."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "scheme_leave_categories_out, a further column of the manifest: another fingerprint, the same shards.",
        "1.0.0": "First version: 80/10/10, and the published 80/20 as a scheme.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Download "AI vs Human generated images" by Shirshak Acharya from Kaggle and put the zip, or the folder made '
        "by unpacking it, into --manual_dir. Images lie in <category>/<class>/ or in <class>/, where <class> is "
        "0_real and 1_fake, real and fake, or nature and ai, in any case."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Label from the class folder; category from the folder above it, or from the file name's beginning."""
        generators = _generators(source)
        for entry in source.entries():
            found = class_folder(entry.id)
            if found is None or is_system_file(entry.id):
                yield from unlabelled(entry)
            else:
                above, label = found
                category = above[-1] if above else _category_of_name(entry.id)
                yield Record(entry, label, category=category, generator=generators.get(entry.id, ""))

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """80/10/10; the published 80/20 as scheme_published; and scheme_leave_categories_out.

        The last one tests on objects that are not trained on: sheep, sofa, train and tvmonitor, or where there are none
        of them the last fifth of the categories. It is there if all its splits have images of both classes.
        """
        labels = scan["label"].to_numpy().astype(np.int64)
        columns = {
            **super().assign_splits(scan),
            "scheme_published": stratified(labels, PUBLISHED_FRACTIONS, PUBLISHED_SEED),
        }
        scheme = leave_out(scan["category"], _left_out(scan["category"]), columns["split"], scan["group"])
        if all((scheme[labels == label] == split).any() for label in np.unique(labels) for split in SPLITS):
            columns["scheme_leave_categories_out"] = scheme
        return columns


def _left_out(categories: pa.ChunkedArray) -> list[str]:
    """The categories to test on, of those that there are."""
    found = sorted(set(pc.unique(categories).to_pylist()) - {""})
    published = [category for category in found if category.lower() in LEFT_OUT_CATEGORIES]
    return published or found[-max(1, len(found) // 5) :]


def _category_of_name(id: str) -> str:
    name = PurePosixPath(id).name.lower()
    return next((category for category in CATEGORIES if name.startswith(category)), "")


def _generators(source: Source) -> dict[str, str]:
    """Which process made which fake, where a `generators.csv` (path, generator) says so."""
    sidecar = source.sidecar("generators.csv")
    if sidecar is None:
        return {}
    return {row["path"]: row["generator"] for row in csv.DictReader(io.StringIO(sidecar.decode()))}

"""AI vs Human generated images: objects of 20 categories, photographed or generated."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.records.schema import SPLITS
from tfds_builders.sharding.build import say
from tfds_builders.sharding.builder import ShardedBuilder
from tfds_builders.sharding.layout import (
    FolderLayout,
    contradiction,
    has_image_suffix,
    label_of_folder,
    unlabelled,
)
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.metadata import parse_csv
from tfds_builders.sharding.sources import Entry, Source, is_system_file, read
from tfds_builders.sharding.splits import leave_out, stratified

CATEGORIES = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LEFT_OUT_CATEGORIES = CATEGORIES[-4:]  # sheep, sofa, train, tvmonitor
GENERATORS = "generators.csv"  # beside the folders: path, generator
PUBLISHED_FRACTIONS = {"train": 0.8, "test": 0.2}
PUBLISHED_SEED = 42


class Builder(ShardedBuilder):
    """DatasetBuilder for ai_vs_human."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "scheme_leave_categories_out, a further column of the manifest: another fingerprint, the same shards. "
        "Folders around the source are no categories any more; fewer than nine beginnings of file names, before __, or "
        "the categories there, are no groups; files that macOS leaves (._*) do not decide what folders mean: other "
        "bytes only for sources with these.",
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
        """Label from the class folder; category from the folder above it, or from the file name's beginning.

        Splits that the source may have are passed over: they are drawn.
        """
        layout, by_folder, generators = _survey(source)
        say(f"the source is laid out as {layout if by_folder else '<class>/<category>*'}")
        for entry in source.entries():
            place = layout.place(entry.id)
            if place is None or is_system_file(entry.id):
                yield from unlabelled(entry)
            elif place.label < 0:
                yield contradiction(entry, "the image lies in class folders of both classes")
            else:
                category = (place.category if by_folder else "") or _category(entry.id)
                yield Record(entry, place.label, category=category, generator=generators.get(entry.id, ""))

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


def _survey(source: Source) -> tuple[FolderLayout, bool, dict[str, str]]:
    """The layout, whether its folders tell the category, and which process made which fake.

    Folders above the class folders tell it unless none of them is called like one of CATEGORIES and all file names
    begin with one: then they only wrap, or are the zips of a download in parts.
    """
    unnamed: set[str] = set()  # folders with an image whose name begins with no category
    lists: set[str] = set()

    def ids() -> Iterator[str]:
        for id in source.ids():
            folder, _, name = id.rpartition("/")
            if name == GENERATORS:
                lists.add(id)
            elif folder not in unnamed and _is_unnamed_image(id):
                unnamed.add(folder)
            yield id

    layout = FolderLayout(ids())
    is_known = any(category.lower() in CATEGORIES for category in layout.categories)
    by_folder = layout.has_categories and (is_known or any(layout.place(f"{folder}/") for folder in unnamed))
    generators: dict[str, str] = {}
    for entry in source.entries() if lists else ():
        if entry.id in lists:
            generators.update(_read_generators(entry))
    return layout, by_folder, generators


def _category(id: str) -> str:
    """What the file name begins with, or else the folder above the class folder, if it is one of CATEGORIES."""
    folder, _, name = id.rpartition("/")
    return _category_of_name(name) or _category_of_folder(folder)


@lru_cache(maxsize=4096)  # called for every file, and folders hold thousands
def _category_of_folder(folder: str) -> str:
    names = folder.split("/")
    innermost = max((index for index, name in enumerate(names) if label_of_folder(name) is not None), default=0)
    above = names[innermost - 1] if innermost else ""
    return above if above.lower() in CATEGORIES else ""


def _is_unnamed_image(id: str) -> bool:
    name = id.rpartition("/")[2]
    return has_image_suffix(name) and not _category_of_name(name) and not is_system_file(id)


def _category_of_name(name: str) -> str:
    name = name.lower()
    return next((category for category in CATEGORIES if name.startswith(category)), "")


def _read_generators(entry: Entry) -> dict[str, str]:
    """Which process made which fake: the rows (path, generator) of a CSV file; paths are below its folder."""
    folder = entry.id.rpartition("/")[0]
    try:
        rows = parse_csv(read(entry))
        return {f"{folder}/{row['path']}".lstrip("/"): row["generator"] for row in rows}
    except (BadImage, ValueError, KeyError) as error:
        raise Refused(f"{entry.id} must be a CSV file with columns path and generator; received: {error}.") from None

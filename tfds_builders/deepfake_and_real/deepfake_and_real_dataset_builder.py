"""Deepfake and real images: faces from OpenForensics, with splits of its own."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import SPLITS
from tfds_builders.sharding.builder import ShardedBuilder
from tfds_builders.sharding.layout import place_by_folders
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.sources import Source


class Builder(ShardedBuilder):
    """DatasetBuilder for deepfake_and_real."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "Fewer than nine beginnings of file names, before __, are no groups.",
        "1.0.0": "First version: the source's own three splits.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run `kaggle datasets download manjilkarki/deepfake-and-real-images` and put the zip, or the folder made by "
        "unpacking it, into --manual_dir. Images lie in Dataset/{Train,Validation,Test}/{Fake,Real}/."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Split and label from the folders."""
        return place_by_folders(source)

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """The source's own three: its images are so alike that splits drawn from all of them leak (0.99 for 0.87).

        scheme_merged is the same, for the published mixture with deepfake_faces.
        """
        split = np.array(scan["given_split"].to_pylist(), dtype=object)
        missing = [name for name in SPLITS if not (split == name).any()]
        if missing:
            raise Refused(
                f"{self.name} needs the source's own Train, Validation and Test folders, since splits drawn anew leak; "
                f"without images there: {', '.join(missing)}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        return {"split": split, "scheme_merged": split}

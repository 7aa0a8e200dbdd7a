"""Deepfake faces: one face each of the videos of the Deepfake Detection Challenge."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from tfds_builders.sharding.builder import ShardedBuilder, draw_splits
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.metadata import label_faces, read_videos, stem
from tfds_builders.sharding.sources import Source, absent
from tfds_builders.sharding.splits import balanced

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
BALANCED_IMAGES_PER_LABEL = 16_000  # of the published recipe
FACES = "faces_224"


class Builder(ShardedBuilder):
    """DatasetBuilder for deepfake_faces."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "The scheme's 16,000 + 16,000 are kept to the image; rounding each split gave one more or less.",
        "1.0.0": "First version: grouped 70/15/15, and 16,000 + 16,000 as a scheme.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run `kaggle datasets download dagnelies/deepfake-faces` and put the zip, or the folder made by unpacking it, "
        "into --manual_dir. It holds metadata.csv and faces_224/<video>.jpg."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Label and original from metadata.csv; a face that it names and that is not there counts as a bad file."""
        videos = read_videos(source, lambda id: PurePosixPath(id).name.lower() == "metadata.csv")
        found: set[str] = set()
        yield from label_faces(source, videos, lambda id: stem(PurePosixPath(id).stem), found)
        for name in sorted(videos.keys() - found):
            entry = absent(f"{FACES}/{name}.jpg", "metadata.csv names the video, but there is no face of it")
            yield Record(entry, videos[name].label)

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """70/15/15 of whole groups, and scheme_balanced: as many real as fake, at most 16,000 of each.

        scheme_merged is the same, for the published mixture with deepfake_and_real.
        """
        labels = scan["label"].to_numpy().astype(np.int64)
        split = draw_splits(scan, FRACTIONS, self.SPLIT_SEED)
        subset = balanced(labels, split, scan["id"], BALANCED_IMAGES_PER_LABEL, self.SPLIT_SEED)
        return {"split": split, "scheme_balanced": subset, "scheme_merged": subset}

"""Faces cut from the videos of the Deepfake Detection Challenge, in numbered parts."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds

from tfds_builders.sharding.build import say
from tfds_builders.sharding.builder import ShardedBuilder, given_splits
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.metadata import label_faces, read_videos, stem
from tfds_builders.sharding.sources import Source, absent
from tfds_builders.sharding.splits import FRACTIONS, balanced

LAST_TRAINING_PART = 46  # of the published recipe: parts 0-46 train, 47-49 validate
# DeepFake07/..., dfdc_train_part_7/..., deepfake-detection-faces-part-7-0/...
_PART = r"(?i)(?:^|/)(?:deepfake[ _-]?|[^/]*part[ _-]?)(?P<part>\d+)(?:[_-]\d+)?/"


class Builder(ShardedBuilder):
    """DatasetBuilder for dfdc_faces."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "Parts named as they are downloaded, part-7-0, are parts too: other splits where they are. "
        "Files that macOS leaves beside images, ._*, are excluded instead of quarantined.",
        "1.0.0": "First version: by parts where there are parts, else grouped 80/10/10.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run `kaggle datasets download phunghieu/deepfake-detection-faces-part-0-0` (and further parts) and put the "
        "zips, or the folders made by unpacking them, into --manual_dir, together with the metadata: metadata.json, "
        "metadata/<N>.json or metadata.csv. Images are <video>/<frame>.png or DeepFakeNN/<video>.jpg."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Label and original from the metadata, by the name of the folder or else of the file."""
        videos = read_videos(source, _is_metadata)

        def name_of(id: str) -> str:
            path = PurePosixPath(id)
            folder = stem(path.parent.name)
            return folder if folder in videos else stem(path.stem)

        found: set[str] = set()
        yield from label_faces(source, videos, name_of, found)
        missing = sorted(videos.keys() - found)
        if missing:
            say(f"the metadata names {len(missing)} videos without a face here, of {len(videos)}: excluded")
        for name in missing:
            # No fault: no face was found in the video, or its part was not downloaded.
            yield Excluded(absent(name, ""), "no_face", "the metadata names the video, but there is no face of it")

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """By parts or grouped; scheme_balanced with as many real as fake; scheme_published where parts tell it."""
        labels = scan["label"].to_numpy().astype(np.int64)
        schemes = {}
        part = _parts(scan["id"])
        is_training = part <= LAST_TRAINING_PART
        if (part >= 0).all() and is_training.any() and not is_training.all():
            published = np.where(is_training, "train", "validation").astype(object)
            schemes["scheme_published"] = balanced(labels, published, scan["id"], seed=self.SPLIT_SEED)
            # A group that lies in parts of both sides is for training, all of it.
            is_training |= pc.is_in(scan["group"], pc.unique(scan["group"].filter(pa.array(is_training)))).to_numpy()
            given = pa.array(np.where(is_training, "train", "validation"), pa.string())
            scan = scan.set_column(scan.column_names.index("given_split"), "given_split", given)
        split = given_splits(scan, FRACTIONS, self.SPLIT_SEED)
        return {
            "split": split,
            "scheme_balanced": balanced(labels, split, scan["id"], seed=self.SPLIT_SEED),
            **schemes,
        }


def _is_metadata(id: str) -> bool:
    path = PurePosixPath(id.lower())
    return path.suffix in (".json", ".csv") and ("metadata" in path.name or "metadata" in path.parent.name)


def _parts(ids: pa.ChunkedArray) -> np.ndarray:
    """The number of the part that each image lies in, int [n]; -1 where it lies in none."""
    part = pc.struct_field(pc.extract_regex(ids, _PART), "part")
    return pc.fill_null(pc.cast(part, pa.int64()), -1).to_numpy()

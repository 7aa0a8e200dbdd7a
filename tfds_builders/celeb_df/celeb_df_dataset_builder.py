"""Celeb-DF: interviews of celebrities, and the same clips with the face of another one."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds

from tfds_builders.records.frames import RANDOM_FRAME
from tfds_builders.records.schema import LABELS
from tfds_builders.sharding.builder import ShardedBuilder, draw_splits
from tfds_builders.sharding.layout import contradiction, say_layouts, unlabelled
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.settings import whole_number
from tfds_builders.sharding.sources import Source, is_system_file

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
DEFAULT_FRAMES = 10  # of each video
MAX_FRAMES = 1_000_000
# id0_0003.mp4 is a clip of id0; id0_id16_0005.mp4 is one of id0 (the target) with the face of id16 (the source).
_NAME = re.compile(r"(?P<target>id\d+)_(?:(?P<source>id\d+)_)?\d+\.mp4", re.IGNORECASE)
_FOLDERS = {
    "celeb-real": "real", "youtube-real": "real", "celeb-synthesis": "fake", "celebsynthesis": "fake",
}  # fmt: skip
_UNNAMED = "youtube-real"  # numbered clips of people whose names nobody knows


class Builder(ShardedBuilder):
    """DatasetBuilder for celeb_df."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "In YouTube-real alone a video may have a name that tells no identity; elsewhere it is excluded, "
        "where in Celeb-real it was a person of its own.",
        "1.0.0": "First version: frames of the videos, split 70/15/15 by identity.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run `kaggle datasets download hariomhsingh/celeb-real` and `kaggle datasets download "
        "hariomhsingh/celebsynthesis` and put both zips, or the folders made by unpacking them, into --manual_dir. "
        "Real videos are named like id0_0003.mp4, fakes like id0_id16_0005.mp4."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Label and identity from the file names; frames as REALSHARD_FRAMES says."""
        frames = _frames()
        layouts: Counter[str] = Counter()
        for entry in source.entries():
            path = PurePosixPath(entry.id)
            name = _NAME.fullmatch(path.name)
            folder = path.parent.name.lower()
            by_folder = _FOLDERS.get(folder)
            if is_system_file(entry.id) or path.suffix.lower() != ".mp4":
                yield from unlabelled(entry)
                continue
            if name is not None:
                label = "fake" if name["source"] else "real"
                group = name["target"].lower()
            elif folder == _UNNAMED:
                label, group = "real", entry.id
            else:
                yield Excluded(entry, "outside_layout", "a video whose name tells no identity")
                continue
            if by_folder not in (label, None):
                yield contradiction(entry, f"the name is that of a {label} video, the folder of {by_folder} ones")
                continue
            layouts["<video>.mp4" if by_folder is None else "<class>/<video>.mp4"] += 1
            yield Record(entry, LABELS.index(label), group=group, video=entry.id, frames=frames)
        say_layouts(layouts)

    def made_with(self, manual_dir: Path) -> Mapping[str, str | int]:
        """How many frames were taken of each video; -1 for one at random."""
        return {"frames": _frames()}

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """70/15/15, no target on two sides; scheme_identities also leaves out fakes whose source is on another side."""
        split = draw_splits(scan, FRACTIONS, self.SPLIT_SEED)
        names = pc.extract_regex(scan["video"], r"(?i)(?:^|/)id\d+_(?P<source>id\d+)_\d+\.mp4$")
        source = pc.fill_null(pc.utf8_lower(pc.struct_field(names, "source")), "").to_pylist()
        side = dict(zip(scan["group"].to_pylist(), split, strict=True))
        is_clean = [not name or side.get(name, here) == here for name, here in zip(source, split, strict=True)]
        return {"split": split, "scheme_identities": np.where(is_clean, split, "").astype(object)}


def _frames() -> int:
    meaning, words = "the number of frames to take of each video", {"random": RANDOM_FRAME}
    return whole_number("REALSHARD_FRAMES", DEFAULT_FRAMES, 1, MAX_FRAMES, meaning, words)

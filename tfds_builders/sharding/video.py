"""Frames of videos, taken once, in the scan: from then on each one is a PNG file like any other.

A video is decoded once and in order: the order of a split scatters its frames over all shards.
"""

import hashlib
import os
from pathlib import Path

from tfds_builders.records.facts import BadImage
from tfds_builders.records.frames import choose_frames, count_frames, decode_frames
from tfds_builders.sharding.sources import Entry, read
from tfds_builders.sharding.staging import write_atomically


def frames_of(entry: Entry, wanted: int, folder: Path) -> list[Entry]:
    """Takes frames of a video and puts them into `folder` as PNG files; what is there from an earlier run is kept.

    Args:
      entry: the video.
      wanted: see `choose_frames`.
      folder: made if need be.

    Returns:
      An entry for each frame, its id `<video's id>#<frame number>`. A frame that cannot be had keeps its entry, with
      the reason as its problem; so does a video of which no frame is known, under its own id.
    """
    try:
        data = read(entry)
        if not data:
            raise BadImage("zero_bytes", "the file is empty")
        numbers = choose_frames(count_frames(data), wanted, entry.id)
    except BadImage as error:
        return [entry._replace(problem=f"{error.code}: {error.sentence}")]
    folder.mkdir(exist_ok=True)
    key = hashlib.md5(f"{entry.container}:{entry.stamp}:{entry.id}".encode()).hexdigest()
    paths = {number: folder / f"{key}-{number}.png" for number in numbers}
    problem = ""
    if not all(path.exists() and path.stat().st_size for path in paths.values()):  # empty: after a power cut
        try:
            for number, png in decode_frames(data, set(numbers)):
                write_atomically(paths[number], png)
            problem = "truncated: the video ends before this frame"
        except BadImage as error:
            problem = f"{error.code}: {error.sentence}"
    frames = []
    for number, path in paths.items():
        size = path.stat().st_size if path.exists() else 0
        frame = Entry(f"{entry.id}#{number}", "", os.fsencode(path), size, -1, size, 0, entry.stamp)
        frames.append(frame if size else frame._replace(problem=problem))
    return frames

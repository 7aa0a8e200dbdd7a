"""Frames of videos, taken once, in the scan: from then on each one is a PNG file like any other.

A video is decoded once and in order, which costs less than looking up its frames one by one when the shards are
written: the order of a split scatters them over all shards.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfds_builders.records.header import BadImage
from tfds_builders.sharding.sources import Entry, read
from tfds_builders.sharding.staging import write_atomically

if TYPE_CHECKING:
    import av

RANDOM_FRAME = -1  # as a number of frames: one, drawn at random
_SEED = 42  # of the draw
_PNG_LEVEL = 3  # three times as fast as the usual 6, for files 6 % larger


def choose_frames(num_frames: int, wanted: int, id: str) -> list[int]:
    """Which frames are taken of a video that has `num_frames`.

    Args:
      num_frames: of the video.
      wanted: RANDOM_FRAME for one that a hash of the id draws; else so many, in the middle of as many equal parts
        (all, if the video has no more).
      id: of the video.

    Returns:
      Frame numbers, ascending, from 0.
    """
    if wanted == RANDOM_FRAME:
        digest = hashlib.md5(f"{_SEED}:{id}".encode()).digest()
        return [int.from_bytes(digest[:8], "big") % num_frames]
    if wanted >= num_frames:
        return list(range(num_frames))
    return [(2 * part + 1) * num_frames // (2 * wanted) for part in range(wanted)]


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
        numbers = choose_frames(_count_frames(data), wanted, entry.id)
    except BadImage as error:
        return [entry._replace(problem=f"{error.code}: {error.sentence}")]
    folder.mkdir(exist_ok=True)
    key = hashlib.md5(f"{entry.container}:{entry.stamp}:{entry.id}".encode()).hexdigest()
    paths = {number: folder / f"{key}-{number}.png" for number in numbers}
    problem = ""
    if not all(path.exists() for path in paths.values()):
        try:
            for number, png in _decode(data, set(numbers)):
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


def _count_frames(data: bytes) -> int:
    """The number of frames, by the container's packets: nothing is decoded."""
    with _open(data) as (container, stream):
        num_frames = sum(1 for packet in container.demux(stream) if packet.size)
    if not num_frames:
        raise BadImage("no_frames", "the video has no frames")
    return num_frames


def _decode(data: bytes, numbers: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yields (frame number, PNG) for those frames of `numbers` that are there."""
    with _open(data) as (container, stream):
        # Else a damaged frame is patched up in silence from the ones before it.
        stream.codec_context.options = {"err_detect": "explode"}
        for number, frame in enumerate(container.decode(stream)):
            if number in numbers:
                yield number, _png(frame)
            if number >= max(numbers):
                return


@contextmanager
def _open(data: bytes) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """The container and its video stream. FFmpeg's errors inside become BadImage."""
    import av

    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.video:
                raise BadImage("no_frames", "the file has no video stream")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise BadImage("undecodable", f"the video cannot be decoded: {error.strerror}") from None


def _png(frame: "av.VideoFrame") -> bytes:
    """The frame as RGB, upright, losslessly."""
    # rotation: degrees counter-clockwise, multiples of 90.
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()

"""Frames of videos as images: which ones are taken, and their pixels.

    numbers = choose_frames(count_frames(data), 16, id="clip.mp4")
    for number, png in decode_frames(data, set(numbers)): ...
    frames, error = take_frames(data, 16, id="clip.mp4")        both, for who wants no more than the pictures

A video is decoded once and in order, which costs less than looking up its frames one by one.
"""

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfds_builders.records.facts import BadImage

if TYPE_CHECKING:
    import av

RANDOM_FRAME = -1  # as a number of frames: one, drawn at random
_SEED = 42  # of the draw
_MATROSKA = b"\x1aE\xdf\xa3"
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # the first of an MP4 or QuickTime file
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # of pictures in such files
_PNG_LEVEL = 3  # three times as fast as the usual 6, for files 6 % larger


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a video may be that comes from anybody. Containers and codecs are FFmpeg's names of their readers."""

    max_frame_pixels: int
    max_pixels: int  # of all frames that are decoded, which are those up to the last one wanted
    containers: tuple[str, ...] = ("mov", "matroska", "avi")
    codecs: tuple[str, ...] = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg")


def is_video(data: bytes) -> bool:
    """Whether a file begins like a video: MP4, QuickTime, Matroska, WebM or AVI."""
    if data[4:8] == b"ftyp":
        return data[8:12] not in _STILL_BRANDS
    return data[4:8] in _ISO_BOXES or data.startswith(_MATROSKA) or (data[:4], data[8:12]) == (b"RIFF", b"AVI ")


def take_frames(data: bytes, wanted: int, id: str, limits: Limits | None = None) -> tuple[list[bytes], str | None]:
    """PNG files of `wanted` frames as `choose_frames` chooses them, and what is wrong with the video, or None; if it is
    damaged somewhere, the frames before the damage."""
    frames: list[bytes] = []
    try:
        numbers = choose_frames(count_frames(data, limits), wanted, id)
        for _, png in decode_frames(data, set(numbers), limits):
            frames.append(png)
    except BadImage as bad:
        return frames, bad.sentence
    return frames, None


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


def count_frames(data: bytes, limits: Limits | None = None) -> int:
    """The number of frames of a video file, by the container's packets: nothing is decoded.

    Raises:
      BadImage: no video, one without frames, or one of a kind that `limits` do not allow.
    """
    with _open(data, limits) as (container, stream):
        num_frames = sum(1 for packet in container.demux(stream) if packet.size)
    if not num_frames:
        raise BadImage("no_frames", "the video has no frames")
    return num_frames


def decode_frames(data: bytes, numbers: set[int], limits: Limits | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields (frame number, PNG) for those frames of `numbers` that are there.

    Raises:
      BadImage: a frame up to the last wanted one is damaged, or they are more than `limits` allow.
    """
    with _open(data, limits) as (container, stream):
        # Else a damaged frame is patched up in silence from the ones before it.
        options = {"err_detect": "explode"}
        if limits:
            _check_size(stream.width, stream.height, max(numbers) + 1, limits)
            options["max_pixels"] = str(limits.max_frame_pixels)  # a stream may change its size on the way
        stream.codec_context.options = options
        for number, frame in enumerate(container.decode(stream)):
            if number in numbers:
                yield number, _png(frame)
            if number >= max(numbers):
                return


def _check_size(width: int, height: int, num_frames: int, limits: Limits) -> None:
    if width * height > limits.max_frame_pixels:
        sentence = f"the video has {width} x {height} pixels; at most {limits.max_frame_pixels} are taken here"
        raise BadImage("decompression_bomb", sentence)
    if num_frames * width * height > limits.max_pixels:
        most = limits.max_pixels // (width * height)
        sentence = f"the video is too long: about {most} frames of {width} x {height} pixels are taken here"
        raise BadImage("decompression_bomb", f"{sentence}; it needs {num_frames}")


@contextmanager
def _open(data: bytes, limits: Limits | None) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """The container and its video stream. FFmpeg's errors inside become BadImage."""
    import av

    options = {"format_whitelist": ",".join(limits.containers)} if limits else {}
    try:
        with av.open(io.BytesIO(data), "r", options=options) as container:
            if not container.streams.video:
                raise BadImage("no_frames", "the file has no video stream")
            stream = container.streams.video[0]
            if limits and (codec := stream.codec_context.name) not in limits.codecs:
                sentence = f"videos in {codec} are not taken here, only those in {', '.join(limits.codecs)}"
                raise BadImage("unsupported", sentence)
            yield container, stream
    except av.FFmpegError as error:
        raise BadImage("undecodable", f"the video cannot be decoded: {error.strerror}") from None


def _png(frame: "av.VideoFrame") -> bytes:
    """The frame as RGB, upright, losslessly."""
    # rotation: degrees counter-clockwise, multiples of 90.
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()

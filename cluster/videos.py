"""Frames of a video that anybody may have sent: decoded in a process of its own, within bounds of memory and time.

frames, error = frames_of(data)

The process has the video in memory, and the way back is a pipe: nothing is written to disk. FFmpeg crashing or hanging
on what somebody made for that purpose ends that process and nothing else.
"""

import os
import resource
import struct
import subprocess
import sys

from tfds_builders.records.frames import Limits, take_frames
from trainers.predict import NUM_FRAMES

LIMITS = Limits(max_frame_pixels=3840 * 2160, max_pixels=2000 * 1920 * 1080)
MAX_SECS = 20.0  # of wall time, and of CPU time
MAX_MEMORY_BYTES = 3 << 30  # of address space, of which threads take much that they never touch
COMMAND = ("-P", "-m", "cluster.videos")
_LENGTH = struct.Struct(">Q")


def frames_of(data: bytes, max_secs: float = MAX_SECS) -> tuple[list[bytes], str | None]:
    """PNG files of frames at regular intervals, and what is wrong with the video, or None."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *COMMAND, str(max_secs)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=max_secs, env=environment)
    except subprocess.TimeoutExpired:
        return [], f"the video takes longer than {max_secs:g} s to decode; send a shorter or smaller one"
    if done.returncode:
        return [], "the video cannot be decoded: the decoder ended without a word"
    *frames, error = _unpack(done.stdout)
    return frames, error.decode() or None


def _unpack(packed: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(packed):
        (length,) = _LENGTH.unpack_from(packed, at)
        at += _LENGTH.size
        parts.append(packed[at : at + length])
        at += length
    return parts


def main() -> None:
    """A video from stdin; to stdout its frames, then what is wrong with it, each after its length."""
    seconds = int(float(sys.argv[1])) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    frames, error = take_frames(sys.stdin.buffer.read(), NUM_FRAMES, "", LIMITS)
    for part in (*frames, (error or "").encode()):
        sys.stdout.buffer.write(_LENGTH.pack(len(part)) + part)


if __name__ == "__main__":
    main()

"""Where a build lies until it is whole: a folder beside the version folder, a lock, and what killed builds left behind.

    <data_dir>/<name>/.<version>.lock
    <data_dir>/<name>/.<version>.<key>.staging/     plan, finished shards, journal, ledger

TFDS deletes its own `incomplete.*` folder on any exception, and leaves it for ever after a SIGKILL; so nothing of ours
lives there until the end.
"""

import fcntl
import os
import shutil
import uuid
from pathlib import Path

import google_crc32c

from tfds_builders.records.errors import Refused

_BUFFER_BYTES = 8 << 20  # read at once to check a file


class Staging:
    """The staging folder of one build, held under a lock from `open` to `close`."""

    def __init__(self, version_dir: Path, key: str, lock: int):
        self.path = version_dir.parent / f".{version_dir.name}.{key[:16]}.staging"
        self.num_dropped: int | None = None  # finished shards of a build from other files or with other options
        self._lock = lock

    @classmethod
    def open(cls, version_dir: Path, key: str, in_use: Path, start_anew: bool) -> "Staging":
        """Takes the lock, sweeps what other builds of this version left, and makes the folder or finds it again.

        Args:
          version_dir: where the dataset will be.
          key: of the listing and the build's options; another key is another build.
          in_use: TFDS's incomplete folder of this very build, to be spared.
          start_anew: drop what is there already.

        Raises:
          Refused: another process builds this version right now, or the file system has no locks.
        """
        version_dir.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(version_dir.parent / f".{version_dir.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Refused(
                f"Only one process at a time may build {version_dir}, and another one is doing so. Wait for it to end."
            ) from None
        except OSError as error:
            os.close(lock)
            raise Refused(
                f"A build needs a file system with locks (flock), and that of {version_dir.parent} gives none: "
                f"{error.strerror}. Choose another --data_dir, or mount this one with locks."
            ) from None
        staging = cls(version_dir, key, lock)
        for path in version_dir.parent.glob(f".{version_dir.name}.*.staging"):
            if path != staging.path or start_anew:
                if not start_anew:
                    staging.num_dropped = (staging.num_dropped or 0) + len(list(path.glob("*.done")))
                shutil.rmtree(path)
        for path in version_dir.parent.glob(f"incomplete.*_{version_dir.name}"):
            if path != in_use:
                shutil.rmtree(path)
        staging.path.mkdir(exist_ok=True)
        for path in staging.path.glob(".*.tmp"):  # of writers that were killed
            path.unlink()
        return staging

    @staticmethod
    def is_there(version_dir: Path) -> bool:
        """Whether an unfinished build of this version was left, of whatever key."""
        return any(version_dir.parent.glob(f".{version_dir.name}.*.staging"))

    def hand_over(self, names: list[str], target: Path) -> None:
        """Puts finished files into `target` too. They stay here until `drop`: a kill in between loses nothing."""
        for name in names:
            try:
                os.link(self.path / name, target / name)
            except OSError:  # a file system without hard links
                shutil.copyfile(self.path / name, target / name)

    def drop(self) -> None:
        """Removes the folder and gives the lock back: the dataset is in its place."""
        shutil.rmtree(self.path)
        self.close()

    def close(self) -> None:
        """Gives the lock back; the folder stays for the next run of the same build."""
        os.close(self._lock)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a small file such that it is either there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(data)
    os.rename(temporary, path)


def size_and_crc(path: Path) -> list[int]:
    """What tells whether a file is still as it was written: its size in bytes, and crc32c."""
    size, crc = 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(_BUFFER_BYTES):
            size += len(chunk)
            crc = google_crc32c.extend(crc, chunk)
    return [size, crc]

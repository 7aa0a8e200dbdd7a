"""Where results live: one absolute directory, because a Ray job runs in a temporary copy of its working directory.

<home>/mlflow.db, <home>/mlflow/   the embedded MLflow store (trainers/tracking.py)
<home>/ray/<job name>/             Ray Train's own state and the checkpoints
<home>/pixels/                     caches of decoded images (trainers/pixel_cache.py), or in REALSHARD_PIXELS
<home>/jobs/<job name>/            what a job leaves: config, history, predictions, model
<home>/indexes/                    of datasets that other builders wrote (trainers/indexing.py)
<home>/locks/                      what one process at a time may do
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tfds_builders.records.errors import Refused

VARIABLE = "REALSHARD_HOME"
PIXELS_VARIABLE = "REALSHARD_PIXELS"  # of several machines each has its own disk at this path


def home() -> Path:
    """REALSHARD_HOME, or ~/realshard.

    Raises:
      Refused: REALSHARD_HOME is not an absolute path.
    """
    return _absolute(VARIABLE, Path.home() / "realshard")


def _absolute(variable: str, default: Path) -> Path:
    given = os.environ.get(variable, "")
    if not given:
        return default
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise Refused(
            f"{variable} must be an absolute path, since jobs run in other directories. Received: {given!r}. "
            f"Set it to {Path(given).absolute()}, for example."
        )
    return path


def jobs_dir() -> Path:
    """The directory of the jobs' results; a job's own is `jobs_dir() / name`."""
    return home() / "jobs"


def ray_dir() -> Path:
    """Ray Train's storage path: run state and checkpoints by job name."""
    return home() / "ray"


def pixels_dir() -> Path:
    """The directory of the caches of decoded images: REALSHARD_PIXELS, or <home>/pixels.

    Raises:
      Refused: REALSHARD_PIXELS is not an absolute path.
    """
    return _absolute(PIXELS_VARIABLE, home() / "pixels")


def keras_dir() -> Path:
    """Where Keras keeps the weights that it has downloaded: KERAS_HOME, or ~/.keras."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))


@contextlib.contextmanager
def locked(file: Path, flags: int = 0) -> Iterator[None]:
    """Holds the lock that `file` stands for, as one process at a time can; one that dies lets go.

    Raises:
      BlockingIOError: another one holds it, and `flags` are fcntl.LOCK_NB.
      Refused: the file system has no locks.
    """
    with file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise Refused(
                f"a file system with locks (flock) is needed, and that of {file.parent} gives none: {error.strerror}. "
                f"Set {VARIABLE} to a directory on another one, or mount this one with locks."
            ) from None
        yield


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Holds `name`, as one process at a time can of those that share this home."""
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / name.replace("/", "_")):
        yield

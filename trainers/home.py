"""Where results live: one absolute directory, because a Ray job runs in a temporary copy of its working directory.

<home>/mlflow.db, <home>/mlflow/   the embedded MLflow store (trainers/tracking.py)
<home>/ray/<job name>/             Ray Train's own state and the checkpoints
<home>/pixels/                     caches of decoded images (trainers/pixel_cache.py)
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


def home() -> Path:
    """REALSHARD_HOME, or ~/realshard.

    Raises:
      Refused: REALSHARD_HOME is not an absolute path.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        return Path.home() / "realshard"
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise Refused(
            f"{VARIABLE} must be an absolute path, since jobs run in other directories. Received: {given!r}. "
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
    """The directory of the caches of decoded images."""
    return home() / "pixels"


@contextlib.contextmanager
def locked(file: Path, flags: int = 0) -> Iterator[None]:
    """Holds the lock that `file` stands for, as one process at a time can; one that dies lets go.

    Raises:
      BlockingIOError: another one holds it, and `flags` are fcntl.LOCK_NB.
    """
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | flags)
        yield


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Holds `name`, as one process at a time can of those that share this home."""
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / name.replace("/", "_")):
        yield

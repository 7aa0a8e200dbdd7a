"""Where a training's checkpoints go: to Ray Train, or to a plain directory where there is no Ray."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def unstored_dir(storage: Path) -> Path:
    """Where this machine keeps a checkpoint of the job with that storage until it is stored: the storage may be a
    network's, and training goes on while Ray copies it there."""
    return Path(tempfile.gettempdir(), f"realshard-{hashlib.sha256(bytes(storage)).hexdigest()[:16]}")


class RayReports:
    """Checkpoints of one of Ray Train's workers. The first worker writes them; all wait for one another.

    All workers must call each method the same number of times.
    """

    def __init__(self):
        import ray.train

        self._ray_train = ray.train
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self._is_alone = context.get_world_size() == 1
        self._unstored = unstored_dir(Path(context.get_storage().experiment_fs_path))
        if not self.rank:
            shutil.rmtree(self._unstored, ignore_errors=True)  # of a worker that was killed
        # The number of this worker's machine, if it is the first of the workers there; of the others None.
        self.machine: int | None = None if context.get_local_rank() else context.get_node_rank()

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The directory of the newest checkpoint of this job; None at its beginning."""
        checkpoint = self._ray_train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as directory:
                yield Path(directory)

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None], wait: bool = False) -> None:
        """Makes what `write` puts into an empty directory the newest checkpoint.

        Args:
          metrics: what is known about it.
          write: called at once, by the first worker.
          wait: until it is stored; else it is copied to the job's storage while training goes on.
        """
        modes = self._ray_train.CheckpointUploadMode
        checkpoint = None
        if not self.rank:
            self.wait_for_storage()  # of the one before: no more than one is on its way
            self._unstored.mkdir(mode=0o700, exist_ok=True)
            directory = tempfile.mkdtemp(dir=self._unstored)
            write(Path(directory))
            checkpoint = self._ray_train.Checkpoint.from_directory(directory)
        self._ray_train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_upload_mode=modes.SYNC if wait else modes.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def wait_for_storage(self) -> None:
        """Returns when all that was reported is stored."""
        self._ray_train.get_all_reported_checkpoints(self._ray_train.CheckpointConsistencyMode.COMMITTED)

    def agree(self, number: int) -> int:
        """The first worker's number."""
        from ray.train.collective import broadcast_from_rank_zero

        return number if self._is_alone else broadcast_from_rank_zero(number)

    def is_machine_leaving(self) -> bool:
        """Whether a worker's machine is about to be taken away."""
        return self._ray_train.get_preemption_info() is not None


class DirectoryReports:
    """The same in `directory/latest`, for a training inside this process."""

    rank = 0

    def __init__(self, directory: Path):
        self._new, self._latest, self._old = (directory / name for name in ("new", "latest", "old"))

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """As RayReports.latest."""
        self._clear_up()
        yield self._latest if self._latest.exists() else None

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None], wait: bool = False) -> None:
        """As RayReports.report."""
        self._clear_up()
        self._new.mkdir(parents=True)
        write(self._new)
        # A directory cannot take another's place at once. What is deleted file by file is never called "latest": a
        # checkpoint that lacks some of its files may be one that never had them.
        if self._latest.exists():
            self._latest.rename(self._old)
        self._new.rename(self._latest)
        shutil.rmtree(self._old, ignore_errors=True)

    def _clear_up(self) -> None:
        """What a process left that was killed while it reported: nothing is called "latest" between the two renames."""
        if self._old.exists() and not self._latest.exists():
            self._old.rename(self._latest)
        for leftover in (self._new, self._old):
            shutil.rmtree(leftover, ignore_errors=True)

    def agree(self, number: int) -> int:
        """As RayReports.agree."""
        return number

    def is_machine_leaving(self) -> bool:
        """As RayReports.is_machine_leaving."""
        return False

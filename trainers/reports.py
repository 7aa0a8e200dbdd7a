"""Where a training's checkpoints go: to Ray Train, or to a plain directory where there is no Ray."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RayReports:
    """Checkpoints of one of Ray Train's workers. The first worker writes them; all wait for one another."""

    def __init__(self):
        import ray.train

        self._ray_train = ray.train
        self.rank = ray.train.get_context().get_world_rank()

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The directory of the newest checkpoint of this job; None at its beginning."""
        checkpoint = self._ray_train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as directory:
                yield Path(directory)

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Makes what `write` puts into an empty directory the newest checkpoint."""
        if self.rank:
            self._ray_train.report(metrics, checkpoint=None)
            return
        with tempfile.TemporaryDirectory(prefix="realshard-checkpoint-") as directory:
            write(Path(directory))
            self._ray_train.report(metrics, checkpoint=self._ray_train.Checkpoint.from_directory(directory))


class DirectoryReports:
    """The same in `directory/latest`, for a training inside this process."""

    rank = 0

    def __init__(self, directory: Path):
        self._directory = directory

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """As RayReports.latest."""
        latest = self._directory / "latest"
        yield latest if latest.exists() else None

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """As RayReports.report."""
        new, latest = self._directory / "new", self._directory / "latest"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        write(new)
        shutil.rmtree(latest, ignore_errors=True)
        new.rename(latest)

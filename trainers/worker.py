"""What the driver tells a Ray Train worker, and the worker's function.

Exceptions are let out: Ray Train reports them to the driver (trainers/recovery.py).
"""

import logging
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.errors import CannotTrain
from trainers.strategy import Resources


@dataclass(frozen=True)
class Task:
    """What the driver tells the workers."""

    config: dict[str, Any]  # trainers.config.to_dict
    dataset_directories: tuple[str, ...]  # of one dataset, or of those that are mixed
    fingerprint: str  # of that dataset, or of the mixture
    resources: Resources
    run_id: str = ""  # of MLflow; empty: nothing is logged
    tracking_uri: str = ""
    pixels_directory: str = ""  # where --pixel-cache disk keeps decoded images
    folder_mark: tuple[str, str] = ("", "")  # JobFolder.marked; nothing in the driver's own process


def train(settings: dict[str, Task]) -> None:
    """The worker's function, of {"task": Task}. The results are in the last checkpoint that it reports.

    Raises:
      CannotTrain: the training cannot go on, for a reason that the user can change; names the machine if it is wrong
        there alone.
    """
    task = settings["task"]
    _check_home(task.folder_mark)
    from trainers.strategy import prepare_process

    prepare_process(task.resources, task.config["cluster"]["deterministic"])  # before TensorFlow runs anything
    # Ray Train says at each report, under a logger named by a file's path, what the epoch's line has said.
    logging.getLogger().setLevel(logging.WARNING)
    from trainers.reports import RayReports
    from trainers.training import Training

    reports = RayReports()
    try:
        with _machine_watched(task, reports.machine):
            Training(task, reports).run()
    except Refused as error:  # a SystemExit; the driver was content with the same, so it is this machine that lacks it
        raise CannotTrain(f"on {platform.node()}, where a worker runs: {error}") from None


def _check_home(mark: tuple[str, str]) -> None:
    file, text = mark
    if file and (not Path(file).is_file() or Path(file).read_text() != text):
        raise CannotTrain(
            "all machines of a job must share one REALSHARD_HOME, where its checkpoints and results go. Received: "
            f"{platform.node()}, where a worker runs, does not see the driver's {Path(file).parent}. Put "
            "REALSHARD_HOME on a file system that every machine has mounted at the same path."
        )


def _machine_watched(task: Task, machine: int | None) -> AbstractContextManager[None]:
    """Samples the machine for the job's run; one of its workers does, and none of a member of an ensemble."""
    from trainers.system_metrics import system_metrics

    every_secs = task.config["job"]["system_metrics_secs"]
    if machine is None or not task.run_id or not every_secs:
        return nullcontext()
    name = f"machine{machine}" if task.resources.workers > 1 else None
    return system_metrics(task.run_id, task.tracking_uri, every_secs=every_secs, machine=name)

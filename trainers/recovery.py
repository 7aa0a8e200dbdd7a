"""Training in Ray Train's workers, which may die: the job goes on from its newest checkpoint.

A worker that dies, or loses its machine, takes the others with it; Ray Train starts all of them again, `max_failures`
times. When a machine is gone for good, a job with a range of workers goes on with fewer, and any job waits while too
few are left. The driver may die too: the same command with the same --name goes on.
"""

import dataclasses
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from tfds_builders.records.framing import CorruptRecord
from trainers.config import from_dict
from trainers.errors import CannotTrain
from trainers.home import ray_dir
from trainers.jobs import HISTORY, MODEL, PREDICTIONS, JobFolder
from trainers.worker import Task, train

CHECKPOINTS_KEPT = 2  # the newest ones; each holds the weights of the best epoch as well
INCURABLE = (CannotTrain, CorruptRecord)  # what would happen again in the same way

# What Ray Train, of its own accord, tries again: no room for the workers, or one that died, as with its machine, before
# it trained.
FAILED_STARTS = ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError")


def train_in_workers(task: Task, folder: JobFolder, is_local: bool) -> bool:
    """Trains, from the job's newest checkpoint if there is one, and takes the results into the job's folder.

    Args:
      is_local: on a Ray cluster of this process's own.

    Returns:
      Whether it has trained. A number of workers out of a range may find less room than it was planned for, since a
      machine was lost; Ray Train waits for a fixed number to have room again.

    Raises:
      Refused: the training cannot go on, for a reason that the user can change.
      ray.train.TrainingFailedError: workers died more often than is allowed.
    """
    from ray.train import TrainingFailedError

    cluster = from_dict(task.config).cluster
    is_elastic = len(cluster.worker_counts) > 1
    # How often Ray Train tries again to find room for the workers; -1: for ever.
    failures = {"max_failures": cluster.max_failures, "controller_failure_limit": 0 if is_elastic else -1}
    try:
        with folder.marked() as mark:
            marked = dataclasses.replace(task, folder_mark=mark)
            result = _trainer(marked, folder.name, is_local, failures).fit()
    except TrainingFailedError as error:
        reason = getattr(error, "controller_failure", None)
        if isinstance(reason, INCURABLE):
            raise Refused(str(reason)) from None
        if is_elastic and type(reason).__name__ in FAILED_STARTS:
            return False
        raise
    with result.checkpoint.as_directory() as directory:
        folder.take(Path(directory), (HISTORY, PREDICTIONS, MODEL))
    return True


def _trainer(task: Task, name: str, is_local: bool, failures: dict[str, int]) -> Any:
    """Ray's trainer; one of the same name goes on where the last one ended."""
    from ray.train import (
        CheckpointConfig,
        ControllerError,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        UserCallback,
    )
    from ray.train.tensorflow import TensorflowTrainer

    class LocalTrainer(TensorflowTrainer):
        # Ray Train's cleaner asks the dashboard every second whether the driver lives, which a cluster of our own does
        # not have: it warns each time, and fails loudly where this machine runs other clusters.
        def _create_default_callbacks(self):
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    class NoSecondTry(UserCallback):
        def after_exception(self, run_context, worker_exceptions):
            for error in worker_exceptions.values():
                if isinstance(error, INCURABLE):
                    raise ControllerError(error)  # which Ray Train does not try again

    resources = task.resources
    return (LocalTrainer if is_local else TensorflowTrainer)(
        train,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.gpus),
            resources_per_worker=resources.per_worker(),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(ray_dir()),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            failure_config=FailureConfig(**failures),
            callbacks=[NoSecondTry()],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )

"""Where a job's models are trained: in Ray Train's workers, or, for many small jobs one after another, in this process.

with engine:
    resources = engine.resources(config)
    engine.train(task, folder)
"""

import dataclasses
import functools
import gc
import os
import sys
import time
from typing import Any

from tfds_builders.records.errors import Refused
from tfds_builders.records.ray_address import prepare_ray_address
from trainers.config import Config, from_dict
from trainers.errors import CannotTrain
from trainers.home import ray_dir
from trainers.jobs import HISTORY, MODEL, PREDICTIONS, JobFolder
from trainers.recovery import INCURABLE, train_in_workers
from trainers.strategy import Resources, hide_gpus, plan_resources, prepare_process, usable_gpus
from trainers.worker import Task

RELEASE_SECS = 3.0  # until Ray's count has back what a training that just ended held; usually less than one
_LOOK_SECS = 0.1
LOOK_AGAIN_SECS = 5.0  # for machines, when those that are left have no room


class RayWorkers:
    """Ray Train on the cluster of RAY_ADDRESS, or on the one this process already uses. What was started here ends
    here. TensorFlow in this process, the driver, scores a few images without GPU: Ray gives GPUs to workers."""

    def __init__(self):
        self._address = prepare_ray_address()
        self._is_ours = False

    def __enter__(self) -> "RayWorkers":
        quiet = {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}  # with TensorFlow's logging it prints every line twice
        if self._address == "local":
            quiet["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # nobody takes this machine away
        if not sys.stdout.isatty():
            quiet["RAY_COLOR_PREFIX"] = "0"
        for name, value in quiet.items():
            os.environ.setdefault(name, value)
        import ray

        hide_gpus()
        if ray.is_initialized():
            return self
        self._is_ours = True
        options: dict[str, Any] = {}
        if self._address == "local":
            options = {"include_dashboard": False, "num_gpus": usable_gpus()}
        try:
            # A logging config of the job's own also leaves out the prefix before every line of a worker.
            ray.init(address=self._address, logging_config=ray.LoggingConfig(log_level="WARNING"), **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise Refused(
                f"RAY_ADDRESS must name a running Ray cluster. Received: {self._address} ({reason}). "
                "Start one, or unset RAY_ADDRESS to use this machine alone."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._is_ours:
            ray.shutdown()

    @property
    def job_id(self) -> str:
        """Ray's id of this driver."""
        import ray

        return ray.get_runtime_context().get_job_id()

    def resources(self, config: Config) -> Resources:
        """What each worker is to get on the cluster's machines.

        Raises:
          Refused: there is no room for what was asked for.
        """
        import ray

        return _planned(config, [node["Resources"] for node in ray.nodes() if node["Alive"]])

    def train(self, task: Task, folder: JobFolder) -> None:
        """Trains one model, from its newest checkpoint if there is one, and leaves the results in `folder`; with fewer
        of a range of workers when a machine was lost for good, and when there is room again if all of them were. Waits
        while other jobs hold what it needs, and says so."""
        if held := _held_by_others(task.resources):
            print(
                f"job {folder.name} waits for {held} that other jobs hold; --devices-per-worker and --cpus-per-worker"
                " ask for less than all of a machine",
                flush=True,
            )
        while not train_in_workers(task, folder, self._address == "local"):
            resources = _room_left(from_dict(task.config), task.resources)
            if resources == task.resources:  # other jobs hold what there is, or something ends workers as they begin
                print(f"the workers of {folder.name} did not begin; they are started again", flush=True)
                time.sleep(LOOK_AGAIN_SECS)
            task = dataclasses.replace(task, resources=resources)


def _held_by_others(resources: Resources) -> str:
    """What of the workers' `resources` is not free, such as "2 CPU(s) and 4 GPU(s)"; empty: nothing."""
    import ray

    deadline = time.monotonic() + RELEASE_SECS
    while lacking := resources.lacking(ray.available_resources()):
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_SECS)
    return " and ".join(f"{number:g} {kind}(s)" for kind, number in lacking.items())


class ThisProcess:
    """The same `Training` here, without the 10 seconds that starting a worker takes. All jobs of a process have the
    same devices, since TensorFlow is set up once. What kills the process ends the job, until it is run again."""

    job_id = ""

    def __enter__(self) -> "ThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def resources(self, config: Config) -> Resources:
        """What this process may use of the machine."""
        return _planned(config, [{"CPU": len(os.sched_getaffinity(0)), "GPU": usable_gpus()}])

    def train(self, task: Task, folder: JobFolder) -> None:
        """Trains one model, from its newest checkpoint if there is one, and leaves the results in `folder`."""
        _prepare_once(task.resources, task.config["cluster"]["deterministic"])
        import keras

        from trainers.reports import DirectoryReports
        from trainers.training import Training

        directory = ray_dir() / folder.name
        try:
            Training(task, DirectoryReports(directory)).run()
        except INCURABLE as error:
            raise Refused(str(error)) from None
        finally:
            keras.backend.clear_session()  # else the graphs of all models stay in memory
            gc.collect()
        folder.take(directory / "latest", (HISTORY, PREDICTIONS, MODEL))


@functools.cache
def _prepare_once(resources: Resources, deterministic: bool) -> None:
    try:
        prepare_process(resources, deterministic)
    except CannotTrain as error:
        raise Refused(str(error)) from None
    except RuntimeError:  # TensorFlow has run something already: its devices stay what they are
        pass


def _room_left(config: Config, before: Resources) -> Resources:
    """What each worker is to get on the machines that are left, as soon as they have room: devices as before, since
    training on CPUs what began on GPUs would take days."""
    import ray

    config = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, devices_per_worker=before.devices))
    was_said = False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if before.gpus:
            nodes = [node for node in nodes if node.get("GPU")]
        else:
            nodes = [{"CPU": node.get("CPU", 0)} for node in nodes]
        try:
            return _planned(config, nodes)
        except Refused as refused:
            if not was_said:
                print(f"waiting for machines, of which too few are left: {refused}", flush=True)
            was_said = True
        time.sleep(LOOK_AGAIN_SECS)


def _planned(config: Config, nodes: list[dict[str, float]]) -> Resources:
    options = config.optimiser
    try:
        return plan_resources(config.cluster, nodes, options.global_batch_size, options.accumulate)
    except ValueError as error:
        raise Refused(str(error)) from None

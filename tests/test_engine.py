"""What a job needs of its machines, and how it goes on when some are lost."""

import functools
import platform
from pathlib import Path

import pytest
import ray
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from tfds_builders.records.errors import Refused
from trainers import engine, recovery, worker
from trainers.config import ClusterConfig, Config, OptimiserConfig, to_dict
from trainers.engine import RayWorkers
from trainers.errors import CannotTrain
from trainers.jobs import JobFolder
from trainers.strategy import Resources
from trainers.worker import Task


def task_of(workers: str, resources: Resources, **cluster) -> Task:
    config = Config(
        cluster=ClusterConfig(workers=workers, **cluster), optimiser=OptimiserConfig(global_batch_size=12, epochs=1)
    )
    return Task(to_dict(config), (), "f" * 64, resources)


HEAD, GPU_NODE = {"CPU": 16}, {"CPU": 8, "GPU": 1}


@pytest.mark.parametrize(
    ("before", "looks", "after"),
    [
        # What is left has room: with fewer workers, or as many.
        (Resources(4, 8, 1, 1), [[HEAD, GPU_NODE, GPU_NODE]], Resources(2, 8, 1, 1)),
        (Resources(2, 4, 1, 0), [[{"CPU": 1}]], Resources(1, 1, 1, 0)),
        # Only CPUs are left of machines with GPUs; then one is back.
        (Resources(2, 8, 1, 1), [[HEAD], [HEAD], [HEAD, GPU_NODE]], Resources(1, 8, 1, 1)),
        # GPUs, but fewer than a worker had.
        (Resources(1, 8, 2, 2), [[HEAD, GPU_NODE], [{"CPU": 8, "GPU": 4}]], Resources(2, 4, 2, 2)),
        # Nothing is left.
        (Resources(2, 4, 1, 0), [[], [{"CPU": 0}], [{"CPU": 4}]], Resources(4, 1, 1, 0)),
        # A machine with GPUs has come to a job on CPUs.
        (Resources(2, 4, 1, 0), [[{"CPU": 4}, GPU_NODE]], Resources(4, 2, 1, 0)),
    ],
)
def test_a_job_goes_on_with_devices_of_the_kind_that_it_had(monkeypatch, capsys, before, looks, after):
    """`looks` are the machines that are alive, one look after the other."""
    trained, left = [], iter(looks)
    monkeypatch.setattr(engine, "train_in_workers", lambda task, *_: trained.append(task.resources) or len(trained) > 1)
    monkeypatch.setattr(engine, "LOOK_AGAIN_SECS", 0.0)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 64, "GPU": 8})  # no other job holds any
    monkeypatch.setattr(
        ray,
        "nodes",
        lambda: [
            *({"Alive": True, "Resources": node} for node in next(left)),
            {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}},
        ],
    )
    RayWorkers().train(task_of("1:4", before), JobFolder("lost"))
    assert trained == [before, after]
    assert next(left, None) is None
    said = capsys.readouterr().out
    assert said.count("waiting for machines") == said.count("\n") == int(len(looks) > 1)


@pytest.mark.parametrize(
    ("workers", "error", "goes_on"),
    [
        ("1:2", WorkerGroupStartupTimeoutError(2), True),
        ("1:2", WorkerGroupStartupFailedError("a worker died while it started"), True),
        ("1:2", RuntimeError("something else"), False),
        ("2", WorkerGroupStartupTimeoutError(2), False),  # Ray Train itself waits
    ],
)
def test_a_range_of_workers_that_cannot_start_is_planned_anew(monkeypatch, workers, error, goes_on):
    class Trainer:
        def fit(self):
            raise ControllerError(error)

    monkeypatch.setattr(recovery, "_trainer", lambda *_: Trainer())
    task = task_of(workers, Resources(2, 1, 1, 0))
    train = functools.partial(recovery.train_in_workers, task, JobFolder("unstarted"), is_local=True)
    if goes_on:
        assert train() is False
    else:
        with pytest.raises(ControllerError):
            train()


def test_a_worker_whose_machine_has_another_home_ends_the_job_before_anything_is_built(monkeypatch, realshard_home):
    """What the driver tells the workers holds where its home is seen, and neither where there is none nor where there
    is another under the same path."""
    folder, built = JobFolder("apart"), []
    monkeypatch.setattr("trainers.strategy.prepare_process", lambda *_: built.append(1) or 1 / 0)

    class Trainer:
        def __init__(self, task, *_):
            self.task = task

        def fit(self):
            file = Path(self.task.folder_mark[0])
            assert file.parent == realshard_home / "jobs" / "apart"
            with pytest.raises(ZeroDivisionError):
                worker.train({"task": self.task})
            for text in (None, "a mark of another home"):
                file.unlink() if text is None else file.write_text(text)
                with pytest.raises(CannotTrain, match=rf"share one REALSHARD_HOME.*{platform.node()}.*{folder.path}"):
                    worker.train({"task": self.task})
            raise ControllerError(CannotTrain("as the worker says"))

    monkeypatch.setattr(recovery, "_trainer", Trainer)
    with pytest.raises(Refused, match="as the worker says"):
        recovery.train_in_workers(task_of("2", Resources(2, 1, 1, 0)), folder, is_local=True)
    assert built == [1]
    assert not list(folder.path.iterdir())

"""Jobs with a fixed number of workers on a cluster of several machines, of which one is lost and replaced."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_jobs
from tests.small_dataset import write_dataset
from tests.tiny_jobs import EPOCHS, SPLITS, STEPS_PER_EPOCH, assert_bit_equal, assert_logged_once
from trainers.checkpoints import load_state
from trainers.config import to_dict
from trainers.home import jobs_dir, ray_dir
from trainers.job_result import JobResult

pytestmark = pytest.mark.long

NUM_STEPS = EPOCHS * STEPS_PER_EPOCH
LIMIT_SECS = 120  # for anything waited for
NOTICE_SECS = 20  # from the announcement to the end of a machine: time for a checkpoint, however busy this one is

# The driver, in a process of its own: the machines belong to this one.
DRIVER = """
import json, sys
from tests import tiny_family
from trainers import job, recovery
from trainers.config import from_dict
from trainers.models.families import FAMILIES

FAMILIES["tiny"], recovery.train = tiny_family.FAMILY, tiny_family.train
job.run(from_dict(json.loads(sys.argv[1])))
"""


class Machines:
    """A cluster of raylets: a head that has no CPU, and two machines of one CPU each, with room for a worker each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self.cluster.address
        self.first, self.second = self.add(), self.add()

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1)

    def is_waited_for(self) -> bool:
        """Whether a job waits for room that is not there."""
        groups = self.cluster.global_state.placement_group_table().values()
        return any(group["state"] == "PENDING" for group in groups)

    def is_alive(self, machine: Any) -> bool:
        nodes = self.cluster.global_state.node_table()
        return any(node["Alive"] for node in nodes if node["NodeID"] == machine.node_id)

    def kill(self, machine: Any) -> None:
        """By SIGKILL to its raylet, as if it lost power: its workers end when they notice."""
        machine.all_processes["raylet"][0].process.kill()

    def announce_end(self, machine: Any, secs: int) -> None:
        """Drains it, as clouds do when they take a machine back; those that run Ray take it away after `secs`."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.cluster.address]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
        subprocess.run(
            [*ray, "--node-id", machine.node_id, *why, "--deadline-remaining-seconds", str(secs)],
            check=True,
            timeout=LIMIT_SECS,
        )


@contextlib.contextmanager
def machines() -> Iterator[Machines]:
    started = Machines()
    try:
        yield started
    finally:
        started.cluster.shutdown()


class RunningJob:
    """A job of two workers on the machines, in a process of its own."""

    def __init__(self, data: Path, name: str, address: str, **cluster: Any):
        self.name, self._data = name, data / "toy"
        (self._data / "steps").unlink(missing_ok=True)
        config = tiny_jobs.config(data, name, workers="2", **cluster)
        self._log = data / f"{name}.log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, json.dumps(to_dict(config))],
                env=os.environ | {"RAY_ADDRESS": address},
                stdout=log,
                stderr=log,
            )

    @property
    def steps(self) -> dict[str, list[int]]:
        """{rank: the steps that it has taken, in their order}."""
        file = self._data / "steps"
        taken: dict[str, list[int]] = {"0": [], "1": []}
        for line in file.read_text().splitlines() if file.exists() else ():
            rank, step = line.split()
            taken[rank].append(int(step))
        return taken

    def has_taken(self, step: int) -> bool:
        """Whether both workers have taken the step."""
        return all(step in taken for taken in self.steps.values())

    def checkpoints(self) -> set[int]:
        """The steps that it has checkpoints of."""
        return {load_state(path.parent).step for path in (ray_dir() / self.name).glob("checkpoint_*/state.json")}

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECS
        while not condition():
            assert self._process.poll() is None, f"the job has ended: {self.said[-3000:]}"
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.05)

    def result(self) -> JobResult:
        assert self._process.wait(LIMIT_SECS) == 0, self.said[-3000:]
        return JobResult(**json.loads((jobs_dir() / self.name / "result.json").read_text()))

    def end(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT_SECS)


@pytest.fixture(scope="module")
def data(tmp_path_factory, repository) -> Iterator[Path]:
    """A dataset, and the environment of every raylet and driver of this file."""
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, SPLITS)
    # Short, since Ray's socket names must fit into 107 bytes; and apart from any other Ray of this machine.
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as ray_folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", ray_folder)
        patch.setenv("REALSHARD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", str(repository))
        patch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.1")
        yield root


@pytest.fixture
def job(data):
    """A function that begins a job; when the test ends, however it does, its driver has ended too."""
    with contextlib.ExitStack() as ends:

        def begin(name: str, address: str, **cluster: Any) -> RunningJob:
            begun = RunningJob(data, name, address, **cluster)
            ends.callback(begun.end)
            return begun

        yield begin
        for name in ("hold", "notice"):
            (data / "toy" / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def undisturbed(data) -> JobResult:
    with machines() as cluster:
        running = RunningJob(data, "undisturbed", cluster.address)
        try:
            result = running.result()
        finally:
            running.end()
    assert running.steps == {rank: list(range(1, NUM_STEPS + 1)) for rank in ("0", "1")}
    return result


def test_a_job_whose_machine_dies_goes_on_when_another_joins(undisturbed, data, job):
    (data / "toy" / "hold").write_text("8")  # in the middle of the second epoch
    with machines() as there:
        running = job("died", there.address, checkpoint_steps=2, max_failures=1)
        running.until(lambda: running.has_taken(8))
        there.kill(there.second)
        running.until(lambda: not there.is_alive(there.second) and there.is_waited_for())
        (data / "toy" / "hold").unlink()
        there.add()
        result = running.result()
    for taken in running.steps.values():
        first = taken[8]  # after the restart; the newest checkpoint may not have been whole
        assert first in (6, 8)
        assert taken == [*range(1, 9), *range(first, NUM_STEPS + 1)]
    assert_bit_equal(undisturbed, result)
    assert_logged_once(result)


def test_a_job_whose_machine_is_announced_to_leave_saves_its_work_first(undisturbed, data, job):
    """No checkpoint but this one is due within an epoch."""
    (data / "toy" / "notice").write_text("7")
    (data / "toy" / "hold").write_text("9")
    with machines() as there:
        running = job("announced", there.address, max_failures=0)  # Ray Train counts announced losses apart
        running.until(lambda: running.has_taken(6))
        there.announce_end(there.second, NOTICE_SECS)
        running.until(lambda: running.has_taken(9))
        assert 7 in running.checkpoints()
        running.until(there.is_waited_for)
        (data / "toy" / "hold").unlink()
        there.add()
        result = running.result()
        assert not there.is_alive(there.second)
    assert "resumed after epoch 1, step 7" in running.said
    assert running.steps == {rank: [*range(1, 10), *range(8, NUM_STEPS + 1)] for rank in ("0", "1")}
    assert_bit_equal(undisturbed, result)
    assert_logged_once(result)

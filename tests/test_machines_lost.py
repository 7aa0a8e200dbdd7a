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
NOTICE_SECS = 10  # from the announcement to the end of a machine: time for a checkpoint, however busy this one is
SETTINGS = {
    "RAY_health_check_period_ms": "1000",  # five of them make a machine dead whose raylet does not answer
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3",  # until room is looked for once more
}

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

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address, self._state = self._cluster.address, self._cluster.global_state
        self.present: list[Any] = []

    def complete(self) -> None:
        """Adds as many machines as are not there any more."""
        while len(self.present) < 2:
            self.present.append(self._cluster.add_node(num_cpus=1))

    def kill(self) -> Any:
        """SIGKILL to a machine's raylet, as if it lost power: its worker ends when it notices."""
        machine = self.present.pop()
        machine.all_processes["raylet"][0].process.kill()
        return machine

    def announce_end(self, secs: float) -> Any:
        """Drains a machine, as clouds do before they take it back, here after `secs`."""
        import ray
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        machine, reason = self.present.pop(), DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int(1000 * (time.time() + secs))  # in ms
        control_store = ray._raylet.GcsClient(address=self.address)
        is_accepted, why_not = control_store.drain_node(machine.node_id, reason, "taken back", deadline)
        assert is_accepted, why_not
        return machine

    def has(self, machine: Any) -> bool:
        return any(node["Alive"] for node in self._state.node_table() if node["NodeID"] == machine.node_id)

    def requests(self) -> int:
        """How often jobs have asked for room for their workers."""
        return len(self._state.placement_group_table())

    def end(self) -> None:
        self._cluster.shutdown()


class RunningJob:
    """A job of two workers on the machines, in a process of its own.

    Args:
      waits: what tests/tiny_family.py finds in the files `hold` and `notice`.
    """

    def __init__(self, data: Path, name: str, address: str, waits: dict[str, int], **cluster: Any):
        self.name, self._data, self._waits = name, data / "toy", waits
        (self._data / "steps").unlink(missing_ok=True)
        for file, step in waits.items():
            (self._data / file).write_text(str(step))
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
        """What it has printed, but that Ray Train could not ask the dashboard, of which there is none."""
        lines = self._log.read_text().splitlines()
        return "\n".join(line for line in lines if "Failed to query Ray Train Controller" not in line)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECS
        while not condition():
            assert self._process.poll() is None, f"the job has ended: {self.said[-3000:]}"
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.05)

    def release(self) -> None:
        """Workers that begin from now on wait nowhere."""
        for file in self._waits:
            (self._data / file).unlink(missing_ok=True)

    def result(self) -> JobResult:
        assert self._process.wait(LIMIT_SECS) == 0, self.said[-3000:]
        return JobResult(**json.loads((jobs_dir() / self.name / "result.json").read_text()))

    def end(self) -> None:
        self.release()
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
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield root


@pytest.fixture(scope="module")
def machines(data) -> Iterator[Machines]:
    started = Machines()
    try:
        yield started
    finally:
        started.end()


@pytest.fixture(scope="module")
def run(data, machines):
    """A context manager that begins a job on two machines; at its end, however it comes, the driver has ended too."""

    @contextlib.contextmanager
    def begun(name: str, waits: dict[str, int] | None = None, **cluster: Any) -> Iterator[RunningJob]:
        machines.complete()
        running = RunningJob(data, name, machines.address, waits or {}, **cluster)
        try:
            yield running
        finally:
            running.end()

    return begun


@pytest.fixture(scope="module")
def undisturbed(run) -> JobResult:
    with run("undisturbed") as running:
        result = running.result()
    assert running.steps == {rank: list(range(1, NUM_STEPS + 1)) for rank in ("0", "1")}
    return result


def test_a_job_whose_machine_dies_goes_on_when_another_joins(undisturbed, machines, run):
    """Later than Ray Train looks for room for the first time."""
    with run("died", {"hold": 8}, checkpoint_steps=2, max_failures=1) as running:  # held in the second epoch
        running.until(lambda: running.has_taken(8))
        before, killed = machines.requests(), machines.kill()
        running.until(lambda: machines.requests() >= before + 2)  # the first one was in vain
        assert not machines.has(killed)
        running.release()
        machines.complete()
        result = running.result()
    for taken in running.steps.values():
        first = taken[8]  # after the restart; the newest checkpoint may not have been whole
        assert first in (6, 8)
        assert taken == [*range(1, 9), *range(first, NUM_STEPS + 1)]
    assert_bit_equal(undisturbed, result)
    assert_logged_once(result)


def test_a_job_whose_machine_is_announced_to_leave_saves_its_work_first(undisturbed, machines, run):
    """No checkpoint but this one is due within an epoch. Ray Train counts announced losses apart from failures."""
    with run("announced", {"notice": 7, "hold": 9}, max_failures=0) as running:
        running.until(lambda: running.has_taken(6))
        before, leaving = machines.requests(), machines.announce_end(NOTICE_SECS)
        running.until(lambda: running.has_taken(9))
        assert 7 in running.checkpoints()
        running.until(lambda: machines.requests() >= before + 2)
        running.release()
        machines.complete()
        result = running.result()
    assert not machines.has(leaving)
    assert "resumed after epoch 1, step 7" in running.said
    assert running.steps == {rank: [*range(1, 10), *range(8, NUM_STEPS + 1)] for rank in ("0", "1")}
    assert_bit_equal(undisturbed, result)
    assert_logged_once(result)

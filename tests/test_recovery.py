"""Jobs in real Ray Train workers: one or two, one or two devices, undisturbed or killed; all give the same result."""

import dataclasses
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import tiny_family, tiny_jobs
from tests.small_dataset import write_dataset
from tests.test_damage import damage
from tests.test_options import EVERY_OPTION
from tests.tiny_jobs import (
    BATCH,
    EPOCHS,
    SEED,
    SPLITS,
    STEPS_PER_EPOCH,
    assert_bit_equal,
    assert_close,
    assert_logged_once,
    outcome,
)
from tfds_builders.records.errors import Refused
from trainers import job
from trainers.checkpoints import load_state
from trainers.config import from_dict
from trainers.dataset import load
from trainers.home import jobs_dir, ray_dir
from trainers.inputs import training_batches
from trainers.jobs import JobFolder
from trainers.models.families import FAMILIES
from trainers.order import Order
from trainers.recovery import train_in_workers
from trainers.reports import unstored_dir
from trainers.strategy import Resources
from trainers.worker import Task

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, SPLITS)
    return root


@pytest.fixture(scope="module")
def jobs(ray_session, data, tmp_path_factory):
    """A function that runs a job of the tiny family; all of them in one REALSHARD_HOME."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setitem(FAMILIES, "tiny", tiny_family.FAMILY)
        patch.setattr("trainers.recovery.train", tiny_family.train)

        def run(
            name: str, deaths: str = "", weights: str = "none", order: str = "plain", optimiser=None, **cluster
        ) -> job.JobResult:
            config = tiny_jobs.config(data, name, optimiser, order=order, weights=weights, **cluster)
            (data / "toy" / "deaths").write_text(f"{deaths}\n")
            result = job.run(config)
            assert not (data / "toy" / "deaths").read_text().strip()  # all of them have happened
            return result

        yield run


@pytest.fixture(scope="module")
def undisturbed(jobs) -> job.JobResult:
    return jobs("undisturbed")


@pytest.fixture(scope="module")
def undisturbed_pair(jobs) -> job.JobResult:
    """Two workers. How many CPUs they have sets the order of sums, and so the last bits."""
    return jobs("pair", workers="1:4", cpus_per_worker=2)  # there is room for two with two CPUs each


def test_two_devices_give_what_one_gives(jobs, undisturbed):
    assert_close(undisturbed, jobs("devices", devices_per_worker=2))


def test_two_workers_give_what_one_gives(undisturbed, undisturbed_pair):
    assert_close(undisturbed, undisturbed_pair)
    assert_logged_once(undisturbed_pair)
    predictions = pq.read_table(Path(undisturbed_pair.directory) / "predictions.parquet")
    assert predictions.num_rows == len(set(predictions["id"].to_pylist())) == SPLITS["validation"] + SPLITS["test"]


def test_two_workers_give_what_two_devices_give_with_every_option(jobs):
    """Of as many replicas: a batch normalisation that is trained sees the parts of accumulation one by one."""
    options = EVERY_OPTION | {"head_epochs": 1}
    devices = jobs("every-devices", devices_per_worker=2, optimiser=options)
    workers = jobs("every-workers", workers="2", optimiser=options)
    assert_close(devices, workers)
    assert all(entry["train/gradient_norm"] > 0 for entry in outcome(workers)[1])


def test_two_workers_scale_a_loss_in_half_precision_as_two_devices_do(jobs):
    options = {"epochs": 1, "precision": "mixed_float16", "clip_norm": 0.1, "accumulate": 2}
    devices = jobs("half-devices", devices_per_worker=2, order="balanced", optimiser=options)
    workers = jobs("half-workers", workers="2", order="balanced", optimiser=options)
    (expected,), (found,) = outcome(devices)[1], outcome(workers)[1]
    assert found["train/loss_scale"] == expected["train/loss_scale"] == 2.0**15
    assert found["train/gradient_norm"] == pytest.approx(expected["train/gradient_norm"], rel=0.05)
    assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=0.02)


def test_one_worker_at_a_time_fetches_weights(jobs, undisturbed, data):
    """And what was built to fetch them leaves no trace in the model's first weights."""
    assert_close(undisturbed, jobs("fetching", weights="imagenet", workers="2"))
    first, first_ends, second, second_ends = (data / "toy" / "fetches").read_text().splitlines()
    assert first.split()[0] != second.split()[0]
    assert (first_ends, second_ends) == (first.replace("begins", "ends"), second.replace("begins", "ends"))


def test_worker_killed_at_ten_random_steps_changes_nothing(jobs, undisturbed):
    steps = sorted(random.Random(SEED).sample(range(1, EPOCHS * STEPS_PER_EPOCH + 1), 10))
    deaths = "\n".join(f"0 {step}" for step in steps)
    result = jobs("killed", deaths, checkpoint_steps=2, max_failures=len(steps))
    assert_bit_equal(undisturbed, result)
    assert_logged_once(result)


def test_either_of_two_workers_killed_changes_nothing(jobs, undisturbed_pair):
    """With operations that are deterministic on every kind of device, which change no bit on this one."""
    options = {"workers": "2", "cpus_per_worker": 2, "checkpoint_steps": 3, "deterministic": True}
    result = jobs("killed-pair", "0 7\n1 11", **options)
    assert_bit_equal(undisturbed_pair, result)
    assert_logged_once(result)


def test_job_whose_only_worker_died_too_often_goes_on_with_two(jobs, undisturbed, data):
    from ray.train import TrainingFailedError

    left_by_a_kill = unstored_dir(ray_dir() / "moved") / "x"
    left_by_a_kill.mkdir(parents=True)
    with pytest.raises(TrainingFailedError):
        jobs("moved", "0 13\n0 13", max_failures=1, checkpoint_steps=2)  # in the third epoch
    assert not left_by_a_kill.exists()
    assert not (jobs_dir() / "moved" / "result.json").exists()
    states = [load_state(path.parent) for path in (ray_dir() / "moved").glob("checkpoint_*/state.json")]
    step = max(state.step for state in states)
    assert step in (10, 12)  # the newest checkpoint may not have been whole
    records = load(data / "toy" / "1.0.0").select("train")
    order = Order(len(records), BATCH, SEED)
    parts = [
        training_batches(
            records, order, image_size=32, seed=SEED, first_step=step, num_steps=3, worker=worker, num_workers=2
        )
        for worker in (0, 1)
    ]
    rows = [np.concatenate([a["row"], b["row"]]) for a, b in zip(*parts, strict=True)]
    ids = np.array(records.ids())
    for offset, row in enumerate(rows):
        assert ids[row].tolist() == ids[order.batch(step + offset)[0]].tolist()
    result = jobs("moved", workers="2")
    assert_close(undisturbed, result)
    assert_logged_once(result)


def test_a_worker_that_waits_for_its_images_says_so_though_the_first_one_has_them(jobs, undisturbed_pair, data, capfd):
    (data / "toy" / "slow").write_text("1")
    try:
        result = jobs("slow", workers="2", cpus_per_worker=2)
    finally:
        (data / "toy" / "slow").unlink()
    assert_bit_equal(undisturbed_pair, result)
    history = json.loads((Path(result.directory) / "history.json").read_text())
    assert max(entry["train/data_wait_share"] for entry in history) > 0.3
    said = [line for line in capfd.readouterr().out.splitlines() if "is the bottleneck" in line]
    assert len(said) == 1
    assert f"on {platform.node()}, where worker 1 runs, the input is the bottleneck" in said[0]
    assert "slowest is augment" in said[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_record_ends_a_job_of_two_workers_in_one_sentence(jobs, undisturbed, data, tmp_path, split):
    """Whichever worker reads it, and whatever the other one, left alone by it, says."""
    shutil.copytree(data, tmp_path / "copy")
    shard, offset, id = damage(tmp_path / "copy" / "toy" / "1.0.0", split, 5)
    config = from_dict(json.loads((Path(undisturbed.directory) / "config.json").read_text())["config"])
    damaged = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data_dir=str(tmp_path / "copy")),
        cluster=dataclasses.replace(config.cluster, workers="2"),
        job=dataclasses.replace(config.job, name=f"damaged-{split}"),
    )
    with pytest.raises(Refused, match=f"{shard}, offset {offset}, id {id!r}"):
        job.run(damaged)


@pytest.mark.parametrize("wrong", ["absent", "another"])
def test_a_dataset_that_a_workers_machine_lacks_ends_the_job_in_one_sentence(jobs, undisturbed, tmp_path, wrong):
    """As if the driver's machine had it, and the worker's had none, or another one under the same path."""
    if wrong == "another":
        write_dataset(tmp_path, SPLITS, seed=1)
    told = json.loads((Path(undisturbed.directory) / "config.json").read_text())
    there = (str(tmp_path / "toy" / "1.0.0"),)
    task = Task(told["config"], there, told["fingerprint"], Resources(1, 1, 1, 0))
    says = {"absent": "holds no dataset_info.json", "another": "must be the one that the job began with"}[wrong]
    with pytest.raises(Refused, match=rf"^on {platform.node()}, where a worker runs: .*{says}") as caught:
        train_in_workers(task, JobFolder(f"lacking-{wrong}"), is_local=True)
    assert "\n" not in str(caught.value)


# A cluster of two machines of which one is lost for good, in a process of its own: this one has a Ray already.
LOSES_A_MACHINE = """
import json, os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from tests import tiny_family
from trainers import job, recovery
from trainers.config import from_dict
from trainers.home import ray_dir
from trainers.models.families import FAMILIES

FAMILIES["tiny"], recovery.train = tiny_family.FAMILY, tiny_family.train
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
second = cluster.add_node(num_cpus=2)
ray.init(address=cluster.address)

def lose():
    while not any((ray_dir() / "shrunk").glob("checkpoint_*/state.json")):
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)

threading.Thread(target=lose, daemon=True).start()
job.run(from_dict(json.loads(sys.argv[1])))
ray.shutdown()
cluster.shutdown()
"""


def test_job_that_loses_a_machine_goes_on_with_fewer_workers(undisturbed, jobs, repository):
    config = json.loads((Path(undisturbed.directory) / "config.json").read_text())["config"]
    config["job"]["name"] = "shrunk"
    config["optimiser"]["steps_per_call"] = 1
    config["cluster"] |= {"workers": "1:2", "cpus_per_worker": 2, "checkpoint_steps": 1}
    environment = os.environ | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10", "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", LOSES_A_MACHINE, json.dumps(config)]
    done = subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2 replica(s)" in done.stdout
    assert "1 replica(s)" in done.stdout
    shrunk = dataclasses.replace(undisturbed, name="shrunk", directory=str(jobs_dir() / "shrunk"))
    assert_close(undisturbed, shrunk)

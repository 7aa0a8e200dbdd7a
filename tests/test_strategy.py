"""Which devices a worker gets, and what is refused when they are not there."""

import os
import re
import subprocess
import sys

import pytest
import ray
import tensorflow as tf

from tests.small_dataset import write_dataset
from trainers import strategy
from trainers.config import ClusterConfig
from trainers.engine import RayWorkers
from trainers.errors import CannotTrain
from trainers.strategy import Resources, describe, make_strategy, plan_resources, prepare_process


@pytest.mark.parametrize(
    ("cluster", "nodes", "expected"),
    [
        (ClusterConfig(), [{"CPU": 2}], Resources(1, 2, 1, 0)),
        (ClusterConfig(devices_per_worker=2), [{"CPU": 2}], Resources(1, 2, 2, 0)),
        (ClusterConfig(workers="2"), [{"CPU": 2}], Resources(2, 1, 1, 0)),
        (ClusterConfig(workers="3"), [{"CPU": 4}, {"CPU": 3}], Resources(3, 2, 1, 0)),
        (ClusterConfig(), [{"CPU": 8, "GPU": 4}], Resources(1, 8, 4, 4)),
        (ClusterConfig(workers="2"), [{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 4}], Resources(2, 8, 4, 4)),
        (ClusterConfig(workers="2", devices_per_worker=1), [{"CPU": 8, "GPU": 4}], Resources(2, 2, 1, 1)),
        (ClusterConfig(devices_per_worker=1), [{"CPU": 64, "GPU": 8}], Resources(1, 8, 1, 1)),  # an eighth of it
        (ClusterConfig(), [{"CPU": 64}, {"CPU": 8, "GPU": 1}], Resources(1, 8, 1, 1)),  # the head has no GPU
        (ClusterConfig(workers="2"), [{"CPU": 64}, {"CPU": 9, "GPU": 2}], Resources(2, 4, 1, 1)),
        (ClusterConfig(workers="1:4"), [{"CPU": 64, "GPU": 2}, {"CPU": 8, "GPU": 1}], Resources(3, 8, 1, 1)),
        (ClusterConfig(workers="4"), [{"CPU": 2, "GPU": 4}, {"CPU": 2, "GPU": 2}], Resources(4, 1, 1, 1)),
        (ClusterConfig(cpus_per_worker=64), [{"CPU": 64, "GPU": 8}], Resources(1, 64, 8, 8)),
        (ClusterConfig(workers="1:4"), [{"CPU": 2}], Resources(2, 1, 1, 0)),  # there is room for two
        (ClusterConfig(workers="1:4"), [{"CPU": 2}, {"CPU": 1}], Resources(3, 1, 1, 0)),
        (ClusterConfig(workers="1:5"), [{"CPU": 8}], Resources(4, 2, 1, 0)),  # five cannot share 24
        (ClusterConfig(workers="1:5", cpus_per_worker=3), [{"CPU": 8}], Resources(2, 3, 1, 0)),
        (ClusterConfig(workers="1:4"), [{"CPU": 8, "GPU": 5}] * 2, Resources(4, 4, 2, 2)),
    ],
)
def test_resources_follow_from_the_machines(cluster, nodes, expected):
    assert plan_resources(cluster, nodes, global_batch_size=24) == expected


@pytest.mark.parametrize(
    ("cluster", "nodes", "says"),
    [
        (ClusterConfig(cpus_per_worker=3), [{"CPU": 2}], "must fit into the Ray cluster"),
        (ClusterConfig(workers="3"), [{"CPU": 2}], "must fit into the Ray cluster"),
        (ClusterConfig(workers="3:4"), [{"CPU": 2}], "3 worker.* must fit into the Ray cluster"),
        (ClusterConfig(devices_per_worker=4), [{"CPU": 2, "GPU": 2}], "must fit into the Ray cluster"),
        (ClusterConfig(cpus_per_worker=9), [{"CPU": 64}, {"CPU": 8, "GPU": 1}], "must fit into the Ray cluster"),
        (ClusterConfig(workers="5"), [{"CPU": 8}], "number of replicas, 5"),
        (ClusterConfig(workers="2", devices_per_worker=2), [{"CPU": 8}], "--workers 4"),
    ],
)
def test_workers_that_do_not_fit_are_refused(cluster, nodes, says):
    with pytest.raises(ValueError, match=says):
        plan_resources(cluster, nodes, global_batch_size=24)


@pytest.mark.parametrize(
    ("free", "lacking"),
    [
        ({"CPU": 16, "GPU": 4, "memory": 1e9}, {}),
        ({"CPU": 16, "GPU": 1}, {"GPU": 3}),
        ({"CPU": 7.5}, {"CPU": 0.5, "GPU": 4}),  # Ray leaves out what is not there
    ],
)
def test_what_is_not_free_is_what_workers_lack(free, lacking):
    assert Resources(workers=2, cpus=4, devices=2, gpus=2).lacking(free) == lacking


def test_sentence_says_how_the_batch_is_shared():
    sentence = describe(Resources(2, 1, 2, 0), 32)
    assert re.search(r"4 replica\(s\) x 8 images = global batch of 32", sentence)
    with pytest.raises(ValueError, match="take 28 or 32"):
        describe(Resources(2, 1, 2, 0), 30)


@pytest.mark.parametrize("devices", [1, 4])
def test_gpus_that_tensorflow_does_not_see_are_refused(devices, monkeypatch):
    """Ray counts a machine's GPUs; an installation without GPU packages sees none of them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(CannotTrain, match=rf"the {devices} GPU.* Received: 0 on .*\.\[gpu\]") as caught:
        prepare_process(Resources(1, 1, devices, devices))
    assert "CUDA_VISIBLE_DEVICES= " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "seen", "warns"), [(None, 0, True), ("0,1", 0, True), ("", 0, False), ("-1", 0, False), (None, 4, False)]
)
def test_gpus_that_tensorflow_does_not_see_are_said_to_be_there(chosen, seen, warns, monkeypatch, tmp_path, capsys):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(strategy, "DEVICE_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert strategy.usable_gpus() == seen
    said = capsys.readouterr().out
    assert bool(said) == warns
    if warns:
        assert "EXTRAS=dev,gpu" in said
        assert "CUDA_VISIBLE_DEVICES=" in said
    (tmp_path / "nvidia0").unlink()
    (tmp_path / "nvidia1").unlink()
    strategy.usable_gpus()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("seen", [0, 2])
def test_a_ray_of_our_own_counts_the_gpus_that_tensorflow_sees(seen, monkeypatch):
    """Left to itself Ray would count those that NVIDIA's driver knows, and jobs be refused by their workers."""
    told = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: told.update(given))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * seen)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: None)
    with RayWorkers():
        assert (told["address"], told["num_gpus"]) == ("local", seen)


@pytest.mark.parametrize("resources", [Resources(2, 1, 1, 0), Resources(2, 1, 4, 4)])
def test_a_strategy_with_other_replicas_than_planned_is_refused(resources):
    """Without Ray's TF_CONFIG a worker is alone, and takes its share of the batch for the whole."""
    with pytest.raises(CannotTrain, match=rf"must make {resources.replicas} replicas. Received: 1"):
        make_strategy(resources)


# A cluster whose head has no GPU, as usual, and a machine with one that only Ray counts. In a process of its own, since
# this one may have a Ray already.
COUNTS_A_GPU = """
import sys
import ray
from ray.cluster_utils import Cluster
from trainers import job
from trainers.config import Config, DataConfig, ModelConfig, OptimiserConfig

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
cluster.add_node(num_cpus=2, num_gpus=1)
ray.init(address=cluster.address)
job.run(
    Config(
        data=DataConfig(dataset="toy", data_dir=sys.argv[1]),
        model=ModelConfig(weights="none", image_size=32),
        optimiser=OptimiserConfig(epochs=1, global_batch_size=8),
    )
)
"""


@pytest.mark.long
def test_a_job_on_a_gpu_without_gpu_packages_ends_in_one_sentence(repository, realshard_home, tmp_path):
    write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11})
    command = [sys.executable, "-c", COUNTS_A_GPU, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "-1"}  # which Ray takes for one
    done = subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, timeout=300)
    assert "1 worker(s) with 1 GPU device(s) each" in done.stdout, done.stderr[-3000:]
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("TensorFlow must see the 1 GPU(s) that Ray")]
    assert len(told) == 1  # without a traceback, and not tried again

"""Replicas: which devices a worker has, and the tf.distribute strategy over them.

One worker: MirroredStrategy over its GPUs or logical CPU devices. Several: MultiWorkerMirroredStrategy, whose
replicas are the devices of all workers. A Ray worker calls `prepare_process` before anything runs in TensorFlow.
"""

import contextlib
import glob
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.checks import check_global_batch
from trainers.config import ClusterConfig
from trainers.errors import CannotTrain
from trainers.output import silent_stderr

DEVICE_FILES = "/dev/nvidia[0-9]*"  # NVIDIA's driver makes one for each GPU


@dataclass(frozen=True)
class Resources:
    """What each worker gets."""

    workers: int
    cpus: int  # of each worker
    devices: int  # of each worker: replicas
    gpus: int  # of each worker: 0 or `devices`

    @property
    def replicas(self) -> int:
        """Over all workers."""
        return self.workers * self.devices

    def per_worker(self) -> dict[str, float]:
        """As Ray counts them."""
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}

    def lacking(self, free: Mapping[str, float]) -> dict[str, float]:
        """How much more than what is `free` all workers need together, by kind; kinds of which there is enough left
        out."""
        missing = {kind: self.workers * each - free.get(kind, 0) for kind, each in self.per_worker().items()}
        return {kind: number for kind, number in missing.items() if number > 0}


def plan_resources(
    cluster: ClusterConfig, nodes: Sequence[Mapping[str, float]], global_batch_size: int, accumulate: int = 1
) -> Resources:
    """What each worker is to get on these machines. Of a range of workers the largest number that will do is taken.

    Args:
      cluster: what was asked for; zeros mean as much as there is.
      nodes: for each machine of the Ray cluster, its resources {"CPU": ..., "GPU": ...}.
      global_batch_size, accumulate: what the replicas must be able to share equally, each in so many parts.

    Raises:
      ValueError: the machines cannot hold the workers, or the replicas cannot share the global batch.
    """
    for workers in reversed(cluster.worker_counts):
        try:
            resources = _resources_of(workers, cluster, nodes)
            check_global_batch(global_batch_size, resources.replicas, accumulate)
            return resources
        except ValueError as error:
            refusal = error
    raise refusal  # why not even the smallest number will do


def _resources_of(workers: int, cluster: ClusterConfig, nodes: Sequence[Mapping[str, float]]) -> Resources:
    gpus_a_node = [int(node.get("GPU", 0)) for node in nodes]
    gpus = 0
    if any(gpus_a_node):
        gpus = cluster.devices_per_worker or _largest_share(gpus_a_node, workers) or 1
    elif workers > 1 and cluster.devices_per_worker > 1:
        raise ValueError(
            f"several workers without GPUs must have one device each. Received: {workers} workers with "
            f"{cluster.devices_per_worker} devices. Take --workers {workers * cluster.devices_per_worker} and "
            "--devices-per-worker 1."
        )
    cpus_a_node = [int(node.get("CPU", 0)) for node in nodes]
    if gpus:  # of a machine's CPUs, those that go with a worker's share of its GPUs
        places = [node_gpus // gpus for node_gpus in gpus_a_node]
        shares = sorted((n // k for n, k in zip(cpus_a_node, places, strict=True) for _ in range(k)), reverse=True)
        most_cpus = shares[workers - 1] if len(shares) >= workers else 0
    else:
        places = [workers] * len(nodes)
        most_cpus = _largest_share(cpus_a_node, workers)
    cpus = cluster.cpus_per_worker or most_cpus or 1
    room = sum(min(n // cpus, k) for n, k in zip(cpus_a_node, places, strict=True))
    if room < workers:
        there = f"{sum(cpus_a_node)} CPUs and {sum(gpus_a_node)} GPUs on {len(nodes)} machine(s)"
        raise ValueError(
            f"{workers} worker(s) with {cpus} CPU(s) and {gpus} GPU(s) each must fit into the Ray cluster. "
            f"Received: {there}. Lower --workers, --devices-per-worker or --cpus-per-worker."
        )
    return Resources(workers, cpus, gpus or cluster.devices_per_worker or 1, gpus)


def _largest_share(amounts: Sequence[int], workers: int) -> int:
    """The largest number that `workers` workers can each have, every one of them on a single machine."""
    shares = range(max(amounts, default=0), 0, -1)
    return next((share for share in shares if sum(amount // share for amount in amounts) >= workers), 0)


def prepare_process(resources: Resources, deterministic: bool = False) -> None:
    """Sets this process up for its devices; only possible before TensorFlow has run anything.

    Args:
      resources: its devices.
      deterministic: take operations that give the same bits every time.

    Raises:
      CannotTrain: TensorFlow does not see the GPUs that it has here.
    """
    # Ray asks for the old Keras and names the cluster even when there is one worker.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    if resources.workers == 1:
        os.environ.pop("TF_CONFIG", None)
    os.environ["OMP_NUM_THREADS"] = str(resources.cpus)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.get_logger().setLevel("WARNING")
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) < resources.gpus:  # Ray counts GPUs by itself; TensorFlow would train on the CPU and say nothing
        raise CannotTrain(
            f"TensorFlow must see the {resources.gpus} GPU(s) that Ray gave to this worker. Received: {len(gpus)} on "
            f"{platform.node()}. Install realshard there with its GPU packages, .[gpu] (`make install EXTRAS=dev,gpu`),"
            " and NVIDIA's driver, or start Ray there with CUDA_VISIBLE_DEVICES= in its environment to train on CPUs."
        )
    # On newer GPUs products are rounded to 10 bits unless told otherwise. Who wants speed takes --precision.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(resources.cpus)
    take_gpu_memory_as_needed()
    if not resources.gpus:
        tf.config.set_visible_devices([], "GPU")
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * resources.devices)


def usable_gpus() -> int:
    """How many GPUs of this machine TensorFlow sees. Warns if it sees none of those that are there: NVIDIA's driver, by
    which Ray counts, knows them, but TensorFlow needs the libraries of the extra `gpu` as well."""
    with silent_stderr():  # TensorFlow says much when it is imported
        import tensorflow as tf

        seen = len(tf.config.list_physical_devices("GPU"))
    are_wanted = os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")
    if not seen and are_wanted and glob.glob(DEVICE_FILES):
        print(
            "warning: TensorFlow sees none of the GPUs of this machine, CPUs take their place: install its GPU "
            "packages, .[gpu] (`make install EXTRAS=dev,gpu`), or set CUDA_VISIBLE_DEVICES= if CPUs are meant",
            flush=True,
        )
    return seen


def take_gpu_memory_as_needed() -> None:
    """Else TensorFlow takes all of it when it begins, and no second process or model beside it would find room."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has begun
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def hide_gpus() -> None:
    """Leaves the GPUs to others: TensorFlow takes all of them in each process, unless it has begun with them."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has begun
        tf.config.set_visible_devices([], "GPU")


def make_strategy(resources: Resources) -> Any:
    """The tf.distribute strategy over this process's devices, and over those of the other workers if there are any.

    Raises:
      CannotTrain: it has other replicas than were planned for, so that losses would be divided by the wrong batch.
    """
    strategy = _strategy_of(resources)
    if strategy.num_replicas_in_sync != resources.replicas:
        raise CannotTrain(
            f"{resources.workers} worker(s) with {resources.devices} device(s) each must make {resources.replicas} "
            f"replicas. Received: {strategy.num_replicas_in_sync}, as seen from {platform.node()}. Let Ray give each "
            "worker its own GPUs (CUDA_VISIBLE_DEVICES), or lower --devices-per-worker."
        )
    return strategy


def _strategy_of(resources: Resources) -> Any:
    import tensorflow as tf

    if resources.workers > 1:
        implementation = tf.distribute.experimental.CommunicationImplementation
        chosen = implementation.NCCL if resources.gpus else implementation.RING
        options = tf.distribute.experimental.CommunicationOptions(implementation=chosen)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    if resources.gpus:
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(resources.devices)])
    # Logical CPU devices share their memory: summing on one of them beats collectives, whose instance keys, moreover,
    # clash when a process makes several strategies.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(resources.devices)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def of_all_replicas(strategy: Any, value: float) -> np.ndarray:
    """float32 [replicas]: the number that each one's worker has given, by rank. All workers must call it."""
    import tensorflow as tf

    @tf.function
    def gathered(number):
        return strategy.gather(strategy.run(lambda number: number[None], (number,)), axis=0)

    return gathered(tf.constant(value, tf.float32)).numpy()


def describe(resources: Resources, global_batch_size: int) -> str:
    """One sentence: what trains, and how the batch is shared.

    Raises:
      ValueError: the replicas cannot share the global batch equally.
    """
    share = check_global_batch(global_batch_size, resources.replicas)
    kind = "GPU" if resources.gpus else "CPU"
    return (
        f"{resources.workers} worker(s) with {resources.devices} {kind} device(s) each: {resources.replicas} replica(s)"
        f" x {share} images = global batch of {global_batch_size}"
    )

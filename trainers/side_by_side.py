"""Several jobs at once on one machine, each on its own cores or GPU: a small network leaves half of two cores idle.

    for training, trained in train(trainings, fingerprint, parent, logs, at_once=2): ...

There are `at_once` processes, each trains one job after another; they end with this one.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event
from pathlib import Path

from tfds_builders.records.errors import Refused
from trainers import tracking
from trainers.config import Config, to_dict
from trainers.job import run
from trainers.job_result import JobResult
from trainers.jobs import MODEL
from trainers.output import STDERR, STDOUT, redirected
from trainers.run_logger import RunLogger
from trainers.strategy import usable_gpus
from trainers.timing import images_per_second

Name = tuple[str, str]  # family, variant
INFERENCE = "inference/images_per_second"
_BATCH_IMAGES = 32
_GRACE_SECS = 10  # for a training to say in MLflow that it was interrupted
_TIMED_SECS = 1.0


@dataclass(frozen=True)
class Training:
    """What one job trains."""

    family: str
    variant: str
    seed: int
    config: Config  # without a name

    @property
    def name(self) -> Name:
        """Family and variant."""
        return self.family, self.variant

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.family} {self.variant}, seed {self.seed}"

    def job_name(self, fingerprint: str) -> str:
        """The same for the same training on the same dataset, so that it is found again."""
        key = hashlib.sha256(json.dumps([to_dict(self.config), fingerprint]).encode()).hexdigest()[:8]
        return f"compare-{self.family}-{self.variant}-{self.seed}-{key}"


@dataclass(frozen=True)
class Trained:
    """What it gave."""

    result: JobResult
    parameters: int
    inference_rate: float  # images/s of the network alone, in batches of 32, on the job's cores


def train(
    trainings: Sequence[Training], fingerprint: str, parent: str, logs: Path, at_once: int | None = None
) -> Generator[tuple[Training, Trained]]:
    """Trains what is not trained yet.

    Args:
      trainings: in the order in which they are begun.
      fingerprint: of their dataset; it is a part of the jobs' names.
      parent: the MLflow run that theirs are children of.
      logs: folder, made if need be: a file a training, with what it prints.
      at_once: so many at a time; each gets an equal share of the cores that this process may use, and a GPU of its own
        if there are any. None: two, if there is enough of both.

    Yields:
      Each training and what it gave, in the order in which they end.

    Raises, after interrupting the trainings that go on:
      Refused: by a job; more at once than there are cores or GPUs; a job's process was killed. The run of a training
        whose process was killed, or did not end in time, is still RUNNING then.
    """
    cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
    most = min(len(cores), len(gpus) or len(cores))
    at_once = min(2, most) if at_once is None else at_once
    if not 1 <= at_once <= most:
        raise Refused(f"--at-once must be 1 to {most}, a core and, if there are any, a GPU each. Received: {at_once}.")
    logs.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    shares = spawn.SimpleQueue()
    size = len(cores) // at_once
    for place in range(at_once):
        shares.put((cores[place * size : (place + 1) * size], gpus[place] if gpus else None))
    others = set(multiprocessing.active_children())
    is_over = spawn.Event()
    pool = ProcessPoolExecutor(at_once, spawn, _begin, (shares, is_over))
    jobs = {pool.submit(_train, training, fingerprint, parent, logs): training for training in trainings}
    try:
        for job in as_completed(jobs):
            if not isinstance(job.exception(), KeyboardInterrupt):  # of what did not begin; the reason follows
                yield jobs[job], _result(job, jobs[job], logs)
        if is_over.is_set():
            raise KeyboardInterrupt
    except BrokenProcessPool:
        raise Refused(
            "The process of a training must not be killed; most often the machine has no memory left. Received: "
            f"one was (logs: {logs}). Give the same command again, it goes on; --at-once 1 takes less memory."
        ) from None
    except BaseException as error:
        is_over.set()
        processes = set(multiprocessing.active_children()) - others
        try:
            if not isinstance(error, KeyboardInterrupt):  # which the terminal sends to all of them
                for process in processes:
                    os.kill(process.pid or 0, signal.SIGINT)
            wait(jobs, _GRACE_SECS)
        finally:  # Python loses an interrupt that falls into a callback; what is killed here is gone on with later
            for process in processes:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs of this process."""
    count = usable_gpus()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def _result(job: Future, training: Training, logs: Path) -> Trained:
    try:
        return job.result()
    except Refused as error:
        raise Refused(f"{training.title}: {error} (its log: {_log_of(training, logs)})") from None


def _log_of(training: Training, logs: Path) -> Path:
    return logs / f"{training.family}-{training.variant}-{training.seed}.log"


# -- in a process of its own --

_is_over: Event | None = None  # set when nothing more is to begin: the pool hands out some jobs in advance


def _begin(shares: "multiprocessing.SimpleQueue[tuple[list[int], str | None]]", is_over: Event) -> None:
    global _is_over
    _is_over = is_over
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between two jobs
    cores, gpu = shares.get()
    os.sched_setaffinity(0, cores)  # before TensorFlow counts them
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    outside = multiprocessing.parent_process()
    assert outside

    def end_with_it() -> None:  # killed, it cannot end us
        outside.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _train(training: Training, fingerprint: str, parent: str, logs: Path) -> Trained:
    if _is_over and _is_over.is_set():
        raise KeyboardInterrupt
    print(f"{training.title} ...", flush=True)
    config = training.config
    name = training.job_name(fingerprint)
    with redirected(_log_of(training, logs), STDOUT, STDERR), _interruptible():
        try:
            result = run(replace(config, job=replace(config.job, name=name)), parent=parent, here=True)
            return Trained(result, *_network_facts(result))
        except BaseException:
            if _is_over:  # at once: before the next job is taken
                _is_over.set()
            raise


@contextmanager
def _interruptible() -> Iterator[None]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _network_facts(result: JobResult) -> tuple[int, float]:
    """Parameters, and images/s of the saved model alone, without decoding; measured once, then read from the run."""
    known = tracking.client_of().get_run(result.run_id).data.metrics
    if INFERENCE not in known:
        import keras
        import tensorflow as tf

        model = keras.models.load_model(Path(result.directory) / MODEL, compile=False)
        judge = tf.function(lambda pixels: model(pixels, training=False))
        images = tf.zeros((_BATCH_IMAGES, *model.input.shape[1:]), tf.uint8)
        speed = images_per_second(lambda pixels: judge(pixels).numpy(), images, _TIMED_SECS)
        facts = {INFERENCE: speed, "parameters": model.count_params()}
        logger = RunLogger(result.run_id)
        logger.epoch(result.best_epoch, facts)
        logger.flush()
        keras.backend.clear_session()
        known = facts
    return int(known["parameters"]), known[INFERENCE]

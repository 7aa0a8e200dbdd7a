"""How busy the training machines are, in the job's run: what MLflow's monitor measures, as metrics `system/...`.

CPU, memory, disk, network, and GPUs where `nvidia-ml-py` is installed (the extra `gpu`). MLflow's own thread asks the
server about the run before each sample and so stops measuring while that is away; this one does not.
"""

import contextlib
import threading
from collections.abc import Iterator

from trainers.run_logger import SYSTEM_METRICS, RunLogger
from trainers.tracking import mlflow_module


@contextlib.contextmanager
def system_metrics(run_id: str, uri: str, *, every_secs: float, machine: str | None = None) -> Iterator[None]:
    """Samples this machine from beginning to end, in a thread. The steps count the samples; a resumed job goes on
    counting.

    Args:
      run_id: of MLflow.
      uri: of the store.
      every_secs: between two samples, of which the first comes after as long.
      machine: part of the metrics' names, to tell machines apart; None: there is only one.
    """
    monitor = mlflow_module().system_metrics.system_metrics_monitor.SystemMetricsMonitor(run_id, tracking_uri=uri)
    logger, is_over = RunLogger(run_id, uri), threading.Event()
    prefix = f"{SYSTEM_METRICS}{machine}/" if machine else SYSTEM_METRICS

    def measure() -> dict[str, float]:
        monitor.collect_metrics()
        measured = monitor.aggregate_metrics()
        for part in monitor.monitors:
            part.clear_metrics()
        return {prefix + key: value for key, value in measured.items()}

    def sample() -> None:
        names = measure()  # the first says nothing: the use of a CPU is that since the call before
        step = logger.next_step(min(names))
        while not is_over.wait(every_secs):
            logger.epoch(step, measure())
            step += 1

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        logger.flush()

"""What a job writes to its MLflow run while it goes on, and the account at its end of what has arrived.

    logger = RunLogger(run_id, uri)               # the worker of rank 0; the others: NoLogger()
    logger.epoch(1, {"train/loss": 0.4})          # returns at once
    logger.flush()
    RunLogger(run_id).ensure_complete({1: {"train/loss": 0.4}})   # the driver, from the history

A server or database that is away for a while does not hold up training: MLflow's own threads write the metrics, and
its client tries each request for about four minutes (MLFLOW_HTTP_REQUEST_MAX_RETRIES and _BACKOFF_FACTOR). Whatever is
lost all the same, with a worker that was killed or because the outage was longer, is written again from the history.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.logged_models import log_model
from trainers.packing import Settings
from trainers.store import ensure_reachable, tracking_uri, without_password
from trainers.tracking import client_of, mlflow_module

SYSTEM_METRICS = "system/"  # MLflow's prefix; they have steps of their own


class NoLogger:
    """What a training asks of its logger, doing nothing: for the workers that are not the first."""

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Nothing."""

    def checkpoint(self, epoch: int, model: Any, name: str, settings: Settings) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class RunLogger(NoLogger):
    """Writes to one run. Workers are given the URI: they need not see the driver's environment."""

    def __init__(self, run_id: str, uri: str | None = None):
        self.run_id = run_id
        self._client = client_of(uri)
        self._logged: set[tuple[str, int]] | None = None  # metric and step; None: not asked yet
        self._operations: list[Any] = []  # MLflow's, not waited for yet
        self._reason = ""  # why the last of those that failed did
        self._uploads = ThreadPoolExecutor(1)
        self._uploading: dict[int, Future] = {}  # by epoch
        self._checkpoints: set[int] | None = None  # epochs; None: not asked yet

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Logs the metrics of one step (epoch), in the background. One value a metric and step: the first stays. None
        is left out."""
        entities = mlflow_module().entities
        if self._logged is None:
            # Once: what an earlier attempt of this job logged. A job that goes on repeats the steps after its
            # checkpoint, with the same values, and MLflow would keep both.
            self._logged = self._read()
        new = {key: value for key, value in _known(metrics).items() if (key, step) not in self._logged}
        if not new:
            return
        now = int(time.time() * 1000)
        batch = [entities.Metric(key, new[key], now, step) for key in new]
        self._operations.append(self._client.log_batch(self.run_id, batch, synchronous=False))
        self._logged |= {(key, step) for key in new}

    def flush(self) -> None:
        """Returns when every metric has been written, or given up; MLflow reports those given up as errors."""
        for operation in self._operations:
            try:
                operation.wait()
            except Exception as error:  # whatever it is: ensure_complete finds out what is missing
                self._reason = str(error).splitlines()[0]
        self._operations.clear()
        for epoch, upload in self._uploading.items():
            if reason := upload.exception():
                print(f"warning: the checkpoint of epoch {epoch + 1} is not in MLflow: {reason}", flush=True)
        self._uploading.clear()

    def ensure_complete(self, metrics: Mapping[int, Mapping[str, float | None]]) -> int:
        """Logs what MLflow lacks of a training that is over.

        Args:
          metrics: all that should have been logged, by step.

        Returns:
          How many values were missing.

        Raises:
          Refused: some are missing still.
        """
        self.flush()
        expected = {(key, step) for step, values in metrics.items() for key in _known(values)}
        self._logged = self._read()
        missing = expected - self._logged
        for step in sorted({step for _, step in missing}):
            self.epoch(step, metrics[step])
        self.flush()
        lost = expected - self._read() if missing else set()
        if lost:
            key, step = min(lost)
            raise Refused(
                f"every metric of a finished training must be in MLflow. Missing: {len(lost)} of {len(expected)} "
                f"values, such as {key} of step {step} ({self._reason or 'no reason was given'}). "
                "Run the same command with the job's --name again: nothing is trained twice."
            )
        return len(missing)

    def checkpoint(self, epoch: int, model: Any, name: str, settings: Settings) -> None:
        """Stores a Keras model as the logged model of an epoch: its file is written at once, and sent in the
        background. One model an epoch: the first stays."""
        if self._checkpoints is None:
            outputs = self._client.get_run(self.run_id).outputs
            self._checkpoints = {output.step for output in outputs.model_outputs}
        if epoch in self._checkpoints:
            return
        self._checkpoints.add(epoch)
        folder = tempfile.TemporaryDirectory(prefix="realshard-logged-")
        file = Path(folder.name, "model.keras")
        model.save(file)

        def send() -> None:
            with folder:
                log_model(self._client, self.run_id, file, name=name, settings=settings, epoch=epoch)

        self._uploading[epoch] = self._uploads.submit(send)

    def next_step(self, key: str) -> int:
        """The step after the last that was logged of a metric; 0 if none was. Asks all that `epoch` would ask when it
        is called first: that one then needs no answer of a server that is away."""
        self._logged = self._read()
        return 1 + max((metric.step for metric in self._client.get_metric_history(self.run_id, key)), default=-1)

    def _read(self) -> set[tuple[str, int]]:
        keys = [key for key in self._client.get_run(self.run_id).data.metrics if not key.startswith(SYSTEM_METRICS)]
        return {(key, metric.step) for key in keys for metric in self._client.get_metric_history(self.run_id, key)}

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags; a tag of that name is replaced."""
        entities = mlflow_module().entities
        self._client.log_batch(self.run_id, tags=[entities.RunTag(key, str(tags[key])) for key in tags])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies one file to the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def figures(self, directory: Path) -> None:
        """Copies a folder of figures to the run's artifacts, as `figures`."""
        self._client.log_artifacts(self.run_id, str(directory), "figures")

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run: FINISHED, FAILED or KILLED; only a FINISHED one cannot be gone on with."""
        self.flush()
        self._client.set_terminated(self.run_id, status)


def _known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if value is not None}


@contextlib.contextmanager
def ending_badly(finish: Callable[[str], None], again: str) -> Iterator[None]:
    """What goes wrong inside ends the run as KILLED (Ctrl-C) or FAILED, where MLflow can still be told.

    Args:
      finish: ends the run with the status that it is given.
      again: the command that goes on with it, for the message.

    Raises:
      Refused: it was MLflow that stopped answering.
    """
    mlflow = mlflow_module()
    uri = tracking_uri()
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Refused, mlflow.exceptions.MlflowException):
            ensure_reachable(uri)  # MLflow itself would try for minutes
            finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        if isinstance(error, mlflow.exceptions.MlflowException):
            raise Refused(
                f"MLflow at {without_password(uri)} must take the results of the job ({str(error).splitlines()[0]}). "
                f"When it does, {again} goes on; nothing is trained twice."
            ) from error
        raise

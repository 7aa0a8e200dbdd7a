"""Small jobs of the tiny family, and what two of them must have in common."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from trainers import tracking
from trainers.config import ClusterConfig, Config, DataConfig, JobConfig, ModelConfig, OptimiserConfig
from trainers.job_result import JobResult

SPLITS = {"train": 60, "validation": 13, "test": 17}
EPOCHS, STEPS_PER_EPOCH, BATCH, SEED = 3, 5, 12, 5
TIMES = ("seconds", "train/images_per_second", "train/step_seconds", "train/data_wait_share")


def config(
    data: Path,
    name: str,
    optimiser: dict[str, Any] | None = None,
    *,
    order: str = "plain",
    weights: str = "none",
    **cluster: Any,
) -> Config:
    """Of a job on the dataset `toy` of SPLITS in `data`, with these options other than a test's usual ones."""
    steps = {"epochs": EPOCHS, "global_batch_size": BATCH, "learning_rate": 1e-2, "steps_per_call": 1}
    return Config(
        data=DataConfig(dataset="toy", data_dir=str(data), order=order),
        model=ModelConfig(family="tiny", variant="tiny", weights=weights, image_size=32),
        optimiser=OptimiserConfig(**steps | (optimiser or {})),
        cluster=ClusterConfig(**{"cpus_per_worker": 1} | cluster),
        job=JobConfig(name=name, seed=SEED, register=False),
    )


def outcome(result: JobResult):
    """(weights, history without times, predictions) of a finished job."""
    folder = Path(result.directory)
    history = json.loads((folder / "history.json").read_text())
    history = [{key: entry[key] for key in entry if key not in TIMES} for entry in history]
    return (
        keras.models.load_model(folder / "model.keras").get_weights(),
        history,
        pq.read_table(folder / "predictions.parquet"),
    )


def assert_bit_equal(one: JobResult, two: JobResult) -> None:
    (weights_1, history_1, table_1), (weights_2, history_2, table_2) = outcome(one), outcome(two)
    assert history_1 == history_2
    assert all(np.array_equal(a, b) for a, b in zip(weights_1, weights_2, strict=True))
    assert table_1.equals(table_2)


def assert_close(one: JobResult, two: JobResult) -> None:
    (weights_1, history_1, table_1), (weights_2, history_2, table_2) = outcome(one), outcome(two)
    for entry_1, entry_2 in zip(history_1, history_2, strict=True):
        assert entry_1 == pytest.approx(entry_2, rel=1e-4)
    for a, b in zip(weights_1, weights_2, strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a) + 1e-7
    assert table_1["id"].equals(table_2["id"])
    np.testing.assert_allclose(table_1["p_fake"], table_2["p_fake"], rtol=1e-4)


def assert_logged_once(result: JobResult) -> None:
    """One run of that name, and one value for each metric and epoch."""
    client = tracking.client_of()
    runs = client.search_runs([client.get_experiment_by_name("realshard").experiment_id])
    (run,) = [run for run in runs if run.info.run_name == result.name]
    assert (run.info.run_id, run.info.status) == (result.run_id, "FINISHED")
    of_training = [key for key in run.data.metrics if key.startswith(("train/", "validation/"))]
    assert {"train/loss", "train/accuracy", "validation/loss", "validation/accuracy"} <= set(of_training)
    for key in of_training:
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, key)] == list(range(EPOCHS)), key
    history = json.loads((Path(result.directory) / "history.json").read_text())
    logged = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.value for metric in logged] == [entry["train/loss"] for entry in history]

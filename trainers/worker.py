"""What the driver tells a Ray Train worker, and the worker's function.

Exceptions are let out: Ray Train reports them to the driver (trainers/job.py).
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

from trainers.config import Config, selection
from trainers.dataset import Dataset, Records
from trainers.strategy import Resources

HISTORY, PREDICTIONS, MODEL = "history.json", "predictions.parquet", "model.keras"  # in the last checkpoint


@dataclass(frozen=True)
class Task:
    """What the driver tells the workers."""

    config: dict[str, Any]  # trainers.config.to_dict
    dataset_directory: str
    fingerprint: str  # of that dataset
    resources: Resources
    run_id: str = ""  # of MLflow; empty: nothing is logged
    tracking_uri: str = ""


def selected(dataset: Dataset, config: Config) -> dict[str, Records]:
    """The records of each split that take part: the test split whole, the others by --only and --exclude."""
    only, exclude = selection(config.data.only), selection(config.data.exclude)
    records = {split: dataset.select(split, only, exclude) for split in ("train", "validation")}
    return records | {"test": dataset.select("test")}


def with_shuffled_labels(records: Records, seed: int) -> Records:
    """The same records with their labels shuffled among them: nothing that can be learnt, in the same proportions."""
    import pyarrow as pa

    from trainers.order import permutation

    labels = pa.array(records.labels[permutation(len(records), seed, epoch=0)], pa.int8())
    column = records.table.schema.get_field_index("label")
    return replace(records, table=records.table.set_column(column, "label", labels))


def train(settings: dict[str, Task]) -> None:
    """The worker's function, of {"task": Task}. The results are in the last checkpoint that it reports."""
    task = settings["task"]
    from trainers.strategy import prepare_process

    prepare_process(task.resources, task.config["cluster"]["deterministic"])  # before TensorFlow runs anything
    # Ray Train says at each report, under a logger named by a file's path, what the epoch's line has said.
    logging.getLogger().setLevel(logging.WARNING)
    from trainers.reports import RayReports
    from trainers.training import Training

    Training(task, RayReports()).run()

"""What a finished job gave, for whoever ran it."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JobResult:
    """What a finished job gave."""

    name: str
    directory: str  # the job's folder
    dataset: str  # name:version
    fingerprint: str
    run_id: str  # of MLflow
    metrics: dict[str, Any]  # of the test split, from trainers.metrics.summarise
    images: dict[str, int]  # by split: those that took part
    epochs: int
    best_epoch: int  # counted from 0
    images_per_second: float  # while training, median over the epochs
    model_name: str | None = None
    model_version: int | None = None
    alias: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # by stage
    is_reused: bool = False  # the job had finished before; nothing was done


def describe(result: JobResult) -> str:
    """A few lines for the end of a command."""
    numbers = result.metrics

    def number(key: str) -> str:
        return "undefined" if numbers.get(key) is None else f"{numbers[key]:.4f}"

    training = f"{result.epochs} epochs, best {result.best_epoch + 1}, {result.images_per_second:.1f} images/s"
    lines = [
        f"job         {result.name}, {result.directory}",
        f"dataset     {result.dataset}, {', '.join(f'{n} {split}' for split, n in result.images.items())} images",
        f"test        AUC {number('auc')}, accuracy {number('accuracy')}, balanced {number('balanced_accuracy')}",
        f"training    {training if result.epochs else 'none, the weights were evaluated as they are'}",
        f"MLflow run  {result.run_id}",
    ]
    if numbers.get("degenerate"):
        lines.append(f"            no detector: {numbers['degenerate_because']}")
    if result.model_name:
        lines.append(f"model       {result.model_name} version {result.model_version}, alias {result.alias}")
    return "\n".join(lines)

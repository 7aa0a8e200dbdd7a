"""Training of ensembles: the members one after another, those that did not learn again, then their average.

A member is trained as a job of the member's variant would be, with a seed of its own. Its folder is inside the job's;
a resumed job goes on with the member that was interrupted.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainers.config import from_dict, to_dict
from trainers.dataset import with_column
from trainers.history import History, losses
from trainers.home import ray_dir
from trainers.jobs import HISTORY, MODEL, PREDICTIONS, JobFolder
from trainers.models.average import average_models
from trainers.models.families import FAMILIES
from trainers.models.family import Ensemble
from trainers.worker import Task

SEED_LIMIT = 2**31


def attempt_to_keep(log_losses: Sequence[float], max_log_loss: float | None, max_retries: int) -> int | None:
    """Which of a member's trainings to keep, or None to train it once more.

    Args:
      log_losses: validation log-loss (nats) of the trainings so far, in order.
      max_log_loss: a member above it has not learnt (always saying 0.5 costs 0.693); None: any will do.
      max_retries: trainings after the first, at most. When they are used up the best is kept.
    """
    if not log_losses:
        return None
    best = min(range(len(log_losses)), key=lambda index: log_losses[index])
    is_good = max_log_loss is None or log_losses[best] <= max_log_loss
    return best if is_good or len(log_losses) > max_retries else None


def member_seed(seed: int, member: int, attempt: int, max_retries: int) -> int:
    """A seed for each training of each member, all different, the job's own for the very first."""
    return (seed + member * (max_retries + 1) + attempt) % SEED_LIMIT


def train(task: Task, folder: JobFolder, train_one: Callable[[Task, JobFolder], None]) -> None:
    """Trains what the task says, a single model or an ensemble, and leaves model, predictions and history in `folder`.

    Args:
      task: of the job.
      folder: of the job.
      train_one: trains the single model of a task into a folder.
    """
    config = from_dict(task.config)
    ensemble = FAMILIES[config.model.family].ensembles.get(config.model.variant)
    if ensemble is None or not config.optimiser.epochs:
        train_one(task, folder)
        return
    members = [_train_member(task, folder, ensemble, number, train_one) for number in range(ensemble.size)]
    _combine(members, folder, f"{config.model.family}_{config.model.variant}")


def _train_member(
    task: Task, folder: JobFolder, ensemble: Ensemble, number: int, train_one: Callable[[Task, JobFolder], None]
) -> Path:
    """The folder of the training of member `number` that is kept."""
    config = from_dict(task.config)
    folders: list[Path] = []
    log_losses: list[float] = []
    while (kept := attempt_to_keep(log_losses, ensemble.max_log_loss, ensemble.max_retries)) is None:
        attempt = len(log_losses)
        part = folder.part(f"member{number + 1}-{attempt + 1}")
        if not all((part.path / name).exists() for name in (HISTORY, PREDICTIONS, MODEL)):
            seed = member_seed(config.job.seed, number, attempt, ensemble.max_retries)
            single = replace(
                config, model=replace(config.model, variant=ensemble.member), job=replace(config.job, seed=seed)
            )
            train_one(replace(task, config=to_dict(single), run_id=""), part)
            shutil.rmtree(ray_dir() / part.name, ignore_errors=True)  # its checkpoints
        folders.append(part.path)
        log_losses.append(min(losses(_read_history(part.path))))
        print(f"member {number + 1}, training {attempt + 1}: validation log-loss {log_losses[-1]:.4f}", flush=True)
    return folders[kept]


def _combine(members: Sequence[Path], folder: JobFolder, name: str) -> None:
    """Writes the average of the members as the job's own results."""
    import keras

    work = folder.part("average").path
    models = [keras.models.load_model(member / MODEL, compile=False) for member in members]
    average_models(models, name).save(work / MODEL)
    tables = [pq.read_table(member / PREDICTIONS) for member in members]
    p_fake = np.mean([table["p_fake"].to_numpy() for table in tables], axis=0)
    pq.write_table(with_column(tables[0], "p_fake", pa.array(p_fake)), work / PREDICTIONS)
    (work / HISTORY).write_text(json.dumps(mean_history([_read_history(member) for member in members]), indent=1))
    folder.take(work, (HISTORY, PREDICTIONS, MODEL))


def mean_history(histories: Sequence[History]) -> History:
    """Epoch by epoch the members' mean, of the epochs that all of them took and the values that all of them have."""

    def mean(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        same = {key: entries[0][key] for key in ("epoch", "phase")}
        of_all = [key for key in entries[0] if all(key in entry for entry in entries)]
        return {key: float(np.mean([entry[key] for entry in entries])) for key in of_all} | same

    return [mean(entries) for entries in zip(*histories, strict=False)]


def _read_history(directory: Path) -> History:
    return json.loads((directory / HISTORY).read_text())

"""What Keras's callbacks decide, as pure functions of the history: the same after a restart as without one.

A history is a list with one dict an epoch, {"epoch": 0, "phase": 0, "train/loss": ..., "validation/loss": ..., ...}.
The monitored value is to fall; equal is no improvement, as with min_delta = 0.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

History = list[dict[str, Any]]

MONITOR = "validation/loss"
SPEED = "train/images_per_second"  # of the steps since the last start; an epoch that took none since then has no such


def losses(history: History) -> list[float]:
    """The monitored values, epoch by epoch."""
    return [entry[MONITOR] for entry in history]


def median_speed(history: History) -> float:
    """Images/s while training, the median of the epochs for which it is known; 0 if of none."""
    speeds = [entry[SPEED] for entry in history if SPEED in entry]
    return statistics.median(speeds) if speeds else 0.0


def metrics_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured of an epoch: the entry without its place in the training."""
    return {key: value for key, value in entry.items() if key not in ("epoch", "phase")}


def best_epoch(values: Iterable[float]) -> int:
    """Index of the epoch whose weights are kept: the first of the smallest values. keras.callbacks.ModelCheckpoint
    with save_best_only, and EarlyStopping with restore_best_weights.

    Raises:
      ValueError: no values.
    """
    epoch, _ = min(enumerate(values), key=lambda each: each[1])
    return epoch


def is_stopped(values: Sequence[float], patience: int) -> bool:
    """Whether training ends after these epochs: the last `patience` brought no improvement. keras.callbacks.
    EarlyStopping(patience=patience); patience 0 here means never."""
    return bool(patience) and bool(values) and len(values) - 1 - best_epoch(values) >= patience


def plateau_rate(values: Iterable[float], rate: float, factor: float, patience: int, min_rate: float) -> float:
    """The learning rate for the epoch after these ones. keras.callbacks.ReduceLROnPlateau(min_delta=0).

    Args:
      values: monitored values.
      rate: the rate that the first epoch had. Rates are float32, as in an optimizer.
      factor: what the rate is multiplied by after `patience` epochs without improvement.
      min_rate: the rate is not cut below it.
    """
    rate = float(np.float32(rate))
    best, wait = None, 0
    for value in values:
        if best is None or value < best:
            best, wait = value, 0
            continue
        wait += 1
        if wait >= patience and rate > np.float32(min_rate):
            rate, wait = float(np.float32(max(rate * factor, min_rate))), 0
    return rate


def decayed_rate(num_epochs: int, rate: float, every: int, factor: float) -> float:
    """The learning rate of the epoch after `num_epochs` of a phase: `rate`, multiplied by `factor` after every `every`
    of them; 0: never. PyTorch's StepLR."""
    return rate * factor ** (num_epochs // every) if every else rate


def position(history: History, phase_epochs: Sequence[int], patience: int) -> int | None:
    """The phase that the next epoch belongs to; None when training has ended.

    Args:
      phase_epochs: how many epochs each phase has at most.
      patience: of early stopping, which ends a phase.
    """
    phase = history[-1]["phase"] if history else 0
    done = losses(of_phase(history, phase))
    if len(done) < phase_epochs[phase] and not is_stopped(done, patience):
        return phase
    return phase + 1 if phase + 1 < len(phase_epochs) else None


def of_phase(history: History, phase: int) -> History:
    """The epochs of one phase."""
    return [entry for entry in history if entry["phase"] == phase]

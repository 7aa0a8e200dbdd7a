"""The learning rate of each step: a pure function of the step, so a resumed training has the same one.

peak = scaled(1e-4, global_batch_size=256, base_batch_size=32, policy="linear")    # 8e-4
rates(np.arange(640, 704), peak, warm_up_steps=500, schedule="cosine", num_steps=10_000, least=1e-6)
"""

import math
from collections.abc import Sequence

import numpy as np

from trainers.config import OptimiserConfig
from trainers.history import decayed_rate, plateau_rate


def scaled(rate: float, global_batch_size: int, base_batch_size: int, policy: str) -> float:
    """The rate for a batch of another size than the recipe's.

    Args:
      rate: of the recipe, for batches of `base_batch_size`.
      policy: "none"; "linear", Goyal et al., arXiv 1706.02677; "sqrt", which keeps the variance of a step of SGD,
        Krizhevsky, arXiv 1404.5997, section 5.
    """
    ratio = global_batch_size / base_batch_size
    return rate * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[policy]


def rates(
    steps: np.ndarray, peak: float, *, warm_up_steps: int, schedule: str, num_steps: int, least: float
) -> np.ndarray:
    """float64 rates at the int `steps` of a phase, counted from 0, same shape.

    Args:
      peak: the rate after the warm-up.
      warm_up_steps: over which the rate rises linearly; step `warm_up_steps - 1` is the first with the whole rate.
      schedule: "constant"; or "cosine", half a period down to `least` at the end of the phase, Loshchilov and Hutter,
        arXiv 1608.03983, without restarts.
      num_steps: of the whole phase.
      least: where a cosine ends; not above `peak`.
    """
    values = np.full(steps.shape, peak, np.float64)
    if schedule == "cosine":
        least = min(least, peak)
        done = np.clip((steps - warm_up_steps) / max(num_steps - warm_up_steps, 1), 0, 1)
        values = least + (peak - least) * 0.5 * (1 + np.cos(np.pi * done))
    if warm_up_steps:
        values *= np.minimum((steps + 1) / warm_up_steps, 1)
    return values


def epoch_rates(
    options: OptimiserConfig, peak: float, done: Sequence[float], num_steps: int, num_epochs: int
) -> np.ndarray:
    """float64 [num_steps]: the rates of a phase's next epoch, with all that `options` ask for.

    Args:
      peak: the phase's rate, after warm-up and before any decay.
      done: the monitored values of the phase's epochs so far.
      num_steps: of an epoch.
      num_epochs: of the phase.
    """
    peak = decayed_rate(len(done), peak, options.decay_every_epochs, options.decay_factor)
    if options.reduce_lr_on_plateau:
        peak = plateau_rate(done, peak, options.plateau_factor, options.plateau_patience, options.min_learning_rate)
    return rates(
        np.arange(len(done) * num_steps, (len(done) + 1) * num_steps),
        peak,
        warm_up_steps=options.warm_up_steps,
        schedule=options.schedule,
        num_steps=num_epochs * num_steps,
        least=options.min_learning_rate,
    )

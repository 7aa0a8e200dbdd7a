"""The steps of an epoch in calls of some steps each: how many a call takes, and what all of them measured."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainers.loop import StepResults, TrainStep

SECONDS_PER_CALL = 2.0  # between two looks at the loss, when the number of steps is left to us
MAX_STEPS_PER_CALL = 64


def train_steps(
    step: TrainStep,
    iterator: Iterator,
    rates: np.ndarray,
    *,
    first: int = 0,
    steps_per_call: int = 0,
    stop_every: int = 0,
    agree: Callable[[int], int] = int,
) -> Iterator[StepResults]:
    """Takes the steps of an epoch, some in one call, and gives what each call measured.

    Args:
      rates: float32 [num_steps], the learning rate of each step of the epoch.
      first: the step to begin with, counted from the epoch's beginning.
      steps_per_call: steps between two looks at the loss; 0: as many as take about SECONDS_PER_CALL.
      stop_every: no call reaches over a multiple of so many steps.
      agree: gives the first worker's number. Workers measure different times, but must take calls of the same size.
    """
    next_steps, done = steps_per_call or 1, first
    while done < len(rates):
        limit = (done // stop_every + 1) * stop_every if stop_every else len(rates)
        taken = step(iterator, rates[done : min(done + next_steps, limit)])
        if not steps_per_call and done > first:  # the first call may have compiled
            seconds_a_step = taken.seconds / len(taken.losses)
            next_steps = agree(int(np.clip(SECONDS_PER_CALL / seconds_a_step, 1, MAX_STEPS_PER_CALL)))
        done += len(taken.losses)
        yield taken


def step_metrics(calls: Sequence[StepResults]) -> dict[str, float]:
    """What is told of some calls besides loss and accuracy; of none nothing.

    "train/step_seconds" and "train/data_wait_share", the part of that time until this worker's batch was there, both
    without the first call if there are others, since it compiles; "train/loss_scale", the last, if the loss is scaled.
    """
    if not calls:
        return {}
    warm = calls[1:] or calls
    seconds, waits = sum(call.seconds for call in warm), np.concatenate([call.waits for call in warm])
    found = {
        "train/step_seconds": seconds / len(waits),
        "train/data_wait_share": float(waits.sum(dtype=np.float64) / seconds),
    }
    if calls[-1].loss_scale is not None:
        found["train/loss_scale"] = calls[-1].loss_scale
    return found

"""Which example comes when: pure integer arithmetic, the same on any number of workers and after any restart.

    order = Order(num_examples=len(records), global_batch_size=32, seed=0)
    rows, positions = order.batch(step=7)                            # the global batch
    rows, positions = order.worker_rows(step=7, worker=1, num_workers=4)  # its slice, rows 8..15 of it

A position is one integer that counts the examples drawn since the start of training: `step * B + i`. Epoch
permutations follow one another without a partial batch, so position p shows place `p % n` of epoch `p // n`, and
(seed, position) identifies one showing of one example: random augmentation is drawn from that pair alone.

Standard library and numpy only. No random generator of numpy's is used: their streams may change between releases.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

# SplitMix64: Guy L. Steele Jr., Doug Lea, Christine H. Flood, "Fast Splittable Pseudorandom Number Generators",
# OOPSLA 2014, with David Stafford's variant 13 of the mixing function; constants and shifts as in Sebastiano Vigna's
# splitmix64.c. The increment is 2**64 / golden ratio, made odd.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix64(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function of uint64 [...] states: a bijection of the 64-bit integers."""
    z = values + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def random_keys(places: np.ndarray, *seeds: int) -> np.ndarray:
    """uint64 keys of the int64 `places`, same shape: a pure function of each place and of the integers `seeds`.

    Different places have different keys. Each seed is taken modulo 2**64.
    """
    state = np.zeros(1, np.uint64)
    for seed in seeds:
        state = mix64(state ^ np.uint64(seed % 2**64))
    # Counters are spaced by the odd increment, as the generator does, so no two keys can be equal.
    return mix64(state + places.astype(np.uint64) * _GAMMA)


def permutation(num_examples: int, seed: int, epoch: int, *more: int) -> np.ndarray:
    """int64 [num_examples]: the order of epoch `epoch`, a permutation of 0..num_examples-1.

    `more` integers give further, independent permutations of the same epoch.
    """
    return np.argsort(random_keys(np.arange(num_examples), seed, epoch, *more), kind="stable").astype(np.int64)


class Epochs:
    """Permutations of 0..num_rows-1 that follow one another for ever; the latest ones are kept."""

    _NUM_KEPT = 3  # a batch may reach over the end of an epoch, and several threads draw batches at once

    def __init__(self, num_rows: int, permutation_of: Callable[[int], np.ndarray]):
        self._num_rows = num_rows
        self._permutation_of = permutation_of
        self._kept: dict[int, np.ndarray] = {}

    def rows_at(self, places: np.ndarray) -> np.ndarray:
        """int64 rows at the int64 `places` (>= 0) of the endless sequence, same shape."""
        epochs, places = np.divmod(places, self._num_rows)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = self._rows_of(epoch)[places[here]]
        return rows

    def _rows_of(self, epoch: int) -> np.ndarray:
        rows = self._kept.get(epoch)
        if rows is None:
            rows = self._permutation_of(epoch)
            self._kept = dict([*self._kept.items(), (epoch, rows)][-self._NUM_KEPT :])
        return rows


@dataclasses.dataclass(frozen=True)
class Order:
    """Shuffled epochs one after the other, cut into global batches that are all full.

    Attributes:
      num_examples: n, at least 1; rows are 0..n-1.
      global_batch_size: B, at least 1; may be larger than n, a batch then spans several epochs.
      seed: any integer.
    """

    num_examples: int
    global_batch_size: int
    seed: int

    def __post_init__(self):
        for name in ("num_examples", "global_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {getattr(self, name)}")

    @property
    def steps_per_epoch(self) -> int:
        """ceil(n / B): the steps that training calls one epoch; its last batch may begin the next permutation."""
        return -(-self.num_examples // self.global_batch_size)

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """int64 rows in 0..n-1 shown at the int64 `positions` (>= 0), same shape."""
        return self._epochs.rows_at(positions)

    @functools.cached_property
    def _epochs(self) -> Epochs:
        return Epochs(self.num_examples, functools.partial(permutation, self.num_examples, self.seed))

    def draw_rates(self) -> np.ndarray:
        """float64 [n]: how often each row is drawn in the long run, as a multiple of the mean."""
        return np.ones(self.num_examples)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64 [B], positions int64 [B]) of global batch `step` (>= 0)."""
        return self.worker_rows(step, worker=0, num_workers=1)

    def worker_rows(self, step: int, worker: int, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, positions), int64 [B / num_workers] each: worker `worker`'s contiguous slice of global batch `step`.

        Raises:
          ValueError: `num_workers` does not divide the global batch, or `worker` is not one of them.
        """
        share = batch_share(self.global_batch_size, num_workers)
        if not 0 <= worker < num_workers:
            raise ValueError(f"worker must be in 0..{num_workers - 1}. Received: {worker}")
        start = step * self.global_batch_size + worker * share
        positions = np.arange(start, start + share, dtype=np.int64)
        return self.rows_at(positions), positions


def batch_share(global_batch_size: int, num_parts: int) -> int:
    """global_batch_size / num_parts; ValueError when that is not a whole number."""
    if num_parts < 1 or global_batch_size % num_parts:
        raise ValueError(
            f"The number of replicas must divide the global batch. "
            f"Received: global batch {global_batch_size}, {num_parts} parts"
        )
    return global_batch_size // num_parts


def num_evaluation_steps(num_examples: int, batch_size: int, num_workers: int, replicas: int) -> int:
    """Steps in which every replica of every worker takes one batch, until all examples were seen once."""
    return -(-num_examples // (batch_size * num_workers * replicas))


def evaluation_rows(
    step: int, num_examples: int, batch_size: int, worker: int, num_workers: int, replicas: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 [replicas * batch_size], mask float32 of the same shape) of one worker in evaluation step `step`.

    Examples come in their stored order; over all steps and workers each row has mask 1 exactly once. Padding, mask 0,
    repeats the last row.
    """
    share = batch_size * replicas
    start = (step * num_workers + worker) * share
    rows = np.arange(start, start + share, dtype=np.int64)
    mask = (rows < num_examples).astype(np.float32)
    return np.minimum(rows, num_examples - 1), mask

"""Orders other than plain shuffling: class-balanced, datasets mixed by weights, blocks for remote storage.

    make_order(records, config.data, global_batch_size=32, seed=0)       # the one that --order and --dataset ask for
    balanced_order(records.labels, global_batch_size=32, seed=0)         # as many real as fake, always
    mixed_order(datasets, {"a": 3, "b": 1}, ...)                         # three of a for each of b
    BlockedOrder(len(records), 32, 0, block_size=64, window_size=4096)   # neighbours are read together

All are `Order`s: pure functions of (seed, position), the same on any number of workers and after any restart.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.schema import LABELS
from trainers.checks import dataset_weights
from trainers.data_config import DataConfig
from trainers.dataset import MEMBER, Records
from trainers.order import Epochs, Order, permutation, random_keys

_CYCLE = 1000  # weights are rounded to so many draws


@dataclasses.dataclass(frozen=True, eq=False)
class StratifiedOrder(Order):
    """Draws from disjoint strata in fixed proportions.

    The positions are cut into cycles of sum(quotas). Each holds exactly quotas[s] draws from stratum s, shuffled by
    (seed, position). A stratum's own draws go through permutation after permutation of its rows, so none comes a
    second time before all its others came once; a small stratum simply begins anew more often.

    One epoch is still ceil(n / B) steps.

    Attributes:
      strata: int [num_examples], the stratum of each row: 0..len(quotas)-1; each has a row.
      quotas: draws from each stratum in one cycle, at least 1.
    """

    strata: np.ndarray
    quotas: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        counts = np.bincount(self.strata, minlength=len(self.quotas))
        if len(self.strata) != self.num_examples or len(counts) != len(self.quotas) or not counts.all():
            raise ValueError(
                f"Each of {self.num_examples} rows must be in one of {len(self.quotas)} strata, and none be empty. "
                f"Received: {len(self.strata)} rows in strata of {counts.tolist()}"
            )
        if min(self.quotas) < 1:
            raise ValueError(f"Each stratum must be drawn from at least once in a cycle. Received: {self.quotas}")

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """int64 rows shown at the int64 `positions` (>= 0), same shape."""
        cycle_length = sum(self.quotas)
        cycles, places = np.divmod(positions, cycle_length)
        drawn, which = np.unique(cycles, return_inverse=True)
        # all_positions, slots, strata, ranks: (cycles, places in the cycle).
        all_positions = drawn[:, None] * cycle_length + np.arange(cycle_length)
        slots = np.argsort(random_keys(all_positions, self.seed), axis=1, kind="stable")
        strata = np.repeat(np.arange(len(self.quotas)), self.quotas)[slots]
        rows = np.empty_like(positions)
        for stratum, quota in enumerate(self.quotas):
            is_drawn = strata == stratum
            ranks = np.cumsum(is_drawn, axis=1) - 1  # of the draws from this stratum in the cycle
            here = is_drawn[which, places]
            members, epochs = self._members[stratum]
            rows[here] = members[epochs.rows_at(cycles[here] * quota + ranks[which, places][here])]
        return rows

    def draw_rates(self) -> np.ndarray:
        """float64 [n]: how often each row is drawn in the long run, as a multiple of the mean."""
        quotas, sizes = np.array(self.quotas), np.bincount(self.strata)
        return (quotas / sum(quotas) * self.num_examples / sizes)[self.strata]

    @functools.cached_property
    def _members(self) -> list[tuple[np.ndarray, Epochs]]:
        """Of each stratum its rows, int64, ascending, and the permutations of them."""
        found = []
        for stratum in range(len(self.quotas)):
            members = np.flatnonzero(self.strata == stratum).astype(np.int64)
            found.append((members, Epochs(len(members), functools.partial(self._permutation, len(members), stratum))))
        return found

    def _permutation(self, num_rows: int, stratum: int, epoch: int) -> np.ndarray:
        return permutation(num_rows, self.seed, epoch, stratum)  # strata of one size are independent of each other


def make_order(records: Records, data: DataConfig, global_batch_size: int, seed: int) -> Order:
    """The order in which `records` are trained on.

    With weights of datasets and `--order balanced` both hold: each dataset has its share, half of it of each class.

    Args:
      records: of one dataset or of a mixture (trainers/mixture.py).
      data: its `order`, and the weights in its `dataset`.
      global_batch_size, seed: as of `Order`.

    Raises:
      ValueError: a dataset, or a class of it, that should be drawn from has no record; a weight is too small.
    """
    # A term may be NAME/CONFIG:VERSION; records know the NAME.
    weights = {re.split("[/:]", name)[0]: weight for name, weight in dataset_weights(data.dataset).items()}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    is_balanced = data.order == "balanced"
    if given and is_balanced:
        classes = pa.array([f"/{label}" for label in LABELS]).take(pa.array(records.labels))
        sources = pc.binary_join_element_wise(records.table[MEMBER].combine_chunks(), classes, "")
        by_class = {f"{name}/{label}": weight for name, weight in given.items() for label in LABELS}
        return mixed_order(sources, by_class, global_batch_size, seed)
    if given:
        return mixed_order(records.table[MEMBER], given, global_batch_size, seed)
    if is_balanced:
        return balanced_order(records.labels, global_batch_size, seed)
    return (BlockedOrder if data.order == "blocked" else Order)(len(records), global_batch_size, seed)


def balanced_order(labels: np.ndarray, global_batch_size: int, seed: int) -> StratifiedOrder:
    """As many real as fake: of the positions 2k and 2k + 1, one shows each class.

    Args:
      labels: int [n], 0 or 1, both present.
      global_batch_size, seed: as of `Order`. Batches of an even size are exactly balanced.
    """
    return StratifiedOrder(len(labels), global_batch_size, seed, strata=labels.astype(np.int64), quotas=(1, 1))


def mixed_order(
    sources: pa.Array | pa.ChunkedArray, weights: Mapping[str, float], global_batch_size: int, seed: int
) -> StratifiedOrder:
    """Sources drawn from in proportion to `weights`, rounded to thousandths of the whole.

    Args:
      sources: string [n], of each row the source; each has a weight.
      weights: positive numbers.
      global_batch_size, seed: as of `Order`.

    Raises:
      ValueError: a source without rows or without weight, or a weight too small beside the others.
    """
    names = sorted(weights)
    strata = pc.index_in(sources, value_set=pa.array(names, pa.string()))
    if strata.null_count:
        unknown = set(pc.unique(sources).to_pylist()) - set(names)
        raise ValueError(f"Each source needs a weight. Received weights of {names}, no weight of {sorted(unknown)}")
    quotas = apportion([weights[name] for name in names])
    return StratifiedOrder(
        len(sources), global_batch_size, seed, strata=strata.to_numpy().astype(np.int64), quotas=quotas
    )


def apportion(weights: list[float], num_draws: int = _CYCLE) -> tuple[int, ...]:
    """Whole numbers in the proportion of `weights`, the smallest there are, out of at most `num_draws` in all.

    Largest remainders (Hamilton's method), divided by the greatest common divisor: [3, 1] -> (3, 1).

    Raises:
      ValueError: a weight is not positive, or gets no draw.
    """
    if min(weights) <= 0 or not math.isfinite(sum(weights)):
        raise ValueError(f"Weights must be positive numbers. Received: {weights}")
    exact = [weight / sum(weights) * num_draws for weight in weights]
    quotas = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda index: quotas[index] - exact[index])
    for index in by_remainder[: num_draws - sum(quotas)]:
        quotas[index] += 1
    if min(quotas) < 1:
        raise ValueError(f"A weight may not be less than 1/{num_draws} of their sum. Received: {weights}")
    divisor = math.gcd(*quotas)
    return tuple(quota // divisor for quota in quotas)


@dataclasses.dataclass(frozen=True)
class BlockedOrder(Order):
    """Runs of neighbouring rows, shuffled in windows: few large reads instead of one a record.

    In each epoch the blocks (rows [0, block_size), [block_size, 2 * block_size), ...) are put in random order; then
    the rows of every `window_size` successive places are shuffled. A reader that keeps a window's blocks reads each
    block once an epoch; the larger the window, the nearer it comes to plain shuffling. Each batch begins with the rows
    of the window's first blocks, so that the first worker seldom needs the last ones.

    Attributes:
      block_size: neighbouring rows that are read together, at least 1.
      window_size: places that are shuffled together, at least one block.
    """

    block_size: int = 64
    window_size: int = 4096

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.block_size <= self.window_size:
            raise ValueError(
                f"A window must hold at least one block, a block at least one row. "
                f"Received: window_size {self.window_size}, block_size {self.block_size}"
            )

    @functools.cached_property
    def _epochs(self) -> Epochs:
        return Epochs(self.num_examples, self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        num_blocks = -(-self.num_examples // self.block_size)
        blocks = permutation(num_blocks, self.seed, epoch)
        # rows: (blocks, rows in the block), then without those past the end of the last block.
        rows = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()
        rows = rows[rows < self.num_examples]
        places = np.arange(self.num_examples)
        # The third number sets these keys apart from those of the blocks.
        shuffled = np.lexsort((random_keys(places, self.seed, epoch, 1), places // self.window_size))
        batches = (epoch * self.num_examples + places) // self.global_batch_size
        return rows[shuffled[np.lexsort((shuffled, batches))]]

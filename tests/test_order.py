"""Which example comes when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.order import Epochs, Order, evaluation_rows, mix64, num_evaluation_steps, permutation

SIZES = st.integers(1, 60)
BATCHES = st.integers(1, 40)
SEEDS = st.integers(-(2**70), 2**70)


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def test_mixing_is_splitmix64():
    # The first outputs of splitmix64.c for the seed 0, as published with many libraries.
    states = np.array([0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)
    assert [hex(value) for value in mix64(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_the_order_never_changes_between_releases():
    # A checkpoint of an old release must be resumable: these numbers may not change.
    assert permutation(10, seed=0, epoch=0).tolist() == [0, 7, 8, 2, 5, 9, 4, 6, 3, 1]
    assert permutation(10, seed=7, epoch=3).tolist() == [7, 2, 0, 9, 5, 3, 4, 8, 6, 1]
    for seed in (-1, 2**64 - 1):
        assert permutation(10, seed, epoch=0).tolist() == [6, 1, 8, 7, 9, 3, 2, 5, 4, 0]


@given(SIZES, SEEDS, st.integers(0, 10**9))
def test_every_epoch_is_a_permutation(num_examples, seed, epoch):
    rows = permutation(num_examples, seed, epoch)
    assert rows.dtype == np.int64
    assert sorted(rows) == list(range(num_examples))


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_epochs_and_seeds_differ(seed, epoch):
    rows = permutation(50, seed, epoch).tolist()
    assert rows != permutation(50, seed, epoch + 1).tolist()
    assert rows != permutation(50, seed + 1, epoch).tolist()
    assert permutation(50, seed, epoch + 1).tolist() != permutation(50, seed + 1, epoch).tolist()


def test_every_row_comes_equally_often_at_every_place():
    epochs = np.stack([permutation(5, seed=1, epoch=epoch) for epoch in range(5000)])
    counts = np.stack([np.bincount(epochs[:, place], minlength=5) for place in range(5)])
    # 25 binomial counts of 5000 * 1/5: four standard deviations are 113.
    assert np.abs(counts - 1000).max() < 113


@given(SIZES, BATCHES, SEEDS, st.integers(0, 30))
def test_batches_are_full_and_follow_the_epochs_without_a_gap(num_examples, batch_size, seed, num_steps):
    order = Order(num_examples, batch_size, seed)
    batches = [order.batch(step) for step in range(num_steps)]
    assert all(len(rows) == batch_size for rows, _ in batches)
    total = num_steps * batch_size
    epochs = [permutation(num_examples, seed, epoch) for epoch in range(-(-total // num_examples))]
    shown = [row for rows, _ in batches for row in rows]
    assert shown == [row for epoch in epochs for row in epoch][:total]
    assert [position for _, positions in batches for position in positions] == list(range(total))


@given(SIZES, BATCHES, st.integers(0, 2**40), st.data())
def test_the_workers_slices_make_up_the_global_batch_in_order(num_examples, batch_size, step, data):
    num_workers = data.draw(st.sampled_from(divisors(batch_size)))
    order = Order(num_examples, batch_size, seed=5)
    rows, positions = order.batch(step)
    slices = [order.worker_rows(step, worker, num_workers) for worker in range(num_workers)]
    assert np.concatenate([part for part, _ in slices]).tolist() == rows.tolist()
    assert np.concatenate([part for _, part in slices]).tolist() == positions.tolist()


def test_a_batch_may_span_several_epochs():
    rows, positions = Order(num_examples=3, global_batch_size=8, seed=0).batch(1)
    assert positions.tolist() == list(range(8, 16))
    # Place 2 of epoch 2, all of epochs 3 and 4, place 0 of epoch 5.
    assert sorted(rows[1:4]) == sorted(rows[4:7]) == [0, 1, 2]


def test_an_epochs_permutation_is_drawn_once_and_few_are_kept():
    drawn = []
    epochs = Epochs(4, lambda epoch: drawn.append(epoch) or permutation(4, 0, epoch))
    for _ in range(3):
        epochs.rows_at(np.arange(2, 10))  # the end of epoch 0, all of epoch 1, the beginning of epoch 2
    assert drawn == [0, 1, 2]
    epochs.rows_at(np.arange(12, 40))
    epochs.rows_at(np.arange(4))
    assert drawn == [*range(10), 0]


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"), [(1, 1, 1), (10, 5, 2), (11, 5, 3), (4, 5, 1), (692_824 // 2, 32, 10_826)]
)
def test_steps_per_epoch(num_examples, batch_size, steps):
    assert Order(num_examples, batch_size, 0).steps_per_epoch == steps


@pytest.mark.parametrize(("num_workers", "worker"), [(3, 0), (0, 0), (2, 2), (2, -1)])
def test_impossible_slices_are_refused(num_workers, worker):
    with pytest.raises(ValueError, match="must"):
        Order(10, 4, 0).worker_rows(0, worker, num_workers)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(0, 4), (4, 0)])
def test_impossible_orders_are_refused(num_examples, batch_size):
    with pytest.raises(ValueError, match="at least 1"):
        Order(num_examples, batch_size, 0)


@given(SIZES, BATCHES, st.integers(1, 5), st.integers(1, 4))
def test_evaluation_counts_each_row_once(num_examples, batch_size, num_workers, replicas):
    num_steps = num_evaluation_steps(num_examples, batch_size, num_workers, replicas)
    counted: list[int] = []
    for step in range(num_steps):
        for worker in range(num_workers):
            rows, mask = evaluation_rows(step, num_examples, batch_size, worker, num_workers, replicas)
            assert rows.shape == mask.shape == (batch_size * replicas,)
            assert rows.min() >= 0
            assert rows.max() < num_examples
            counted.extend(rows[mask == 1])
            assert mask.any() or worker > 0  # no step for padding alone
    assert counted == list(range(num_examples))

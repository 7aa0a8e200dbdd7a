"""Class-balanced, mixed and blocked orders."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.order import permutation
from trainers.policies import BlockedOrder, StratifiedOrder, apportion, balanced_order, mixed_order

SEEDS = st.integers(0, 2**63)


@st.composite
def stratified_orders(draw):
    quotas = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    extra = draw(st.lists(st.integers(0, len(quotas) - 1), max_size=25))
    strata = np.array(draw(st.permutations([*range(len(quotas)), *extra])))
    return StratifiedOrder(len(strata), draw(st.integers(1, 30)), draw(SEEDS), strata=strata, quotas=quotas)


ORDERS = st.one_of(
    stratified_orders(),
    st.builds(
        lambda block, more, **rest: BlockedOrder(block_size=block, window_size=block + more, **rest),
        block=st.integers(1, 9),
        more=st.integers(0, 30),
        num_examples=st.integers(1, 80),
        global_batch_size=st.integers(1, 30),
        seed=SEEDS,
    ),
)


def first_positions(order, count):
    return order.rows_at(np.arange(count))


@given(ORDERS, st.integers(0, 50), st.data())
def test_every_policy_is_a_pure_function_of_the_position(order, step, data):
    size = order.global_batch_size
    rows, positions = order.batch(step)
    assert positions.tolist() == list(range(step * size, (step + 1) * size))
    # The same rows in one long look, and one by one.
    assert rows.tolist() == first_positions(order, (step + 1) * size)[step * size :].tolist()
    assert rows.tolist() == [int(order.rows_at(positions[i : i + 1])[0]) for i in range(size)]
    num_workers = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    slices = [order.worker_rows(step, worker, num_workers)[0] for worker in range(num_workers)]
    assert np.concatenate(slices).tolist() == rows.tolist()


@given(stratified_orders(), st.integers(0, 20))
def test_each_cycle_holds_each_strata_quota(order, cycle):
    length = sum(order.quotas)
    rows = order.rows_at(np.arange(cycle * length, (cycle + 1) * length))
    assert np.bincount(order.strata[rows], minlength=len(order.quotas)).tolist() == list(order.quotas)


@given(stratified_orders())
def test_a_row_comes_again_only_after_all_of_its_stratum(order):
    rows = first_positions(order, 40 * sum(order.quotas))
    for stratum in range(len(order.quotas)):
        members = np.flatnonzero(order.strata == stratum)
        drawn = rows[order.strata[rows] == stratum]
        for start in range(0, len(drawn) - len(members) + 1, len(members)):
            assert sorted(drawn[start : start + len(members)]) == members.tolist()


def test_the_orders_never_change_between_releases():
    # A checkpoint of an old release must be resumable: these numbers may not change.
    mixed = StratifiedOrder(7, 4, seed=3, strata=np.array([0, 1, 0, 1, 1, 2, 0]), quotas=(2, 1, 1))
    assert first_positions(mixed, 16).tolist() == [2, 4, 6, 5, 0, 2, 5, 3, 1, 5, 6, 0, 4, 6, 5, 0]
    blocked = BlockedOrder(10, 4, seed=3, block_size=3, window_size=6)
    assert first_positions(blocked, 20).tolist() == [9, 3, 4, 5, 0, 1, 2, 8, 6, 7, 0, 1, 6, 7, 8, 2, 9, 3, 4, 5]
    assert BlockedOrder(10, 4, seed=3) == BlockedOrder(10, 4, seed=3, block_size=64, window_size=4096)


def test_balanced_batches_hold_as_many_real_as_fake():
    labels = np.array([1] * 45 + [0] * 5, np.int8)
    order = balanced_order(labels, 8, seed=3)
    for step in range(50):
        assert labels[order.batch(step)[0]].sum() == 4
    assert order.steps_per_epoch == 7


def test_the_order_inside_a_cycle_is_shuffled():
    labels = np.arange(10) % 2
    shown = labels[first_positions(balanced_order(labels, 2, seed=0), 2000)].reshape(-1, 2)
    first_is_fake = (shown[:, 0] == 1).sum()
    assert 420 < first_is_fake < 580  # 1000 fair coins: five standard deviations are 79


def test_strata_of_one_size_are_shuffled_independently():
    order = balanced_order(np.arange(20) % 2, 20, seed=0)
    rows = first_positions(order, 20)
    real, fake = rows[rows % 2 == 0] // 2, rows[rows % 2 == 1] // 2
    assert real.tolist() != fake.tolist()


def test_sources_are_mixed_by_their_weights():
    sources = pa.array(["a"] * 5 + ["b"] * 50)
    order = mixed_order(sources, {"b": 1, "a": 3}, 4, seed=0)
    rows = first_positions(order, 400).reshape(100, 4)
    assert ((rows < 5).sum(axis=1) == 3).all()
    written_otherwise = mixed_order(sources, {"a": 3, "b": 1}, 4, seed=0)
    assert first_positions(written_otherwise, 400).tolist() == rows.ravel().tolist()


@given(stratified_orders())
def test_draw_rates_are_those_of_the_long_run(order):
    times = int(np.lcm.reduce(np.bincount(order.strata)))  # after so many cycles each stratum has come round
    drawn = np.bincount(first_positions(order, times * sum(order.quotas)), minlength=order.num_examples)
    assert order.draw_rates() == pytest.approx(drawn / drawn.mean())


@pytest.mark.parametrize(
    ("weights", "quotas"),
    [
        ([1], (1,)),
        ([3, 1], (3, 1)),
        ([0.7, 0.3], (7, 3)),
        ([1, 1, 1], (334, 333, 333)),
        ([14, 27, 9959], (1, 3, 996)),  # 1.4, 2.7, 995.9
        ([0.999, 0.001], (999, 1)),
        ([5e-9, 5e-9], (1, 1)),
    ],
)
def test_apportioning(weights, quotas):
    assert apportion(weights) == quotas


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8))
def test_apportioned_shares_are_near_the_weights(weights):
    quotas = np.array(apportion(weights))
    assert np.abs(quotas / quotas.sum() - np.array(weights) / sum(weights)).max() < 1e-3


@pytest.mark.parametrize("weights", [[0, 1], [-1, 2], [float("nan"), 1], [float("inf"), 1], [1, 1e-4]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match=r"positive numbers|less than 1/1000"):
        apportion(weights)


def test_sources_without_weight_and_weights_without_source_are_refused():
    with pytest.raises(ValueError, match=r"no weight of \['b'\]"):
        mixed_order(pa.array(["a", "b"]), {"a": 1}, 2, 0)
    with pytest.raises(ValueError, match="none be empty"):
        mixed_order(pa.array(["a", "a"]), {"a": 1, "b": 1}, 2, 0)


@pytest.mark.parametrize(("num_examples", "block", "window"), [(100, 8, 32), (7, 3, 3), (50, 64, 64), (33, 1, 5)])
def test_a_blocked_epoch_is_a_permutation_that_visits_few_blocks_at_a_time(num_examples, block, window):
    order = BlockedOrder(num_examples, 10, seed=1, block_size=block, window_size=window)
    rows = first_positions(order, 3 * num_examples).reshape(3, num_examples)
    for epoch in rows:
        assert sorted(epoch) == list(range(num_examples))
        for start in range(0, num_examples, window):
            touched = {row // block for row in epoch[start : start + window].tolist()}
            # Whole blocks, but for those cut by the window's two ends and the short last block.
            assert len(touched) <= window // block + 2
    assert rows[0].tolist() != rows[1].tolist()


def test_a_block_is_spread_over_its_window():
    order = BlockedOrder(1024, 32, seed=0, block_size=64, window_size=1024)
    places = np.argsort(first_positions(order, 1024))[:64]  # of the first block's rows
    assert places.min() < 150
    assert places.max() > 870


@pytest.mark.parametrize(("batch", "workers", "most"), [(128, 1, 1.1), (128, 4, 0.5), (32, 2, 0.75)])
def test_a_worker_needs_few_of_the_blocks_that_the_others_need(batch, workers, most):
    order = BlockedOrder(20_000, batch, seed=0)
    for worker in range(workers):
        windows = {}  # of each its blocks: what a reader fetches that keeps one window
        for step in range(20_000 // batch):
            rows, positions = order.worker_rows(step, worker, workers)
            for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
                windows.setdefault(position // order.window_size, set()).add(row // order.block_size)
        assert sum(len(blocks) for blocks in windows.values()) <= most * 20_000 / order.block_size


def test_what_makes_up_a_batch_comes_from_all_over_its_window():
    """And half of it, as accumulation takes it, is no run of neighbours."""
    order = BlockedOrder(4096, 128, seed=0)
    for step in range(order.steps_per_epoch):
        half = order.worker_rows(step, 0, 2)[0]
        assert len(set((half // order.block_size).tolist())) >= 16
        assert np.ptp(half) > 2048


def test_blocks_and_plain_order_do_not_share_their_numbers():
    order = BlockedOrder(50, 10, seed=1, block_size=1, window_size=1)
    assert first_positions(order, 50).tolist() == permutation(50, 1, 0).tolist()  # blocks of one row are plain
    shuffled_again = BlockedOrder(50, 10, seed=1, block_size=1, window_size=50)
    assert first_positions(shuffled_again, 50).tolist() != list(range(50))


@pytest.mark.parametrize(("block", "window"), [(0, 5), (6, 5)])
def test_windows_smaller_than_a_block_are_refused(block, window):
    with pytest.raises(ValueError, match="at least one block"):
        BlockedOrder(10, 2, 0, block_size=block, window_size=window)


@pytest.mark.parametrize(
    ("strata", "quotas"), [([0, 1, 2], (1, 1)), ([0, 0], (1, 1)), ([0, 1, 1], (1, 0)), ([0, 1], (1, 1, 1))]
)
def test_strata_that_do_not_fit_are_refused(strata, quotas):
    with pytest.raises(ValueError, match="Received"):
        StratifiedOrder(len(strata), 4, 0, strata=np.array(strata), quotas=quotas)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Each of 3 rows must be in one of 2 strata"):
        StratifiedOrder(3, 4, 0, strata=np.array([0, 1]), quotas=(1, 1))
    with pytest.raises(ValueError, match="global_batch_size must be at least 1"):
        StratifiedOrder(2, 0, 0, strata=np.array([0, 1]), quotas=(1, 1))
    with pytest.raises(ValueError, match="global_batch_size must be at least 1"):
        BlockedOrder(10, 0, 0)

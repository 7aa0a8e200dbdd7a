"""Splits: sizes, balance, and that nothing is on two sides."""

import functools
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from tfds_builders.sharding.splits import FRACTIONS, balanced, grouped, leaking_groups, leave_out, stratified


def test_published_split_has_the_published_sizes():
    labels = np.repeat([0, 1], [342_056, 350_768])
    split = stratified(labels, {"train": 0.8, "test": 0.2}, seed=42)
    assert [(split == name).sum() for name in ("train", "test")] == [554_259, 138_565]
    assert [((split == "test") & (labels == label)).sum() for label in (0, 1)] == [68_411, 70_154]
    published = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=42, stratify=labels)[1]
    assert (np.flatnonzero(split == "test") == np.sort(published)).all()


@given(st.integers(15, 300), st.integers(15, 300), st.integers(0, 5))
def test_stratified_keeps_the_share_of_each_label(num_real, num_fake, seed):
    labels = np.repeat([0, 1], [num_real, num_fake])
    split = stratified(labels, FRACTIONS, seed)
    for label, count in enumerate((num_real, num_fake)):
        for name, fraction in FRACTIONS.items():
            assert abs(((split == name) & (labels == label)).sum() - fraction * count) <= 2


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=40), st.integers(0, 3))
def test_grouped_never_cuts_a_group(sizes, seed):
    names = [f"group {number}" for number, size in enumerate(sizes) for _ in range(size)]
    labels = np.arange(len(names)) % 2
    if labels.max() == 0:
        return
    split = grouped(pa.array(names), labels, FRACTIONS, seed)
    assert leaking_groups(pa.array(names), split) == []
    assert set(split) == set(FRACTIONS)
    per_part = [len(set(np.array(names)[split == name])) for name in FRACTIONS]
    assert min(per_part) >= min(3, len(sizes) // 3)


def test_grouped_split_comes_near_its_fractions_and_does_not_depend_on_row_order():
    random = np.random.default_rng(0)
    names = np.array([f"{number:03d}" for number in random.integers(0, 200, 5000)], dtype=object)
    labels = random.integers(0, 2, 5000)
    split = grouped(pa.array(names), labels, FRACTIONS, seed=1)
    for name, fraction in FRACTIONS.items():
        for label in (0, 1):
            assert (split[labels == label] == name).mean() == pytest.approx(fraction, abs=0.02)
    shuffled = random.permutation(5000)
    again = grouped(pa.array(names[shuffled]), labels[shuffled], FRACTIONS, seed=1)
    assert (again == split[shuffled]).all()


def test_grouped_splits_never_change_between_releases():
    # A dataset is known by its fingerprint: who is in which split may not change.
    names = [f"photo {number}" for number in range(30) for _ in range(1 + number * 7 % 5)]
    labels = np.arange(len(names)) % 3 // 2
    split = grouped(pa.chunked_array([names[:40], names[40:]]), labels, FRACTIONS, seed=42)
    found = {
        part: {int(names[row].removeprefix("photo ")) for row in np.flatnonzero(split == part)} for part in FRACTIONS
    }
    assert (found["validation"], found["test"]) == ({3, 9, 26}, {6, 15, 22})
    many = grouped(pa.array([str(number) for number in range(10_001)]), np.arange(10_001) % 2, FRACTIONS, seed=1)
    assert hashlib.md5("".join(many).encode()).hexdigest() == "6248d5d7d5865349d1d2de2aede7a5a9"


@pytest.mark.parametrize("draw", [stratified, functools.partial(grouped, pa.array("abcdefghijkl"))])
@pytest.mark.parametrize("last", [0.1, 0.3])
def test_fractions_that_do_not_add_up_are_refused(draw, last):
    with pytest.raises(ValueError, match="must add up to 1"):
        draw(np.arange(12) % 2, {"train": 0.6, "validation": 0.2, "test": last}, seed=0)


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="at least 3 groups"):
        grouped(pa.array(["a", "b", "a"]), np.array([0, 1, 1]), FRACTIONS, seed=0)


def test_leaks_are_named():
    groups = pa.array(["a", "a", "b", "c", "c", ""])
    assert leaking_groups(groups, np.array(["train", "test", "train", "test", "", "train"], dtype=object)) == ["a"]


def test_leave_out_tests_on_what_it_never_trains_on():
    rows = [
        # (category, group, split, expected)
        ("cat", "", "train", "train"),
        ("cat", "", "test", ""),
        ("dog", "", "train", "test"),
        ("dog", "a", "validation", "test"),
        ("car", "", "test", ""),
        ("car", "b", "validation", "validation"),
        ("car", "a", "train", ""),  # near what is tested
        ("", "", "train", ""),  # may be a dog
    ]
    category, group, split, expected = zip(*rows, strict=True)
    found = leave_out(pa.array(category), {"dog"}, np.array(split, dtype=object), pa.array(group))
    assert found.tolist() == list(expected)


def test_balanced_is_equal_in_each_split_and_keeps_its_choice_when_rows_come():
    random = np.random.default_rng(0)
    labels = (random.random(1000) < 0.8).astype(np.int64)
    split = np.where(random.random(1000) < 0.7, "train", "test").astype(object)
    ids = [hashlib.md5(str(number).encode()).hexdigest() for number in range(1000)]
    chosen = balanced(labels, split, pa.array(ids))
    for name in ("train", "test"):
        counts = [((chosen == name) & (labels == label)).sum() for label in (0, 1)]
        assert counts[0] == counts[1] == ((split == name) & (labels == 0)).sum()
    limited = balanced(labels, split, pa.array(ids), limit=50)
    assert [(limited != "")[labels == label].sum() for label in (0, 1)] == [50, 50]
    # Order of rows does not matter: the choice is by id.
    order = random.permutation(1000)
    again = balanced(labels[order], split[order], pa.array(np.array(ids)[order]), limit=50)
    assert (again == limited[order]).all()


def test_balanced_schemes_never_change_between_releases():
    labels, split = np.array([0, 1, 1] * 8), np.array((["train"] * 5 + ["test"] * 2 + [""]) * 3, dtype=object)
    ids = pa.array([f"{number}.png" for number in range(24)])
    for limit, train in (
        (4, [0, 1, 3, 9, 10, 19]),
        (None, [0, 1, 2, 3, 9, 10, 12, 17, 18, 19]),
        (8, [0, 1, 2, 3, 9, 10, 12, 17, 18, 19]),
    ):
        chosen = balanced(labels, split, ids, limit, seed=42)
        assert np.flatnonzero(chosen == "train").tolist() == train


@pytest.mark.parametrize("limit", [1, 4, 5, 29, 30, 31])
def test_a_limit_is_kept_to_the_last_row(limit):
    labels, split = np.arange(60) % 2, np.repeat(np.array(["train", "validation", "test"], dtype=object), 20)
    chosen = balanced(labels, split, pa.array([str(number) for number in range(60)]), limit)
    assert [int((chosen != "")[labels == label].sum()) for label in (0, 1)] == [min(limit, 30)] * 2
    sizes = [int((chosen == name).sum()) // 2 for name in ("train", "validation", "test")]
    assert max(sizes) - min(sizes) <= 1

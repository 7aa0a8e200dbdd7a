"""The gate: only a certainly better challenger passes, and a part of the test set stays out of it."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from tfds_builders.records.errors import Refused
from trainers import bootstrap, gate
from trainers.mixture import ids_apart


def table(p_fake: np.ndarray, labels: np.ndarray, categories=None, groups=None) -> pa.Table:
    n = len(labels)
    return pa.table(
        {
            "id": [f"{number:05}" for number in range(n)],
            "label": pa.array(labels, pa.int8()),
            "category": categories if categories is not None else [""] * n,
            "group": groups if groups is not None else [""] * n,
            "p_fake": np.clip(p_fake, 0, 1),
        }
    )


def scores(labels: np.ndarray, shift: float, seed: int) -> np.ndarray:
    """P(fake) that parts the classes by `shift` standard deviations."""
    noise = np.random.default_rng(seed).normal(0, 1, len(labels))
    return 1 / (1 + np.exp(-(noise + shift * (labels - 0.5))))


LABELS = np.arange(800) % 2


def test_a_better_challenger_passes_and_the_same_one_does_not():
    weak, strong = table(scores(LABELS, 1, 0), LABELS), table(scores(LABELS, 3, 1), LABELS)
    decision = gate.judge(weak, strong)
    assert decision["promote"]
    assert decision["difference_interval"][0] > 0
    assert decision["difference"] == pytest.approx(decision["challenger"] - decision["champion"])
    for worse in (weak, table(scores(LABELS, 1, 0) * 0.999, LABELS)):
        assert not gate.judge(weak, worse)["promote"]
    assert "not better for certain" in gate.judge(strong, weak)["because"]


def test_labels_at_random_hardly_ever_pass():
    """95 % intervals: of 20 challengers that differ by chance, one in forty is better for certain."""
    champion = table(scores(LABELS, 1, 0), LABELS)
    passed = sum(gate.judge(champion, table(scores(LABELS, 1, seed), LABELS))["promote"] for seed in range(1, 21))
    assert passed <= 3


def test_the_order_of_records_does_not_matter():
    weak, strong = table(scores(LABELS, 1, 0), LABELS), table(scores(LABELS, 2, 1), LABELS)
    shuffled = strong.take(np.random.default_rng(0).permutation(len(LABELS)))
    assert gate.judge(weak, shuffled) == gate.judge(weak, strong)


def test_whole_groups_are_resampled():
    """Twenty photographs, forty crops each: what counts is how many photographs, not how many crops."""
    groups = [f"photo{number // 40}" for number in range(800)]
    weak, strong = scores(LABELS, 1, 0), scores(LABELS, 1, 0)
    strong[:40] = LABELS[:40]  # better on one photograph alone
    single = gate.judge(table(weak, LABELS), table(strong, LABELS))
    grouped = gate.judge(table(weak, LABELS, groups=groups), table(strong, LABELS, groups=groups))
    assert single["promote"]
    assert not grouped["promote"]


def test_of_a_single_group_nothing_is_certain():
    groups = ["one photograph"] * len(LABELS)
    weak, strong = (table(scores(LABELS, shift, 0), LABELS, groups=groups) for shift in (1, 3))
    decision = gate.judge(weak, strong)
    assert (decision["promote"], decision["difference_interval"]) == (False, None)
    assert "a single group" in decision["because"]


def test_a_category_that_is_lost_stops_it():
    categories = ["car"] * 700 + ["cat"] * 100
    weak, strong = scores(LABELS, 1, 0), scores(LABELS, 4, 1)
    strong[700:] = np.where(LABELS[700:] == 1, 0.1, 0.05)  # every fake cat is missed
    decision = gate.judge(table(weak, LABELS, categories), table(strong, LABELS, categories), metric="auc")
    assert not decision["promote"]
    assert decision["dropped"][0]["category"] == "cat"
    assert decision["dropped"][0]["label"] == "fake"
    assert "recall of fake in cat falls" in decision["because"]


def test_one_image_of_twenty_is_a_twentieth():
    """As floating-point numbers 1 - 0.95 > 0.05."""
    categories = ["cat"] * 40 + ["car"] * 760
    groups = [str(number // 50) for number in range(800)]
    strong = table(np.where(LABELS, 0.9, 0.1) + scores(LABELS, 1, 2) / 100, LABELS, categories, groups)
    weak, missing = (table["p_fake"].to_numpy().copy() for table in (strong, strong))
    weak[40:] = scores(LABELS[40:], 1, 0)
    for missed, promote in ((1, True), (2, False)):
        missing[1 : 2 * missed : 2] = 0.3
        decision = gate.judge(table(weak, LABELS, categories, groups), table(missing, LABELS, categories, groups))
        assert decision["promote"] == promote


@pytest.mark.parametrize(("fakes", "promote"), [(19, True), (20, False)])
def test_a_category_of_a_handful_stops_nothing(fakes, promote):
    categories = ["cat" if number < 2 * fakes else "car" for number in range(800)]
    groups = [str(number // 50) for number in range(800)]  # 16 of them, none is sealed
    weak, strong = scores(LABELS, 1, 0), scores(LABELS, 4, 1)
    strong[: 2 * fakes] = 0.1
    strong[: 2 * fakes : 2] = weak[: 2 * fakes : 2]
    decision = gate.judge(table(weak, LABELS, categories, groups), table(strong, LABELS, categories, groups))
    assert (decision["promote"], len(decision["dropped"])) == (promote, not promote)
    few = [{"category": "cat", "label": label, "images": fakes} for label in ("real", "fake")]
    assert decision["unjudged"] == (few if promote else [])


def test_a_constant_never_passes():
    constant = table(np.full(800, 0.9), LABELS)
    bad = table(1 - scores(LABELS, 3, 0), LABELS)
    assert "no detector" in gate.judge(bad, constant)["because"]


@pytest.mark.parametrize("metric", ["auc", "balanced_accuracy"])
def test_the_metric_is_that_of_the_summary(metric):
    from trainers.metrics import summarise

    weak, strong = table(scores(LABELS, 1, 0), LABELS), table(scores(LABELS, 2, 1), LABELS)
    decision = gate.judge(weak, strong, metric=metric, thresholds=(0.5, 0.4))
    kept = ~gate.sealed(strong["group"], strong["id"])
    assert decision["challenger"] == summarise(strong.filter(pa.array(kept)), 0.4, bootstrap=0)[metric]


@pytest.mark.parametrize("metric", ["auc", "balanced_accuracy"])
@pytest.mark.parametrize(("num_groups", "labels"), [(15, LABELS[:60]), (3, np.repeat([0, 1, 1], 20))])
def test_the_interval_is_that_of_both_on_the_same_resampled_groups(metric, num_groups, labels, monkeypatch):
    monkeypatch.setattr(gate, "RESAMPLES", 40)
    monkeypatch.setattr(gate, "_MANY_GROUPS", 3)
    groups = np.arange(60) // (60 // num_groups)
    weak, strong = (scores(labels, shift, seed=1).round(1) for shift in (1, 2))  # some are equal to a threshold
    tables = [table(p_fake, labels, groups=[str(group) for group in groups]) for p_fake in (weak, strong)]
    differences = []
    for counts in bootstrap.draws(groups, 40, seed=5):
        rows = np.repeat(np.arange(60), counts[groups])
        if len(set(labels[rows])) < 2:  # of three groups, one of which holds all reals
            continue
        if metric == "auc":
            before, after = (roc_auc_score(labels[rows], p_fake[rows]) for p_fake in (weak, strong))
        else:
            before = balanced_accuracy_score(labels[rows], weak[rows] >= 0.5)
            after = balanced_accuracy_score(labels[rows], strong[rows] >= 0.4)
        differences.append(after - before)
    decision = gate.judge(*tables, metric=metric, thresholds=(0.5, 0.4), seed=5)
    assert decision["difference_interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    assert (decision["images"], decision["groups"], decision["sealed"]) == (60, num_groups, 0)


@pytest.mark.parametrize("num_groups", [2, 3, 10])
def test_of_few_groups_the_interval_is_students_over_the_groups(num_groups):
    """Of groups of one size, balanced accuracy is the mean of theirs: the jackknife gives the textbook's interval."""
    labels = LABELS[: num_groups * 10]
    groups = np.arange(len(labels)) // 10
    weak, strong = (scores(labels, shift, seed=3) for shift in (0.5, 2))
    tables = [table(p_fake, labels, groups=[f"g{group}" for group in groups]) for p_fake in (weak, strong)]
    right = [((p_fake >= 0.5) == (labels == 1)).reshape(num_groups, 10).mean(axis=1) for p_fake in (weak, strong)]
    differences = right[1] - right[0]
    expected = stats.t.interval(0.95, num_groups - 1, differences.mean(), stats.sem(differences))
    decision = gate.judge(*tables, metric="balanced_accuracy")
    assert decision["difference_interval"] == pytest.approx(expected)
    assert decision["promote"] == (expected[0] > 0)


def test_of_a_class_in_a_single_group_nothing_is_certain():
    labels = np.repeat([0, 1, 1, 1], 30)
    groups = [f"g{number // 30}" for number in range(120)]
    weak, strong = (table(scores(labels, shift, 0), labels, groups=groups) for shift in (1, 4))
    decision = gate.judge(weak, strong)
    assert (decision["promote"], decision["difference_interval"]) == (False, None)


def test_about_a_fifth_of_the_groups_is_sealed_whole_and_always_the_same():
    groups = pa.chunked_array([[f"g{number // 5}" for number in range(5000)]])
    ids = pa.chunked_array([[str(number) for number in range(5000)]])
    found = gate.sealed(groups, ids)
    assert 0.15 < found.mean() < 0.25
    assert (found.reshape(-1, 5).all(axis=1) == found.reshape(-1, 5).any(axis=1)).all()
    np.testing.assert_array_equal(gate.sealed(groups.slice(100), ids.slice(100)), found[100:])
    assert found[:95].any()
    for num_groups, is_sealed in ((19, False), (20, True)):
        some = gate.sealed(groups.slice(0, 5 * num_groups), ids.slice(0, 5 * num_groups))
        assert some.any() == is_sealed


def test_other_records_are_refused():
    one, other = table(scores(LABELS, 1, 0), LABELS), table(scores(LABELS[:-2], 1, 0), LABELS[:-2])
    with pytest.raises(Refused, match="same test set"):
        gate.judge(one, other)
    reals = table(np.full(100, 0.5), np.zeros(100, int))
    with pytest.raises(Refused, match="both classes"):
        gate.judge(reals, reals)


def test_the_same_images_are_sealed_in_predictions_of_a_job_and_of_an_evaluation():
    """Those of a job on two datasets have the dataset's name before each id, those of `evaluate` have not."""
    strong = table(scores(LABELS, 2, 1), LABELS)
    strong = strong.set_column(strong.column_names.index("group"), "group", pa.array([""] * len(strong)))
    datasets = pa.array(["faces", "objects"] * (len(strong) // 2))
    evaluated = strong.append_column("dataset", datasets)
    ids = [f"{dataset}/{id}" for dataset, id in zip(datasets.to_pylist(), strong["id"].to_pylist(), strict=True)]
    of_job = evaluated.set_column(evaluated.column_names.index("id"), "id", pa.array(ids))
    assert ids_apart(evaluated).to_pylist() == ids_apart(of_job).to_pylist() == ids
    assert gate.judge(evaluated, evaluated)["sealed"] == gate.judge(of_job, of_job)["sealed"] > 0
    assert ids_apart(strong).equals(strong["id"])

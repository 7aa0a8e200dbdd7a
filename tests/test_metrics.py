"""The figures against scikit-learn, against hand counts, and where they are not defined."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from trainers import bootstrap, metrics
from trainers.calibration import expected_calibration_error


def predictions(labels, scores, groups=None, **columns) -> pa.Table:
    labels = list(labels)
    groups = [""] * len(labels) if groups is None else list(groups)
    return pa.table(
        {
            "label": pa.array(labels, pa.int8()),
            "p_fake": pa.array(list(scores), pa.float64()),
            "group": pa.array(groups, pa.string()),
        }
        | {name: pa.array(list(values), pa.string()) for name, values in columns.items()}
    )


# Few distinct scores, so that ties, also with the threshold, are common.
examples = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.50001, 0.9, 1.0])), min_size=1, max_size=40
)


@given(examples)
@settings(deadline=None)
def test_every_figure_equals_scikit_learns(pairs):
    labels, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    summary = metrics.summarise(predictions(labels, scores), bootstrap=0)
    called = (scores >= 0.5).astype(int)
    confusion = reference.confusion_matrix(labels, called, labels=[0, 1])
    assert summary["confusion"] == confusion.tolist()
    assert summary["accuracy"] == pytest.approx(reference.accuracy_score(labels, called), abs=1e-12)
    assert summary["log_loss"] == pytest.approx(reference.log_loss(labels, scores, labels=[0, 1]), abs=1e-9)
    assert summary["mse"] == pytest.approx(reference.brier_score_loss(labels, scores, labels=[0, 1]), abs=1e-12)
    assert summary["rmse"] == pytest.approx(summary["mse"] ** 0.5)
    assert summary["ece"] == expected_calibration_error(labels, scores)
    options = {"labels": [0, 1], "average": None, "zero_division": np.nan}
    for name, function in (("precision", reference.precision_score), ("recall", reference.recall_score)):
        for label, expected in zip(("real", "fake"), function(labels, called, **options), strict=True):
            value = summary[f"{name}_{label}"]
            assert (value is None) == np.isnan(expected)
            assert value is None or value == pytest.approx(expected, abs=1e-12)
    if len(set(labels.tolist())) == 2:
        assert summary["auc"] == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-9)
        expected = reference.average_precision_score(labels, scores)
        assert summary["average_precision"] == pytest.approx(expected, abs=1e-9)
        expected = reference.balanced_accuracy_score(labels, called)
        assert summary["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
    else:
        undefined = ("auc", "average_precision", "balanced_accuracy", "eer", "tpr_at_fpr_1pct", "degenerate_because")
        assert [summary[name] for name in undefined] == [None] * 6
    if summary["f1"] is not None:
        assert summary["f1"] == pytest.approx(reference.f1_score(labels, called, zero_division=0.0), abs=1e-12)


def test_figures_counted_by_hand():
    #         real  real  real  fake  fake
    labels = [0, 0, 0, 1, 1]
    scores = [0.1, 0.4, 0.6, 0.3, 0.8]
    summary = metrics.summarise(predictions(labels, scores), bootstrap=0)
    assert summary["confusion"] == [[2, 1], [1, 1]]
    assert summary["accuracy"] == 3 / 5
    assert summary["recall_real"] == 2 / 3
    assert summary["recall_fake"] == 1 / 2
    assert summary["precision_real"] == 2 / 3
    assert summary["precision_fake"] == 1 / 2
    assert summary["balanced_accuracy"] == pytest.approx(7 / 12)
    assert summary["auc"] == pytest.approx(4 / 6)  # 0.3 beats one real of three, 0.8 all three
    assert (summary["n"], summary["real"], summary["fake"], summary["groups"]) == (5, 3, 2, 5)
    assert (summary["tpr_at_fpr_1pct"], summary["tpr_at_fpr_01pct"]) == (None, None)  # of 3 reals nobody can say
    assert summary["eer"] == pytest.approx(0.5)  # between 0.6 and 0.4, where the curve is flat
    assert summary["mse"] == pytest.approx((0.1**2 + 0.4**2 + 0.6**2 + 0.7**2 + 0.2**2) / 5)
    assert summary["ece"] == pytest.approx((0.1 + 0.4 + 0.6 + 0.7 + 0.2) / 5)  # every image in a bin of its own
    assert not summary["degenerate"]


@pytest.mark.parametrize("label", [0, 1])
def test_one_image_has_an_accuracy_but_no_auc(label):
    summary = metrics.summarise(predictions([label], [0.7], ["a"]))
    assert summary["accuracy"] == label
    assert summary["auc"] is None
    assert summary["auc_interval"] is None
    assert summary["recall_real" if label else "recall_fake"] is None
    assert not summary["degenerate"]


def test_no_images_have_counts_only():
    summary = metrics.summarise(predictions([], []))
    defined = {name for name, value in summary.items() if value not in (None, 0, False, {})}
    assert defined == {"threshold", "confusion"}
    assert summary["confusion"] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("wrong", [float("nan"), 1.5, -0.1, float("inf")])
def test_a_score_that_is_no_probability_is_an_error(wrong):
    with pytest.raises(ValueError, match="1 of 3 do not"):
        metrics.summarise(predictions([0, 1, 1], [0.2, wrong, 0.4]))


def test_a_label_that_is_neither_is_an_error():
    with pytest.raises(ValueError, match=r"received \[0, 2\]"):
        metrics.summarise(predictions([0, 2], [0.2, 0.4]))


def test_the_score_equal_to_the_threshold_is_fake():
    assert metrics.summarise(predictions([1], [0.7]), threshold=0.7)["confusion"] == [[0, 0], [0, 1]]
    assert metrics.summarise(predictions([1], [0.69]), threshold=0.7)["confusion"] == [[0, 0], [1, 0]]


# Degenerate predictors


@pytest.mark.parametrize(
    ("scores", "because"),
    [
        ([0.83] * 6, "the same P(fake), 0.8300"),
        ([0.5 + 1e-8 * number for number in range(6)], "the same P(fake), 0.5000"),
        ([0.5, 0.7, 0.8, 0.9, 0.95, 0.99], "every image is called fake, real ones too (1 of 6)"),
        ([0.1, 0.2, 0.3, 0.4, 0.45, 0.49], "every image is called real, fake ones too (5 of 6)"),
    ],
)
def test_a_predictor_of_one_class_is_named_degenerate(scores, because):
    summary = metrics.summarise(predictions([0, 1, 1, 1, 1, 1], scores))
    assert summary["degenerate"] is True
    assert because in summary["degenerate_because"]
    assert summary["balanced_accuracy"] == 0.5


def test_always_fake_on_five_to_one_is_no_success():
    labels = [1] * 50 + [0] * 10
    summary = metrics.summarise(predictions(labels, [0.9] * 60))
    assert summary["accuracy"] == pytest.approx(5 / 6)
    assert (summary["balanced_accuracy"], summary["auc"], summary["degenerate"]) == (0.5, 0.5, True)


# Intervals


def groups_auc(labels, scores, groups, seed=0, resamples=400):
    return bootstrap.auc_interval(np.array(labels), np.array([scores]), np.array(groups), resamples, seed)


@pytest.mark.parametrize("seed", range(8))
def test_every_figure_of_a_resample_is_that_of_the_repeated_groups(seed):
    random = np.random.default_rng(seed)
    labels, groups = np.arange(4000) % 4 // 2, random.integers(0, 40, 4000)  # enough reals for every figure
    scores = random.integers(0, 1000, 4000) / 1000  # with ties, also with the threshold
    scores[labels == 0] *= 0.9
    (counts,) = bootstrap.draws(groups, 1, seed)
    repeated = np.repeat(np.arange(4000), counts[groups])
    expected = metrics.summarise(predictions(labels[repeated], scores[repeated]), 0.4, bootstrap=0)
    found = bootstrap.intervals(labels, scores, groups, 0.4, resamples=1, seed=seed)
    of_classes = {f"{figure}_{name}" for figure in ("precision", "recall") for name in ("real", "fake")}
    others = {"auc", "accuracy", "balanced_accuracy", "f1", "eer", "tpr_at_fpr_1pct", "tpr_at_fpr_01pct"}
    assert set(found) == of_classes | others
    for name, (low, high) in found.items():
        assert low == high == pytest.approx(expected[name], abs=1e-12), name


def test_an_interval_holds_the_middle_95_percent():
    assert bootstrap.percentiles([None, *range(1001)]) == (pytest.approx(25), pytest.approx(975))


def test_figures_that_no_resample_has_have_no_interval():
    found = bootstrap.intervals(np.ones(6, int), np.linspace(0, 1, 6), np.arange(6), 0.5, resamples=50)
    assert set(found) == {"accuracy", "recall_fake", "precision_fake", "precision_real", "f1"}
    assert found["recall_fake"] == found["accuracy"]
    low, high = found["accuracy"]
    assert 0 <= low < 0.5 < high <= 1
    assert bootstrap.intervals(*np.zeros((3, 0), int), 0.5) == {}


def test_without_an_error_shares_have_the_exact_interval_of_their_groups():
    labels = np.r_[np.zeros(30, int), np.ones(100, int)]
    groups = np.r_[np.arange(30), 30 + np.arange(100) // 10]  # 30 of reals, 10 of fakes
    found = bootstrap.intervals(labels, labels * 0.8, groups, 0.5, resamples=50)
    assert set(found) == {name for name in bootstrap.FIGURES if name[:3] in ("acc", "bal", "pre", "rec")}
    ends = {name: pytest.approx((0.025 ** (1 / number), 1)) for name, number in (("real", 30), ("fake", 10))}
    for name, expected in ends.items():  # no error in k groups: low ** k = 0.025
        assert found[f"recall_{name}"] == found[f"precision_{name}"] == expected
    assert found["recall_real"][0] == pytest.approx(0.8843, abs=5e-5)
    assert found["accuracy"] == pytest.approx((0.025 ** (1 / 40), 1))
    assert found["balanced_accuracy"] == pytest.approx(np.mean([found["recall_real"], found["recall_fake"]], axis=0))


def test_what_is_always_called_fake_has_exact_recalls():
    labels = np.repeat([0, 1], 30)
    found = bootstrap.intervals(labels, np.linspace(0.6, 0.9, 60), np.arange(60), 0.5, resamples=50)
    assert found["recall_real"] == pytest.approx((0, 1 - 0.025 ** (1 / 30)))
    assert found["recall_fake"] == pytest.approx((0.025 ** (1 / 30), 1))
    assert found["balanced_accuracy"] == pytest.approx((0.4421, 0.5579), abs=1e-4)


def test_a_resampled_auc_equals_scikit_learns_with_repeated_groups():
    random = np.random.default_rng(5)
    labels, groups = random.integers(0, 2, 60), random.integers(0, 7, 60)
    scores = random.integers(0, 10, 60) / 10  # with ties
    counts_seen = []

    class Recorded:
        def multinomial(self, *arguments):
            counts_seen.append(random.multinomial(*arguments))
            return counts_seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: Recorded())
        low, high = groups_auc(labels, scores, groups, resamples=1)
    weights = counts_seen[0][groups]
    repeated = reference.roc_auc_score(np.repeat(labels, weights), np.repeat(scores, weights))
    assert low == high == pytest.approx(repeated, abs=1e-12)


def test_whole_groups_are_drawn_so_that_copies_add_no_certainty():
    random = np.random.default_rng(1)
    labels = np.tile([0, 1], 20)
    scores = np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    pairs = np.arange(40) // 2  # each photograph: one real, one fake
    once = groups_auc(labels, scores, pairs)
    copied = groups_auc(np.tile(labels, 25), np.tile(scores, 25), np.tile(pairs, 25))
    assert copied == pytest.approx(once)
    apart = groups_auc(np.tile(labels, 25), np.tile(scores, 25), np.arange(1000))
    assert apart[1] - apart[0] < (once[1] - once[0]) / 3


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says():
    true_auc = 0.7602  # of N(0, 1) against N(1, 1): Phi(1 / sqrt 2)
    random = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        labels = np.tile([0, 1], 60)
        low, high = groups_auc(labels, random.normal(labels, 1), np.arange(120), seed=trial, resamples=200)
        covered += low <= true_auc <= high
    assert 178 <= covered <= 199  # 95 % of 200 is 190; 3.9 and 2.9 standard deviations


def test_the_interval_is_the_same_every_time_and_holds_the_auc():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 100)
    table = predictions(labels, random.uniform(0, 0.6, 100) + 0.4 * labels, [f"photo-{row % 9}" for row in range(100)])
    summary = metrics.summarise(table, seed=4)
    assert summary["groups"] == 9
    assert summary == metrics.summarise(table, seed=4)
    assert summary["auc_interval"] != metrics.summarise(table, seed=5)["auc_interval"]
    for name in ("auc", "accuracy", "balanced_accuracy", "recall_fake", "eer"):
        low, high = summary["intervals"][name]
        assert 0 <= low < summary[name] < high <= 1
    assert summary["auc_interval"] == summary["intervals"]["auc"]


@pytest.mark.parametrize(
    ("images", "resamples"), [(0, 1000), (200_000, 1000), (400_000, 500), (1_000_000, 200), (10**9, 200)]
)
def test_of_many_images_there_are_fewer_resamples(images, resamples):
    assert metrics.resamples_for(images) == resamples


def test_an_interval_needs_two_groups():
    assert metrics.summarise(predictions([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], ["a"] * 4))["auc_interval"] is None


def test_resamples_without_a_class_are_left_out():
    # One group is all real, the other all fake: half of the resamples have no AUC, the rest have this one.
    assert groups_auc([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9], [0, 0, 1, 1]) == (0.75, 0.75)


def test_records_without_a_group_are_groups_of_their_own():
    assert metrics.summarise(predictions([0, 1, 0, 1], [0.1] * 4, ["a", "", "", "a"]), bootstrap=0)["groups"] == 3


# Parts of the predictions


def test_each_category_is_summarised_by_itself():
    table = predictions([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.9], category=["cat", "cat", "dog", "dog"])
    by_category = metrics.summarise_by(table, "category")
    assert {name: summary["accuracy"] for name, summary in by_category.items()} == {"cat": 1.0, "dog": 0.5}


def test_a_left_out_generator_is_judged_against_all_reals():
    table = predictions([0, 0, 1, 1, 1], [0.2, 0.6, 0.5, 0.4, 0.9], generator=["", "", "splice", "splice", "shuffle"])
    summary = metrics.summarise_left_out(table, {"splice"}, bootstrap=0)
    assert (summary["real"], summary["fake"], summary["auc"]) == (2, 2, 0.5)


def test_splits_are_kept_apart():
    table = predictions([0, 1, 1], [0.1, 0.2, 0.9], split=["validation", "test", "test"])
    assert metrics.of_split(table, "test")["p_fake"].to_pylist() == [0.2, 0.9]


def test_a_tracker_gets_the_defined_numbers():
    summary = metrics.summarise(predictions([0, 1, 1, 0], [0.1, 0.9, 0.6, 0.7], ["a", "a", "b", "b"]))
    flat = metrics.flatten(summary, "test/")
    assert flat["test/accuracy"] == 0.75
    assert (flat["test/auc_low"], flat["test/auc_high"]) == summary["auc_interval"]
    assert flat["test/degenerate"] == 0.0
    assert all(isinstance(value, float) for value in flat.values())
    assert "test/auc" not in metrics.flatten(metrics.summarise(predictions([1], [0.9])), "test/")


# The shortcut that files are


def files(labels, formats, sizes, widths) -> pa.Table:
    return pa.table(
        {
            "label": pa.array(labels, pa.int8()),
            "source_format": pa.array(formats, pa.string()),
            "bytes": pa.array(sizes, pa.int64()),
            "width": pa.array(widths, pa.int32()),
            "height": pa.array(widths, pa.int32()),
        }
    )


def random_files(seed: int, shortcut: str) -> pa.Table:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 300)
    formats = np.where(labels if shortcut == "format" else random.integers(0, 2, 300), "PNG", "JPEG")
    sizes = random.integers(5_000, 20_000, 300) * (1 + (labels if shortcut == "bytes" else 0))
    widths = np.where(labels, 256, 224) if shortcut == "width" else random.choice([224, 256], 300)
    return files(labels, formats.tolist(), sizes, widths)


@pytest.mark.parametrize(("shortcut", "least"), [("format", 0.99), ("width", 0.99), ("bytes", 0.8)])
def test_a_shortcut_in_the_files_is_found(shortcut, least):
    assert metrics.file_facts_auc(random_files(0, shortcut), random_files(1, shortcut)) > least


def test_files_without_a_shortcut_are_at_chance():
    assert metrics.file_facts_auc(random_files(0, "none"), random_files(1, "none")) == pytest.approx(0.5, abs=0.1)


def test_a_format_that_training_never_saw_is_no_error():
    strange = files([0, 1], ["WEBP", "GIF"], [9_000, 9_000], [224, 224])
    assert metrics.file_facts_auc(random_files(0, "bytes"), strange) == 0.5


def test_files_of_one_class_have_no_auc():
    assert metrics.file_facts_auc(random_files(0, "bytes"), files([1], ["PNG"], [9], [9])) is None

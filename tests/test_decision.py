"""Thresholds, temperature and the unsure band, chosen on validation scores."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.calibration import expected_calibration_error
from trainers.config import ModelConfig
from trainers.decision import Decision, decide, decide_for, unsure_band


@pytest.fixture(scope="module")
def validation():
    """Labels and over-confident scores: the logits are three times what they should be."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 4000)
    labels = (random.random(4000) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, 1 / (1 + np.exp(-3 * logits))


def test_nothing_is_chosen_unless_asked(validation):
    assert decide(*validation) == Decision(0.5)
    assert decide(*validation, threshold=0.3) == Decision(0.3)
    assert decide(np.array([1, 1]), np.array([0.2, 0.4])) == Decision(0.5)
    assert (ModelConfig().threshold_rule, ModelConfig().calibrate, ModelConfig().unsure_below) == ("fixed", False, 0)


@pytest.mark.parametrize("calibrate", [False, True])
def test_the_false_positive_rate_is_kept(validation, calibrate):
    labels, scores = validation
    decision = decide(labels, scores, rule="fpr", target_fpr=0.05, calibrate=calibrate)
    called = decision.calibrated(scores) >= decision.threshold
    assert 0.045 < called[labels == 0].mean() <= 0.05
    assert decision.base_rate == labels.mean()


@pytest.mark.parametrize(("reals", "is_said"), [(19, True), (20, False)])
def test_a_threshold_chosen_on_too_few_reals_is_said(caplog, reals, is_said):
    labels = np.r_[np.zeros(reals, int), np.ones(30, int)]
    scores = np.linspace(0, 1, len(labels))
    for rule in ("fpr", "balanced"):
        decide(labels, scores, rule=rule, target_fpr=0.05)
    said = [f"was chosen on {reals} reals" in message and "at least 20" in message for message in caplog.messages]
    assert said == [True] * is_said


def test_the_balanced_threshold_is_balanced_after_the_temperature(validation):
    labels, scores = validation
    skewed = np.clip(scores**3, 0, 1)
    decision = decide(labels, skewed, rule="balanced", calibrate=True)
    called = decision.calibrated(skewed) >= decision.threshold
    best = (called[labels == 1].mean() + (~called)[labels == 0].mean()) / 2
    at_half = (skewed >= 0.5)[labels == 1].mean() / 2 + (skewed < 0.5)[labels == 0].mean() / 2
    assert best > at_half + 0.01


def test_calibration_makes_p_fake_a_probability(validation):
    labels, scores = validation
    decision = decide(labels, scores, calibrate=True)
    assert (decision.temperature, decision.threshold) == (pytest.approx(3, rel=0.1), 0.5)
    before = expected_calibration_error(labels, scores)
    assert expected_calibration_error(labels, decision.calibrated(scores)) < before / 4


def test_a_chosen_threshold_of_zero_is_kept():
    """A detector that has it all the wrong way round is best, or least bad, where it calls every image fake."""
    decision = decide(np.array([0, 0, 1, 1]), np.array([1.0, 0.9, 0.2, 0.1]), rule="balanced", threshold=0.7)
    assert decision.threshold == 0.0


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_one_class_can_choose_nothing(labels):
    with pytest.raises(ValueError, match="both classes"):
        decide(np.array(labels), np.array([0.2, 0.4][: len(labels)]), rule="balanced")


def test_an_unknown_rule_is_refused(validation):
    with pytest.raises(ValueError, match="received 'best'"):
        decide(*validation, rule="best")


def test_the_unsure_band_is_that_of_the_calibrated_scores(validation):
    labels, scores = validation
    for calibrate in (False, True):
        decision = decide(labels, scores, threshold=0.4, calibrate=calibrate, unsure_below=0.8)
        assert decision.unsure == unsure_band(labels, decision.calibrated(scores), 0.4, 0.8) != (0.4, 0.4)
    assert decide(labels, scores, calibrate=True).unsure is None


def test_a_job_decides_by_its_options(validation):
    labels, scores = validation
    table = pa.table({"p_fake": scores, "label": labels})
    for options in (
        {"threshold_rule": "fpr", "target_fpr": 0.05, "unsure_below": 0.9},
        {"threshold": 0.3, "calibrate": True},
    ):
        rule = {"rule": options["threshold_rule"]} if "threshold_rule" in options else {}
        told = {name: value for name, value in options.items() if name != "threshold_rule"}
        decision = decide_for(ModelConfig(**options), table)
        assert decision == decide(labels, scores, **rule, **told)
        applied = decision.applied(table)
        assert applied.column_names == table.column_names
        assert (applied["p_fake"].to_numpy() == decision.calibrated(scores)).all()


pairs = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0])), min_size=1)


@given(pairs, st.sampled_from([0.3, 0.5, 0.55]), st.sampled_from([0.6, 0.9, 1.0]))
def test_outside_of_the_band_verdicts_are_right_often_enough_and_no_smaller_band_will_do(pairs, threshold, precision):
    labels, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    low, high = unsure_band(labels, scores, threshold, precision)
    assert low <= threshold <= high

    def enough(chosen, label) -> bool:
        return bool(chosen.any()) and np.mean(labels[chosen] == label) >= precision - 1e-12

    if high <= 1:
        assert enough(scores >= high, 1)
    if low > 0:
        assert enough(scores < low, 0)
    candidates = np.unique(np.r_[scores, threshold])
    assert not any(enough(scores >= edge, 1) for edge in candidates if threshold <= edge < high)
    assert not any(enough(scores < edge, 0) for edge in candidates if low < edge <= threshold)


def test_a_sure_detector_has_an_empty_band():
    assert unsure_band(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), 0.5, 0.99) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold_rule": "best"}, "--threshold-rule must be one of fixed, balanced, fpr"),
        ({"target_fpr": 1.0}, "--target-fpr must lie between"),
        ({"unsure_below": 1.0}, "--unsure-below must lie between"),
    ],
)
def test_impossible_settings_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        ModelConfig(**changes)

"""Calibration against scikit-learn, and a temperature that undoes what was done."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from trainers import calibration

examples = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


def calibrated(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn with the very probabilities that are given."""
    random = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-random.normal(0, 1.5, count)))
    return (random.uniform(size=count) < scores).astype(int), scores


@given(examples)
def test_the_error_is_the_distance_between_scikit_learns_curves(pairs):
    # Scores a little off the bins' edges, which scikit-learn counts to the lower bin.
    labels, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs]) * 0.99 + 0.0007
    counts, means, shares = calibration.reliability(labels, scores, 10)
    expected_shares, expected_means = calibration_curve(labels, scores, n_bins=10)
    filled = counts > 0
    np.testing.assert_allclose(means[filled], expected_means, atol=1e-12)
    np.testing.assert_allclose(shares[filled], expected_shares, atol=1e-12)
    expected = np.average(np.abs(expected_means - expected_shares), weights=counts[filled])
    assert calibration.expected_calibration_error(labels, scores, 10) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_hand():
    labels, scores = np.array([0, 1, 1, 0]), np.array([0.1, 0.1, 0.7, 1.0])
    # bin [0, .5): mean 0.1, half fake: 0.4 off, 2 images; bin [.5, 1]: mean 0.85, half fake: 0.35 off, 2 images
    assert calibration.expected_calibration_error(labels, scores, bins=2) == pytest.approx(0.375)


def test_true_probabilities_are_calibrated_and_need_no_temperature():
    labels, scores = calibrated(100_000)
    assert calibration.expected_calibration_error(labels, scores) < 0.01
    assert calibration.fit_temperature(labels, scores) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_over_and_under_confidence(factor):
    labels, scores = calibrated(20_000)
    stretched = calibration.apply_temperature(scores, 1 / factor)
    fitted = calibration.fit_temperature(labels, stretched)
    assert fitted == pytest.approx(factor * calibration.fit_temperature(labels, scores), rel=1e-3)
    restored = calibration.apply_temperature(stretched, fitted)
    assert calibration.expected_calibration_error(labels, restored) < 0.02


def test_no_other_temperature_has_a_smaller_log_loss():
    labels, scores = calibrated(500, seed=3)
    best = calibration.fit_temperature(labels, scores)
    losses = [log_loss(labels, calibration.apply_temperature(scores, best * step)) for step in (0.98, 1.0, 1.02)]
    assert losses[1] == min(losses)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.05, 20))
def test_a_temperature_keeps_order_and_verdict_at_a_half(values, temperature):
    scores = np.sort(np.array(values))
    scaled = calibration.apply_temperature(scores, temperature)
    assert (np.diff(scaled) >= 0).all()
    assert ((scaled >= 0) & (scaled <= 1)).all()
    decided = np.abs(scores - 0.5) > 1e-9
    assert ((scaled > 0.5) == (scores > 0.5))[decided].all()


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_saturated_scores_count_as_a_ten_millionth_off(score):
    logit = np.log(1e7 - 1)
    labels = np.array([score, score, score, 1 - score])  # three of four are right: a temperature makes 3/4 of each
    assert calibration.fit_temperature(labels, np.full(4, score)) == pytest.approx(logit / np.log(3))
    softened = calibration.apply_temperature(np.array([score]), 20)
    assert softened == pytest.approx(1 / (1 + np.exp((1 - 2 * score) * logit / 20)))


@pytest.mark.parametrize("scores", [[0.4, 0.6], [0.6, 0.4], [0.5, 0.5]])
def test_scores_without_a_mistake_or_no_better_than_chance_have_no_temperature(scores):
    """0.6 would become 0.9997."""
    assert calibration.fit_temperature(np.array([0, 1]), np.array(scores)) is None


def test_one_class_has_no_temperature_and_no_images_no_error():
    assert calibration.fit_temperature(np.array([1, 1]), np.array([0.4, 0.6])) is None
    assert calibration.fit_temperature(np.array([]), np.array([])) is None
    assert calibration.expected_calibration_error(np.array([]), np.array([])) is None

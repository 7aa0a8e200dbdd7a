"""Operating points against scikit-learn and scipy, and thresholds that keep what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import balanced_accuracy_score, roc_curve

from trainers import operating

# Few distinct scores make ties; the neighbouring floats have nothing between them.
SCORES = [0.0, 0.1, 0.25, 0.5, float(np.nextafter(0.5, 1)), 0.9, 1.0]
both_classes = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(SCORES)), min_size=2, max_size=40).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


def arrays(pairs) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])


@given(both_classes)
def test_the_equal_error_rate_is_where_scipy_finds_it(pairs):
    labels, scores = arrays(pairs)
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    # The curve against its own length: a vertical piece has many true positive rates for one false positive rate.
    along = np.linspace(0, 1, len(false_positive))
    x, y = interp1d(along, false_positive), interp1d(along, true_positive)
    crossing = brentq(lambda t: x(t) + y(t) - 1, 0, 1, xtol=1e-14)
    assert operating.equal_error_rate(labels, scores) == pytest.approx(float(x(crossing)), abs=1e-9)


@given(both_classes, st.sampled_from([0.0, 0.001, 0.01, 0.2, 0.5, 1.0]))
def test_rate_and_threshold_at_a_false_positive_rate(pairs, fpr):
    labels, scores = arrays(pairs)
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    rate = operating.tpr_at_fpr(labels, scores, fpr)
    assert rate == pytest.approx(true_positive[false_positive <= fpr].max(), abs=1e-12)
    called = scores >= operating.threshold_at_fpr(labels, scores, fpr)
    assert called[labels == 0].mean() <= fpr
    assert called[labels == 1].mean() == pytest.approx(rate, abs=1e-12)


@given(both_classes)
def test_no_threshold_has_a_better_balanced_accuracy(pairs):
    labels, scores = arrays(pairs)
    chosen = balanced_accuracy_score(labels, scores >= operating.best_balanced_threshold(labels, scores))
    others = [balanced_accuracy_score(labels, scores >= threshold) for threshold in (*SCORES, 1.1)]
    assert chosen == pytest.approx(max(others), abs=1e-12)


def test_operating_points_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.25, 0.6, 0.7, 0.9])
    assert operating.equal_error_rate(labels, scores) == 0.25  # at 0.6: 0.8 is a false alarm, 0.25 is missed
    assert operating.tpr_at_fpr(labels, scores, 0.0) == 0.25
    assert operating.tpr_at_fpr(labels, scores, 0.25) == 0.75
    assert operating.best_balanced_threshold(labels, scores) == pytest.approx(0.45)  # between 0.3 and 0.6
    false_alarms, misses = operating.error_rates(labels, scores)
    assert false_alarms.tolist() == [0, 0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.75, 1]
    assert misses.tolist() == [1, 0.75, 0.75, 0.5, 0.25, 0.25, 0, 0, 0]


def test_of_equally_balanced_thresholds_the_one_nearest_to_a_half_is_taken():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.5, 0.7, 0.9])
    assert operating.best_balanced_threshold(labels, scores) == pytest.approx(0.3)  # 0.8 is as good, and further off


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_operating_points(label):
    labels, scores = np.full(3, label), np.array([0.1, 0.5, 0.9])
    assert operating.equal_error_rate(labels, scores) is None
    assert operating.tpr_at_fpr(labels, scores, 0.1) is None
    assert operating.threshold_at_fpr(labels, scores, 0.1) is None
    assert operating.error_rates(labels, scores) is None
    assert operating.best_balanced_threshold(labels, scores) is None


def test_a_perfect_detector_makes_no_errors_and_a_reversed_one_only_errors():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert operating.equal_error_rate(labels, scores) == 0
    assert operating.equal_error_rate(1 - labels, scores) == 1
    assert operating.best_balanced_threshold(labels, scores) == 0.5

"""Points on the ROC curve: what a detector does at one threshold, and which threshold to take.

    equal_error_rate(labels, scores), tpr_at_fpr(labels, scores, 0.01)
    threshold = best_balanced_threshold(validation_labels, validation_scores)

labels: int [n], 0 real and 1 fake; scores: P(fake), float [n]. An image is called fake when score >= threshold. All are
None without both classes.
"""

import math

import numpy as np

TPR_AT_FPR = {"tpr_at_fpr_1pct": 0.01, "tpr_at_fpr_01pct": 0.001}  # figures of a summary, and their rates


def reals_needed(fpr: float) -> int:
    """The smallest number of reals of which one is at most a share `fpr`: with fewer, `fpr` and 0 are the same."""
    return math.ceil(1 / fpr - 1e-9)


def _rates(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(false positive rates, true positive rates, thresholds) of every distinct verdict, from none called fake to all.

    The thresholds lie halfway between neighbouring scores, so that a score's last bit decides nothing.
    """
    fakes, reals = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    if not fakes or not reals:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.flatnonzero(np.r_[np.diff(ordered) < 0, True])  # the last example of each distinct score
    called = last + 1
    fakes_called = np.cumsum(labels[order] == 1)[last]
    false_positive = np.r_[0, called - fakes_called] / reals
    true_positive = np.r_[0, fakes_called] / fakes
    distinct = ordered[last]
    between = (distinct[:-1] + distinct[1:]) / 2
    # Neighbouring floats have no number between them: the mean must not fall on the lower one.
    between = np.where(between > distinct[1:], between, distinct[:-1])
    return false_positive, true_positive, np.r_[np.nextafter(distinct[0], np.inf), between, min(0.0, distinct[-1])]


def error_rates(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(share of reals called fake, share of fakes called real) at every distinct threshold, the highest one first."""
    rates = _rates(labels, scores)
    return None if rates is None else (rates[0], 1 - rates[1])


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Where as many reals are called fake as fakes real: the false positive rate at which the ROC curve, with straight
    lines between its points, meets the line from (0, 1) to (1, 0)."""
    rates = _rates(labels, scores)
    if rates is None:
        return None
    return eer_of_rates(*rates[:2])


def eer_of_rates(false_positive: np.ndarray, true_positive: np.ndarray) -> float:
    """`equal_error_rate` of the points of a ROC curve, from (0, 0) to (1, 1)."""
    excess = false_positive + true_positive - 1  # rises from -1 to 1
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(false_positive[after - 1] + share * (false_positive[after] - false_positive[after - 1]))


def tpr_at_fpr(labels: np.ndarray, scores: np.ndarray, fpr: float) -> float | None:
    """The largest share of fakes found by a threshold that calls at most a share `fpr` of the reals fake.

    Nothing is interpolated: with fewer than 1 / fpr reals it is the share found without any false alarm.
    """
    rates = _rates(labels, scores)
    return None if rates is None else tpr_of_rates(*rates[:2], fpr)


def tpr_of_rates(false_positive: np.ndarray, true_positive: np.ndarray, fpr: float) -> float:
    """`tpr_at_fpr` of the points of a ROC curve, from (0, 0) to (1, 1)."""
    return float(true_positive[np.searchsorted(false_positive, fpr, "right") - 1])


def threshold_at_fpr(labels: np.ndarray, scores: np.ndarray, fpr: float) -> float | None:
    """The smallest threshold that calls at most a share `fpr` of the reals fake."""
    rates = _rates(labels, scores)
    return None if rates is None else float(rates[2][rates[0] <= fpr][-1])


def best_balanced_threshold(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The threshold of the best balanced accuracy; of several, the one nearest to 0.5."""
    rates = _rates(labels, scores)
    if rates is None:
        return None
    false_positive, true_positive, thresholds = rates
    balanced = true_positive - false_positive
    best = thresholds[balanced >= balanced.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])

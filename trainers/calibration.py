"""Is P(fake) a probability: of the images said to be fake with 0.8, are 80 % fake?

    temperature = fit_temperature(validation_labels, validation_scores)
    expected_calibration_error(labels, apply_temperature(scores, temperature))

labels: int [n], 0 real and 1 fake; scores: P(fake), float [n]. A model is calibrated for the share of fakes among the
images it was fitted on, and for no other.
"""

import numpy as np

NUM_BINS = 15
_SMALLEST = 1e-7  # of P(fake) and 1 - P(fake): float32 scores end here, and log(0) is infinite
_LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))
_AT_THE_LIMIT = 1e-3  # of a logarithm: the search ends beside a limit, never on it


def reliability(
    labels: np.ndarray, scores: np.ndarray, bins: int = NUM_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a reliability diagram shows: of each bin of equal width, (images, mean P(fake), share of fakes).

    Bins are [k / bins, (k + 1) / bins), the last one closed. The means of an empty bin are NaN.
    """
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(index, weights=scores, minlength=bins) / counts
        shares = np.bincount(index, weights=labels, minlength=bins) / counts
    return counts, means, shares


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = NUM_BINS) -> float | None:
    """Mean distance between P(fake) and the share of fakes over the bins, weighted by their images; None for no images.

    Naeini, Cooper & Hauskrecht 2015, for the probability of the positive class.
    """
    if not len(labels):
        return None
    counts, means, shares = reliability(labels, scores, bins)
    return float(np.sum(np.where(counts, counts * np.abs(means - shares), 0)) / counts.sum())


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(logit(P(fake)) / temperature): above 1 softens, below 1 sharpens; order and 0.5 stay."""
    clipped = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return 1 / (1 + np.exp(-_logits(clipped) / temperature))


def fit_temperature(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The temperature in [0.05, 20] of the smallest log-loss on these, validation, data (Guo et al. 2017).

    None where the best temperature would be a limit: without both classes, or where the scores tell them apart without
    a mistake or no better than chance, so that any sharper or softer ones would fit better.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels) or labels.min() == labels.max():
        return None
    clipped = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    signed = np.where(labels == 1, _logits(clipped), -_logits(clipped))  # > 0 when right

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    best = minimize_scalar(log_loss, bounds=_LOG_TEMPERATURES, options={"xatol": 1e-9}).x
    is_limit = min(abs(best - limit) for limit in _LOG_TEMPERATURES) < _AT_THE_LIMIT
    return None if is_limit else float(np.exp(best))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities) - np.log1p(-probabilities)

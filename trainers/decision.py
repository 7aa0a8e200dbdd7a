"""How a P(fake) becomes a verdict: temperature, threshold, and a band in which the verdict is unsure.

    decision = decide(validation_labels, validation_scores, rule="fpr", target_fpr=0.01)
    decision.calibrated(scores) >= decision.threshold

Everything is chosen on validation images, never on the test's, and travels inside the registered model.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trainers.calibration import apply_temperature, fit_temperature
from trainers.config import THRESHOLD_RULES, ModelConfig
from trainers.operating import best_balanced_threshold, reals_needed, threshold_at_fpr


@dataclass(frozen=True)
class Decision:
    """What is done with the network's P(fake).

    Attributes:
      threshold: an image is called fake from this P(fake) on, after the temperature.
      temperature: the logit is divided by it; None: P(fake) stays what the network gives.
      unsure: (low, high): the verdict is unsure where low <= P(fake) < high; None: nowhere.
      base_rate: the share of fakes among the images that these were chosen on; None: nothing was chosen on images.
    """

    threshold: float = 0.5
    temperature: float | None = None
    unsure: tuple[float, float] | None = None
    base_rate: float | None = None

    def calibrated(self, scores: np.ndarray) -> np.ndarray:
        """float64 [n]: P(fake) as it is reported, from P(fake) as the network gives it."""
        return scores.astype(np.float64) if self.temperature is None else apply_temperature(scores, self.temperature)

    def applied(self, predictions: pa.Table) -> pa.Table:
        """The predictions with `calibrated` scores in the column p_fake."""
        p_fake = self.calibrated(predictions["p_fake"].to_numpy())
        place = predictions.column_names.index("p_fake")
        return predictions.set_column(place, "p_fake", pa.array(p_fake, pa.float64()))


def decide(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    rule: str = "fixed",
    threshold: float = 0.5,
    target_fpr: float = 0.01,
    calibrate: bool = False,
    unsure_below: float = 0.0,
) -> Decision:
    """The decision that these validation images lead to.

    Args:
      labels: int [n], 0 real and 1 fake, both of them.
      scores: the network's P(fake), float [n].
      rule: `fixed`: `threshold`; `balanced`: that of the best balanced accuracy; `fpr`: the smallest one that calls at
        most a share `target_fpr` of the reals fake, which is logged as a warning below 1 / `target_fpr` reals.
      calibrate: whether to fit a temperature (Guo et al. 2017). It moves no image across P(fake) = 0.5.
      unsure_below: a verdict is sure where at least this share of such verdicts is right, see `unsure_band`; 0: always.

    Raises:
      ValueError: an unknown rule; one class is missing, so that nothing can be chosen.
    """
    if rule not in THRESHOLD_RULES:
        raise ValueError(f"the rule must be one of {', '.join(THRESHOLD_RULES)}, received {rule!r}")
    if rule == "fixed" and not calibrate and not unsure_below:
        return Decision(threshold)
    if not len(labels) or labels.min() == labels.max():
        raise ValueError(f"a threshold is chosen on images of both classes, received {len(labels)} of one")
    num_reals = int(np.sum(labels == 0))
    if rule == "fpr" and num_reals < reals_needed(target_fpr):
        logging.getLogger(__name__).warning(
            "The threshold that calls at most %g of the reals fake was chosen on %d reals: it may call far more fake; "
            "give the validation part at least %d, or a larger --target-fpr.",
            *(target_fpr, num_reals, reals_needed(target_fpr)),
        )
    temperature = fit_temperature(labels, scores) if calibrate else None
    if calibrate and temperature is None:
        logging.getLogger(__name__).warning(
            "P(fake) is not calibrated: on the %d validation images any sharper, or softer, scores would fit better. "
            "Give more of them, some of which the model gets wrong.",
            len(labels),
        )
    p_fake = Decision(temperature=temperature).calibrated(scores)
    chosen = {"balanced": best_balanced_threshold(labels, p_fake), "fpr": threshold_at_fpr(labels, p_fake, target_fpr)}
    found = chosen.get(rule)
    threshold = threshold if found is None else found  # a chosen 0.0 is one
    band = unsure_band(labels, p_fake, threshold, unsure_below) if unsure_below else None
    return Decision(threshold, temperature, band, float(np.mean(labels == 1)))


def decide_for(options: ModelConfig, validation: pa.Table) -> Decision:
    """`decide` as a job is told to, on its predictions for the validation images."""
    return decide(
        validation["label"].to_numpy(),
        validation["p_fake"].to_numpy(),
        rule=options.threshold_rule,
        threshold=options.threshold,
        target_fpr=options.target_fpr,
        calibrate=options.calibrate,
        unsure_below=options.unsure_below,
    )


def unsure_band(labels: np.ndarray, scores: np.ndarray, threshold: float, precision: float) -> tuple[float, float]:
    """The smallest band [low, high) around the threshold outside of which the verdicts are right often enough.

    high is the smallest score >= threshold such that, of the images with P(fake) >= high, at least a share `precision`
    is fake; low the largest number <= threshold such that, of those with P(fake) < low, at least that share is real.
    Where no score will do, the band reaches beyond 1, or to 0: that verdict is never sure. If the threshold itself will
    do on both sides, the band is empty: low = high = threshold.
    """
    order = np.argsort(scores, kind="stable")
    scores, fakes = scores[order].astype(np.float64), (labels[order] == 1).astype(np.int64)
    edges = np.unique(np.r_[scores, threshold])
    below = np.searchsorted(scores, edges, "left")  # images with a score < edge
    fakes_below = np.r_[0, np.cumsum(fakes)][below]
    above, fakes_above = len(scores) - below, fakes.sum() - fakes_below
    is_high = (edges >= threshold) & (above > 0) & (fakes_above >= precision * above)
    is_low = (edges <= threshold) & (below > 0) & (below - fakes_below >= precision * below)
    high = float(edges[is_high].min()) if is_high.any() else float(np.nextafter(1, 2))
    return (float(edges[is_low].max()) if is_low.any() else 0.0), high

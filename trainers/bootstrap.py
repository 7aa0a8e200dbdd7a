"""How much figures would vary with other photographs, persons or videos: all of them from one bootstrap over groups.

    intervals(labels, scores, groups, threshold=0.5)["balanced_accuracy"]  # (low, high)

Images of one group are not independent, so whole groups are drawn with replacement (the cluster bootstrap of Field &
Welsh 2007), as many as there are; an interval is that of the percentiles (Efron & Tibshirani 1993, chapter 13). One
sort serves all resamples: a draw changes the counts along the ROC curve, and every figure follows from those.

Where no error was seen, every resample agrees, which says nothing of the errors to come: a share then has the exact
interval of its number of groups (Clopper & Pearson 1934), and what is no share has none.

labels: int [n], 0 real and 1 fake; scores: P(fake), float [n]; groups: int [n], 0 <= group < number of groups.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainers.operating import TPR_AT_FPR, eer_of_rates, reals_needed, tpr_of_rates

CONFIDENCE = 0.95
# Reals and fakes, int64 [distinct scores + 1] each: how many have at least each of the distinct scores, the highest one
# first, after none at all.
Roc = tuple[np.ndarray, np.ndarray]


def draws(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is taken, int [groups], of each resample; nothing with fewer than two groups."""
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    random = np.random.default_rng(seed)
    for _ in range(resamples if num_groups > 1 else 0):
        yield random.multinomial(num_groups, np.full(num_groups, 1 / num_groups))


def roc_of_group_counts(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], Roc]:
    """A function: how often each group is taken, int [groups] -> the counts of all examples taken."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) < 0, True])  # the last example of each distinct score
    is_fake, of_group = labels[order] == 1, groups[order]

    def roc_of(counts: np.ndarray) -> Roc:
        taken = counts[of_group].astype(np.int64)
        fakes = np.cumsum(np.where(is_fake, taken, 0))[last]
        return np.r_[0, np.cumsum(taken)[last] - fakes], np.r_[0, fakes]

    return roc_of


def area(roc: Roc) -> float | None:
    """P(score of a fake > score of a real) + P(equal) / 2 (Hanley & McNeil 1982); None without both classes."""
    reals, fakes = roc
    pairs = int(reals[-1]) * int(fakes[-1])
    return float(np.diff(reals) @ (fakes[1:] + fakes[:-1]) / (2 * pairs)) if pairs else None


def auc_of_group_counts(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray
) -> Callable[[np.ndarray], float | None]:
    """A function: how often each group is taken, int [groups] -> the AUC of all examples taken, None without both
    classes."""
    roc_of = roc_of_group_counts(labels, scores, groups)
    return lambda counts: area(roc_of(counts))


def auc_interval(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of the mean AUC of several models on the same images.

    Args:
      scores: float [models, n].

    Returns:
      (low, high); None with fewer than two groups, or if no resample has both classes.
    """
    aucs_of = [auc_of_group_counts(labels, row, groups) for row in scores]
    found = [[auc_of(counts) for auc_of in aucs_of] for counts in draws(groups, resamples, seed)]
    means = np.array(found, np.float64).reshape(-1, len(aucs_of)).mean(axis=1)  # NaN of a resample without both classes
    return percentiles(means[~np.isnan(means)].tolist())


def percentiles(values: Sequence[float | None]) -> tuple[float, float] | None:
    """The interval that holds the middle 95 % of the values; None counts for nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def intervals(
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The 95 % interval (low, high) of each figure, by its name in `trainers.metrics.summarise`.

    Resamples in which a figure is not defined, such as those of one class, do not count for it. Left out are figures
    that no resample has; shares found at a false positive rate that there are too few reals for; AUC, EER, F1 and
    shares found that are 0, or 1, in all resamples. With fewer than two groups there are none at all.
    """
    roc_of = roc_of_group_counts(labels, scores, groups)
    num_called = len(np.unique(scores[scores >= threshold]))
    found = [_figures(roc_of(counts), num_called) for counts in draws(groups, resamples, seed)]
    within = {name: percentiles([figures[name] for figures in found]) for name in FIGURES}
    intervals = {name: interval for name, interval in within.items() if interval}
    for name, fpr in TPR_AT_FPR.items():
        if np.sum(labels == 0) < reals_needed(fpr):
            intervals.pop(name, None)
    unvaried = {name: interval[0] for name, interval in intervals.items() if interval in ((0, 0), (1, 1))}
    counted = {
        "accuracy": groups,
        "precision_real": groups[scores < threshold],
        "precision_fake": groups[scores >= threshold],
        "recall_real": groups[labels == 0],
        "recall_fake": groups[labels == 1],
    }
    for name, share in unvaried.items():
        del intervals[name]
        if name in counted:
            intervals[name] = exact_interval(share, len(np.unique(counted[name])))
    if {"recall_real", "recall_fake"} <= set(unvaried):  # the mean of their bounds is at least as sure as each of them
        ends = np.mean([intervals["recall_real"], intervals["recall_fake"]], axis=0)
        intervals["balanced_accuracy"] = float(ends[0]), float(ends[1])
    return intervals


def exact_interval(share: float, num_groups: int) -> tuple[float, float]:
    """The 95 % interval of Clopper & Pearson for a share of 0 or 1, each group counted as one trial."""
    from scipy.stats import binomtest  # imports in half a second: not before it is needed

    within = binomtest(round(share * num_groups), num_groups).proportion_ci(CONFIDENCE)
    return float(within.low), float(within.high)


FIGURES = (
    "auc", "accuracy", "balanced_accuracy", "precision_real", "precision_fake", "recall_real", "recall_fake", "f1",
    "eer", *TPR_AT_FPR,
)  # fmt: skip


def _figures(roc: Roc, num_called: int) -> dict[str, float | None]:
    reals, fakes = (int(counts[-1]) for counts in roc)
    false_alarms, found = (int(counts[num_called]) for counts in roc)
    let_pass = reals - false_alarms
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    for name, part, whole in (
        ("accuracy", let_pass + found, reals + fakes),
        ("precision_real", let_pass, let_pass + fakes - found),
        ("precision_fake", found, found + false_alarms),
        ("recall_real", let_pass, reals),
        ("recall_fake", found, fakes),
        ("f1", 2 * found, found + false_alarms + fakes),
    ):
        figures[name] = part / whole if whole else None
    if reals and fakes:
        rates = roc[0] / reals, roc[1] / fakes
        figures["balanced_accuracy"] = (let_pass / reals + found / fakes) / 2
        figures |= {"auc": area(roc), "eer": eer_of_rates(*rates)}
        figures |= {name: tpr_of_rates(*rates, fpr) for name, fpr in TPR_AT_FPR.items()}
    return figures

"""May a challenger replace the champion? Pure: two tables of predictions on the same test set in, a decision out.

    decision = judge(champion, challenger, metric="auc")
    decision["promote"], decision["because"]

The challenger must be better for certain, must not lose a category, and must be a detector at all. Certain is the 95 %
interval of the difference, both models on the same groups: percentiles of a bootstrap, or, of few groups, Student's
interval around the jackknife (Tukey 1958). Of two equally good models the bootstrap would have promoted the challenger
for 24, 8, 6 and 5 in a hundred test sets of 2, 3, 5 and 20 groups of 40 images, the jackknife for 6, 1, 2 and 3; 2.5 is
what 95 % means (200 simulated test sets each).
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import LABELS
from trainers import bootstrap, metrics
from trainers.mixture import ids_apart

RESAMPLES = 1000
_MANY_GROUPS = 100  # from here on the two intervals agree, and leaving out each group once takes longer
MAX_DROP = 0.05  # of a category's recall of one class
SEALED_SHARE = 0.2  # of the groups of a test set
FEWEST_TO_SEAL = 20  # groups: with fewer, a fifth is too small to say anything later, and is missed now
_ROUNDING = 1e-9  # 0.05 of 20 images is one of them
_FEWEST_OF_CATEGORY = 20  # images of one class: with fewer, a recall moves by more than MAX_DROP at a single image


def sealed(groups: pa.ChunkedArray, ids: pa.ChunkedArray) -> np.ndarray:
    """bool [n]: the records that the gate never looks at, a fifth of the groups by their hash.

    Every decision made on a test set wears it out a little. What is sealed has decided nothing, so a last, single
    figure on these records alone, `python -m trainers.evaluate --sealed`, is an honest one. A record without a group is
    a group of its own. Nothing is sealed of fewer than 20 groups. Of several datasets together the groups bear their
    datasets' names, so that it is another fifth than of each by itself.
    """
    names = [group or f"\0{id}" for group, id in zip(groups.to_pylist(), ids.to_pylist(), strict=True)]
    is_sealed = {
        name: int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:4])
        < SEALED_SHARE * 2**32
        for name in set(names)
    }
    if len(is_sealed) < FEWEST_TO_SEAL:
        return np.zeros(len(names), bool)
    return np.array([is_sealed[name] for name in names], bool)


def judge(
    champion: pa.Table,
    challenger: pa.Table,
    *,
    metric: str = "auc",
    thresholds: tuple[float, float] = (0.5, 0.5),
    max_drop: float = MAX_DROP,
    seed: int = 0,
) -> dict[str, Any]:
    """The decision, fit for JSON.

    Args:
      champion, challenger: predictions (id, label, category, group, p_fake) on the same records, in any order.
      metric: auc or balanced_accuracy.
      thresholds: of the champion and of the challenger.
      max_drop: by how much the recall of a class may fall within a category.
      seed: of the bootstrap.

    Returns:
      promote (bool), because (a sentence), metric, champion and challenger (the metric's values), difference,
      difference_interval (95 %; None where a group alone holds a class), images, groups, sealed (records left out),
      dropped (categories that lost: category, label, before, after), unjudged (those with too few images of a class to
      tell: category, label, images).

    Raises:
      Refused: the two were not evaluated on the same records, or the records do not hold both classes.
    """
    champion, challenger = champion.sort_by("id"), challenger.sort_by("id")
    for column in ("id", "label"):
        if not champion[column].equals(challenger[column]):
            raise Refused(
                "The gate compares predictions on the same test set; these are of different records. Evaluate both on "
                "one dataset, `python -m trainers.evaluate --dataset D --log`, and promote with --dataset D."
            )
    left_out = sealed(champion["group"], ids_apart(champion))
    kept = pa.array(~left_out)
    tables = [champion.filter(kept), challenger.filter(kept)]
    summaries = [metrics.summarise(table, t, bootstrap=0) for table, t in zip(tables, thresholds, strict=True)]
    before, after = (summary[metric] for summary in summaries)
    if before is None or after is None:
        raise Refused(f"The gate needs both classes in the test set; without them {metric} is not defined.")
    interval = _difference_interval(tables, thresholds, metric, seed)
    within = f"{interval[0]:+.4f} to {interval[1]:+.4f} (95 %)" if interval else ""
    dropped, unjudged = _dropped(tables, thresholds, max_drop)
    because = None
    if summaries[1]["degenerate"]:
        because = f"the challenger is no detector: {summaries[1]['degenerate_because']}"
    elif not interval:
        because = "no telling whether the challenger is better: a single group holds all images of a class"
    elif interval[0] <= 0:
        because = f"the challenger is not better for certain: {metric} differs by {within}"
    elif dropped:
        worst = max(dropped, key=lambda row: row["before"] - row["after"])
        because = (
            f"recall of {worst['label']} in {worst['category'] or 'the only category'} falls from "
            f"{worst['before']:.3f} to {worst['after']:.3f}, by more than {max_drop:g}"
        )
    return {
        "promote": because is None,
        "because": because or f"the challenger is better: {metric} by {within}",
        "metric": metric,
        "champion": before,
        "challenger": after,
        "difference": after - before,
        "difference_interval": interval and list(interval),
        "images": tables[0].num_rows,
        "groups": summaries[0]["groups"],
        "sealed": int(left_out.sum()),
        "dropped": dropped,
        "unjudged": unjudged,
    }


def _difference_interval(
    tables: list[pa.Table], thresholds: tuple[float, float], metric: str, seed: int
) -> tuple[float, float] | None:
    """The 95 % interval of challenger minus champion; both see the same groups, as often."""
    groups = metrics.group_numbers(tables[0])
    measures = [_measure(table, groups, metric, t) for table, t in zip(tables, thresholds, strict=True)]

    def difference(counts: np.ndarray) -> float | None:
        before, after = (measure(counts) for measure in measures)
        return None if before is None or after is None else after - before

    num_groups = int(groups.max()) + 1
    if num_groups < _MANY_GROUPS:
        without_one = [difference(counts) for counts in 1 - np.eye(num_groups, dtype=np.int64)]
        return _jackknife(difference(np.ones(num_groups, np.int64)), without_one)
    differences = map(difference, bootstrap.draws(groups, RESAMPLES, seed))
    return bootstrap.percentiles([value for value in differences if value is not None])


def _jackknife(whole: float | None, without_one: list[float | None]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of the jackknife's pseudo-values, one a group; None where leaving out one of
    the groups leaves nothing to measure.

    Args:
      whole: the statistic of all groups. without_one: the same without each of them.
    """
    left = [value for value in without_one if value is not None]
    if whole is None or len(left) < len(without_one):
        return None
    pseudo = len(left) * whole - (len(left) - 1) * np.array(left)
    reach = stats.t.ppf(0.975, len(left) - 1) * pseudo.std(ddof=1) / len(left) ** 0.5
    return float(pseudo.mean() - reach), float(pseudo.mean() + reach)


def _measure(
    table: pa.Table, groups: np.ndarray, metric: str, threshold: float
) -> Callable[[np.ndarray], float | None]:
    """A function: how often each group is taken, int [groups] -> the metric; None where it is not defined."""
    labels, scores = table["label"].to_numpy(), table["p_fake"].to_numpy()
    if metric == "auc":
        return bootstrap.auc_of_group_counts(labels, scores, groups)
    right = (scores >= threshold) == (labels == 1)
    num_groups = int(groups.max()) + 1
    hits = [np.bincount(groups[labels == label], right[labels == label], num_groups) for label in range(len(LABELS))]
    totals = [np.bincount(groups[labels == label], minlength=num_groups) for label in range(len(LABELS))]

    def balanced_accuracy(counts: np.ndarray) -> float | None:
        numbers = [int(counts @ total) for total in totals]
        if not all(numbers):
            return None
        return float(np.mean([counts @ hit / number for hit, number in zip(hits, numbers, strict=True)]))

    return balanced_accuracy


def _dropped(
    tables: list[pa.Table], thresholds: tuple[float, float], max_drop: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(the categories whose recall of a class falls by more than `max_drop`, those with too few images to tell)."""
    dropped, unjudged = [], []
    for category in sorted(pc.unique(tables[0]["category"]).to_pylist()):
        for label, name in enumerate(LABELS):
            of_class = (pc.field("category") == category) & (pc.field("label") == label)
            before, after = (
                (table.filter(of_class)["p_fake"].to_numpy() >= threshold) == bool(label)
                for table, threshold in zip(tables, thresholds, strict=True)
            )
            if 0 < len(before) < _FEWEST_OF_CATEGORY:
                unjudged.append({"category": category, "label": name, "images": len(before)})
            elif before.sum() - after.sum() > max_drop * len(before) + _ROUNDING:
                recalls = {"before": float(before.mean()), "after": float(after.mean())}
                dropped.append({"category": category, "label": name, **recalls})
    return dropped, unjudged

"""The report card: every figure that a detector is judged by, from its predictions alone.

    card = card_of(predictions, threshold=0.5)
    card["notes"]                      # sentences, the most important one first
    card["summary"]["auc"], card["per_class"]["macro"]["f1"], card["by"]["category"]["people"]["auc"]

A card holds plain numbers, strings, lists and dicts: it is its own JSON. A figure that is undefined is None.
Predictions are what `trainers.scoring` gives: the columns label (0 real, 1 fake), p_fake, group, video, category,
generator and dataset. A million of them, of 100,000 groups, take half a minute and 450 MB.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.schema import LABELS
from trainers import metrics

NUM_WORST_GROUPS = 20
MAX_VALUES = 200  # of a column that gets a table of its own
FEW_GROUPS = 20  # of a class: a bootstrap over fewer gives intervals that are much too narrow: see docs/report-card.md
RARELY = 0.005  # recall of a class: below it, the card says so

Card = dict[str, Any]


def card_of(
    predictions: pa.Table,
    threshold: float = 0.5,
    *,
    unsure: Sequence[float] | None = None,
    notes: Sequence[str] = (),
    bootstrap: int | None = None,
) -> Card:
    """Everything that the predictions say of the detector.

    Args:
      predictions: see above.
      threshold: an image is called fake from this P(fake) on.
      unsure: (low, high): verdicts on images with low <= P(fake) < high are unsure.
      notes: sentences that the reader must know first, for example that the images chose the checkpoint.
      bootstrap: resamples for the intervals; None: as many as `metrics.resamples_for` says.

    Returns:
      notes (list of str): why it is no detector, if it is none, or may be none, then the given ones, then why the
        intervals are too narrow, if they are;
      summary: what `metrics.summarise` gives, with `resamples`;
      per_class: of real, fake, macro and weighted: precision, recall, f1, support;
      by: {column: {value: summary}} of dataset and category, where there are several values, and of generator, where
        each value's fakes are judged against all reals;
      groups: {count, worst: the groups with the most wrong verdicts};
      videos: {mean, median: the summary of the scores of whole videos}, or None without videos;
      unsure: {low, high, share: of all images, accuracy_elsewhere}, or None.

    Raises:
      ValueError: a score that is no number in [0, 1], or a label other than 0 and 1.
    """
    resamples = metrics.resamples_for(len(predictions)) if bootstrap is None else bootstrap
    summary = metrics.summarise(predictions, threshold, bootstrap=resamples)
    because = summary["degenerate_because"]
    return {
        "notes": [
            *([f"This is no detector: {because}."] if because else []),
            *_doubts(summary),
            *notes,
            *_narrow(summary),
        ],
        "summary": summary | {"resamples": resamples},
        "per_class": per_class(summary),
        "by": _by(predictions, threshold),
        "groups": worst_groups(predictions, threshold),
        "videos": _videos(predictions, threshold, resamples),
        "unsure": None if unsure is None else _unsure(predictions, threshold, unsure),
    }


def _doubts(summary: metrics.Summary) -> list[str]:
    """What a reader of an accuracy would miss: an AUC no better than chance, a verdict that is nearly never told."""
    notes = []
    if summary["threshold"] > 1:
        notes.append(f"The threshold is above 1 ({summary['threshold']!r}): no image can ever be called fake.")
    if summary["degenerate"]:
        return notes
    low, high = summary["auc_interval"] or (summary["auc"], summary["auc"])
    within = f"{metrics.rounded(low)} to {metrics.rounded(high)}" if summary["auc_interval"] else ""
    if summary["auc"] == 0 or (within and high < 0.5):
        notes.append(f"The AUC is below 0.5 ({within or 0}): are the labels swapped?")
    elif within and low <= 0.5:
        notes.append(f"The interval of the AUC, {within}, holds 0.5: it is not shown that this tells fake from real.")
    for label, name in enumerate(LABELS):
        right, images = summary["confusion"][label][label], summary[name]
        if right < RARELY * images:
            notes.append(f"Of {images:,} {name} images only {right:,} are called {name}, less than {RARELY:.1%}.")
    return notes


def _narrow(summary: metrics.Summary) -> list[str]:
    """Each class's figures vary with its own groups: many fakes do not make up for reals of two photographs."""
    groups = [summary[f"groups_{name}"] for name in LABELS]
    if not summary["intervals"] or min(filter(None, groups)) >= FEW_GROUPS:
        return []
    of = f"{groups[0]:,} groups of reals and {groups[1]:,} of fakes (photographs, persons, videos)"
    return [f"The intervals are of {of}: of fewer than {FEW_GROUPS} of a class they are too narrow."]


def calibration_of(temperature: float | None, base_rate: float | None, errors: Sequence[float | None] = ()) -> str:
    """What P(fake) means, in a few sentences.

    Args:
      temperature, base_rate: as of `trainers.decision.Decision`.
      errors: the expected calibration error on the validation images without and with it; (): not known here.
    """
    if temperature is None:
        return "P(fake) is the network's own: it was not calibrated."
    told = f": the expected calibration error there was {errors[0]:.3f} and is {errors[1]:.3f}" if errors else ""
    return (
        f"P(fake) was calibrated by a temperature ({temperature:.3g}) on the validation images{told}. Of these "
        f"{base_rate:.1%} are fake: it is meant for that share and no other."
    )


def per_class(summary: metrics.Summary) -> dict[str, dict[str, float | None]]:
    """Precision, recall, F1 and support of each class, their means over classes (macro) and over images (weighted).

    A mean is None if what it is taken over is; a class without images has weight 0 and does not count.
    """
    confusion = np.array(summary["confusion"])
    rows: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(LABELS):
        images, called = int(confusion[label].sum()), int(confusion[:, label].sum())
        rows[name] = {
            "precision": summary[f"precision_{name}"],
            "recall": summary[f"recall_{name}"],
            "f1": float(2 * confusion[label, label] / (images + called)) if images + called else None,
            "support": images,
        }
    support = np.array([rows[name]["support"] for name in LABELS])
    for name, weights in (("macro", (support > 0).astype(float)), ("weighted", support.astype(float))):
        means = {key: _mean([rows[label][key] for label in LABELS], weights) for key in ("precision", "recall", "f1")}
        rows[name] = {**means, "support": int(support.sum())}
    return rows


def _mean(values: Sequence[float | None], weights: np.ndarray) -> float | None:
    counted = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    if not counted or any(value is None for value, _ in counted):
        return None
    return float(sum(value * weight for value, weight in counted if value is not None) / weights.sum())


def _by(predictions: pa.Table, threshold: float) -> dict[str, dict[str, metrics.Summary]]:
    tables = {}
    for column in ("dataset", "category"):
        if column in predictions.column_names and 1 < pc.count_distinct(predictions[column]).as_py() <= MAX_VALUES:
            tables[column] = metrics.summarise_by(predictions, column, threshold)
    generators = set(pc.unique(predictions["generator"]).to_pylist()) - {""}
    if 1 < len(generators) <= MAX_VALUES:
        tables["generator"] = {
            name: metrics.summarise_left_out(predictions, [name], threshold=threshold, bootstrap=0)
            for name in sorted(generators)
        }
    return tables


def worst_groups(predictions: pa.Table, threshold: float) -> dict[str, Any]:
    """The number of groups, and those with the most wrong verdicts, smaller groups first among equals."""
    known = predictions.filter(pc.not_equal(predictions["group"], ""))
    codes = known["group"].combine_chunks().dictionary_encode()
    index, labels, scores = _codes(codes), known["label"].to_numpy(), known["p_fake"].to_numpy()
    num_groups = len(codes.dictionary)
    images = np.bincount(index, minlength=num_groups)
    fakes = np.bincount(index, weights=labels, minlength=num_groups)
    wrong = np.bincount(index, weights=(scores >= threshold) != (labels == 1), minlength=num_groups)
    means = np.bincount(index, weights=scores, minlength=num_groups) / images
    order = np.lexsort((np.arange(num_groups), images, -wrong))[:NUM_WORST_GROUPS]
    worst = [
        {
            "group": codes.dictionary[int(group)].as_py(),
            "n": int(images[group]),
            "fake": int(fakes[group]),
            "wrong": int(wrong[group]),
            "mean_p_fake": float(means[group]),
        }
        for group in order
        if wrong[group]
    ]
    return {"count": num_groups, "worst": worst}


def video_scores(predictions: pa.Table) -> dict[str, pa.Table]:
    """One row a video (columns video, label, group, p_fake, frames): its frames' mean score, and their median, which a
    few odd frames cannot move."""
    frames = predictions.filter(pc.not_equal(predictions["video"], ""))
    codes = frames["video"].combine_chunks().dictionary_encode()
    index, scores = _codes(codes), frames["p_fake"].to_numpy()
    order = np.lexsort((scores, index))
    counts = np.bincount(index, minlength=len(codes.dictionary))
    begins = np.cumsum(counts) - counts
    in_order = scores[order]
    middle = (in_order[begins + (counts - 1) // 2] + in_order[begins + counts // 2]) / 2 if len(counts) else scores
    mean = np.bincount(index, weights=scores, minlength=len(counts)) / counts
    first = frames.select(["video", "label", "group"]).take(pa.array(order[begins])) if len(counts) else frames
    # The mean of equal scores may exceed them by a rounding.
    values = {"mean": np.clip(mean, 0, 1), "median": middle}
    columns = first.select(["video", "label", "group"]).append_column("frames", pa.array(counts, pa.int64()))
    return {name: columns.append_column("p_fake", pa.array(value, pa.float64())) for name, value in values.items()}


def _videos(predictions: pa.Table, threshold: float, resamples: int) -> dict[str, metrics.Summary] | None:
    tables = video_scores(predictions)
    if not len(tables["mean"]):
        return None
    return {name: metrics.summarise(table, threshold, bootstrap=resamples) for name, table in tables.items()}


def _unsure(predictions: pa.Table, threshold: float, band: Sequence[float]) -> dict[str, Any]:
    labels, scores = predictions["label"].to_numpy(), predictions["p_fake"].to_numpy()
    inside = (scores >= band[0]) & (scores < band[1])
    right = (scores >= threshold) == (labels == 1)
    return {
        "low": float(band[0]),
        "high": float(band[1]),
        "share": float(inside.mean()) if len(inside) else None,
        "accuracy_elsewhere": float(right[~inside].mean()) if (~inside).any() else None,
    }


def most_wrong(predictions: pa.Table, number: int, threshold: float) -> np.ndarray:
    """int64 [at most number]: the rows of wrong verdicts, first those whose P(fake) is farthest from their label."""
    labels, scores = predictions["label"].to_numpy(), predictions["p_fake"].to_numpy()
    wrong = np.flatnonzero((scores >= threshold) != (labels == 1))
    return wrong[np.argsort(-np.abs(scores - labels)[wrong], kind="stable")][:number]


def _codes(column: pa.DictionaryArray) -> np.ndarray:
    return column.indices.to_numpy(zero_copy_only=False).astype(np.int64)

"""From predictions to numbers. Fake is the positive class everywhere; what is undefined is None, never 0 or NaN.

    test = of_split(predictions, "test")
    summary = summarise(test)
    summary["auc"], summary["auc_interval"], summary["degenerate"]
    summarise_by(test, "category")

`predictions` is a table with columns label (0 real, 1 fake), p_fake (float64) and group; others as used.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.schema import LABELS
from trainers.bootstrap import intervals
from trainers.calibration import expected_calibration_error
from trainers.operating import TPR_AT_FPR, equal_error_rate, reals_needed, tpr_at_fpr

# Figures that are no share of images, and what they are of a detector that makes no error.
BEST = {"auc": 1.0, "eer": 0.0, "tpr_at_fpr_1pct": 1.0, "tpr_at_fpr_01pct": 1.0}
CONSTANT_SPREAD = 1e-6  # scores this close together are one score: float32 noise around a constant

Summary = dict[str, Any]


def of_split(predictions: pa.Table, split: str) -> pa.Table:
    """The rows of one split."""
    return predictions.filter(pc.equal(predictions["split"], split))


def summarise(predictions: pa.Table, threshold: float = 0.5, bootstrap: int = 1000, seed: int = 0) -> Summary:
    """Every figure of one set of predictions.

    Args:
      predictions: see above.
      threshold: an image is called fake from this P(fake) on.
      bootstrap: resamples for the intervals; 0 for none.
      seed: of the resamples.

    Returns:
      n, real, fake, groups, groups_real, groups_fake (counts; the last two: groups with images of that class);
      threshold; confusion ([[real called real, real called fake], [fake called real,
      fake called fake]]); accuracy, balanced_accuracy, precision_real, precision_fake, recall_real, recall_fake, f1
      (of fake); auc, average_precision, eer, tpr_at_fpr_1pct and _01pct (None below 100 and 1,000 reals),
      log_loss (nats), mse, rmse, ece; intervals ({figure: (low, high)}, see `trainers.bootstrap`) and auc_interval,
      that of the AUC;
      degenerate (bool) and degenerate_because (a sentence or None).

    Raises:
      ValueError: a score that is no number in [0, 1], or a label other than 0 and 1.
    """
    labels, scores = _labels_and_scores(predictions)
    groups = group_numbers(predictions)
    summary: Summary = {"n": len(labels), "real": int(np.sum(labels == 0)), "fake": int(np.sum(labels == 1))}
    summary |= {"groups": int(groups.max()) + 1 if len(groups) else 0}
    summary |= {f"groups_{name}": len(np.unique(groups[labels == label])) for label, name in enumerate(LABELS)}
    summary["threshold"] = threshold
    summary |= _at_threshold(labels, scores, threshold)
    summary |= _over_thresholds(labels, scores)
    summary["intervals"] = intervals(labels, scores, groups, threshold, bootstrap, seed)
    summary["auc_interval"] = summary["intervals"].get("auc")
    because = degenerate_because(labels, scores, threshold)
    return summary | {"degenerate": because is not None, "degenerate_because": because}


def summarise_by(predictions: pa.Table, column: str, threshold: float = 0.5) -> dict[str, Summary]:
    """`summarise`, without intervals, of the rows of each value of `column`, by value."""
    used = list(dict.fromkeys(["label", "p_fake", "group", column]))
    ordered = predictions.select(used).sort_by(column)  # once: a filter a value would read all rows for each
    runs = pc.run_end_encode(ordered[column].combine_chunks())
    ends = runs.run_ends.to_pylist()
    parts = zip(runs.values.to_pylist(), [0, *ends], ends, strict=False)
    return {value: summarise(ordered.slice(begin, end - begin), threshold, bootstrap=0) for value, begin, end in parts}


def summarise_left_out(predictions: pa.Table, generators: Collection[str], **options: Any) -> Summary:
    """`summarise` of the fakes of some generators against all reals: how a detector does on generators it was not
    trained on, if these were left out of training."""
    chosen = pc.is_in(predictions["generator"], value_set=pa.array(sorted(generators), pa.string()))
    return summarise(predictions.filter(pc.or_(pc.equal(predictions["label"], 0), chosen)), **options)


def resamples_for(num_images: int) -> int:
    """How many resamples the intervals need seconds for: 1000 up to 200,000 images, then fewer, 200 from a million
    on, whose quantiles still stand on five resamples on each side."""
    return int(np.clip(200_000_000 // max(num_images, 1), 200, 1000))


def without_interval(figure: str, summary: Summary) -> str:
    """Why a figure has no interval, in a few words; "" if nothing can be said of it."""
    if summary[figure] is None and figure in TPR_AT_FPR and summary["fake"]:
        return f"needs at least {reals_needed(TPR_AT_FPR[figure]):,} reals"
    if not summary["intervals"] or figure not in BEST or summary[figure] not in (0, 1):
        return ""
    seen = "no error" if summary[figure] == BEST[figure] else "nothing right"
    return f"{seen} seen in {summary['groups_real']:,} groups of reals and {summary['groups_fake']:,} of fakes"


def rounded(value: float, digits: int = 4) -> str:
    """The number with so many decimals, unless that makes 0 or 1 of what is neither: "< 0.0001", "> 0.9999"."""
    text = f"{value:.{digits}f}"
    if value > 0 and float(text) == 0:
        return f"< {10**-digits:.{digits}f}"
    return f"> {1 - 10**-digits:.{digits}f}" if value < 1 and float(text) == 1 else text


def flatten(summary: Summary, prefix: str) -> dict[str, float]:
    """The single numbers of a summary by name, as a tracker takes them; the interval as auc_low and auc_high."""
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    if summary.get("auc_interval"):
        numbers["auc_low"], numbers["auc_high"] = summary["auc_interval"]
    return {prefix + key: float(value) for key, value in numbers.items()}


def _labels_and_scores(predictions: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    labels = predictions["label"].to_numpy().astype(np.int64)
    scores = predictions["p_fake"].to_numpy().astype(np.float64)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (fake), received {sorted(set(labels.tolist()))}")
    wrong = ~((scores >= 0) & (scores <= 1))  # so put, NaN is wrong too
    if wrong.any():
        raise ValueError(
            f"p_fake must lie in [0, 1]: {int(wrong.sum())} of {len(scores)} do not, {scores[wrong][0]} say"
        )
    return labels, scores


def group_numbers(predictions: pa.Table) -> np.ndarray:
    """int64 [n]: 0, 1, ... for the groups. A record whose group is unknown ("") is a group of its own."""
    column = predictions["group"]
    known = np.asarray(pc.not_equal(column, ""), bool)
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = np.where(known, codes, len(codes) + np.arange(len(codes)))  # beyond every group's number
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Summary:
    called_fake = scores >= threshold
    fake = labels == 1
    real_as_real, real_as_fake = int(np.sum(~fake & ~called_fake)), int(np.sum(~fake & called_fake))
    fake_as_real, fake_as_fake = int(np.sum(fake & ~called_fake)), int(np.sum(fake & called_fake))
    recall_real = _ratio(real_as_real, real_as_real + real_as_fake)
    recall_fake = _ratio(fake_as_fake, fake_as_real + fake_as_fake)
    return {
        "confusion": [[real_as_real, real_as_fake], [fake_as_real, fake_as_fake]],
        "accuracy": _ratio(real_as_real + fake_as_fake, len(labels)),
        "balanced_accuracy": None if recall_real is None or recall_fake is None else (recall_real + recall_fake) / 2,
        "precision_real": _ratio(real_as_real, real_as_real + fake_as_real),
        "precision_fake": _ratio(fake_as_fake, fake_as_fake + real_as_fake),
        "recall_real": recall_real,
        "recall_fake": recall_fake,
        "f1": _ratio(2 * fake_as_fake, 2 * fake_as_fake + real_as_fake + fake_as_real),
    }


def _over_thresholds(labels: np.ndarray, scores: np.ndarray) -> Summary:
    from sklearn import metrics  # imports in a second: not before it is needed

    has_both = bool(labels.size) and labels.min() != labels.max()
    mse = float(np.mean((scores - labels) ** 2)) if labels.size else None
    return {
        "auc": float(metrics.roc_auc_score(labels, scores)) if has_both else None,
        "average_precision": float(metrics.average_precision_score(labels, scores)) if has_both else None,
        "eer": equal_error_rate(labels, scores),
        **{
            name: tpr_at_fpr(labels, scores, fpr) if np.sum(labels == 0) >= reals_needed(fpr) else None
            for name, fpr in TPR_AT_FPR.items()
        },
        "log_loss": float(metrics.log_loss(labels, scores, labels=[0, 1])) if labels.size else None,
        "mse": mse,
        "rmse": None if mse is None else mse**0.5,
        "ece": expected_calibration_error(labels, scores),
    }


def degenerate_because(labels: np.ndarray, scores: np.ndarray, threshold: float) -> str | None:
    """Why these predictions are those of no detector at all; None if they may be a detector's.

    Only predictions on both classes can be judged.
    """
    if not labels.size or labels.min() == labels.max():
        return None
    if np.ptp(scores) <= CONSTANT_SPREAD:
        return f"every image gets the same P(fake), {scores[0]:.4f}"
    called_fake = scores >= threshold
    if called_fake.all():
        return f"every image is called fake, real ones too ({np.sum(labels == 0):,} of {len(labels):,})"
    if not called_fake.any():
        return f"every image is called real, fake ones too ({np.sum(labels == 1):,} of {len(labels):,})"
    return None


def file_facts_auc(train: pa.Table, test: pa.Table) -> float | None:
    """AUC on `test` of a linear model that saw only the files of `train`, not their pixels.

    Logistic regression on the file's format, and the logarithms of its length, width, height and bytes per pixel. Well
    above 0.5, it says that real and fake can be told by their containers, and a detector may have learnt just that.

    Args:
      train, test: rows of the manifest (columns label, source_format, bytes, width, height).

    Returns:
      The AUC; None if `train` or `test` lacks a class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = [table["label"].to_numpy() for table in (train, test)]
    if any(len(np.unique(each)) < 2 for each in labels):
        return None
    formats = sorted(pc.unique(train["source_format"]).to_pylist())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(_file_facts(train, formats), labels[0])
    return float(roc_auc_score(labels[1], model.predict_proba(_file_facts(test, formats))[:, 1]))


def _file_facts(table: pa.Table, formats: list[str]) -> np.ndarray:
    """float64 [n, len(formats) + 4]."""
    size, width, height = (table[name].to_numpy().astype(np.float64) for name in ("bytes", "width", "height"))
    names = table["source_format"].to_numpy(zero_copy_only=False)
    facts = [names == known for known in formats]
    facts += [np.log(size), np.log(width), np.log(height), np.log(size / (width * height))]
    return np.stack(facts, axis=1).astype(np.float64)

"""What can be scored without looking: constants, categories that give the class away, splits of another mixture."""

import numpy as np

from tfds_builders.audit.dataset import BuiltDataset, column_codes
from tfds_builders.audit.findings import Finding, graded, percent
from tfds_builders.records.schema import LABELS

# Accuracy of the constant, at 4:1, 2:1 and 3:2.
HIGH_CONSTANT, MEDIUM_CONSTANT, LOW_CONSTANT = 0.8, 0.67, 0.6
_ONE_SIDED = 0.95  # share of one class from which a category tells it
_MIN_RECORDS = 20


def find_imbalance(dataset: BuiltDataset) -> tuple[list[dict], list[Finding]]:
    """The accuracy and balanced accuracy of the best constant on each split, and what is unbalanced.

    Returns:
      One row a split: split, real, fake, constant (the class named), accuracy, balanced_accuracy.
    """
    labels = dataset.labels.astype(np.int64)
    splits, names = column_codes(dataset.table["split"])
    rows = [_constant(name, labels[splits == at]) for at, name in enumerate(names)]
    whole = _constant("all", labels)
    findings = _judge_constant(rows, whole)
    findings += _judge_mixture(rows)
    findings += _judge_categories(dataset, labels)
    return [*rows, whole], findings


def _constant(split: str, labels: np.ndarray) -> dict:
    counts = np.bincount(labels, minlength=len(LABELS))[: len(LABELS)]
    return {
        "split": split,
        **{name: int(count) for name, count in zip(LABELS, counts, strict=True)},
        "constant": LABELS[int(counts.argmax())],
        "accuracy": float(counts.max() / max(counts.sum(), 1)),
        # Right on all of one class and on none of the other; of one class alone there is no such mean.
        "balanced_accuracy": 0.5 if counts.min() else None,
    }


def _judge_constant(rows: list[dict], whole: dict) -> list[Finding]:
    worst = max([row for row in rows if row["balanced_accuracy"]] or [whole], key=lambda row: row["accuracy"])
    if worst["accuracy"] < LOW_CONSTANT or not worst["balanced_accuracy"]:
        return []
    larger, smaller = sorted((worst["real"], worst["fake"]), reverse=True)
    return [
        Finding(
            "class_imbalance",
            graded(worst["accuracy"], high=HIGH_CONSTANT, medium=MEDIUM_CONSTANT),
            f"The split {worst['split']} has {worst['real']:,} real and {worst['fake']:,} fake images "
            f"({larger / smaller:.1f}:1): a constant {worst['constant']} has an accuracy of {worst['accuracy']:.3f} "
            "and a balanced accuracy of 0.5.",
            "Judge by balanced accuracy and AUC, never by accuracy; train on a balanced scheme or with class weights.",
            {"split": worst["split"], "accuracy": worst["accuracy"], "real": worst["real"], "fake": worst["fake"]},
        )
    ]


def _judge_mixture(rows: list[dict]) -> list[Finding]:
    findings = [
        Finding(
            "one_class_split",
            "high",
            f"The split {row['split']} has {row['constant']} images only ({row['real'] + row['fake']:,}).",
            "Neither training nor AUC is possible on one class: split again, stratified by class.",
            {"split": row["split"]},
        )
        for row in rows
        if row["balanced_accuracy"] is None
    ]
    shares = {row["split"]: row["fake"] / (row["real"] + row["fake"]) for row in rows}
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if not findings and shares[high] - shares[low] >= 0.1:
        findings.append(
            Finding(
                "splits_differ",
                "medium" if shares[high] - shares[low] >= 0.25 else "low",
                f"The share of fakes differs between splits: {shares[low]:.2f} in {low}, {shares[high]:.2f} in {high}.",
                "A threshold chosen on one split does not fit the other; split stratified, or choose by AUC.",
                {"low": shares[low], "high": shares[high]},
            )
        )
    return findings


def _judge_categories(dataset: BuiltDataset, labels: np.ndarray) -> list[Finding]:
    codes, names = column_codes(dataset.table["category"])
    totals, fakes = np.bincount(codes), np.bincount(codes, labels)
    known = np.array([bool(name) for name in names]) & (totals >= _MIN_RECORDS)
    share = fakes / np.maximum(totals, 1)
    one_sided = known & (np.maximum(share, 1 - share) >= _ONE_SIDED)
    # With classes this unequal over all, a category of one class is no sign of anything.
    if not one_sided.any() or max(labels.mean(), 1 - labels.mean()) >= _ONE_SIDED:
        return []
    affected = int(totals[one_sided].sum())
    examples = ", ".join(repr(names[at]) for at in np.flatnonzero(one_sided)[:3])
    return [
        Finding(
            "category_tells_class",
            graded(affected / len(labels), high=0.2, medium=0.05),
            f"{int(one_sided.sum())} of {int(known.sum())} categories are {_ONE_SIDED:.0%} or more of one class "
            f"({examples}), {percent(affected, len(labels))} of all records: what is on the picture gives the class "
            "away.",
            "Leave these categories out, or find images of the other class for them.",
            {"categories": int(one_sided.sum()), "records": affected},
        )
    ]

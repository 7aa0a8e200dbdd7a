"""Files that are bad, odd or damaged, and whether they fall on one class."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.audit.dataset import BuiltDataset, column_codes
from tfds_builders.audit.findings import Finding, counted, percent
from tfds_builders.audit.scan import Scanned
from tfds_builders.records.schema import LABELS

_MANY_QUARANTINED = 0.01  # the budget that builds have by default
_MIN_DIFFERENCE = 0.05  # of shares, between the classes
_CERTAIN = 3.3  # standard errors: once in a thousand by chance


def find_bad_files(dataset: BuiltDataset, scanned: Scanned) -> tuple[dict, list[Finding]]:
    """Counts what was quarantined, what is odd and what could not be decoded, by class.

    Returns:
      {"found", "quarantined": {reason: {class: count}}, "excluded": {rule: count}, "odd": {flag: {class: count}},
      "damaged": [{"id", "error"}]} for the report.
    """
    written = np.bincount(dataset.labels.astype(np.int64), minlength=2)[:2]
    ledger = dataset.quarantine
    quarantined = _by_class(ledger["reason"], ledger["label"])
    flags = _column(dataset.table["flags"])
    flagged_labels = dataset.labels[pc.list_parent_indices(flags).to_numpy()]
    odd = _by_class(pa.chunked_array([flags.flatten()], pa.string()), pa.chunked_array([pa.array(flagged_labels)]))
    rules, names = column_codes(dataset.excluded["reason"])
    ids = dataset.table["id"].take(pa.array([row for row, _ in scanned.damaged], pa.int64())).to_pylist()
    counts = {
        "found": dataset.table.num_rows + ledger.num_rows + dataset.excluded.num_rows,
        "quarantined": quarantined,
        "excluded": {name: int((rules == at).sum()) for at, name in enumerate(names)},
        "odd": odd,
        "damaged": [{"id": id, "error": error} for id, (_, error) in zip(ids, scanned.damaged, strict=True)],
    }
    findings = _judge_damaged(counts["damaged"], len(scanned.rows))
    findings += _judge_quarantine(ledger, counts["found"], written)
    findings += [finding for flag, by_class in odd.items() if (finding := _judge_odd(flag, by_class, written))]
    return counts, findings


def _judge_damaged(damaged: list[dict], num_read: int) -> list[Finding]:
    if not damaged:
        return []
    first = damaged[0]
    return [
        Finding(
            "damaged_records",
            "high",
            f"{counted(len(damaged), 'record')} of {num_read:,} read cannot be decoded; the first is {first['id']}: "
            f"{first['error']}.",
            "Training will stop at them. If the shards are whole, build again with REALSHARD_VALIDATION=decode, which "
            "quarantines such files; if checksums fail, copy the dataset again.",
            {"records": len(damaged), "read": num_read},
        )
    ]


def _judge_quarantine(ledger: pa.Table, num_found: int, written: np.ndarray) -> list[Finding]:
    if not ledger.num_rows:
        return []
    labels = ledger["label"].to_numpy()
    bad = np.array([(labels == label).sum() for label in range(len(LABELS))])
    reasons, names = column_codes(ledger["reason"])
    sizes = np.bincount(reasons)
    told = ", ".join(f"{names[at]} {sizes[at]:,}" for at in np.argsort(-sizes, kind="stable")[:4])
    many = ledger.num_rows >= _MANY_QUARANTINED * num_found
    findings = [
        Finding(
            "quarantined",
            "medium" if many else "info",
            f"{counted(ledger.num_rows, 'file')} of {num_found:,} found were quarantined "
            f"({percent(ledger.num_rows, num_found)}): {told}.",
            "quarantine.parquet names each with its reason; download the source again if there are many.",
            {"files": ledger.num_rows, "found": num_found},
        )
    ]
    shares = bad / np.maximum(bad + written, 1)
    if _differ(bad, bad + written) and abs(shares[1] - shares[0]) >= _MANY_QUARANTINED:
        findings.append(
            Finding(
                "quarantine_differs",
                "low",
                f"{percent(bad[0], bad[0] + written[0])} of the real and {percent(bad[1], bad[1] + written[1])} of the "
                "fake files were quarantined.",
                "Bad files that fall on one class come from how that class was collected; see that nothing else does.",
                {"real": float(shares[0]), "fake": float(shares[1])},
            )
        )
    return findings


def _judge_odd(flag: str, by_class: dict[str, int], written: np.ndarray) -> Finding | None:
    """Odd files are fine; odd files of one class are a mark of it."""
    odd = np.array([by_class[name] for name in LABELS])
    shares = odd / np.maximum(written, 1)
    if abs(shares[1] - shares[0]) < _MIN_DIFFERENCE or not _differ(odd, written):
        return None
    return Finding(
        "odd_files_differ",
        "low",
        f"{percent(odd[0], written[0])} of the real and {percent(odd[1], written[1])} of the fake files are odd in one "
        f"way: {flag}.",
        "See the shortcut test for whether the class can be told by it.",
        {"flag": flag, "real": float(shares[0]), "fake": float(shares[1])},
    )


def _differ(counts: np.ndarray, totals: np.ndarray) -> bool:
    """Whether two shares differ by more than chance: two-proportion z-test, pooled."""
    if not totals.all():
        return False
    pooled = counts.sum() / totals.sum()
    error = np.sqrt(pooled * (1 - pooled) * (1 / totals).sum())
    return bool(error > 0 and abs(np.subtract(*(counts / totals))) / error >= _CERTAIN)


def _by_class(names: pa.ChunkedArray, labels: pa.ChunkedArray) -> dict[str, dict[str, int]]:
    """name -> class -> count, most frequent names first; the class of a file that has none is "unknown"."""
    codes, distinct = column_codes(names)
    of_class = labels.to_numpy()
    classes = {**{name: label for label, name in enumerate(LABELS)}, "unknown": -1}
    order = np.argsort(-np.bincount(codes, minlength=len(distinct)), kind="stable")
    return {
        distinct[at]: {name: int(((codes == at) & (of_class == label)).sum()) for name, label in classes.items()}
        for at in order
    }


def _column(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined

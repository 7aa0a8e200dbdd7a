"""The same file twice, by sha256, over all records.

What matters is where the second one is: in another split, the score on it is a score of memory; with the other label,
one of the two labels is wrong.
"""

import numpy as np
import pyarrow as pa

from tfds_builders.audit.dataset import BuiltDataset, column_codes, content_codes
from tfds_builders.audit.findings import Finding, counted, graded, lowered, percent
from tfds_builders.records.schema import SCHEME_PREFIX

_EVALUATED = ("validation", "test")


def find_exact(dataset: BuiltDataset) -> tuple[dict, list[Finding]]:
    """Compares the content hashes of all records. Returns counts for the report, and findings."""
    codes = content_codes(dataset.table)
    sizes = np.bincount(codes)
    num_rows = len(codes)
    is_copy = sizes[codes] > 1
    labels = dataset.labels.astype(np.int64)
    num_copies, num_pictures = int(is_copy.sum()), int((sizes > 1).sum())
    across_splits: dict[str, dict[str, int]] = {}
    findings: list[Finding] = []
    both = (np.bincount(codes, labels) > 0) & (np.bincount(codes, 1 - labels) > 0)
    num_contradicted = int(both[codes].sum())
    if num_contradicted:
        findings.append(
            Finding(
                "exact_duplicates_across_labels",
                graded(num_contradicted / num_rows, high=0.001, medium=0),
                f"{counted(int(both.sum()), 'picture')} ({counted(num_contradicted, 'record')}, "
                f"{percent(num_contradicted, num_rows)}) stand byte for byte under both labels, for example "
                f"{_two_ids(dataset, np.flatnonzero(codes == np.flatnonzero(both)[0]))}.",
                "One of the two labels is wrong: find out which, or leave both out.",
                {"pictures": int(both.sum()), "records": num_contradicted},
            )
        )
    for column in dataset.schemes:
        shares = _affected(dataset.table[column], codes)
        across_splits[column] = {split: affected for split, (affected, _) in shares.items() if affected}
        findings += judge_across_splits(column, shares, "exact_duplicates_across_splits", "byte for byte copies")
    counts = {
        "images": num_copies,
        "pictures": num_pictures,
        "across_labels": num_contradicted,
        "across_splits": across_splits,
    }
    if not num_copies:
        return counts, []
    findings.append(
        Finding(
            "exact_duplicates",
            "low" if num_copies >= 0.01 * num_rows else "info",
            f"{num_copies:,} records ({percent(num_copies, num_rows)}) hold only "
            f"{counted(num_pictures, 'picture')} between them, byte for byte.",
            "Copies count twice in every score and every epoch; keep one of each.",
            {"pictures": num_pictures, "records": num_copies},
        )
    )
    return counts, findings


def _affected(column: pa.ChunkedArray, codes: np.ndarray) -> dict[str, tuple[int, int]]:
    """split -> (its records whose code is in another split as well, its records)."""
    splits, names = column_codes(column)
    kept = [at for at, name in enumerate(names) if name]  # "" is left out of the scheme
    if not kept:
        return {}
    num_codes = int(codes.max()) + 1
    present = np.stack([np.bincount(codes[splits == at], minlength=num_codes) > 0 for at in kept])
    elsewhere = present.sum(axis=0) > 1
    return {names[at]: (int(elsewhere[codes[splits == at]].sum()), int((splits == at).sum())) for at in kept}


def judge_across_splits(column: str, shares: dict[str, tuple[int, int]], code: str, what: str) -> list[Finding]:
    """The finding that images to be evaluated on are in another split as well, or none.

    Args:
      column: the manifest's column that assigns the splits.
      shares: split -> (its images that are elsewhere too, its images).
      code: of the finding. what: what there is of them elsewhere, "copies".
    """
    evaluated = {name: share for name, share in shares.items() if name in _EVALUATED and share[0]}
    if not evaluated:
        return []
    worst = max(affected / total for affected, total in evaluated.values())
    severity = graded(worst, high=0.01, medium=0.001)
    where = "" if column == "split" else f" of the scheme {column.removeprefix(SCHEME_PREFIX)}"
    told = ", ".join(
        f"{affected:,} of {total:,} {name} images ({percent(affected, total)})"
        for name, (affected, total) in sorted(evaluated.items())
    )
    return [
        Finding(
            code,
            severity if column == "split" else lowered(severity),
            f"{told}{where} have {what} in another split.",
            "A score on them is a score of memory. Put copies into one group and split again, or take them out of the "
            "evaluation splits.",
            {"column": column, **{name: affected for name, (affected, _) in sorted(evaluated.items())}},
        )
    ]


def _two_ids(dataset: BuiltDataset, rows: np.ndarray) -> str:
    """Two of the rows, of both labels, by id."""
    labels = dataset.labels[rows]
    chosen = [int(rows[np.flatnonzero(labels == label)[0]]) for label in (0, 1)]
    return " and ".join(dataset.table["id"].take(pa.array(chosen)).to_pylist())

"""What should stay on one side of a split and does not: groups and videos, in the written split and in every scheme."""

import numpy as np

from tfds_builders.audit.dataset import BuiltDataset, column_codes
from tfds_builders.audit.findings import Finding, counted, graded, lowered, percent
from tfds_builders.records.schema import SCHEME_PREFIX

_KINDS = {
    "group": ("group", "groups", "Records of one group show the same photograph, person or source video"),
    "video": ("video", "videos", "Frames of one video resemble one another"),
}


def find_leaks(dataset: BuiltDataset) -> tuple[list[dict], list[Finding]]:
    """Looks for groups and videos with records in more than one split.

    Returns:
      One row a column pair for the report: kind, column, how many there are, how many leak, whom it concerns.
    """
    rows: list[dict] = []
    findings: list[Finding] = []
    for kind, (singular, plural, reason) in _KINDS.items():
        codes, names = column_codes(dataset.table[kind])
        known = np.array([bool(name) for name in names])
        if not known.any():
            if kind == "group":
                findings.append(_no_groups())
            continue
        for column in dataset.schemes:
            splits, split_names = column_codes(dataset.table[column])
            leaking, affected, sizes = _leaking(codes, known, splits, split_names)
            records = {name: affected[name] for name in sorted(affected) if affected[name]}
            examples = sorted(names[code] for code in leaking)[:20]
            row = {
                "kind": kind,
                "column": column,
                "count": int(known.sum()),
                "leaking": len(leaking),
                "examples": examples,
                "records": records,
            }
            rows.append(row)
            if not len(leaking):
                continue
            evaluated = [affected[name] / sizes[name] for name in affected if name != "train"]
            severity = graded(max(evaluated, default=0), high=0.01, medium=0)
            where = "" if column == "split" else f" of the scheme {column.removeprefix(SCHEME_PREFIX)}"
            told = ", ".join(
                f"{counted(number, f'{name} image')} ({percent(number, sizes[name])})"
                for name, number in records.items()
            )
            findings.append(
                Finding(
                    f"{kind}_leak",
                    severity if column == "split" else lowered(severity),
                    f"{len(leaking):,} of the {counted(int(known.sum()), singular, plural)} lie in more than one split"
                    f"{where}: {told}; for example {', '.join(map(repr, examples[:3]))}.",
                    f"{reason}: split by {kind}, so that a score is about what was not seen in training."
                    + ("" if column == "split" else " Scores under this scheme are too good."),
                    {"column": column, "leaking": len(leaking), "of": int(known.sum()), "records": records},
                )
            )
    return rows, findings


def _leaking(
    codes: np.ndarray, known: np.ndarray, splits: np.ndarray, split_names: list[str]
) -> tuple[np.ndarray, dict[str, int], dict[str, int]]:
    """Codes with records in several splits; split -> its records that they concern; split -> its records."""
    kept = [at for at, name in enumerate(split_names) if name]  # "" is left out of the scheme
    if not kept:
        return np.empty(0, np.int64), {}, {}
    present = np.stack([np.bincount(codes[splits == at], minlength=len(known)) > 0 for at in kept])
    leaks = (present.sum(axis=0) > 1) & known
    affected = {split_names[at]: int(leaks[codes[splits == at]].sum()) for at in kept}
    return np.flatnonzero(leaks), affected, {split_names[at]: int((splits == at).sum()) for at in kept}


def _no_groups() -> Finding:
    return Finding(
        "no_groups",
        "info",
        "No record has a group: leaks of identities, photographs or source videos cannot be seen in the manifest.",
        "If the source knows them, let the builder say so; until then the near-duplicate search is the only guard.",
    )

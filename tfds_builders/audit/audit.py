"""The whole audit: a built dataset directory in, one result out, from which the page and the JSON file are made.

result = audit(directory, sample=100_000)
write_report(result, directory)
"""

import dataclasses
from pathlib import Path

import numpy as np

from tfds_builders.audit import statistics
from tfds_builders.audit.balance import find_imbalance
from tfds_builders.audit.dataset import BuiltDataset, load, sample_rows
from tfds_builders.audit.duplicates import find_exact
from tfds_builders.audit.files import find_bad_files
from tfds_builders.audit.findings import Finding, most_severe_first, percent
from tfds_builders.audit.leaks import find_leaks
from tfds_builders.audit.near_duplicates import NearDuplicates, find_near
from tfds_builders.audit.scan import scan
from tfds_builders.audit.shortcut import MAX_ROWS, ShortcutTest, find_shortcuts

# 256x256 PNG take 2.6 ms of a core each, JPEG 1.2, those whose grid is measured 1 ms more: 2 or 1 minutes on 2 cores.
# 40 MB are kept of them.
DEFAULT_SAMPLE = 100_000
EXAMPLES_PER_CLASS = 24
COUNTED_COLUMNS = ("category", "generator", "format", "source_format", "mode")


@dataclasses.dataclass(frozen=True)
class Audit:
    """What one audit found. `findings` are the most severe first; the rest is for figures and tables."""

    dataset: BuiltDataset
    num_sampled: int
    findings: list[Finding]
    imbalance: list[dict]
    values: dict[str, list[dict]]
    distributions: dict
    shortcuts: list[ShortcutTest]
    exact: dict
    near: NearDuplicates
    leaks: list[dict]
    files: dict
    examples: dict[str, np.ndarray]


def audit(directory: str | Path, sample: int = DEFAULT_SAMPLE, show_progress: bool = True) -> Audit:
    """Audits the built dataset in `directory`.

    Args:
      sample: at most so many images are decoded: for the near-duplicate search, intensities, and, on the first
        20,000, the shortcut test. Everything else is about all records.
      show_progress: a bar on standard error while decoding.

    Raises:
      Refused: not a built dataset.
    """
    dataset = load(directory)
    rows = sample_rows(dataset.table, sample)
    scanned = scan(dataset, rows, trace_rows=MAX_ROWS, show_progress=show_progress)
    imbalance, of_balance = find_imbalance(dataset)
    leaks, of_leaks = find_leaks(dataset)
    exact, of_exact = find_exact(dataset)
    near, of_near = find_near(dataset, scanned)
    shortcuts, of_shortcuts = find_shortcuts(dataset, scanned)
    files, of_files = find_bad_files(dataset, scanned)
    findings = of_shortcuts + of_leaks + of_exact + of_near + of_balance + of_files + _of_sampling(dataset, len(rows))
    return Audit(
        dataset=dataset,
        num_sampled=len(rows),
        findings=most_severe_first(findings),
        imbalance=imbalance,
        values={column: statistics.count_values(dataset, column) for column in COUNTED_COLUMNS},
        distributions=statistics.measure(dataset, scanned),
        shortcuts=shortcuts,
        exact=exact,
        near=near,
        leaks=leaks,
        files=files,
        examples=statistics.draw_examples(dataset, EXAMPLES_PER_CLASS),
    )


def _of_sampling(dataset: BuiltDataset, num_sampled: int) -> list[Finding]:
    num_rows = dataset.table.num_rows
    if num_sampled == num_rows:
        return []
    return [
        Finding(
            "sampled",
            "info",
            f"{num_sampled:,} of {num_rows:,} images were decoded ({percent(num_sampled, num_rows)}); of the pairs of "
            f"near-duplicates about {percent(num_sampled**2, num_rows**2)} can be seen.",
            "Use --sample all for a complete search.",
            {"decoded": num_sampled, "records": num_rows},
        )
    ]

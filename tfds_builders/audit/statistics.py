"""How the data is distributed: classes, categories, generators, formats, sizes, intensities. Counts, no judgement."""

import numpy as np

from tfds_builders.audit.dataset import BuiltDataset, column_codes, sha256_bytes
from tfds_builders.audit.scan import HISTOGRAM_BINS, INTENSITY, Scanned
from tfds_builders.records.schema import LABELS

MAX_VALUES = 40  # of a column, shown by name; the rest is one row
_BINS = 24
_REST = "(others)"


def count_values(dataset: BuiltDataset, column: str) -> list[dict]:
    """One row a value, most frequent first: value, each split by class ("train_real", ...), all. "" is "(none)"."""
    codes, names = column_codes(dataset.table[column])
    splits, split_names = column_codes(dataset.table["split"])
    labels = dataset.labels.astype(np.int64)
    # table: records of each value, split and label, (values, splits, labels).
    shape = (len(names), len(split_names), len(LABELS))
    table = np.bincount(np.ravel_multi_index((codes, splits, labels), shape), minlength=np.prod(shape)).reshape(shape)
    order = sorted(range(len(names)), key=lambda at: (-int(table[at].sum()), str(names[at])))
    groups = [(str(names[at]) or "(none)", table[at]) for at in order[:MAX_VALUES]]
    if len(order) > MAX_VALUES:
        groups.append((f"{_REST}: {len(order) - MAX_VALUES:,}", table[order[MAX_VALUES:]].sum(axis=0)))
    return [
        {
            "value": name,
            **{
                f"{split}_{label}": int(counts[s, c])
                for s, split in enumerate(split_names)
                for c, label in enumerate(LABELS)
            },
            "all": int(counts.sum()),
        }
        for name, counts in groups
    ]


def measure(dataset: BuiltDataset, scanned: Scanned) -> dict:
    """The distributions of sizes over all records, and of intensities over the sample, by class.

    Returns:
      {"width" | "height" | "aspect_ratio" | "bytes_per_pixel" | "mean_intensity" | "std_intensity":
      {"edges": [...], "real": [...], "fake": [...] (shares of the class), "quartiles": {class: [25 %, 50 %, 75 %]}},
      "pixels": {"edges", "real", "fake"}: mean share of an image's pixels at each grey level}.
    """
    width, height, num_bytes = (
        dataset.table[name].to_numpy().astype(np.float64) for name in ("width", "height", "bytes")
    )
    labels = dataset.labels
    measured = {
        "width": _distribution(width, labels),
        "height": _distribution(height, labels),
        "aspect_ratio": _distribution(width / height, labels),
        "bytes_per_pixel": _distribution(num_bytes / (width * height), labels),
    }
    decoded = scanned.decoded
    sampled = labels[scanned.rows[decoded]]
    for name in INTENSITY[:2]:
        measured[name] = _distribution(scanned.facts[name][decoded].astype(np.float64), sampled)
    edges = np.linspace(0, 256, HISTOGRAM_BINS + 1)
    measured["pixels"] = {
        "edges": edges.tolist(),
        **{name: scanned.histograms[label].tolist() for label, name in enumerate(LABELS)},
    }
    return measured


def _distribution(values: np.ndarray, labels: np.ndarray) -> dict:
    """A histogram by class over what lies between the 0.5 % and 99.5 % quantiles; the tails fall into the end bins."""
    if not len(values):
        return {"edges": [], **{name: [] for name in LABELS}, "quartiles": {}}
    low, high = np.percentile(values, [0.5, 99.5])
    if low == high:
        margin = max(abs(low) * 0.05, 0.5)
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, _BINS + 1)
    result: dict = {"edges": edges.tolist(), "quartiles": {}}
    for label, name in enumerate(LABELS):
        own = values[labels == label]
        counts = np.histogram(np.clip(own, low, high), edges)[0]
        result[name] = (counts / max(len(own), 1)).tolist()
        if len(own):
            result["quartiles"][name] = np.percentile(own, [25, 50, 75]).tolist()
    return result


def draw_examples(dataset: BuiltDataset, count: int) -> dict[str, np.ndarray]:
    """`count` rows of each class, spread over its categories, for the sample grids: class -> int64 [<= count].

    The same rows every time: those with the smallest content hash of each category in turn.
    """
    keys = sha256_bytes(dataset.table)[:, :8].copy().view(">u8").ravel()
    categories, _ = column_codes(dataset.table["category"])
    drawn = {}
    for label, name in enumerate(LABELS):
        rows = np.flatnonzero(dataset.labels == label)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        # turn: how many of the same category come before, so sorting by it takes the categories in turn.
        by_category = np.argsort(categories[rows], kind="stable")
        sizes = np.bincount(categories[rows])
        starts = np.cumsum(sizes) - sizes
        turn = np.empty(len(rows), np.int64)
        turn[by_category] = np.arange(len(rows)) - np.repeat(starts, sizes)
        drawn[name] = rows[np.lexsort((categories[rows], turn))][:count]
    return drawn

"""Can the class be told without looking at the picture? Classifiers on facts of the file alone.

Five families of facts, each tested on its own, so that the finding names the way out:
- encoding: formats, colour mode, JPEG quality, quantisation tables, chroma subsampling;
- pixel_grid: the trace of JPEG in the decoded pixels, which is what remains when everything is converted to PNG;
- geometry: width, height, aspect ratio;
- file_size: bytes, bytes per pixel. A smoother picture makes a smaller file, so this may be the picture after all:
  medium at most;
- metadata: EXIF, ICC, comments, what is odd: no detector sees it in the pixels, but it tells that the classes came by
  different ways: medium at most.
Gradient-boosted trees, 5-fold cross-validated by group; the AUC's interval is a bootstrap over groups. A severity
follows from the interval's lower end, never from the AUC itself.

Measured on 423 crops of 15 photographs: with labels at random, 30 times by crop and 30 times by photograph, the lower
end was above 0.55 in 1 of 120 tests of a family (0.567) and never above 0.65; with one class through JPEG and both
stored as PNG, pixel_grid had an AUC of 0.96 to 0.99 and a lower end of 0.92 to 0.98 at the qualities 50 to 98.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from tfds_builders.audit.container import ENCODING, METADATA
from tfds_builders.audit.dataset import BuiltDataset, column_codes
from tfds_builders.audit.findings import Finding
from tfds_builders.audit.grid import GRID
from tfds_builders.audit.scan import Scanned

# Lower ends of the AUC's 95 % interval. If a share s of one class carries a mark, and the rest says nothing, the AUC is
# 0.5 + s / 2: these are 60 %, 30 % and 10 % of a class given away.
HIGH, MEDIUM, LOW = 0.80, 0.65, 0.55
MAX_ROWS = 20_000  # enough for an interval of +-0.01, and a fit takes a second
MIN_OF_EACH_CLASS = 20
# Of one class: with fewer, their differences by chance look like a mark, and a finding is medium at most.
FEW_GROUPS = 7

_FOLDS = 5
_LEAF = 20  # images; of fewer than 60 of a class a third: where a leaf holds a whole class nothing can be parted
_BOOTSTRAPS = 500
_MANY_ROWS = 4000  # from here on, one division into folds is as good as three
_MAX_MEDIUM = ("file_size", "metadata")
_ENCODING_FLAGS = ("cmyk", "grey", "palette", "alpha", "sixteen_bit", "animated", "progressive", "video_frame")

_MEANING = {
    "encoding": "how the image was encoded",
    "pixel_grid": "the 8x8 grid that JPEG and video encoders leave in the pixels",
    "geometry": "the image's size",
    "file_size": "the size of the file",
    "metadata": "what is written beside the pixels",
}
_ACTIONS = {
    "encoding": "Put both classes through the same decode, resize or crop, and encode before anything learns from "
    "them; converting to PNG alone is no cure, the trace of JPEG stays in the pixels.",
    "pixel_grid": "One class was JPEG or video and the other was not, or not of the same quality, whatever the files "
    "are called now; in frames of videos one class may also just be smoother. Take originals of one kind, or put both "
    "classes through the same resize and JPEG encoding.",
    "geometry": "Crop both classes to one size; resizing them leaves traces of how much each was resized.",
    "file_size": "Compare how the classes were compressed. If both were encoded alike, one class is smoother: check "
    "that this comes from what is to be detected, and not from a resize or a filter that only one class went through.",
    "metadata": "Pixels do not carry this, but it tells that the classes were collected or saved by different "
    "programs: find out what else those did. Saving both classes by one program removes it.",
}


@dataclasses.dataclass(frozen=True)
class Feature:
    """What one fact tells by itself.

    Attributes:
      importance: by how much the family's AUC falls when this fact is shuffled.
      auc_alone: of the fact as a score, the better of its two directions: 0.5..1.
      real, fake: its median in either class; its share where it is a yes or no.
    """

    name: str
    importance: float
    auc_alone: float
    real: float
    fake: float


@dataclasses.dataclass(frozen=True)
class ShortcutTest:
    """The result for one family of facts: cross-validated AUC, its 95 % interval, the facts that count."""

    family: str
    num_rows: int
    num_groups: int  # of the class that has fewer
    auc: float
    low: float
    high: float
    features: list[Feature]


def find_shortcuts(dataset: BuiltDataset, scanned: Scanned, seed: int = 0) -> tuple[list[ShortcutTest], list[Finding]]:
    """Tests every family; the last result, "all", is of all facts together and makes no finding of its own."""
    usable = np.flatnonzero(scanned.decoded & scanned.traced)
    usable = (
        usable[np.linspace(0, len(usable) - 1, min(len(usable), MAX_ROWS)).astype(np.int64)] if len(usable) else usable
    )
    table = dataset.table.take(pa.array(scanned.rows[usable]))
    labels = table["label"].to_numpy().astype(np.int64)
    groups = _groups(table)
    smaller = int(min((labels == 0).sum(), (labels == 1).sum()))
    num_groups = _fewest_groups(labels, groups)
    if smaller < MIN_OF_EACH_CLASS or num_groups < 2:
        finding = Finding(
            "shortcut_not_tested",
            "info",
            f"The shortcut test needs {MIN_OF_EACH_CLASS} decoded images of each class, of two groups at least; the "
            f"sample has {smaller}, of {num_groups}.",
            "Audit a larger sample.",
            {"smaller_class": smaller, "groups": num_groups},
        )
        return [], [finding]
    families = _families(table, scanned, usable)
    families["all"] = {name: values for facts in families.values() for name, values in facts.items()}
    import sklearn.ensemble  # noqa: F401  (limits hold for libraries that are loaded already)

    # One thread: on a busy machine OpenMP's threads wait for one another so long that it takes a hundred times more.
    with threadpool_limits(1):
        results = [_test(family, facts, labels, groups, num_groups, seed) for family, facts in families.items()]
    return results, [found for result in results[:-1] if (found := _judge(result))]


def _groups(table: pa.Table) -> np.ndarray:
    """int64 [n]: the group's code, or one of its own for every record without a group."""
    codes, names = column_codes(table["group"])
    codes = codes.astype(np.int64)
    if "" in names:
        alone = codes == names.index("")
        codes[alone] = len(names) + np.arange(int(alone.sum()))
    return np.unique(codes, return_inverse=True)[1]


def _fewest_groups(labels: np.ndarray, groups: np.ndarray) -> int:
    """How many groups the class has that is found in fewer."""
    return min(len(np.unique(groups[labels == label])) for label in (0, 1))


def _families(table: pa.Table, scanned: Scanned, usable: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """family -> fact -> float64 [n]."""
    width, height, num_bytes = (table[name].to_numpy().astype(np.float64) for name in ("width", "height", "bytes"))
    measured = {name: values[usable].astype(np.float64) for name, values in scanned.facts.items()}
    encoding = {name: measured[name] for name in ENCODING}
    for column in ("format", "source_format", "mode"):
        codes, names = column_codes(table[column])
        encoding |= {f"{column} {name}": (codes == code).astype(np.float64) for code, name in enumerate(names)}
    metadata = {name: measured[name] for name in METADATA}
    metadata["orientation"] = table["orientation"].to_numpy().astype(np.float64)
    flags = table["flags"].combine_chunks()
    flags = flags.chunk(0) if isinstance(flags, pa.ChunkedArray) else flags
    for flag in sorted(pc.unique(flags.flatten()).to_pylist()):
        has_flag = np.zeros(len(table))
        has_flag[pc.list_parent_indices(flags).to_numpy()[pc.equal(flags.flatten(), flag).to_numpy(False)]] = 1
        (encoding if flag in _ENCODING_FLAGS else metadata)[f"flag {flag}"] = has_flag
    return {
        "encoding": encoding,
        "pixel_grid": {name: measured[name] for name in GRID},
        "geometry": {"width": width, "height": height, "aspect_ratio": width / height},
        "file_size": {"bytes": num_bytes, "bytes_per_pixel": num_bytes / (width * height)},
        "metadata": metadata,
    }


def _test(
    family: str, facts: dict[str, np.ndarray], labels: np.ndarray, groups: np.ndarray, num_groups: int, seed: int
) -> ShortcutTest:
    varying = {name: values for name, values in facts.items() if len(np.unique(values)) > 1}  # NaN equals NaN here
    if not varying:
        return ShortcutTest(family, len(labels), num_groups, 0.5, 0.5, 0.5, [])
    matrix = np.stack(list(varying.values()), axis=1)
    scores, importances = _cross_validate(matrix, labels, groups, seed)
    auc = weighted_auc(labels, scores)
    low, high = _interval(labels, scores, groups, seed)
    features = [
        _describe(name, importance, values, labels)
        for (name, values), importance in zip(varying.items(), importances, strict=True)
    ]
    # Of facts that say the same, none is important: the others stand in when it is shuffled.
    features.sort(key=lambda feature: (-round(feature.importance, 2), -feature.auc_alone, feature.name))
    return ShortcutTest(family, len(labels), num_groups, auc, low, high, features)


def _cross_validate(
    matrix: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float64 [n], each from models that saw nothing of its group, averaged over divisions into folds; and the
    permutation importance of each column, float64 [columns], on the first held-out fold."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import StratifiedGroupKFold

    repeats = 1 if len(labels) >= _MANY_ROWS else 3
    scores = np.zeros(len(labels))
    importances = np.zeros(matrix.shape[1])
    folds = min(_FOLDS, int(groups.max()) + 1)
    for repeat in range(repeats):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
        for fold, (fitted, held_out) in enumerate(splitter.split(matrix, labels, groups)):
            if len(np.unique(labels[fitted])) < 2:
                scores[held_out] += 0.5
                continue
            leaf = max(1, min(_LEAF, int(np.bincount(labels[fitted]).min()) // 3))
            model = HistGradientBoostingClassifier(
                max_iter=40, max_leaf_nodes=15, min_samples_leaf=leaf, early_stopping=False, random_state=seed
            ).fit(matrix[fitted], labels[fitted])
            scores[held_out] += model.predict_proba(matrix[held_out])[:, 1]
            if repeat == fold == 0 and len(np.unique(labels[held_out])) == 2:
                rows = held_out[:2000]
                if len(np.unique(labels[rows])) == 2:
                    importances = permutation_importance(
                        model, matrix[rows], labels[rows], scoring="roc_auc", n_repeats=3, random_state=seed
                    ).importances_mean
    return scores / repeats, importances


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve, ties counted half; 0.5 if a class has no weight.

    Args:
      labels: int [n], 0 or 1. scores: float [n]. weights: float [n], default all 1.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    _, ranks = np.unique(scores, return_inverse=True)
    positive = np.bincount(ranks, weights * (labels == 1))
    negative = np.bincount(ranks, weights * (labels == 0))
    total = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / total) if total else 0.5


def _interval(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % interval of the AUC over resampled groups; a resample of one class has none and is left out."""
    random = np.random.default_rng(seed)
    num_groups = int(groups.max()) + 1
    _, ranks = np.unique(scores, return_inverse=True)
    aucs = []
    for _ in range(_BOOTSTRAPS):
        drawn = np.bincount(random.integers(0, num_groups, num_groups), minlength=num_groups)
        weights = drawn[groups].astype(np.float64)
        if np.bincount(labels, weights, 2).all():
            aucs.append(weighted_auc(labels, ranks, weights))
    low, high = np.percentile(aucs, [2.5, 97.5])
    return float(low), float(high)


def _describe(name: str, importance: float, values: np.ndarray, labels: np.ndarray) -> Feature:
    # A fact that only one class has says as much by its absence: NaN is below every number.
    alone = weighted_auc(labels, np.where(np.isnan(values), -np.inf, values))
    is_yes_or_no = np.isin(values[~np.isnan(values)], (0, 1)).all()
    middles = []
    for label in (0, 1):
        known = values[(labels == label) & ~np.isnan(values)]
        middles.append(float(np.mean(known) if is_yes_or_no else np.median(known)) if len(known) else float("nan"))
    return Feature(name, float(importance), max(alone, 1 - alone), *middles)


def severity_of(family: str, low: float) -> str | None:
    """The severity that the lower end of an AUC's interval gives; None below LOW."""
    if low < LOW:
        return None
    severity = "high" if low >= HIGH else "medium" if low >= MEDIUM else "low"
    return "medium" if severity == "high" and family in _MAX_MEDIUM else severity


def _judge(result: ShortcutTest) -> Finding | None:
    severity = severity_of(result.family, result.low)
    if severity is None:
        return None
    few = ""
    if result.num_groups < FEW_GROUPS:
        severity = "medium" if severity == "high" else severity
        few = f" One class is of {result.num_groups} groups only, and may differ from the other by chance."
    told = "; ".join(_told(feature) for feature in result.features[:3] if feature.auc_alone > 0.52)
    return Finding(
        f"shortcut_{result.family}",
        severity,
        f"Real and fake are told apart by {_MEANING[result.family]} alone: AUC {result.auc:.3f} "
        f"(95 % {result.low:.3f} to {result.high:.3f}) on {result.num_rows:,} images; most by "
        f"{told or 'a combination'}.{few}",
        _ACTIONS[result.family],
        {
            "auc": result.auc,
            "auc_low": result.low,
            "auc_high": result.high,
            "features": [feature.name for feature in result.features[:5]],
        },
    )


def _told(feature: Feature) -> str:
    real, fake = (("none" if np.isnan(value) else f"{value:.3g}") for value in (feature.real, feature.fake))
    return f"{feature.name} (real {real}, fake {fake})"

"""Who is in which split: pure functions of (columns, seed), on rows sorted by id.

Every function returns one split name a row, "" for a row that the scheme leaves out.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.model_selection import train_test_split

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}

_MIN_GROUPS = 3  # in each part, where there are three times as many: fewer photographs or videos judge nothing
_DRAWS = 256  # candidate assignments of a grouped split; the best balanced one is taken
_DRAWS_MANY = 16  # enough once there are so many groups that every draw is well balanced
_MANY_GROUPS = 10_000


def stratified(labels: np.ndarray, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Draws splits with the same share of each label in each, by scikit-learn's `train_test_split`.

    With fractions {"train": 0.8, "test": 0.2} and seed 42 this is the split of the published object model.

    Args:
      labels: int [n], rows sorted by id.
      fractions: share of each split, adding up to 1. The last name is split off first.
      seed: of the draw.

    Returns:
      Split names, object [n].

    Raises:
      ValueError: a label has too few rows to be in every split, or the fractions do not add up to 1.
    """
    _check_fractions(fractions)
    splits = np.empty(len(labels), dtype=object)
    names = list(fractions)
    rest, remaining = np.arange(len(labels)), 1.0
    for name in reversed(names[1:]):
        rest, taken = train_test_split(
            rest, test_size=fractions[name] / remaining, random_state=seed, stratify=labels[rest]
        )
        splits[taken] = name
        remaining -= fractions[name]
    splits[rest] = names[0]
    return splits


def grouped(groups: pa.Array, labels: np.ndarray, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Draws splits such that no group is on two sides, sizes and labels as near to `fractions` as groups allow.

    Many seeded orders of the groups are cut at the fractions, and the cut that comes nearest, over both labels, is
    taken. Each part gets at least three groups where there are at least nine.

    Args:
      groups: string [n], never empty.
      labels: int [n].
      fractions: share of each split, adding up to 1.
      seed: of the draw.

    Returns:
      Split names, object [n].

    Raises:
      ValueError: fewer groups than splits, or the fractions do not add up to 1.
    """
    _check_fractions(fractions)
    encoded = pc.dictionary_encode(groups)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    if len(names) < len(fractions):
        raise ValueError(
            f"a grouped split needs at least {len(fractions)} groups, one for each of {', '.join(fractions)}; "
            f"there are {len(names)}"
        )
    num_labels = int(labels.max()) + 1
    # counts: rows of each group and label, (groups, labels).
    counts = np.zeros((len(names), num_labels), dtype=np.int64)
    np.add.at(counts, (codes, labels), 1)
    # The draw starts from the groups' names, not from the order in which they were met.
    base = np.array([int.from_bytes(hashlib.md5(name.encode()).digest()[:8], "big") for name in names], dtype=np.uint64)
    min_groups = min(_MIN_GROUPS, len(names) // len(fractions))
    best_cost, best = np.inf, np.empty(0, dtype=np.int64)
    for draw in range(_DRAWS_MANY if len(names) > _MANY_GROUPS else _DRAWS):
        order = np.argsort(_mix(base ^ _mix(np.uint64(seed * 1_000_003 + draw))), kind="stable")
        parts = _cut(counts[order], list(fractions.values()), min_groups)
        sizes = np.stack([counts[order][parts == part].sum(axis=0) for part in range(len(fractions))])
        # cost: how far each part's rows of each label are from its fraction of them.
        wanted = np.outer(list(fractions.values()), counts.sum(axis=0))
        cost = float((np.abs(sizes - wanted) / np.maximum(counts.sum(axis=0), 1)).sum())
        if cost < best_cost:
            best_cost, best = cost, np.empty(len(names), dtype=np.int64)
            best[order] = parts
    return np.array(list(fractions), dtype=object)[best[codes]]


def _cut(counts: np.ndarray, fractions: Sequence[float], min_groups: int) -> np.ndarray:
    """Cuts the ordered groups into consecutive parts; the first takes what the others leave. Part number a group."""
    total = counts.sum()
    ends = np.cumsum(counts.sum(axis=1))
    parts = np.zeros(len(counts), dtype=np.int64)
    start, done = 0, 0
    for part in range(len(fractions) - 1, 0, -1):
        end = int(np.searchsorted(ends, done + fractions[part] * total)) + 1
        # Leave enough groups for the parts still to come.
        end = min(max(end, start + min_groups), len(counts) - part * min_groups)
        parts[start:end] = part
        start, done = end, int(ends[end - 1])
    return parts


def leave_out(values: pa.Array, left_out: Collection[str], split: np.ndarray, groups: pa.Array) -> np.ndarray:
    """A scheme that tests on some values of a column (categories, generators) and trains on the others.

    Args:
      values: string [n]; "" where it is not known.
      left_out: the values of the test split.
      split: object [n].
      groups: string [n]; "" is no group.

    Returns:
      Split names, object [n]. Of the rows with other values, those in train and validation stay there, and the test
      rows are left out (""), so that nothing trained on is near anything tested. So are rows of unknown value, and of
      a group that is tested.
    """
    is_tested = np.asarray(pc.is_in(values, value_set=pa.array(list(left_out), pa.string())))
    is_known = np.asarray(pc.not_equal(values, ""))
    has_tested_group = pc.is_in(groups, value_set=pc.unique(groups.filter(pa.array(is_tested))))
    is_near = (split == "test") | ~is_known | np.asarray(pc.and_(has_tested_group, pc.not_equal(groups, "")))
    return np.where(is_tested, "test", np.where(is_near, "", split)).astype(object)


def balanced(
    labels: np.ndarray, split: np.ndarray, ids: pa.Array, limit: int | None = None, seed: int = 0
) -> np.ndarray:
    """Subsamples the larger class of each split to the size of the smaller; the rows left out get "".

    Args:
      labels: int [n].
      split: object [n].
      ids: string [n]; which rows stay is decided by a hash of the id, so other rows coming or going change nothing.
      limit: at most so many rows of each class over all splits together, shared out by the splits' sizes.
      seed: of the hash.
    """
    salt = f"{seed}:".encode()
    rank = np.array(
        [int.from_bytes(hashlib.md5(salt + id.encode()).digest()[:8], "big") for id in ids.to_pylist()], dtype=np.uint64
    )
    result = np.full(len(labels), "", dtype=object)
    names = [name for name in dict.fromkeys(split.tolist()) if name]
    smallest = {
        name: min(int(((split == name) & (labels == label)).sum()) for label in np.unique(labels)) for name in names
    }
    ends = np.cumsum([0, *smallest.values()])
    if limit is not None and ends[-1] > limit:
        # The ends are rounded, not the sizes, so that these add up to the limit.
        ends = np.rint(ends * limit / ends[-1]).astype(np.int64)
    for name, size in zip(names, np.diff(ends), strict=True):
        for label in np.unique(labels):
            rows = np.flatnonzero((split == name) & (labels == label))
            result[rows[np.argsort(rank[rows], kind="stable")[:size]]] = name
    return result


def leaking_groups(groups: pa.Array, split: np.ndarray) -> list[str]:
    """The groups with rows in more than one split, sorted. "" is no group and "" is no split."""
    table = pa.table({"group": groups, "split": pa.array(split, pa.string())})
    table = table.filter((pc.field("group") != "") & (pc.field("split") != ""))
    counts = table.group_by("group").aggregate([("split", "count_distinct")])
    return sorted(counts.filter(pc.field("split_count_distinct") > 1)["group"].to_pylist())


def _check_fractions(fractions: Mapping[str, float]) -> None:
    if abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(f"the fractions of a split must add up to 1; received {dict(fractions)}")


def _mix(x: np.ndarray | np.uint64) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of uint64 that looks random."""
    mixed: np.ndarray = np.asarray(x, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))

"""The same picture twice, but for encoding, size or brightness: by perceptual hash, over the decoded sample."""

import dataclasses

import numpy as np
import pyarrow as pa

from tfds_builders.audit.dataset import BuiltDataset, column_codes, content_codes
from tfds_builders.audit.duplicates import judge_across_splits
from tfds_builders.audit.findings import Finding, counted
from tfds_builders.audit.hashing import MIN_DETAIL, MIN_SIMILARITY, RADIUS, detail, similarity
from tfds_builders.audit.neighbours import near_pairs
from tfds_builders.audit.scan import Scanned

MAX_EXAMPLES = 200  # pairs kept by name in audit.json, of those across splits or labels first

_VERIFIED_AT_ONCE = 16_384  # pairs; bounds the memory for their thumbnails
_ROUNDS = 32


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two records that show the same: their rows in the manifest, differing hash bits, where they differ as written."""

    left: int
    right: int
    distance: int
    across_splits: bool
    across_labels: bool


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """What the near-duplicate search found among `num_compared` images (decoded and with some detail)."""

    num_compared: int
    num_featureless: int
    num_pairs: int
    num_across_splits: dict[str, int]  # pairs, by column: "split" and every scheme
    num_across_labels: int
    num_unexplained_across_labels: int  # across labels, and not of one group, where fakes are made from reals
    # column -> split -> its images with a near-duplicate in another split.
    images_across_splits: dict[str, dict[str, int]]
    images: int  # with any near-duplicate
    examples: list[Pair]


def find_near(dataset: BuiltDataset, scanned: Scanned) -> tuple[NearDuplicates, list[Finding]]:
    """Compares the perceptual hashes of the sample. Exact copies are not counted again."""
    usable = np.flatnonzero(scanned.decoded)
    has_detail = detail(scanned.thumbnails[usable]) >= MIN_DETAIL
    compared = usable[has_detail]
    table = dataset.table.select([*dataset.schemes, "label", "group", "sha256"]).take(pa.array(scanned.rows[compared]))
    pairs = _Pairs(table, dataset.schemes, scanned.rows[compared])
    thumbnails, hashes = scanned.thumbnails[compared], scanned.hashes[compared]
    members, leaders = _merge_equal(hashes, pairs.codes, thumbnails)
    # Within a merged node all show the same; `leaders` stand for them among the others.
    pairs.add_members(members, leaders)
    for left, right in near_pairs(hashes[leaders], RADIUS):
        for at in range(0, len(left), _VERIFIED_AT_ONCE):
            a, b = leaders[left[at : at + _VERIFIED_AT_ONCE]], leaders[right[at : at + _VERIFIED_AT_ONCE]]
            same = similarity(thumbnails[a], thumbnails[b]) >= MIN_SIMILARITY
            pairs.add(a[same], b[same], np.bitwise_count(hashes[a[same]] ^ hashes[b[same]]))
    found = pairs.summary(num_featureless=int((~has_detail).sum()))
    return found, _judge_near(found, {column: pairs.shares(column) for column in dataset.schemes})


class _Pairs:
    """Counts verified pairs as they come, and keeps some of them; memory does not grow with their number."""

    def __init__(self, table: pa.Table, columns: list[str], rows: np.ndarray):
        self._rows = rows
        self._splits = {column: column_codes(table[column]) for column in columns}
        self._labels = table["label"].to_numpy()
        groups, names = column_codes(table["group"])
        self._groups = np.where(groups == names.index(""), -1, groups) if "" in names else groups
        self._content = content_codes(table)
        # codes: equal for records of one label and, in every column, one split, int64 [n].
        self.codes = self._labels.astype(np.int64)
        for splits, split_names in self._splits.values():
            _, self.codes = np.unique(self.codes * len(split_names) + splits, return_inverse=True)
        self._has_any = np.zeros(len(rows), bool)
        self._has_across_splits = {column: np.zeros(len(rows), bool) for column in columns}
        self._num_across_splits = dict.fromkeys(columns, 0)
        self._counts = np.zeros(3, np.int64)
        self._examples: list[Pair] = []
        self._node = np.arange(len(rows))
        self._node_size = np.ones(len(rows), np.int64)

    def add_members(self, members: np.ndarray, leaders: np.ndarray) -> None:
        """Counts each member with its leader. members: int64 [n], the leader of every record."""
        self._node = members
        self._node_size = np.bincount(members, minlength=len(members))
        others = np.flatnonzero(members != np.arange(len(members)))
        self._count(others, members[others], np.zeros(len(others), np.int64), weights=np.ones(len(others), np.int64))

    def add(self, left: np.ndarray, right: np.ndarray, distance: np.ndarray) -> None:
        """Counts pairs of leaders, each for all pairs of the records that they stand for."""
        self._count(left, right, distance, self._node_size[left] * self._node_size[right])

    def _count(self, left: np.ndarray, right: np.ndarray, distance: np.ndarray, weights: np.ndarray) -> None:
        new = self._content[left] != self._content[right]  # the others are exact copies
        left, right, distance, weights = left[new], right[new], distance[new], weights[new]
        across = {column: self._are_parted(column, left, right) for column in self._splits}
        across_splits = across["split"]
        across_labels = self._labels[left] != self._labels[right]
        unexplained = across_labels & ~((self._groups[left] == self._groups[right]) & (self._groups[left] >= 0))
        kinds = (np.ones(len(left), bool), across_labels, unexplained)
        self._counts += [int(weights[kind].sum()) for kind in kinds]
        for side in (left, right):
            self._has_any[side] = True
            for column, parted in across.items():
                self._has_across_splits[column][side[parted]] = True
        for column, parted in across.items():
            self._num_across_splits[column] += int(weights[parted].sum())
        telling = across_splits | across_labels
        for kind in (telling, ~telling):
            for at in np.flatnonzero(kind)[: max(0, MAX_EXAMPLES - len(self._examples))]:
                low, high = sorted((int(self._rows[left[at]]), int(self._rows[right[at]])))
                self._examples.append(
                    Pair(low, high, int(distance[at]), bool(across_splits[at]), bool(across_labels[at]))
                )

    def _are_parted(self, column: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether each pair is on two sides of the column's splits, bool [m]; "" is left out of a scheme."""
        splits, names = self._splits[column]
        is_kept = np.array([bool(name) for name in names])
        return (splits[left] != splits[right]) & is_kept[splits[left]] & is_kept[splits[right]]

    def shares(self, column: str) -> dict[str, tuple[int, int]]:
        """split -> (its compared images with a near-duplicate in another split, its compared images)."""
        across = self._has_across_splits[column][self._node]
        splits, names = self._splits[column]
        return {
            name: (int(across[splits == code].sum()), int((splits == code).sum()))
            for code, name in enumerate(names)
            if name
        }

    def summary(self, num_featureless: int) -> NearDuplicates:
        """The counts so far."""
        pairs, across_labels, unexplained = self._counts.tolist()
        examples = sorted(self._examples, key=lambda pair: (not pair.across_splits, not pair.across_labels))
        return NearDuplicates(
            num_compared=len(self._rows),
            num_featureless=num_featureless,
            num_pairs=pairs,
            num_across_splits=self._num_across_splits,
            num_across_labels=across_labels,
            num_unexplained_across_labels=unexplained,
            images_across_splits={
                column: {name: affected for name, (affected, _) in self.shares(column).items() if affected}
                for column in self._splits
            },
            images=int(self._has_any[self._node].sum()),
            examples=examples,
        )


def _merge_equal(hashes: np.ndarray, codes: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges records of equal hash, splits and label that show the same, so that pairs among them need no enumeration.

    A thousand frames of a still video have one hash and half a million pairs.

    Returns:
      The leader of every record (itself for most), int64 [n], and the distinct leaders, rising.
    """
    order = np.lexsort((codes, hashes))
    leader = np.arange(len(hashes))
    open_rows = order
    # Each round, the first open record of every run leads those that resemble it; the others stay open.
    for _ in range(_ROUNDS):
        if len(open_rows) < 2:
            break
        same_run = (hashes[open_rows[1:]] == hashes[open_rows[:-1]]) & (codes[open_rows[1:]] == codes[open_rows[:-1]])
        starts = np.flatnonzero(np.concatenate([[True], ~same_run]))
        heads = np.repeat(open_rows[starts], np.diff(np.append(starts, len(open_rows))))
        is_follower = heads != open_rows
        if not is_follower.any():
            break
        followers, led_by = open_rows[is_follower], heads[is_follower]
        same = np.concatenate(
            [
                similarity(
                    thumbnails[followers[at : at + _VERIFIED_AT_ONCE]], thumbnails[led_by[at : at + _VERIFIED_AT_ONCE]]
                )
                for at in range(0, len(followers), _VERIFIED_AT_ONCE)
            ]
        )
        same = same >= MIN_SIMILARITY
        leader[followers[same]] = led_by[same]
        open_rows = followers[~same]
    return leader, np.unique(leader)


def _judge_near(found: NearDuplicates, shares: dict[str, dict[str, tuple[int, int]]]) -> list[Finding]:
    findings: list[Finding] = []
    for column, of_splits in shares.items():
        across = judge_across_splits(column, of_splits, "near_duplicates_across_splits", "near-duplicates")
        for finding in across:
            finding.numbers["pairs"] = found.num_across_splits[column]
        findings += across
    if found.num_unexplained_across_labels:
        share = found.num_unexplained_across_labels / max(found.num_compared, 1)
        findings.append(
            Finding(
                "near_duplicates_across_labels",
                "medium" if share >= 0.001 else "low",
                f"{counted(found.num_unexplained_across_labels, 'pair')} of near-duplicates: one is real, the other "
                "fake, and they share no group.",
                "If the fakes were made from these reals, give each pair one group, so that no split parts them; "
                "otherwise one of the labels is wrong.",
                {"pairs": found.num_unexplained_across_labels},
            )
        )
    if found.num_pairs:
        findings.append(
            Finding(
                "near_duplicates",
                "low" if found.images >= 0.05 * found.num_compared else "info",
                f"{counted(found.images, 'image')} of {found.num_compared:,} compared have a near-duplicate "
                f"({counted(found.num_pairs, 'pair')}, exact copies not counted).",
                "They add less than their number says; group them, so that they stay together in every split.",
                {"images": found.images, "pairs": found.num_pairs},
            )
        )
    if found.num_featureless:
        findings.append(
            Finding(
                "featureless_images",
                "info",
                f"{counted(found.num_featureless, 'image')} show nothing beyond a gradient and were not compared: such "
                "images hash alike.",
                "Look at some of them: blank frames and failed crops belong out of the data.",
                {"images": found.num_featureless},
            )
        )
    return findings

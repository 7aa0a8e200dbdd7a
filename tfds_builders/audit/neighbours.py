"""All pairs of 64-bit hashes within a Hamming radius, exactly, without comparing all pairs.

    for left, right in near_pairs(hashes, radius=8): ...   # indices of near hashes, each pair once

Cut the 64 bits into radius + 3 chunks: two hashes that differ in at most `radius` bits are equal in at least 3 chunks.
So for each choice of 3 chunks (165 of them for radius 8) the hashes are sorted by these chunks' bits, about 17 of them,
and only those with equal keys are compared. A pair is reported by the first choice that brings it together, so no table
of pairs already seen is needed: memory is a few arrays of n. After Manku, Jain, Das Sarma, "Detecting near-duplicates
for web crawling", WWW 2007, with sorted arrays in the place of tables.
"""

import itertools
from collections.abc import Iterator

import numpy as np

BITS = 64
_CHUNKS_IN_KEY = 3
_DENSE = 8  # measured: gathering costs about eight times as much a pair


def near_pairs(hashes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of index pairs (left, right), int64 [k] each, with popcount(h[left] ^ h[right]) <= radius.

    Every unordered pair of different indices comes exactly once, left < right within it; the order is the same every
    time. Time grows with the number of pairs whose keys collide: thousands of equal hashes should be merged before.

    Args:
      hashes: uint64 [n], n < 2**28.
      radius: 0 <= radius <= 29.

    Raises:
      ValueError: a radius or a number of hashes outside these bounds.
    """
    num_chunks = radius + _CHUNKS_IN_KEY
    if not 0 <= radius <= BITS // 2 - _CHUNKS_IN_KEY or len(hashes) >= 2**28:
        raise ValueError(
            f"near_pairs takes a radius of 0..29 and fewer than 2**28 hashes; received {radius}, {len(hashes)}"
        )
    hashes = np.ascontiguousarray(hashes, np.uint64)
    bounds = [round(BITS * chunk / num_chunks) for chunk in range(num_chunks + 1)]
    chunks = [(np.uint64(start), end - start) for start, end in itertools.pairwise(bounds)]
    for chosen in itertools.combinations(range(num_chunks), _CHUNKS_IN_KEY):
        order, keys = _sorted_by(hashes, [chunks[chunk] for chunk in chosen])
        in_order = hashes[order]
        for at, step in _near_in_runs(in_order, keys, radius):
            near = at[_is_first(in_order[at] ^ in_order[at + step], chunks, chosen)]
            if len(near):
                left, right = order[near], order[near + step]
                yield np.minimum(left, right), np.maximum(left, right)


def _near_in_runs(hashes: np.ndarray, keys: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (positions, step) with popcount(h[position] ^ h[position + step]) <= radius, for all pairs of equal key.

    Pairs of other keys may be among them. First all pairs one step apart in every run of equal keys, then two, ...

    Args:
      hashes, keys: uint64 [n], sorted by key.
    """
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    lengths = np.diff(np.append(starts, len(keys)))
    # following: how many of the run come after each position, (n,). Those with most come first, so that the ones still
    # active at a step are a prefix.
    following = np.repeat(starts + lengths, lengths) - np.arange(len(keys)) - 1
    active = np.argsort(-following, kind="stable")
    num_active = np.searchsorted(-following[active], -np.arange(1, max(lengths, default=1)), side="right")
    for step, count in enumerate(num_active.tolist(), start=1):
        if count > len(keys) // _DENSE:  # comparing all of them in place is faster than gathering some
            yield np.flatnonzero(np.bitwise_count(hashes[:-step] ^ hashes[step:]) <= radius), step
        else:
            at = active[:count]
            yield at[np.bitwise_count(hashes[at] ^ hashes[at + step]) <= radius], step


def _sorted_by(hashes: np.ndarray, chunks: list[tuple[np.uint64, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 [n] in the order of the key made of these chunks' bits, and the sorted keys."""
    key = np.zeros(len(hashes), np.uint64)
    for start, width in chunks:
        key = (key << np.uint64(width)) | ((hashes >> start) & np.uint64((1 << width) - 1))
    # Key and index in one integer: sorting values is several times faster than sorting indices by a key. Of keys wider
    # than 36 bits the first are pushed out, which brings more pairs together than need be, and loses none.
    index_bits = np.uint64(28)
    packed = np.sort((key << index_bits) | np.arange(len(hashes), dtype=np.uint64))
    return (packed & np.uint64((1 << 28) - 1)).astype(np.int64), packed >> index_bits


def _is_first(differing: np.ndarray, chunks: list[tuple[np.uint64, int]], chosen: tuple[int, ...]) -> np.ndarray:
    """Whether `chosen` are the first 3 equal chunks of a pair, so that no earlier choice brought it together: bool [k].

    Small radii make wide chunks, of which the sorted keys hold only a part: that the chosen are equal is checked too.
    """
    first = np.ones(len(differing), bool)
    for chunk in range(chosen[-1] + 1):
        start, width = chunks[chunk]
        is_equal = (differing >> start) & np.uint64((1 << width) - 1) == 0
        first &= is_equal if chunk in chosen else ~is_equal
    return first

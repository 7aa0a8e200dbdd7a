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
        # Every run of equal keys, all pairs at distance 1 in it, then 2, ...; what is left shrinks with each step.
        at, step = np.flatnonzero(keys[1:] == keys[:-1]), 1
        while len(at):
            differing = in_order[at] ^ in_order[at + step]
            near = np.flatnonzero(np.bitwise_count(differing) <= radius)
            if len(near):
                near = near[_is_first(differing[near], chunks, chosen)]
                left, right = order[at[near]], order[at[near] + step]
                if len(near):
                    yield np.minimum(left, right), np.maximum(left, right)
            step += 1
            at = at[: np.searchsorted(at, len(keys) - step)]
            at = at[keys[at + step] == keys[at]]


def _sorted_by(hashes: np.ndarray, chunks: list[tuple[np.uint64, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 [n] in the order of the key made of these chunks' bits, and the sorted keys."""
    key = np.zeros(len(hashes), np.uint64)
    for start, width in chunks:
        key = (key << np.uint64(width)) | ((hashes >> start) & np.uint64((1 << width) - 1))
    # Key and index in one integer: sorting values is several times faster than sorting indices by a key.
    index_bits = np.uint64(28)
    packed = np.sort((key << index_bits) | np.arange(len(hashes), dtype=np.uint64))
    return (packed & np.uint64((1 << 28) - 1)).astype(np.int64), packed >> index_bits


def _is_first(differing: np.ndarray, chunks: list[tuple[np.uint64, int]], chosen: tuple[int, ...]) -> np.ndarray:
    """Whether no earlier choice of chunks brings these pairs together: bool [k].

    The first choice for a pair is that of its first 3 equal chunks, so it is `chosen` if all chunks before the last
    chosen one differ but for the chosen themselves.
    """
    first = np.ones(len(differing), bool)
    for chunk in range(chosen[-1]):
        if chunk not in chosen:
            start, width = chunks[chunk]
            first &= (differing >> start) & np.uint64((1 << width) - 1) != 0
    return first

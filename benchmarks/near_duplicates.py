"""How long the near-duplicate search takes over the 692,824 records of the published set, and how much memory.

    python benchmarks/near_duplicates.py

Hashes are made up: independent ones; ones that resemble one another as those of aligned faces do (every bit equals the
common face's with probability 0.75); and the frames of 2,000 videos, 100 each, among independent ones. `search` is the
exact search for all pairs within 8 bits on one core; `audit` is all of the audit's step: merging equal hashes,
searching, comparing thumbnails, counting by split, label and group. Each runs in a process of its own. The last line is
JSON.
"""

import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from tfds_builders.audit.dataset import BuiltDataset
from tfds_builders.audit.hashing import RADIUS
from tfds_builders.audit.near_duplicates import find_near
from tfds_builders.audit.neighbours import near_pairs
from tfds_builders.audit.scan import Scanned
from tfds_builders.records.schema import LEDGER_SCHEMA

NUM_RECORDS = 692_824
NUM_VIDEOS, FRAMES_PER_VIDEO = 2000, 100
NUM_PLANTED = 1000  # copies in the test split of records of the training split


def independent(random: np.random.Generator) -> np.ndarray:
    """Perceptual hashes of unrelated pictures: half of the bits of each are set. uint64 [n]."""
    hashes = np.empty(NUM_RECORDS, np.uint64)
    for start in range(0, NUM_RECORDS, 100_000):
        part = hashes[start : start + 100_000]
        bits = random.random((len(part), 64), np.float32).argsort(axis=1) < 32
        part[:] = np.packbits(bits, axis=1).view(">u8").ravel()
    return hashes


def faces(random: np.random.Generator) -> np.ndarray:
    """Hashes that share a common pattern. uint64 [n]."""
    hashes = np.empty(NUM_RECORDS, np.uint64)
    for start in range(0, NUM_RECORDS, 100_000):
        part = hashes[start : start + 100_000]
        part[:] = np.packbits(random.random((len(part), 64), np.float32) < 0.25, axis=1).view(">u8").ravel()
    return hashes


def videos(random: np.random.Generator) -> np.ndarray:
    """Independent hashes, but for the frames of videos, which are up to 3 bits from their first. uint64 [n]."""
    hashes = independent(random)
    frames = hashes[: NUM_VIDEOS * FRAMES_PER_VIDEO].reshape(NUM_VIDEOS, FRAMES_PER_VIDEO)
    frames[:] = frames[:, :1]
    for _ in range(3):
        frames[:, 1:] ^= np.uint64(1) << random.integers(0, 64, (NUM_VIDEOS, FRAMES_PER_VIDEO - 1), np.uint64)
    return hashes


def search(kind: str) -> dict:
    """The search alone."""
    hashes = {"independent": independent, "faces": faces, "videos": videos}[kind](np.random.default_rng(0))
    start = time.perf_counter(), time.process_time()
    num_pairs = sum(len(left) for left, _ in near_pairs(hashes, RADIUS))
    return _measured(f"search, {kind}", start, num_pairs)


def audit(kind: str) -> dict:
    """The whole step of the audit, with copies planted across splits."""
    random = np.random.default_rng(0)
    hashes = {"independent": independent, "videos": videos}[kind](random)
    thumbnails = random.integers(0, 256, (NUM_RECORDS, 256), np.uint8)
    splits = random.choice(["train", "validation", "test"], NUM_RECORDS, p=[0.8, 0.1, 0.1])
    if kind == "videos":  # a video's frames resemble the first, and all are in one split
        frames = thumbnails[: NUM_VIDEOS * FRAMES_PER_VIDEO].reshape(NUM_VIDEOS, FRAMES_PER_VIDEO, 256)
        frames[:] = np.clip(frames[:, :1].astype(np.int16) + random.integers(-9, 10, frames.shape), 0, 255)
        splits[: NUM_VIDEOS * FRAMES_PER_VIDEO] = np.repeat(splits[:NUM_VIDEOS], FRAMES_PER_VIDEO)
    copied, copies = np.arange(-NUM_PLANTED, 0), np.arange(-2 * NUM_PLANTED, -NUM_PLANTED)
    hashes[copies], thumbnails[copies] = hashes[copied] ^ np.uint64(0b1000_0001), thumbnails[copied]
    splits[copied], splits[copies] = "train", "test"
    table = pa.table(
        {
            "split": splits,
            "label": random.integers(0, 2, NUM_RECORDS, np.int8),
            "group": pa.array([""] * NUM_RECORDS),
            "sha256": pa.array([at.to_bytes(32) for at in range(NUM_RECORDS)], pa.binary(32)),
        }
    )
    empty = LEDGER_SCHEMA.empty_table()
    everything = np.ones(NUM_RECORDS, bool)
    scanned = Scanned(np.arange(NUM_RECORDS), {}, hashes, thumbnails, everything, everything, np.zeros((2, 64)), [])
    start = time.perf_counter(), time.process_time()
    found, _ = find_near(BuiltDataset(Path(), table, empty, empty, {}), scanned)
    assert found.images_across_splits["split"]["test"] >= NUM_PLANTED
    return _measured(f"audit, {kind}", start, found.num_pairs)


def _measured(name: str, start: tuple[float, float], num_pairs: int) -> dict:
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, cpu_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    return {
        "case": name,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "pairs": num_pairs,
        "peak_bytes": peak_bytes,
    }


def main() -> None:
    """Runs the cases one after the other and prints a table."""
    print(f"{'case':<22}{'seconds':>9}{'CPU s':>9}{'pairs':>13}{'peak MB':>9}")
    results = []
    context = multiprocessing.get_context("spawn")
    for run, kind in (
        (search, "independent"),
        (search, "faces"),
        (search, "videos"),
        (audit, "independent"),
        (audit, "videos"),
    ):
        with ProcessPoolExecutor(1, mp_context=context) as process:
            result = process.submit(run, kind).result()
        results.append(result)
        print(
            f"{result['case']:<22}{result['seconds']:>9.1f}{result['cpu_seconds']:>9.1f}{result['pairs']:>13,}"
            f"{result['peak_bytes'] / 1e6:>9.0f}",
            flush=True,
        )
    slowest = max(result["seconds"] for result in results)
    peak_bytes = max(result["peak_bytes"] for result in results)
    result = {"records": NUM_RECORDS, "seconds": round(slowest, 1), "peak_bytes": peak_bytes, "cases": results}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

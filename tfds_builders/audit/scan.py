"""One pass over a sample of the records: read, decode, and keep a few hundred bytes of each.

scanned = scan(dataset, rows, trace_rows=20_000)
scanned.facts["grid_zeros"], scanned.hashes, scanned.thumbnails, scanned.damaged
"""

import dataclasses
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from tfds_builders.audit.container import ENCODING, METADATA, container_facts
from tfds_builders.audit.dataset import BuiltDataset, read_images
from tfds_builders.audit.grid import GRID, grid_facts
from tfds_builders.audit.hashing import THUMBNAIL_SIDE, perceptual_hash, thumbnail
from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.facts import BadImage

INTENSITY = ("mean_intensity", "std_intensity", "mean_red", "mean_green", "mean_blue")
HISTOGRAM_BINS = 64  # of 4 grey levels each

_CHUNK_ROWS = 128
_FEW_ROWS = 400  # below this, starting processes takes longer than the work
_COLUMNS = ("shard", "offset", "length", "image_offset", "bytes")


@dataclasses.dataclass
class Scanned:
    """What one pass found of m sampled records.

    Attributes:
      rows: int64 [m], rows of the manifest, rising.
      facts: name -> float32 [m]; NaN where the record has no such fact or was not measured.
      hashes: uint64 [m], perceptual.
      thumbnails: uint8 [m, 256].
      decoded: bool [m]; False for damaged records, whose other values mean nothing.
      traced: bool [m]; whether the grid was looked for (images too small for it have NaN all the same).
      histograms: float64 [2 labels, 64], mean share of the pixels of an image in each bin of grey levels.
      damaged: (row, what is wrong) of each record that cannot be read or decoded.
    """

    rows: np.ndarray
    facts: dict[str, np.ndarray]
    hashes: np.ndarray
    thumbnails: np.ndarray
    decoded: np.ndarray
    traced: np.ndarray
    histograms: np.ndarray
    damaged: list[tuple[int, str]]


def scan(dataset: BuiltDataset, rows: np.ndarray, trace_rows: int, show_progress: bool = True) -> Scanned:
    """Decodes the records of `rows`.

    Args:
      rows: int64 [m], rising rows of the manifest.
      trace_rows: the grid is measured on so many of them, spread evenly: it takes longer than the rest together.
      show_progress: a bar on standard error.
    """
    num_rows = len(rows)
    names = (*ENCODING, *METADATA, *GRID, *INTENSITY)
    found = Scanned(
        rows=rows,
        facts={name: np.full(num_rows, np.nan, np.float32) for name in names},
        hashes=np.zeros(num_rows, np.uint64),
        thumbnails=np.zeros((num_rows, THUMBNAIL_SIDE**2), np.uint8),
        decoded=np.zeros(num_rows, bool),
        traced=np.zeros(num_rows, bool),
        histograms=np.zeros((2, HISTOGRAM_BINS)),
        damaged=[],
    )
    labels = dataset.labels[rows]
    found.traced[np.linspace(0, num_rows - 1, min(num_rows, trace_rows)).astype(np.int64)] = True
    table = dataset.table.select(list(_COLUMNS)).take(pa.array(rows))
    # A float sum depends on its order, and chunks come back in any: the histograms are added up at the end.
    histograms: dict[int, np.ndarray] = {}
    with tqdm(total=num_rows, desc="decoding", unit=" images", disable=not show_progress) as bar:
        for start, part in _parts(dataset.directory, table, labels, found.traced):
            end = start + len(part.decoded)
            for at, name in enumerate(names):
                found.facts[name][start:end] = part.values[:, at]
            found.hashes[start:end], found.thumbnails[start:end] = part.hashes, part.thumbnails
            found.decoded[start:end], histograms[start] = part.decoded, part.histograms
            found.damaged += [(int(rows[start + at]), error) for at, error in part.damaged]
            bar.update(end - start)
    for start in sorted(histograms):
        found.histograms += histograms[start]
    counts = np.bincount(labels[found.decoded], minlength=2)[:2]
    found.histograms /= np.maximum(counts, 1)[:, None]
    found.damaged.sort()
    return found


@dataclasses.dataclass
class _Part:
    values: np.ndarray  # float32 (rows, names)
    hashes: np.ndarray
    thumbnails: np.ndarray
    decoded: np.ndarray
    histograms: np.ndarray
    damaged: list[tuple[int, str]]


def _parts(directory: Path, table: pa.Table, labels: np.ndarray, traced: np.ndarray) -> Iterator[tuple[int, _Part]]:
    """(first row, part) of each chunk, in the order in which they are done."""
    starts = range(0, len(table), _CHUNK_ROWS)

    def arguments(start: int) -> tuple:
        part = slice(start, start + _CHUNK_ROWS)
        return directory, table.slice(start, _CHUNK_ROWS), labels[part], traced[part]

    if len(table) < _FEW_ROWS:
        for start in starts:
            yield start, _scan_part(*arguments(start))
        return
    num_processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Not forked: the caller may hold threads and locks (TensorFlow, Ray).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        waiting: dict[Future, int] = {}
        for start in starts:
            waiting[pool.submit(_scan_part, *arguments(start))] = start
            if len(waiting) >= 4 * num_processes:  # few enough that memory does not grow with the sample
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                yield from ((waiting.pop(future), future.result()) for future in done)
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            yield from ((waiting.pop(future), future.result()) for future in done)


def _scan_part(directory: Path, table: pa.Table, labels: np.ndarray, traced: np.ndarray) -> _Part:
    size = len(table)
    part = _Part(
        values=np.full((size, len(ENCODING) + len(METADATA) + len(GRID) + len(INTENSITY)), np.nan, np.float32),
        hashes=np.zeros(size, np.uint64),
        thumbnails=np.zeros((size, THUMBNAIL_SIDE**2), np.uint8),
        decoded=np.zeros(size, bool),
        histograms=np.zeros((2, HISTOGRAM_BINS)),
        damaged=[],
    )
    # One thread each for the small products of matrices: there is a process for every core already.
    with threadpool_limits(1):
        _fill(part, directory, table, labels, traced)
    return part


def _fill(part: _Part, directory: Path, table: pa.Table, labels: np.ndarray, traced: np.ndarray) -> None:
    for row, data, error in read_images(directory, table):
        try:
            if data is None:
                raise BadImage("undecodable", error)
            pixels = decode_rgb(data)
        except BadImage as bad:
            part.damaged.append((row, str(bad)))
            continue
        facts = container_facts(data)
        grey = Image.fromarray(pixels).convert("L")
        counts = np.array(grey.histogram(), np.float64)
        grid = grid_facts(pixels) if traced[row] else (np.nan,) * len(GRID)
        part.values[row] = (*facts.values(), *grid, *_intensity(pixels, counts))
        part.hashes[row], part.thumbnails[row] = perceptual_hash(grey), thumbnail(grey)
        part.histograms[labels[row]] += counts.reshape(HISTOGRAM_BINS, -1).sum(axis=1) / counts.sum()
        part.decoded[row] = True


def _intensity(pixels: np.ndarray, counts: np.ndarray) -> tuple[float, ...]:
    """INTENSITY in grey levels, 0..255, from the pixels and the histogram of their luma."""
    levels = np.arange(256)
    mean = counts @ levels / counts.sum()
    std = np.sqrt(max(0.0, counts @ levels**2 / counts.sum() - mean**2))
    # Every 4th pixel each way will do for a mean of colours.
    return mean, std, *pixels[::4, ::4].reshape(-1, 3).mean(axis=0).tolist()

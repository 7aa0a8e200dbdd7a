"""How well a detector holds out against changed images: a summary for each change and strength.

    rows = robustness(detector, sample(parts, predictions, 500))
    rows[0]["change"], rows[0]["auc"]       # "none": the images as they are

The pixels that the network is given are changed, after decoding and resizing, so that each change has the same
strength whatever the size of the file.
"""

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from trainers import attacks, metrics
from trainers.card_pictures import Part
from trainers.dataset import with_column
from trainers.perturbations import PERTURBATIONS, Perturbation, random_signs
from trainers.progress import Progress
from trainers.reader import open_reader
from trainers.registry import Detector
from trainers.scoring import BATCH_IMAGES

_SEED = 0  # of the sample
_KEYS = ("n", "auc", "balanced_accuracy", "recall_real", "recall_fake")
_OF_255 = "of 255 levels"
_RANDOM = "random signs"

Sample = list[tuple[Part, np.ndarray, pa.Table]]  # a part, some of its rows, and their predictions
Condition = tuple[str, float | None, str]  # change, strength, unit


def sample(parts: Sequence[Part], predictions: pa.Table, number: int) -> Sample:
    """At most `number` images, of each class as near to a half as there are, drawn once and for all.

    Args:
      predictions: of all parts, one after the other.
    """
    labels = predictions["label"].to_numpy()
    random = np.random.default_rng(_SEED)
    shuffled = [random.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    smaller = min(len(rows) for rows in shuffled)
    most = max(number // 2, number - smaller)  # of one class
    chosen = np.sort(np.concatenate([rows[:most] for rows in shuffled]))
    found: Sample = []
    begin = 0
    for part in parts:
        rows = chosen[(chosen >= begin) & (chosen < begin + len(part.records))]
        found.append((part, rows - begin, predictions.take(pa.array(rows))))
        begin += len(part.records)
    return [each for each in found if len(each[1])]


def robustness(detector: Detector, images: Sample) -> list[dict[str, Any]]:
    """What becomes of the verdicts.

    Returns:
      A dict a change and strength: change, strength, unit (None, "" for the unchanged images, which come first), n,
      auc, balanced_accuracy, recall_real, recall_fake. The attacks know the labels and the network; `random signs`
      change the pixels as much as they do, without an aim.

    Raises:
      Refused: a network that gives no gradient.
    """
    network = detector.network
    attacker = attacks.Attacker(network.model)
    scores: dict[Condition, list[np.ndarray]] = {}
    progress = Progress("changed and attacked image", sum(len(rows) for _, rows, _ in images))
    with ThreadPoolExecutor() as threads:
        for pixels, labels, seeds in _batches(images, network.image_size, network.aspect):
            changed = {
                key: threads.submit(_change, perturbation, key[1], pixels, seeds)
                for key, perturbation in _conditions().items()
            }
            attacked: dict[Condition, np.ndarray] = {}  # meanwhile, here
            for name, attack in (("fgsm", attacker.fgsm), ("pgd", attacker.pgd)):
                attacked |= {(name, size, _OF_255): attack(pixels, labels, size) for size in attacks.SIZES}
            ready: dict[Condition, np.ndarray] = {("none", None, ""): pixels}
            for key, few in (ready | {key: future.result() for key, future in changed.items()} | attacked).items():
                scores.setdefault(key, []).append(network.score_pixels(few))
            progress.update(len(labels))
    predictions = pa.concat_tables([table for _, _, table in images])
    rows = []
    for (name, strength, unit), parts in scores.items():
        table = with_column(predictions, "p_fake", pa.array(np.concatenate(parts), pa.float64()))
        summary = metrics.summarise(table, network.threshold, bootstrap=0)
        rows.append({"change": name, "strength": strength, "unit": unit} | {key: summary[key] for key in _KEYS})
    return rows


def _conditions() -> dict[tuple[str, float, str], Perturbation]:
    signs = Perturbation(random_signs, attacks.SIZES, _OF_255)
    every = PERTURBATIONS | {_RANDOM: signs}
    return {(name, strength, each.unit): each for name, each in every.items() for strength in each.strengths}


def _change(perturbation: Perturbation, strength: float, pixels: np.ndarray, seeds: list[int]) -> np.ndarray:
    return np.stack([perturbation.apply(image, strength, seed) for image, seed in zip(pixels, seeds, strict=True)])


def _batches(images: Sample, image_size: int, aspect: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[int]]]:
    """(pixels uint8 [b, size, size, 3], labels [b], seeds [b]): a seed is a hash of the record's id."""
    from tfds_builders.records.pixels import load_pixels

    for part, rows, table in images:
        reader = open_reader(part.records)
        labels, ids = table["label"].to_numpy(), table["id"].to_pylist()
        for start in range(0, len(rows), BATCH_IMAGES):
            few = slice(start, start + BATCH_IMAGES)
            pixels = np.stack([load_pixels(data, image_size, aspect) for data in reader.images(rows[few])])
            yield pixels, labels[few], [zlib.crc32(id.encode()) for id in ids[few]]

"""The images on a report card: those judged worst, and what the network saw while it was trained."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.schema import LABELS
from trainers.card import most_wrong
from trainers.card_html import Picture
from trainers.config import Config
from trainers.dataset import Dataset, Records
from trainers.metrics import rounded
from trainers.reader import open_reader

WORST, AUGMENTED = "Judged worst", "Training images as the network saw them"  # headings
NUM_MOST_WRONG = 24
NUM_AUGMENTED = 16
THUMBNAIL = 272  # pixels: twice the size on the page, for fine screens


@dataclasses.dataclass(frozen=True)
class Part:
    """The records of one dataset that are evaluated."""

    dataset: Dataset
    records: Records
    scheme: str = ""  # the split scheme that they are a split of; "": the split that was written


def most_wrong_images(predictions: pa.Table, parts: Sequence[Part], threshold: float) -> list[Picture]:
    """The images that were judged worst at the threshold, small, with what is written under them."""
    ends = np.cumsum([len(part.records) for part in parts])
    pictures = []
    for row in most_wrong(predictions, NUM_MOST_WRONG, threshold).tolist():
        number = int(np.searchsorted(ends, row, "right"))
        records = parts[number].records
        (data,) = open_reader(records).images(np.array([row - (ends[number] - len(records))]))
        found = predictions.slice(row, 1).to_pylist()[0]
        pictures.append(
            (
                f"{LABELS[found['label']]}, P(fake) {rounded(found['p_fake'], 3)}: {found['id']}",
                thumbnail(decode_rgb(data)),
            )
        )
    return pictures


def thumbnail(pixels: np.ndarray) -> bytes:
    """A JPEG file of uint8 RGB pixels, made smaller where they are larger than a thumbnail."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def augmented(config: Config, records: Records) -> list[Picture]:
    """The beginning of a job's first training batch, augmented as it was; nothing if it took none.

    Args:
      records: the training part.
    """
    from trainers.inputs import BatchIterator, training_batches
    from trainers.policies import make_order

    if not config.optimiser.epochs:
        return []
    dataset = training_batches(
        records,
        make_order(records, config.data, config.optimiser.global_batch_size, config.job.seed),
        image_size=config.model.image_size,
        aspect=config.model.aspect,
        seed=config.job.seed,
        augment=config.augmentation,
        num_steps=1,
    )
    with BatchIterator(dataset) as batches:
        batch = next(batches)
    labels = [LABELS[int(label)] for label in batch["label"].numpy()]
    return [
        (label, thumbnail(pixels))
        for label, pixels in list(zip(labels, batch["image"].numpy(), strict=True))[:NUM_AUGMENTED]
    ]

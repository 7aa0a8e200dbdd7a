"""P(fake) of the records of a dataset, by a registered model: each record once, in the manifest's order.

predictions = score(load_detector("models:/realshard-cnn@champion"), dataset.select("test"), dataset.name)
"""

import numpy as np
import pyarrow as pa

from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import load_pixels
from trainers.dataset import Records
from trainers.predictions import predictions
from trainers.progress import Progress
from trainers.registry import Detector, excess_difference

BATCH_IMAGES = 32
_COMPARED_IMAGES = 8  # scored from their bytes as well, by the model's own decoder


def score(detector: Detector, records: Records, dataset: str) -> pa.Table:
    """The predictions for all records.

    Threads read, decode and resize the next images while the network is busy with the last ones. The model is given
    pixels; that its own decoder makes the same ones of the same bytes is tried on the first records.

    Args:
      detector: gives P(fake) as it reports it, after its temperature if it has one.
      dataset: its name, for the column of that name.

    Returns:
      The table of trainers/predictions.py.

    Raises:
      Refused: a damaged record, by name; a model that decodes images otherwise than this version does.
    """
    model = f"{detector.name} v{detector.version}"
    p_fake = _score(detector, records, Progress(f"{model} on {dataset}: image", len(records)))
    _check_decoder(detector, records)
    return predictions(records, p_fake, dataset=dataset)


def _score(detector: Detector, records: Records, progress: Progress) -> np.ndarray:
    import tensorflow as tf

    from trainers.inputs import BatchIterator, evaluation_batches
    from trainers.reader import find_damage

    network = detector.network
    p_fake = np.full(len(records), np.nan)
    batches = evaluation_batches(records, image_size=network.image_size, aspect=network.aspect, batch_size=BATCH_IMAGES)
    done = 0
    try:
        with BatchIterator(batches) as iterator:
            for batch in iterator:
                is_record = batch["mask"].numpy() > 0
                rows = batch["row"].numpy()[is_record]
                p_fake[rows] = network.score_pixels(batch["image"])[is_record]
                done += len(rows)
                progress.update(len(rows))
    except tf.errors.OpError as error:
        damage = find_damage(records, np.arange(done, len(records)))
        raise Refused(f"a record cannot be evaluated: {damage or error.message}. Build the dataset again.") from None
    if np.isnan(p_fake).any():
        raise Refused(
            f"{detector.name} v{detector.version} gives no number for {int(np.isnan(p_fake).sum())} of {len(records)} "
            "images. Train it again with a smaller --learning-rate."
        )
    return p_fake


def _check_decoder(detector: Detector, records: Records) -> None:
    from trainers.reader import open_reader

    network = detector.network
    images = list(open_reader(records).images(np.arange(min(len(records), _COMPARED_IMAGES))))
    pixels = np.stack([load_pixels(image, network.image_size, network.aspect) for image in images])
    p_fake = np.array([verdict.p_fake or 0.0 for verdict in detector.predict(images)])
    excess = excess_difference(p_fake, network.p_fake_of(pixels).numpy(), network.temperature)
    if not excess <= 0:
        raise Refused(
            f"{detector.name} v{detector.version} decodes images otherwise than this version does: P(fake) differs by "
            f"{excess:.2g} on the first {len(images)} images. Evaluate it with the version that trained it."
        )

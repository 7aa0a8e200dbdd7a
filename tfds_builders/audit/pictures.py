"""Small pictures of records, embedded in the page as data URIs."""

import base64
import io

import numpy as np
import pyarrow as pa
from PIL import Image

from tfds_builders.audit.dataset import BuiltDataset, read_images
from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.facts import BadImage

SIDE = 96  # pixels of the longer side


def load_pictures(dataset: BuiltDataset, rows: np.ndarray) -> dict[int, str]:
    """row -> a data URI of a JPEG of at most 96 pixels a side; damaged records are left out.

    Args:
      rows: int64 [k] rows of the manifest, in any order, repeated or not.
    """
    wanted = np.unique(rows)
    pictures = {}
    for at, data, _ in read_images(dataset.directory, dataset.table.take(pa.array(wanted, pa.int64()))):
        if data is None:
            continue
        try:
            image = Image.fromarray(decode_rgb(data))
        except BadImage:
            continue
        image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        pictures[int(wanted[at])] = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return pictures

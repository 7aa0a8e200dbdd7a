"""A tiny detector and image files of every accepted format, for tests of what comes after training."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from trainers import registry, tracking
from trainers.decision import Decision

IMAGE_SIZE = 24
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
NAME = "realshard-tiny"


def image_bytes(image_format: str, height: int = 40, width: int = 56, seed: int = 0) -> bytes:
    """A file of the format with a colourful gradient and some noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1) + random.integers(0, 60, (1, 1, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, image_format)
    return file.getvalue()


def save_model(path: Path, seed: int = 0) -> Path:
    """A .keras file: uint8 RGB (n, 24, 24, 3) -> P(fake) (n, 1), with scores that differ between images."""
    import keras

    keras.utils.set_random_seed(seed)
    wide = keras.initializers.RandomNormal(stddev=1.0)
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=wide)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", kernel_initializer=wide)(x)).save(path)
    return path


def new_run(job_name: str) -> str:
    """A run of its own."""
    return tracking.open_run(tracking.experiment("tests"), job_name, {"image_size": IMAGE_SIZE}, {})


def register(run_id: str, keras_file: Path, **changes) -> int:
    """Registers the tiny model under NAME; `changes` replace arguments."""
    arguments = {
        "images": [image_bytes(image_format, seed=seed) for seed, image_format in enumerate(FORMATS)],
        "registered_name": NAME,
        "image_size": IMAGE_SIZE,
        "decision": Decision(),
        "label_names": ("real", "fake"),
        "tags": {"realshard.fingerprint": "f" * 64},
    }
    return registry.register(run_id, keras_file, **(arguments | changes))

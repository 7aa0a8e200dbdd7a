"""The registered model: encoded images in, verdicts out.

MLflow stores this file with the model and executes it when the model is loaded ("models from code"), also where this
repository is not installed: the decoder travels in the model's `code` folder (packing.py).
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from tfds_builders.records.header import BadImage
from tfds_builders.records.pixels import load_pixels

BATCH_IMAGES = 32  # bounds the memory of a request: 32 images of 224x224 are 5 MB as uint8, 20 MB as float32


class Detector(mlflow.pyfunc.PythonModel):
    """Says of each image whether it is real or fake.

    Artifacts: `keras`, a .keras file that maps uint8 RGB (n, size, size, 3) to P(fake) (n, 1); `detector`, a JSON file
    with `labels` (names of label 0 and 1), `threshold` (fake from this P(fake) on), `image_size` (pixels) and `aspect`
    (how an image becomes a square).
    """

    def load_context(self, context: Any) -> None:
        """Reads the settings and the Keras model."""
        import keras
        import tensorflow as tf

        settings = json.loads(Path(context.artifacts["detector"]).read_text())
        self.labels: list[str] = settings["labels"]
        self.threshold: float = settings["threshold"]
        self.image_size: int = settings["image_size"]
        self.aspect: str = settings["aspect"]
        model = keras.saving.load_model(context.artifacts["keras"], compile=False)
        # One graph for every number of images; Keras's own predict functions trace one for each.
        pixels = tf.TensorSpec((None, self.image_size, self.image_size, 3), tf.uint8)
        self.p_fake_of = tf.function(lambda images: model(images, training=False)[:, 0], input_signature=[pixels])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Scores images.

        Args:
          context: unused, MLflow's.
          model_input: column `image`, each the bytes of one image file (base64 over REST).
          params: none are known.

        Returns:
          One row an image, in order: label (str), p_fake (float in [0, 1]), threshold (float), error (str). An image
          that cannot be read has no label and no p_fake but an error that says why; otherwise error is None.
        """
        images = list(model_input["image"])
        rows = []
        for start in range(0, len(images), BATCH_IMAGES):
            rows += self._score(images[start : start + BATCH_IMAGES])
        # dtype object keeps None what it is: JSON has null but no NaN.
        return pd.DataFrame(rows, columns=["label", "p_fake", "threshold", "error"], dtype=object)

    def _score(self, images: list[bytes]) -> list[tuple[str | None, float | None, float, str | None]]:
        pixels: list[np.ndarray] = []
        errors: list[str | None] = []
        for data in images:
            try:
                pixels.append(load_pixels(data, self.image_size, self.aspect))
                errors.append(None)
            except BadImage as bad:
                errors.append(str(bad))
        p_fake = iter(self.p_fake_of(np.stack(pixels)).numpy().tolist() if pixels else [])
        return [
            self._verdict(next(p_fake)) if error is None else (None, None, self.threshold, error) for error in errors
        ]

    def _verdict(self, p_fake: float) -> tuple[str, float, float, None]:
        return self.labels[int(p_fake >= self.threshold)], p_fake, self.threshold, None


mlflow.models.set_model(Detector())

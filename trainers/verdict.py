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

from tfds_builders.records.facts import BadImage
from tfds_builders.records.pixels import load_pixels

BATCH_IMAGES = 32  # bounds the memory of a request: 32 images of 224x224 are 5 MB as uint8, 20 MB as float32

_COLUMNS = ["label", "p_fake", "threshold", "unsure", "error"]
_SMALLEST = 1e-7  # of P(fake) and 1 - P(fake), before the logit


class Detector(mlflow.pyfunc.PythonModel):
    """Says of each image whether it is real or fake.

    Artifacts: `keras`, a .keras file that maps uint8 RGB (n, size, size, 3) to P(fake) (n, 1); `detector`, a JSON file
    with `labels` (names of label 0 and 1), `threshold` (fake from this P(fake) on), `image_size` (pixels),
    `aspect` (how an image becomes a square),
    `temperature` (what the logit of the network's P(fake) is divided by; null: nothing) and `unsure` ([low, high]: the
    verdict is unsure where low <= P(fake) < high; null: nowhere). Threshold and band are after the temperature.
    """

    def load_context(self, context: Any) -> None:
        """Reads the settings and the Keras model. Turns TF32 off in this process, as it was in training: with its 10
        bits, the default on newer GPUs, P(fake) would not be that of the report card."""
        import keras
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.settings = settings = json.loads(Path(context.artifacts["detector"]).read_text())
        self.labels: list[str] = settings["labels"]
        self.threshold: float = settings["threshold"]
        self.image_size: int = settings["image_size"]
        self.aspect: str = settings["aspect"]
        self.temperature: float | None = settings.get("temperature")
        self.unsure: list[float] | None = settings.get("unsure")
        self.model = model = keras.saving.load_model(context.artifacts["keras"], compile=False)
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
          One row an image, in order: label (str), p_fake (float in [0, 1]), threshold (float), unsure (bool), error
          (str). An image that cannot be read has no label, p_fake and unsure but an error that says why; otherwise
          error is None.
        """
        images = list(model_input["image"])
        rows = []
        for start in range(0, len(images), BATCH_IMAGES):
            rows += self._score(images[start : start + BATCH_IMAGES])
        # dtype object keeps None what it is: JSON has null but no NaN.
        return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)

    def score_pixels(self, pixels: Any) -> np.ndarray:
        """P(fake) of uint8 RGB (n, size, size, 3): float64 (n,)."""
        p_fake = self.p_fake_of(pixels).numpy().astype(np.float64)
        if self.temperature is None:
            return p_fake
        clipped = np.clip(p_fake, _SMALLEST, 1 - _SMALLEST)
        return 1 / (1 + np.exp(-(np.log(clipped) - np.log1p(-clipped)) / self.temperature))

    def _score(self, images: list[bytes]) -> list[tuple]:
        pixels: list[np.ndarray] = []
        errors: list[str | None] = []
        for data in images:
            try:
                pixels.append(load_pixels(data, self.image_size, self.aspect))
                errors.append(None)
            except BadImage as bad:
                errors.append(str(bad))
        p_fake = iter(self.score_pixels(np.stack(pixels)).tolist() if pixels else [])
        return [
            self.verdict(next(p_fake)) if error is None else (None, None, self.threshold, None, error)
            for error in errors
        ]

    def verdict(self, p_fake: float) -> tuple[str, float, float, bool, None]:
        """The row of `predict` for a P(fake)."""
        is_unsure = self.unsure is not None and self.unsure[0] <= p_fake < self.unsure[1]
        return self.labels[int(p_fake >= self.threshold)], p_fake, self.threshold, is_unsure, None


mlflow.models.set_model(Detector())

"""Scores of every record exactly once, by all replicas together, and what they are worth."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.errors import CannotTrain

DECISION = 0.5  # accuracy while training counts P(fake) from here on as fake


class Evaluation:
    """P(fake) of every record exactly once, however many replicas share the work."""

    def __init__(self, strategy: Any, model: Any):
        self._strategy, self._model = strategy, model
        self._function = tf.function(self._step, reduce_retracing=True)
        self._times_seen = np.zeros(0, int)

    @property
    def unscored(self) -> np.ndarray:
        """int64 [k]: the rows that the latest call has no score of."""
        return np.flatnonzero(self._times_seen == 0)

    def __call__(
        self,
        make_dataset: Callable[[Any], tf.data.Dataset],
        num_records: int,
        count: Callable[[int], None] = lambda _: None,
    ) -> np.ndarray:
        """float64 [num_records]: P(fake) by row.

        Args:
          make_dataset: from a tf.distribute.InputContext to this worker's padded batches {"image", "row", "mask"}.
          num_records: all of them, over all workers.
          count: told how many more of them have been scored.

        Raises:
          RuntimeError: a record was not evaluated exactly once.
        """
        p_fake = np.full(num_records, np.nan)
        self._times_seen = times_seen = np.zeros(num_records, int)
        dataset = self._strategy.distribute_datasets_from_function(make_dataset)
        for batch in dataset:
            rows, values, mask = (part.numpy() for part in self._function(batch))
            rows, values = rows[mask > 0], values[mask > 0]
            p_fake[rows] = values
            np.add.at(times_seen, rows, 1)
            count(len(rows))
        if not (times_seen == 1).all():
            row = int(np.flatnonzero(times_seen != 1)[0])
            raise RuntimeError(f"row {row} of {num_records} was evaluated {times_seen[row]} times instead of once")
        return p_fake

    def _step(self, batch):
        p_fake = self._strategy.run(lambda image: self._model(image, training=False)[:, 0], args=(batch["image"],))
        return tuple(self._strategy.gather(part, axis=0) for part in (batch["row"], p_fake, batch["mask"]))


def evaluation_metrics(labels: np.ndarray, p_fake: np.ndarray, prefix: str) -> dict[str, float]:
    """Loss (mean binary cross-entropy, nats) and accuracy of `p_fake` float [n] against `labels` 0/1 [n].

    Raises:
      CannotTrain: a probability is not a number.
    """
    if not np.isfinite(p_fake).all():
        raise CannotTrain(f"P(fake) of {int((~np.isfinite(p_fake)).sum())} {prefix} image(s) is not a number")
    epsilon = keras.config.epsilon()  # 1e-7, as in Keras's own loss
    clipped = np.clip(p_fake.astype(np.float64), epsilon, 1 - epsilon)
    losses = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
    return {
        f"{prefix}/loss": float(losses.mean()),
        f"{prefix}/accuracy": float(((p_fake >= DECISION) == (labels == 1)).mean()),
    }

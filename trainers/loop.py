"""The distributed training step, the epoch, and exact evaluation.

The loss of a global batch is summed over its examples and divided by its size, on however many replicas: gradients are
then summed over replicas, so N replicas take the step that one would take.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.errors import NonFiniteLoss
from trainers.models.layers import GlobalBatch

SECONDS_PER_CALL = 2.0  # between two looks at the loss, when the number of steps is left to us
MAX_STEPS_PER_CALL = 64
DECISION = 0.5  # accuracy while training counts P(fake) from here on as fake


class TrainStep:
    """Steps of one phase: the trainable layers and the optimizer are fixed.

    Args:
      strategy: the model was made in its scope.
      model: uint8 images -> P(fake) [replica batch, 1].
      optimizer: made in the strategy's scope.
      global_batch: its step is moved on by one a step.
    """

    def __init__(self, strategy: Any, model: Any, optimizer: Any, global_batch: GlobalBatch):
        self._strategy, self._model, self._optimizer, self._global_batch = strategy, model, optimizer, global_batch
        with strategy.scope():
            optimizer.build(model.trainable_variables)
        self._function = tf.function(self._run, reduce_retracing=True)

    def __call__(self, iterator: Iterator, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes `num_steps` steps on batches of the distributed `iterator`.

        Returns:
          float32 [num_steps] losses (means over the global batch), float32 [num_steps] accuracies, both before the
          step's update.

        Raises:
          NonFiniteLoss: a loss is NaN or infinite.
        """
        first = int(self._global_batch.step.numpy())
        losses, accuracies = self._function(iterator, tf.constant(num_steps))
        losses, accuracies = losses.numpy(), accuracies.numpy()
        if not np.isfinite(losses).all():
            at = int(np.flatnonzero(~np.isfinite(losses))[0])
            raise NonFiniteLoss(
                f"the loss is {losses[at]} at step {first + at}: training cannot go on. "
                "Lower --learning-rate, or look at the images of that step."
            )
        return losses, accuracies

    def _run(self, iterator, num_steps):
        losses = tf.TensorArray(tf.float32, num_steps)
        accuracies = tf.TensorArray(tf.float32, num_steps)
        for index in tf.range(num_steps):
            loss, accuracy = self._strategy.run(self._replica_step, args=(next(iterator),))
            losses = losses.write(index, self._strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None))
            accuracies = accuracies.write(index, self._strategy.reduce(tf.distribute.ReduceOp.SUM, accuracy, axis=None))
            self._global_batch.step.assign_add(1)
        return losses.stack(), accuracies.stack()

    def _replica_step(self, batch):
        label = batch["label"][:, None]  # [replica batch, 1]
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            p_fake = self._model(batch["image"], training=True)
            # A graph's sigmoid is undone by Keras, so the loss is computed from logits and never log(0).
            losses = keras.losses.binary_crossentropy(label, p_fake)
            loss = tf.reduce_sum(losses) / self._global_batch.size
            if self._model.losses:
                loss += tf.add_n(self._model.losses) / self._strategy.num_replicas_in_sync
        gradients = tape.gradient(loss, variables)
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))  # sums over the replicas
        is_right = tf.cast((p_fake >= DECISION) == (label >= DECISION), tf.float32)
        return loss, tf.reduce_sum(is_right) / self._global_batch.size


def train_steps(
    step: TrainStep,
    iterator: Iterator,
    steps: range,
    *,
    steps_per_call: int = 0,
    stop_every: int = 0,
    agree: Callable[[int], int] = int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Takes the `steps` of an epoch, some in one call, and gives (losses, accuracies) of each call.

    Args:
      steps: those still to take, counted from the epoch's beginning.
      steps_per_call: steps between two looks at the loss; 0: as many as take about SECONDS_PER_CALL.
      stop_every: no call reaches over a multiple of so many steps.
      agree: gives the first worker's number. Workers measure different times, but must take calls of the same size.
    """
    next_steps, is_first = steps_per_call or 1, True
    done = steps.start
    while done < steps.stop:
        limit = (done // stop_every + 1) * stop_every if stop_every else steps.stop
        num_steps = min(next_steps, limit - done, steps.stop - done)
        started = time.monotonic()
        taken = step(iterator, num_steps)
        if not steps_per_call and not is_first:  # the first call may have compiled
            seconds_a_step = (time.monotonic() - started) / num_steps
            next_steps = agree(int(np.clip(SECONDS_PER_CALL / seconds_a_step, 1, MAX_STEPS_PER_CALL)))
        done, is_first = done + num_steps, False
        yield taken


class Evaluation:
    """P(fake) of every record exactly once, however many replicas share the work."""

    def __init__(self, strategy: Any, model: Any):
        self._strategy, self._model = strategy, model
        self._function = tf.function(self._step, reduce_retracing=True)

    def __call__(self, make_dataset: Callable[[Any], tf.data.Dataset], num_records: int) -> np.ndarray:
        """float64 [num_records]: P(fake) by row.

        Args:
          make_dataset: from a tf.distribute.InputContext to this worker's padded batches {"image", "row", "mask"}.
          num_records: all of them, over all workers.

        Raises:
          RuntimeError: a record was not evaluated exactly once.
        """
        p_fake = np.full(num_records, np.nan)
        times_seen = np.zeros(num_records, int)
        dataset = self._strategy.distribute_datasets_from_function(make_dataset)
        for batch in dataset:
            rows, values, mask = (part.numpy() for part in self._function(batch))
            rows, values = rows[mask > 0], values[mask > 0]
            p_fake[rows] = values
            np.add.at(times_seen, rows, 1)
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
      NonFiniteLoss: a probability is not a number.
    """
    if not np.isfinite(p_fake).all():
        raise NonFiniteLoss(f"P(fake) of {int((~np.isfinite(p_fake)).sum())} {prefix} image(s) is not a number")
    epsilon = keras.config.epsilon()  # 1e-7, as in Keras's own loss
    clipped = np.clip(p_fake.astype(np.float64), epsilon, 1 - epsilon)
    losses = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
    return {
        f"{prefix}/loss": float(losses.mean()),
        f"{prefix}/accuracy": float(((p_fake >= DECISION) == (labels == 1)).mean()),
    }

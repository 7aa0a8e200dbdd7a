"""The distributed training step.

The loss of a global batch is summed over its examples and divided by its size, on however many replicas: gradients are
then summed over replicas, so N replicas take the step that one would take.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainers.errors import CannotTrain
from trainers.models.layers import GlobalBatch
from trainers.validation import DECISION

MAX_NAMED_IDS = 64  # in a message


@dataclass(frozen=True)
class StepOptions:
    """How a step goes about it; the defaults leave it plain."""

    clip_norm: float = 0.0  # the gradient of the global batch is scaled down to this norm at most; 0: never
    accumulate: int = 1  # parts that each replica's share of the batch is cut into
    class_weights: tuple[float, float] = (1.0, 1.0)  # of real and fake in the loss
    xla: bool = False  # compile what a replica computes; not with batch statistics over several replicas


class StepResults(NamedTuple):
    """What was measured in one call of some steps: arrays are float32 [num_steps], before each step's update."""

    losses: np.ndarray  # means over the global batch, weighted if classes are
    accuracies: np.ndarray
    norms: np.ndarray  # of the gradient before it is clipped; 0 unless it is
    waits: np.ndarray  # seconds until the batch was there
    seconds: float  # that all the steps took
    loss_scale: float | None  # what losses were multiplied by against underflow, at the end


class TrainStep:
    """Steps of one phase: the trainable layers and the optimizer are fixed.

    Gradients are summed over the parts of the batch and over the replicas, and only then clipped. Keras's own options
    would clip each replica's gradient, and refuse to accumulate.

    Accumulating changes nothing but the memory that is needed, with one exception: a trained BatchNormalization sees
    the parts one by one, normalises with the statistics of each and moves its averages once for each.

    Args:
      strategy: the model was made in its scope.
      model: uint8 images -> P(fake) [replica batch, 1].
      optimizer: made in the strategy's scope; a LossScaleOptimizer for models that compute in float16.
      global_batch: its step is moved on by one a step.
      options: see StepOptions.
      ids_of: step -> ids of its images, for the message that names the step at which training failed.
    """

    def __init__(
        self,
        strategy: Any,
        model: Any,
        optimizer: Any,
        global_batch: GlobalBatch,
        options: StepOptions | None = None,
        ids_of: Callable[[int], Sequence[str]] = lambda step: (),
    ):
        self.options = options or StepOptions()
        self._strategy, self._model, self._optimizer, self._global_batch = strategy, model, optimizer, global_batch
        self._ids_of = ids_of
        self._replicas, self._parts = strategy.num_replicas_in_sync, self.options.accumulate
        global_batch.num_parts = self._parts
        global_batch.begin_part(0)
        self._scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        with strategy.scope():
            optimizer.build(model.trainable_variables)
            self._sums = [_sum_of_parts(v) for v in model.trainable_variables] if self._parts > 1 else []
        self._function = tf.function(self._run, reduce_retracing=True)
        self._compiled = tf.function(self._pure_gradients, jit_compile=True)

    def __call__(self, iterator: Iterator, rates: np.ndarray) -> StepResults:
        """Takes a step with each of the `rates` (float32 [num_steps]) on batches of the distributed `iterator`.

        Raises:
          CannotTrain: a loss is NaN or infinite; names the step and its images.
          tf.errors.OpError: a batch could not be read.
        """
        first, started = int(self._global_batch.step.numpy()), time.monotonic()
        losses, accuracies, norms, waits = self._function(iterator, tf.constant(rates, tf.float32)).numpy().T
        seconds = time.monotonic() - started
        scale = float(self._optimizer.scale_loss(1.0)) if self._scales_loss else None
        results = StepResults(losses, accuracies, norms, waits, seconds, scale)
        if not np.isfinite(results.losses).all():
            at = int(np.flatnonzero(~np.isfinite(results.losses))[0])
            raise CannotTrain(
                f"the loss is {results.losses[at]} at step {first + at}: training cannot go on. "
                f"Lower --learning-rate, or look at the images of that step: {_listed(self._ids_of(first + at))}"
            )
        return results

    # -- across the replicas --

    def _run(self, iterator, rates):
        num_steps = tf.shape(rates)[0]
        results = tf.TensorArray(tf.float32, num_steps)
        for index in tf.range(num_steps):
            self._optimizer.learning_rate.assign(rates[index])
            started = _now()
            with tf.control_dependencies([started]):
                batch = next(iterator)
            with tf.control_dependencies(self._strategy.experimental_local_results(batch["label"])):
                waited = tf.cast(_now() - started, tf.float32)
            loss, accuracy, norm = self._step(batch) if self._parts == 1 else self._step_by_parts(batch)
            results = results.write(index, tf.stack([loss, accuracy, norm, waited]))
            self._global_batch.step.assign_add(1)
        return results.stack()  # [num_steps, 4]

    def _step(self, batch):
        loss, accuracy, norm = self._strategy.run(self._replica_step, (batch,))
        return self._summed(loss), self._summed(accuracy), self._of_one(norm)

    def _step_by_parts(self, batch):
        rows = self._global_batch.size // self._replicas // self._parts
        loss, accuracy = tf.zeros(()), tf.zeros(())
        for part in tf.range(self._parts):
            first_row = part * rows
            self._global_batch.begin_part(first_row)
            of_part = self._strategy.run(self._accumulate, (batch, first_row, rows))
            loss, accuracy = loss + self._summed(of_part[0]), accuracy + self._summed(of_part[1])
        return loss, accuracy, self._of_one(self._strategy.run(self._apply_sums))

    def _summed(self, value):
        return tf.cast(self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None), tf.float32)

    def _of_one(self, value):
        """What is the same on all replicas."""
        return self._strategy.experimental_local_results(value)[0]

    # -- on one replica --

    def _replica_step(self, batch):
        loss, accuracy, gradients = self._gradients(batch)
        return loss, accuracy, self._apply(gradients)

    def _accumulate(self, batch, first_row, rows):
        part = {name: batch[name][first_row : first_row + rows] for name in ("image", "label")}
        loss, accuracy, gradients = self._gradients(part)
        for total, gradient in zip(self._sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(gradient)
        return loss, accuracy

    def _apply_sums(self):
        norm = self._apply([tf.identity(total) for total in self._sums])  # on the replica's device
        for total in self._sums:
            total.assign(tf.zeros_like(total))
        return norm

    def _gradients(self, batch):
        """(loss, accuracy, gradients) of some of the replica's images: their parts of the global batch's."""
        if not self.options.xla:
            with tf.GradientTape() as tape:
                p_fake = self._model(batch["image"], training=True)
                loss, scaled_loss = self._losses(batch["label"], p_fake, self._model.losses)
            gradients = tape.gradient(scaled_loss, self._model.trainable_variables)
            return loss, self._accuracy(batch["label"], p_fake), gradients
        state = [v.value for v in (*self._model.trainable_variables, *self._model.non_trainable_variables)]
        loss, accuracy, gradients, changes = self._compiled(batch, [tf.convert_to_tensor(value) for value in state])
        for index, value in changes.items():
            self._model.non_trainable_variables[int(index)].assign(value)
        return loss, accuracy, gradients

    def _pure_gradients(self, batch, state):
        """The same as a function of `state`, the trained variables and the others, that assigns none of them.

        Returns also {index among the others: its new value}, of those that change. Variables of several replicas cannot
        be assigned inside a compiled function.
        """
        number = len(self._model.trainable_variables)
        trained, others = state[:number], state[number:]
        with tf.GradientTape() as tape:
            tape.watch(trained)
            p_fake, new, further = self._model.stateless_call(
                trained, others, batch["image"], training=True, return_losses=True
            )
            loss, scaled_loss = self._losses(batch["label"], p_fake, further)
        changes = {str(k): new[k] for k in range(len(others)) if new[k] is not others[k]}
        return loss, self._accuracy(batch["label"], p_fake), tape.gradient(scaled_loss, trained), changes

    def _losses(self, labels, p_fake, further):
        """(the loss, the loss that gradients are taken of); `further` are the model's own losses."""
        # A graph's sigmoid is undone by Keras, so the loss is computed from logits and never log(0).
        losses = keras.losses.binary_crossentropy(labels[:, None], p_fake)
        if self.options.class_weights != (1.0, 1.0):
            losses *= tf.gather(self.options.class_weights, tf.cast(labels, tf.int32))
        loss = tf.reduce_sum(losses) / self._global_batch.size
        if further:
            loss += tf.add_n(further) / (self._replicas * self._parts)
        return loss, self._optimizer.scale_loss(loss)

    def _accuracy(self, labels, p_fake):
        is_right = tf.cast((p_fake >= DECISION) == (labels[:, None] >= DECISION), tf.float32)
        return tf.reduce_sum(is_right) / self._global_batch.size

    def _apply(self, gradients):
        """Takes the step; returns the norm of the gradient, if it is clipped, else 0."""
        pairs = zip(gradients, self._model.trainable_variables, strict=True)
        gradients, variables = zip(*((g, v) for g, v in pairs if g is not None), strict=True)
        norm = tf.zeros(())
        if self.options.clip_norm or self._scales_loss:  # both must see the sum over the replicas
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
            if self.options.clip_norm:
                scale = self._optimizer.scale_loss(tf.ones(()))
                gradients, norm = tf.clip_by_global_norm(gradients, self.options.clip_norm * scale)
                norm /= scale
            # The optimizer will sum them once more.
            gradients = [gradient / self._replicas for gradient in gradients]
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))  # sums over the replicas
        return norm


def _now():
    # Not tf.timestamp, which is refused when deterministic operations are asked for.
    return tf.ensure_shape(tf.numpy_function(time.monotonic, [], tf.float64), ())


def _listed(ids: Sequence[str]) -> str:
    more = len(ids) - MAX_NAMED_IDS
    return ", ".join(ids[:MAX_NAMED_IDS]) + (f" and {more} more" if more > 0 else "")


def _sum_of_parts(variable: Any) -> tf.Variable:
    """A variable that each replica has for itself, for the gradient of `variable`."""
    return tf.Variable(
        tf.zeros(variable.shape, variable.dtype),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )

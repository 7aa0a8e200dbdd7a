"""Layers that do not depend on how many replicas share the batch: dropout and batch normalisation.

Keras's Dropout draws the same mask on every replica, so training on N replicas differs from training on one. Here the
mask of the whole global batch is drawn from (seed, step, layer), and each replica takes its rows of it.

Keras's BatchNormalization(synchronized=True) is right but takes minutes to trace in a deep network: it sums three times
a layer with ReplicaContext.all_reduce, whose gradient searches the other replica's whole graph for variables. Here one
sum a layer suffices, and nothing is searched.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(eq=False)
class GlobalBatch:
    """What dropout layers must know of the training; the loop makes one and moves its step on."""

    seed: int
    size: int  # examples in the global batch
    step: tf.Variable  # int64 scalar: the step being taken
    num_parts: int = 1  # that each replica's share is shown in, one after the other
    first_row: Any = 0  # of the replica's share: where the part being shown begins

    def begin_part(self, first_row: Any) -> None:
        """Says that layers are shown the part from `first_row` (int or int32 scalar) on."""
        self.first_row = first_row


class GlobalBatchDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` whose mask is a function of (seed, step, layer name) alone.

    A training-time layer: models are saved with the stock layer in its place. In a frozen part of the model it does
    nothing, as batch normalisation does nothing new there.
    """

    def __init__(self, rate: float, global_batch: GlobalBatch, **kwargs: Any):
        super().__init__(rate, **kwargs)
        self.global_batch = global_batch

    def call(self, inputs, training=False):
        """inputs: floats [images, ...], one replica's equal share of the global batch, or the part being shown."""
        if not training or not self.trainable or self.rate == 0:
            return inputs
        batch = self.global_batch
        # Two int32 words of seed: the seed and the layer in one, the step in the other.
        key = zlib.crc32(f"{batch.seed}/{self.name}".encode()) & 0x7FFFFFFF
        seed = tf.stack([tf.constant(key, tf.int64), tf.convert_to_tensor(batch.step)])
        shape = inputs.shape[1:]
        if self.noise_shape:  # 1 where a whole image or channel is dropped, None where each element is for itself
            shape = [size or whole for size, whole in zip(self.noise_shape[1:], shape, strict=True)]
        mask = tf.random.stateless_uniform([batch.size, *shape], seed) >= self.rate
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = batch.size // tf.distribute.get_strategy().num_replicas_in_sync
        first = replica * rows + batch.first_row
        mask = mask[first : first + rows // batch.num_parts]
        return tf.where(mask, inputs / (1 - self.rate), tf.zeros_like(inputs))


def dropout_maker(global_batch: GlobalBatch):
    """A function (rate, name) -> GlobalBatchDropout, to build a training model with."""

    def make(rate: float, name: str) -> GlobalBatchDropout:
        return GlobalBatchDropout(rate, global_batch, name=name)

    return make


def stock_dropout(rate: float, name: str) -> keras.layers.Dropout:
    """The same for a model that is to be saved."""
    return keras.layers.Dropout(rate, name=name)


def with_dropout_of(model: keras.Model, dropout: Callable[[float, str], Any]) -> keras.Model:
    """The model with layers of `dropout` in place of Keras's, whose noise shape they get; the others are shared with
    `model`.

    Args:
      model: without models inside it.
      dropout: a function (rate, name) -> layer.
    """

    def replaced(layer):
        if type(layer) is not keras.layers.Dropout:
            return layer
        new = dropout(layer.rate, layer.name)
        new.noise_shape = layer.noise_shape
        return new

    return keras.models.clone_model(model, clone_function=replaced)


class GlobalBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the global batch: mean and variance of all replicas' equal shares.

    A training-time layer with the variables of the stock one, which takes its place in saved models. All but the
    moments is Keras's own: casts to float32, moving averages, epsilon, frozen layers.
    """

    def _moments(self, inputs, mask):
        """(mean, variance), float32 [channels] each, of the inputs of all replicas."""
        if mask is not None:
            raise ValueError(f"{self.name}: batch normalisation over the global batch takes no mask. Received: {mask}")
        mean, variance = super()._moments(inputs, mask)
        # means, variances: [replicas, channels].
        means, variances = tf.unstack(all_replicas(tf.stack([mean, variance])), axis=1)
        mean = tf.reduce_mean(means, 0)
        # Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), for
        # parts of one size. Unlike E[x^2] - E[x]^2 it loses no digits when the mean is large.
        return mean, tf.reduce_mean(variances + tf.square(means - mean), 0)


def all_replicas(x):
    """The values of `x` on all replicas, [replicas, ...], on each of them; gradients go back to where they came from.

    A sum in which each replica fills its own slot: adding zeros is exact, so all replicas get the same bits.
    """
    context = tf.distribute.get_replica_context()
    own_slot = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=x.dtype)
    return sum_over_replicas(tf.reshape(own_slot, [-1] + [1] * len(x.shape)) * x)


@tf.custom_gradient
def sum_over_replicas(x):
    """The sum of `x` over the replicas, on each of them. Its gradient is the same sum of the gradients."""

    def add(strategy, values):
        return strategy.extended.reduce_to(tf.distribute.ReduceOp.SUM, values, destinations=values)

    total = tf.distribute.get_replica_context().merge_call(add, args=(x,))
    # stop_gradient ends TensorFlow's search for variables on the way here, which would go through other replicas.
    return tf.stop_gradient(total), sum_over_replicas


def with_global_batch_norm(model: keras.Model) -> keras.Model:
    """The model with GlobalBatchNormalization in place of BatchNormalization, in nested models too; the other layers
    are shared with `model`. The variables keep their order and values."""

    def replaced(layer):
        if type(layer) is keras.layers.BatchNormalization:
            return GlobalBatchNormalization.from_config(layer.get_config())
        return layer

    new = keras.models.clone_model(model, clone_function=replaced, recursive=True)
    new.set_weights(model.get_weights())
    return new

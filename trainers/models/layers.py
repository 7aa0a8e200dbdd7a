"""Dropout that does not depend on how many replicas share the batch.

Keras's Dropout draws the same mask on every replica, so training on N replicas differs from training on one. Here the
mask of the whole global batch is drawn from (seed, step, layer), and each replica takes its rows of it.
"""

import zlib
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

    A training-time layer: models are saved with the stock layer in its place.
    """

    def __init__(self, rate: float, global_batch: GlobalBatch, **kwargs: Any):
        super().__init__(rate, **kwargs)
        self.global_batch = global_batch

    def call(self, inputs, training=False):
        """inputs: floats [images, ...], one replica's equal share of the global batch, or the part being shown."""
        if not training or self.rate == 0:
            return inputs
        batch = self.global_batch
        # Two int32 words of seed: the seed and the layer in one, the step in the other.
        key = zlib.crc32(f"{batch.seed}/{self.name}".encode()) & 0x7FFFFFFF
        seed = tf.stack([tf.constant(key, tf.int64), tf.convert_to_tensor(batch.step)])
        mask = tf.random.stateless_uniform([batch.size, *inputs.shape[1:]], seed) >= self.rate
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

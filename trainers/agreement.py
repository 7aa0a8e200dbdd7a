"""Whether all replicas hold the same variables, bit for bit: what training on several replicas rests on.

agreement = Agreement(strategy, [*model.variables, *optimizer.variables])
agreement.check("after epoch 3")
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.errors import CannotTrain

_WORDS = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}  # by bytes


class Agreement:
    """Compares digests of the variables: one pass over them, and a few numbers sent.

    Args:
      strategy: the variables were made in its scope.
      variables: Keras variables.
    """

    def __init__(self, strategy: Any, variables: Sequence[Any]):
        self._strategy, self._variables = strategy, list(variables)
        self._function = tf.function(self._all_digests)

    def check(self, when: str) -> None:
        """All replicas take part.

        Raises:
          CannotTrain: a variable is not the same on all of them.
        """
        digests = self._function().numpy()  # int64 [replicas, variables]
        differing = np.flatnonzero((digests != digests[0]).any(axis=0))
        if len(differing):
            raise CannotTrain(
                f"all replicas must hold the same variables. {when} {len(differing)} of {len(self._variables)} differ, "
                f"first {self._variables[differing[0]].path}. Train on one device, and tell us."
            )

    def _all_digests(self):
        return self._strategy.gather(self._strategy.run(self._digests), axis=0)

    def _digests(self):
        return tf.stack([digest(variable.value) for variable in self._variables])[None]


def digest(value) -> Any:
    """int64 scalar: the sum of the value's words, each multiplied by an odd number that tells its place."""
    value = tf.reshape(tf.convert_to_tensor(value), [-1])
    words = tf.cast(tf.bitcast(value, _WORDS[value.dtype.size]), tf.int64)
    return tf.reduce_sum(words * (2 * tf.range(tf.size(words, tf.int64)) + 1))

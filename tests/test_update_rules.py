"""Update rules by name, and the two kinds of weight decay."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.config import OptimiserConfig
from trainers.update_rules import update_rule

GRADIENT = np.array([0.5, -0.25, 0.0])
START = np.array([1.0, -2.0, 3.0])


def after(steps: int, optimiser: str, weight_decay: float = 0.0, rate: float = 0.1) -> np.ndarray:
    """START after steps with the same gradient."""
    variable = keras.Variable(START, dtype="float32")
    made = update_rule(rate, OptimiserConfig(optimiser=optimiser, weight_decay=weight_decay))
    for _ in range(steps):
        made.apply([tf.constant(GRADIENT, tf.float32)], [variable])
    return variable.numpy()


def adam(steps: int, rate: float, l2: float, decoupled: float = 0.0) -> np.ndarray:
    """Adam by its formula, Kingma and Ba, arXiv 1412.6980, algorithm 1; decay as in arXiv 1711.05101, algorithm 2."""
    weight, m, v = START.copy(), 0.0, 0.0
    for step in range(1, steps + 1):
        gradient = GRADIENT + l2 * weight
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weight = weight - rate * decoupled * weight
        weight = weight - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
    return weight


def test_decay_of_adam_joins_the_gradient():
    np.testing.assert_allclose(after(5, "adam", 0.1), adam(5, 0.1, l2=0.1), rtol=1e-4)
    np.testing.assert_allclose(after(5, "adam"), adam(5, 0.1, l2=0.0), rtol=1e-4)


def test_decay_of_adamw_does_not():
    np.testing.assert_allclose(after(5, "adamw", 0.1), adam(5, 0.1, l2=0.0, decoupled=0.1), rtol=1e-4)


def test_sgd_has_momentum_and_coupled_decay():
    first = START - 0.1 * (GRADIENT + 0.2 * START)
    velocity = 0.9 * (first - START) - 0.1 * (GRADIENT + 0.2 * first)
    np.testing.assert_allclose(after(2, "sgd", 0.2), first + velocity, rtol=1e-5)


def test_rmsprop_is_kerass_own_without_decay():
    variable = keras.Variable(START, dtype="float32")
    optimiser = keras.optimizers.RMSprop(0.1)
    for _ in range(3):
        optimiser.apply([tf.constant(GRADIENT, tf.float32)], [variable])
    np.testing.assert_array_equal(after(3, "rmsprop"), variable.numpy())
    assert not np.allclose(after(3, "rmsprop", 0.1), variable.numpy())


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_decay_is_added_once_however_many_replicas_share_the_batch(two_devices, optimiser):
    strategy = tf.distribute.MirroredStrategy(two_devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        variable = keras.Variable(START, dtype="float32")
        made = update_rule(0.1, OptimiserConfig(optimiser=optimiser, weight_decay=0.1))
        made.build([variable])

    @tf.function
    def step():
        strategy.run(lambda: made.apply_gradients([(tf.constant(GRADIENT / 2, tf.float32), variable)]))

    for _ in range(3):
        step()
    np.testing.assert_allclose(variable.numpy(), after(3, optimiser, 0.1), rtol=1e-5)

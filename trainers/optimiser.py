"""What surrounds the update rule: averaged weights, and computing in half the bits."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from trainers.config import OptimiserConfig
from trainers.order import Order
from trainers.update_rules import update_rule


def make_optimizer(rate: float, options: OptimiserConfig) -> Any:
    """The update rule that `options` name, at `rate`: with moving averages of the weights if asked for, and with
    loss scaling for float16.

    To be called in the strategy's scope.
    """
    averages = {"use_ema": True, "ema_momentum": options.ema_decay} if options.ema_decay else {}
    optimizer = update_rule(rate, options, **averages)
    return keras.optimizers.LossScaleOptimizer(optimizer) if options.precision == "mixed_float16" else optimizer


@contextlib.contextmanager
def averaged_weights(strategy: Any, model: Any, optimizer: Any, options: OptimiserConfig) -> Iterator[None]:
    """Inside the block the model has the averages of its trained weights, if they are kept; otherwise nothing happens.

    Averages of BatchNormalization are not averaged again.
    """
    if not options.ema_decay:
        yield
        return
    weights = model.get_weights()
    with strategy.scope():
        optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        model.set_weights(weights)


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Models built inside the block compute in `precision`; their weights are float32 in any case."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def class_weights(labels: np.ndarray, order: Order, policy: str) -> tuple[float, float]:
    """Weights of (real, fake) in the loss: (1, 1), or "balanced": both classes count alike, and the mean is 1.

    Args:
      labels: int [n], 0 or 1, both present.
      order: in which they are drawn: datasets with weights are not drawn from in the proportion of their images.
      policy: "none" or "balanced": all draws / (2 * draws of the class).
    """
    if policy == "none":
        return 1.0, 1.0
    real, fake = np.bincount(labels, order.draw_rates(), minlength=2).tolist()
    return (real + fake) / (2 * real), (real + fake) / (2 * fake)

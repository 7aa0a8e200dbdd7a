"""How weights are updated: Adam and other rules by name, with either kind of weight decay. The rules are Keras's."""

from typing import Any

import keras

from trainers.config import OptimiserConfig

SGD_MOMENTUM = 0.9


class _CoupledDecay:
    """Adds `l2` x weight to each gradient before the optimiser sees it: what PyTorch's Adam, RMSprop and SGD call
    weight decay. Gradients are those of the global batch by then, so replicas do not add it twice."""

    l2 = 0.0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """As `keras.optimizers.Optimizer.update_step`."""
        if self.l2:
            gradient = gradient + self.l2 * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]


class L2Adam(_CoupledDecay, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with coupled weight decay."""


class L2RMSprop(_CoupledDecay, keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop` with coupled weight decay."""


class L2SGD(_CoupledDecay, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with coupled weight decay."""


def update_rule(learning_rate: float, options: OptimiserConfig, **arguments: Any) -> keras.optimizers.Optimizer:
    """The optimiser that `options` name, with Keras's defaults but for rate, decay and SGD's momentum.

    Args:
      learning_rate: of the phase.
      options: `optimiser` and `weight_decay` are read.
      arguments: further ones of any Keras optimiser.
    """
    if options.optimiser == "adamw":
        return keras.optimizers.AdamW(learning_rate, weight_decay=options.weight_decay, **arguments)
    if options.optimiser == "sgd":
        arguments |= {"momentum": SGD_MOMENTUM}
    optimiser = {"adam": L2Adam, "rmsprop": L2RMSprop, "sgd": L2SGD}[options.optimiser](learning_rate, **arguments)
    optimiser.l2 = options.weight_decay
    return optimiser

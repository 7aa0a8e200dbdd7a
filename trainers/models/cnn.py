"""Small convolutional networks, trained from random weights: a table of 23 published variants and one builder.

uint8 RGB in, probability out. `v6` is the one that its authors ship.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainers.config import AugmentConfig, Config, ModelConfig, OptimiserConfig
from trainers.models import transfer
from trainers.models.family import (
    TURNS,
    Family,
    check_dropout,
    check_from_scratch,
    dropout_layers,
    one_phase,
)

FAMILY_NAME = "cnn"


@dataclass(frozen=True)
class Conv:
    """A convolution, its activation, BatchNormalization and max pooling of 2x2, in the order of the network's
    `is_norm_first`."""

    filters: int
    kernel: int = 3
    padding: str = "same"
    stride: int = 1
    norm: bool = True
    pool_stride: int = 2  # 0: no pooling
    dropout: float = 0.0  # after the pooling


@dataclass(frozen=True)
class Dense:
    """A dense layer, its activation and dropout."""

    units: int
    dropout: float = 0.0


@dataclass(frozen=True)
class Network:
    """One variant."""

    convolutions: tuple[Conv, ...]
    dense: tuple[Dense, ...]
    slope: float = 0.0  # of LeakyReLU, on the negative side; 0: ReLU
    is_norm_first: bool = False  # BatchNormalization before the activation, also after dense layers
    scale: float = 1 / 127  # what pixels 0..255 are multiplied by
    outputs: int = 1  # logits: of fake, or of real and fake

    @property
    def has_dropout(self) -> bool:
        """Whether --dropout has a layer to act on."""
        return any(layer.dropout for layer in self.convolutions) or any(layer.dropout for layer in self.dense)


def _convolutions(*filters: int, **changes: Any) -> tuple[Conv, ...]:
    return tuple(Conv(number, **changes) for number in filters)


def _dense(*units: int, dropout: tuple[float, ...] = ()) -> tuple[Dense, ...]:
    """Dense layers; `dropout` of the first ones, 0 of the others."""
    rates = dropout + (0.0,) * (len(units) - len(dropout))
    return tuple(Dense(number, rate) for number, rate in zip(units, rates, strict=True))


def _two_sizes(filters: int, stride: int = 1, dropout: float = 0.0) -> tuple[Conv, ...]:
    """The convolutional part of v1 to v4: 4x4, then 2x2 with overlapping pooling."""
    return (
        Conv(16, kernel=4, padding="valid", stride=stride),
        Conv(filters, kernel=2, padding="valid", pool_stride=1, dropout=dropout),
    )


_THREE, _FOUR = _convolutions(32, 64, 128), _convolutions(32, 64, 128, 256)
_PLAIN = Network(
    _convolutions(32, 64, 128, padding="valid", norm=False), _dense(256, dropout=(0.5,)), scale=1 / 255
)  # of rgb224_*

NETWORKS: Mapping[str, Network] = {
    "v6": Network(_FOUR, _dense(512, 256, 128, dropout=(0.5, 0.5))),
    "v1": Network(_two_sizes(36), _dense(128, 64, 32), slope=0.01),
    "v2": Network(_two_sizes(32, stride=2), _dense(128, 64, 32)),
    "v3": Network(_two_sizes(32), _dense(128, 64, 32), slope=0.02),
    "v4": Network(_two_sizes(32, dropout=0.25), _dense(128, 64, 32, dropout=(0.5,)), slope=0.01),
    "v5": Network(_THREE, _dense(256, 128, 64, dropout=(0.5, 0.5))),
    "v7": Network(_THREE, _dense(256, 128, 64, 32, dropout=(0.5, 0.5, 0.5))),
    "v8": Network(_THREE, _dense(128, 64, dropout=(0.5,))),
    "v9": Network(
        (Conv(32, pool_stride=0), Conv(64, pool_stride=0), Conv(128)),
        _dense(256, 128, dropout=(0.5, 0.5)),
        is_norm_first=True,
    ),
    "v10": Network(_THREE, _dense(128, 64, dropout=(0.5,))),  # as v8: its authors trained it again
    "v11": Network(_FOUR, _dense(512, 256, 128, dropout=(0.5, 0.5, 0.5))),
    "v12": Network(_FOUR, _dense(512, 256, 128)),
    "v13": Network(_FOUR, _dense(512, 256, 128, dropout=(0.3, 0.3))),
    "v14": Network(_FOUR, _dense(512, 256, 128, dropout=(0.7, 0.7))),
    "v15": Network(_FOUR, _dense(512, 256, 128, 64, dropout=(0.7, 0.7, 0.7))),
    "v16": Network(_FOUR, _dense(512, 256, 64, dropout=(0.7, 0.7, 0.7))),
    "v17": Network(_FOUR, _dense(512, 256, 128, dropout=(0.9, 0.9))),
    "v18": Network(_FOUR, _dense(256, 128, 64, dropout=(0.5, 0.5))),
    "v19": Network(
        (Conv(32), Conv(64), Conv(128, pool_stride=1), Conv(256, pool_stride=1), Conv(512)),
        _dense(512, 256, 128, dropout=(0.5, 0.5)),
    ),
    "v20": Network(
        (Conv(32, pool_stride=0), Conv(64), Conv(128, pool_stride=0), Conv(256)),
        _dense(512, 256, 128, dropout=(0.5, 0.5)),
        slope=0.01,
        is_norm_first=True,
    ),
    "rgb224_adam": _PLAIN,
    "rgb224_rmsprop": _PLAIN,
    "two_by_two": Network(
        (
            Conv(32, kernel=5, padding="valid", norm=False, pool_stride=0),
            Conv(32, kernel=5, padding="valid", norm=False),
            Conv(64, padding="valid", norm=False, pool_stride=0),
            Conv(64, padding="valid", norm=False),
        ),
        _dense(128),
        scale=1 / 255,
        outputs=2,
    ),
}


def _recipe(variant: str) -> Config:
    """The published training of a variant."""
    model = ModelConfig(family=FAMILY_NAME, variant=variant, weights="none")
    if variant == "two_by_two":
        options = OptimiserConfig(learning_rate=1e-3, early_stopping_patience=0)
        return Config(model=model, optimiser=options, augmentation=TURNS)
    if variant.startswith("rgb224_"):
        options = OptimiserConfig(early_stopping_patience=0, optimiser=variant.removeprefix("rgb224_"))
    else:
        model = replace(model, image_size=128)
        options = OptimiserConfig(
            epochs=50,
            global_batch_size=64,
            early_stopping_patience=10,
            reduce_lr_on_plateau=True,
            plateau_patience=5,
            min_learning_rate=1e-7,
        )
    return Config(model=model, optimiser=options, augmentation=AugmentConfig(augment=False))


VARIANTS = {variant: _recipe(variant) for variant in NETWORKS}


def build_cnn(network: Network, image_size: int, name: str, dropout=None):
    """The uncompiled model.

    Args:
      network: its layers.
      image_size: side of the input, pixels, at least 32.
      name: of the model.
      dropout: function (rate, name) -> layer; default Keras's Dropout.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).
    """
    import keras
    from keras import layers

    from trainers.models.layers import stock_dropout

    dropout = dropout or stock_dropout

    def activated(x: Any, name: str, norm: bool) -> Any:
        """The activation, and BatchNormalization on its published side."""
        if norm and network.is_norm_first:
            x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = (
            layers.LeakyReLU(network.slope, name=f"{name}_relu")(x)
            if network.slope
            else layers.ReLU(name=f"{name}_relu")(x)
        )
        if norm and not network.is_norm_first:
            x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return x

    image = transfer.image_input(image_size)
    x = layers.Rescaling(network.scale, dtype="float32", name="scaled")(image)
    for number, conv in enumerate(network.convolutions, 1):
        name_ = f"conv{number}"
        x = layers.Conv2D(conv.filters, conv.kernel, conv.stride, conv.padding, name=name_)(x)
        x = activated(x, name_, conv.norm)
        if conv.pool_stride:
            x = layers.MaxPooling2D(2, conv.pool_stride, name=f"{name_}_pool")(x)
        if conv.dropout:
            x = dropout(conv.dropout, f"{name_}_dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, dense in enumerate(network.dense, 1):
        name_ = f"dense{number}"
        x = activated(layers.Dense(dense.units, name=name_)(x), name_, norm=network.is_norm_first)
        if dense.dropout:
            x = dropout(dense.dropout, f"{name_}_dropout")(x)
    p_fake = transfer.two_logits(x) if network.outputs == 2 else transfer.one_logit(x)
    return keras.Model(image, p_fake, name=name)


def check(config: ModelConfig) -> None:
    """Refuses weights that there are not, and --dropout for a variant without dropout."""
    check_dropout(config, NETWORKS[config.variant].has_dropout)
    check_from_scratch(config)


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_cnn` from a config; without weights when they are to be set from elsewhere.

    Raises:
      CannotTrain: the weights are of another model.
    """
    network, name = NETWORKS[config.variant], f"{FAMILY_NAME}_{config.variant}"
    model = build_cnn(network, config.image_size, name, dropout_layers(config, dropout))
    if with_weights:
        transfer.load_weights(model, config.weights)
    return model


FAMILY = Family(FAMILY_NAME, VARIANTS, check, build, one_phase)

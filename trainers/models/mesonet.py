"""MesoInception-4, a small network of dilated inception blocks for faces, and averages of several of them.

Afchar et al., arXiv 1809.00888. uint8 RGB in, probability out.

The weights that its authors published are of a network with ReLU where this one has ELU, which gives P(real). A file in
their format is loaded as that network, its last layer negated: 1 - sigmoid(x) = sigmoid(-x).
"""

import zipfile
from typing import Any

from trainers.config import AugmentConfig, Config, ModelConfig, OptimiserConfig
from trainers.models import transfer
from trainers.models.average import average_models
from trainers.models.family import (
    Ensemble,
    Family,
    check_dropout,
    check_from_scratch,
    dropout_layers,
    is_keras_2_file,
    one_phase,
    weights_file,
)

FAMILY_NAME = "meso_inception4"
LARGE_IMAGE = 256  # pixels: from this input on the last pooling is 4x4


def _recipe(variant: str, image_size: int) -> Config:
    return Config(
        model=ModelConfig(family=FAMILY_NAME, variant=variant, image_size=image_size, weights="none"),
        optimiser=OptimiserConfig(
            epochs=2, learning_rate=1e-3, early_stopping_patience=0, decay_every_epochs=1, decay_factor=0.5
        ),
        augmentation=AugmentConfig(augment=False),
    )


VARIANTS = {
    "meso150": _recipe("meso150", 150),
    "meso256": _recipe("meso256", 256),
    "ensemble5": _recipe("ensemble5", 150),
    "ensemble10": _recipe("ensemble10", 150),
}

ENSEMBLES = {
    "ensemble5": Ensemble(member="meso150", size=5, max_log_loss=0.68, max_retries=5),
    "ensemble10": Ensemble(member="meso150", size=10),
}


def build_mesonet(image_size: int, dropout=None, activation: str = "elu"):
    """The uncompiled model.

    Args:
      image_size: side of the input, pixels, at least 32; published are 150 and 256.
      dropout: function (rate, name) -> layer; default Keras's Dropout.
      activation: of the convolutions: `elu`, or `relu`, which the published weights are made for.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).
    """
    import keras
    from keras import layers

    from trainers.models.layers import stock_dropout

    dropout = dropout or stock_dropout
    image = transfer.image_input(image_size)
    x = layers.Rescaling(1 / 255, dtype="float32", name="scaled")(image)
    x = _pooled(_inception(x, (1, 4, 4, 2), activation, "block1"), 2, "block1")
    x = _pooled(_inception(x, (2, 4, 4, 2), activation, "block2"), 2, "block2")
    x = layers.Conv2D(16, 5, padding="same", activation=activation, name="conv3")(x)
    x = _pooled(x, 2, "conv3")
    x = layers.Conv2D(16, 5, padding="same", activation=activation, name="conv4")(x)
    x = _pooled(x, 4 if image_size >= LARGE_IMAGE else 2, "conv4")
    x = dropout(0.5, "flat_dropout")(layers.Flatten(name="flatten")(x))
    x = layers.LeakyReLU(0.1, name="leaky")(layers.Dense(16, name="dense")(x))
    p_fake = transfer.one_logit(dropout(0.5, "dropout")(x))
    return keras.Model(image, p_fake, name=f"{FAMILY_NAME}_{image_size}")


def _inception(x: Any, filters: tuple[int, int, int, int], activation: str, name: str) -> Any:
    """Four branches, concatenated: 1x1, then 1x1 -> 3x3 dilated by 1, 2 and 3."""
    from keras import layers

    def conv(x: Any, filters: int, kernel: int, part: str, dilation: int = 1) -> Any:
        return layers.Conv2D(
            filters, kernel, padding="same", dilation_rate=dilation, activation=activation, name=f"{name}_{part}"
        )(x)

    branches = [conv(x, filters[0], 1, "a")]
    for part, number, dilation in zip("bcd", filters[1:], (1, 2, 3), strict=True):
        branches.append(conv(conv(x, number, 1, f"{part}1"), number, 3, f"{part}3", dilation))
    return layers.Concatenate(name=f"{name}_concat")(branches)


def _pooled(x: Any, size: int, name: str) -> Any:
    from keras import layers

    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.MaxPooling2D(size, padding="same", name=f"{name}_pool")(x)


def check(config: ModelConfig) -> None:
    """Refuses weights that there are not."""
    check_dropout(config, has_dropout=True)
    check_from_scratch(config)


def _activation_of(weights: str) -> str:
    """Which activation the network has that --weights are of."""
    path = weights_file(weights)
    if path is None or path.suffix != ".keras":
        return "relu" if is_keras_2_file(weights) else "elu"
    try:
        with zipfile.ZipFile(path) as file:  # a model of ours may have begun with the published weights
            return "relu" if b'"activation": "relu"' in file.read("config.json") else "elu"
    except (OSError, KeyError, zipfile.BadZipFile):  # no such file: whoever loads it will say so
        return "elu"


def _negate(layer: Any) -> None:
    layer.set_weights([-value for value in layer.get_weights()])


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_mesonet` from a config; without weights when they are to be set from elsewhere.

    Raises:
      CannotTrain: the weights are of another model.
    """
    make, activation = dropout_layers(config, dropout), _activation_of(config.weights)
    if config.variant in ENSEMBLES:
        plan = ENSEMBLES[config.variant]
        members = [build_mesonet(config.image_size, make, activation) for _ in range(plan.size)]
        model = average_models(members, f"{FAMILY_NAME}_{config.variant}")
    else:
        model = build_mesonet(config.image_size, make, activation)
    if with_weights:
        transfer.load_weights(model, config.weights)
        if is_keras_2_file(config.weights):
            _negate(model.get_layer("p_fake"))
    return model


FAMILY = Family(FAMILY_NAME, VARIANTS, check, build, one_phase, ENSEMBLES)

"""A model family small enough to train many times in a test: convolution, BatchNorm, dropout, two phases."""

from typing import Any

import keras

from trainers.config import Config, ModelConfig
from trainers.models.family import Family, Phase, train_all_layers
from trainers.models.layers import stock_dropout


def build(config: ModelConfig, dropout: Any = None, with_weights: bool = True) -> keras.Model:
    """uint8 [n, size, size, 3] -> P(fake) [n, 1], some 3,000 parameters."""
    dropout = dropout or stock_dropout
    layers = keras.layers
    image = keras.Input((config.image_size, config.image_size, 3), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, -1, dtype="float32")(image)
    for index, filters in enumerate((8, 16)):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        x = dropout(0.2, f"dropout{index}")(x)
        x = layers.MaxPool2D(name=f"pool{index}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = dropout(0.3, "dropout")(layers.Dense(16, "relu", name="dense")(x))
    return keras.Model(image, layers.Dense(1, "sigmoid", name="p_fake")(x), name="tiny")


def _train_all(model: Any, config: ModelConfig) -> str:
    train_all_layers(model)
    return "all"


def _train_dense(model: Any, config: ModelConfig) -> str:
    for layer in model.layers:
        layer.trainable = isinstance(layer, keras.layers.Dense)
    return "the dense layers"


def phases(config: Config) -> list[Phase]:
    """The dense layers for the head epochs, then everything."""
    options = config.optimiser
    head = [Phase(options.head_epochs, options.head_learning_rate, _train_dense)] if options.head_epochs else []
    return [*head, Phase(options.epochs - options.head_epochs, options.learning_rate, _train_all)]


FAMILY = Family("tiny", {"tiny": Config()}, lambda config: None, build, phases)

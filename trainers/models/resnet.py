"""ResNet50 with a head for P(fake): variants `deep_head` and `gap_head`. uint8 RGB in, probability out.

Backbone: keras.applications.ResNet50 (He et al., arXiv 1512.03385), without its top.
"""

import os
import socket
import warnings
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.config import Config, ModelConfig, OptimiserConfig
from trainers.errors import UnfitWeights
from trainers.models.family import Family, Phase, all_layers, train_all_layers, weights_file

NUM_FROZEN = 150  # layers[0:150] of the backbone's 175 keep the weights they were given
BGR_MEAN = (103.939, 116.779, 123.68)  # of ImageNet: keras.applications' "caffe" preprocessing
NOTOP_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
WEIGHTS_HOST = "storage.googleapis.com"
CONNECT_TIMEOUT_SECS = 5
BACKBONE = "resnet50"
# Of BatchNormalization when training from random weights. Keras's 0.99 would still hold a third of the initial values
# after 100 steps, and validation would measure that rather than the model.
SCRATCH_BN_MOMENTUM = 0.9

VARIANTS = {
    "deep_head": Config(),
    "gap_head": Config(
        model=ModelConfig(variant="gap_head"),
        optimiser=OptimiserConfig(epochs=10, head_epochs=3, learning_rate=1e-5, reduce_lr_on_plateau=True),
    ),
}


def build_resnet50(variant: str, image_size: int, weights: str = "none", dropout=None):
    """The uncompiled model.

    Args:
      variant: `deep_head` or `gap_head`.
      image_size: side of the input, pixels, at least 32.
      weights: `imagenet` or a file of backbone or whole-model weights; `none`: random.
      dropout: function (rate, name) -> layer; default Keras's Dropout.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).

    Raises:
      UnfitWeights: the weights are of another model.
    """
    import keras

    from trainers.models.layers import stock_dropout

    layers = keras.layers
    dropout = dropout or stock_dropout
    image = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1.0, dtype="float32", name="as_float")(image)
    x = keras.ops.flip(x, axis=-1)  # RGB -> BGR
    x = layers.Normalization(mean=BGR_MEAN, variance=(1.0, 1.0, 1.0), dtype="float32", name="minus_mean")(x)
    backbone = keras.applications.ResNet50(
        include_top=False,
        weights="imagenet" if weights == "imagenet" else None,
        input_shape=(image_size, image_size, 3),
        name=BACKBONE,
    )
    if weights == "none":
        _begin_shallow(backbone)
    x = backbone(x)  # [batch, image_size / 32, image_size / 32, 2048], rounded up
    if variant == "deep_head":
        x = layers.BatchNormalization(name="head_bn")(x)
        for filters in (16, 32, 64, 128, 256, 512):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"head_conv{filters}")(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"head_bn{filters}")(x)
            x = dropout(0.5, name=f"head_dropout{filters}")(x)
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = layers.Dense(128, activation="relu", name="head_dense")(x)
    x = dropout(0.5, name="head_dropout")(x)
    p_fake = layers.Dense(1, activation="sigmoid", dtype="float32", name="p_fake")(x)
    model = keras.Model(image, p_fake, name=f"resnet50_{variant}")
    path = weights_file(weights)
    if path is not None:
        load_weights(model, path)
    return model


def _begin_shallow(backbone: Any) -> None:
    """Lets every residual block begin as its shortcut alone, by a zero scale in its last BatchNormalization: random
    weights then train soundly from the first steps on. Goyal et al., arXiv 1706.02677, section 5.1."""
    for layer in backbone.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(layer.gamma * 0)


def load_weights(model: Any, path: Path) -> None:
    """Loads a whole model's weights (.keras, .weights.h5) or the backbone's alone (Keras 3's or the older .h5).

    Raises:
      UnfitWeights: the file holds another model, or another variant.
    """
    import h5py
    import keras

    try:
        if path.suffix == ".keras":
            model.set_weights(keras.models.load_model(path, compile=False).get_weights())
            return
        with h5py.File(path, "r") as file:
            is_whole_model = "dense" in file.get("layers", ())  # Keras 3 groups by class; the backbone has no Dense
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping nested container")  # of a nested model; its layers are loaded
            (model if is_whole_model else model.get_layer(BACKBONE)).load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UnfitWeights(f"the weights in {path} do not fit {model.name}: {reason}") from error


def check_weights(weights: str) -> None:
    """Refuses in the driver what could not be loaded: a missing file, or ImageNet weights that cannot be had.

    Raises:
      Refused: with what to pass instead.
    """
    path = weights_file(weights)
    if path is not None:
        if not path.is_file() or path.suffix not in (".keras", ".h5"):
            raise Refused(
                f"--weights must be imagenet, none, or an existing .keras or .h5 file. Received: {weights!r}. "
                "Give the path of such a file, or --weights none to train every layer from random weights."
            )
        return
    if weights == "none":
        return
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / NOTOP_FILE
    if cache.is_file():
        return
    try:
        socket.create_connection((WEIGHTS_HOST, 443), CONNECT_TIMEOUT_SECS).close()
    except OSError:
        raise Refused(
            f"--weights imagenet needs {NOTOP_FILE}, which is not in {cache.parent}, and {WEIGHTS_HOST} cannot be "
            "reached. Pass --weights none (every layer is trained from random weights) or --weights PATH (that file)."
        ) from None


def train_all(model: Any, config: ModelConfig) -> str:
    """Marks every layer as trained, with moving averages that are about right after tens of steps, not hundreds."""
    import keras

    train_all_layers(model)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = SCRATCH_BN_MOMENTUM
    return "every layer is trained, because the weights were random (--weights none)"


def train_top(model: Any, config: ModelConfig) -> str:
    """Marks the head and the backbone's layers from NUM_FROZEN on as trained."""
    train_all_layers(model)
    backbone = model.get_layer(BACKBONE)
    for layer in backbone.layers[:NUM_FROZEN]:
        layer.trainable = False
    return f"the head and layers {NUM_FROZEN} to {len(backbone.layers) - 1} of the backbone are trained"


def train_head(model: Any, config: ModelConfig) -> str:
    """Marks the head alone as trained."""
    train_all_layers(model)
    model.get_layer(BACKBONE).trainable = False
    return "the head alone is trained, the backbone is frozen"


def phases(config: Config) -> list[Phase]:
    """The head first if asked for, then the top; everything at once when there are no weights to keep."""
    options = config.optimiser
    if config.model.weights == "none":
        rate = options.head_learning_rate if options.head_epochs else options.learning_rate
        return [Phase(options.epochs, rate, train_all)]
    head = [Phase(options.head_epochs, options.head_learning_rate, train_head)] if options.head_epochs else []
    return [*head, Phase(options.epochs - options.head_epochs, options.learning_rate, train_top)]


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_resnet50` from a config; without weights when they are to be set from elsewhere."""
    return build_resnet50(config.variant, config.image_size, config.weights if with_weights else "none", dropout)


FAMILY = Family("resnet50", VARIANTS, check_weights, build, phases)

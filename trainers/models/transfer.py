"""What the families on ImageNet backbones share: weights, the phases of training, and how an image ends as P(fake).

A model is image -> preprocessing -> backbone (one nested layer, named after the family) -> head.
"""

import json
import re
import socket
import warnings
from collections.abc import Callable
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.config import Config, ModelConfig
from trainers.errors import CannotTrain
from trainers.home import keras_dir
from trainers.models.family import Phase, all_layers, check_weights_file, train_all_layers, weights_file

WEIGHTS_HOST = "storage.googleapis.com"
CONNECT_TIMEOUT_SECS = 5
# Of BatchNormalization when training from random weights. Keras's 0.99 would still hold a third of the initial values
# after 100 steps, and validation would measure that rather than the model.
SCRATCH_BN_MOMENTUM = 0.9
# Settings of layers that a trained network's P(fake) does not depend on.
ONLY_IN_TRAINING = re.compile(
    "name|dtype|trainable|momentum|synchronized|dropout_rate|attention_dropout|.*_(initializer|regularizer|constraint)"
)

# -- the ends of a model --


def image_input(image_size: int) -> Any:
    """The symbolic input of every model: uint8 [batch, image_size, image_size, 3], RGB."""
    import keras

    return keras.Input((image_size, image_size, 3), dtype="uint8", name="image")


def centred_backbone(application: Callable[..., Any], name: str, image: Any, weights: str) -> Any:
    """The feature map [batch, height, width, channels] of an ImageNet network that takes pixels in [-1, 1].

    Args:
      application: of keras.applications.
      name: of the nested layer.
      image: from `image_input`.
      weights: the value of --weights; ImageNet's are loaded here, those of a file by `load_weights`.
    """
    import keras

    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="scaled")(image)
    pretrained = "imagenet" if weights == "imagenet" else None
    return application(include_top=False, weights=pretrained, input_shape=image.shape[1:], name=name)(x)


def one_logit(x: Any) -> Any:
    """P(fake), float32 [batch, 1], of a Dense layer with one sigmoid. x: [batch, features]."""
    import keras

    return keras.layers.Dense(1, activation="sigmoid", dtype="float32", name="p_fake")(x)


def two_logits(x: Any) -> Any:
    """P(fake), float32 [batch, 1], of a Dense layer with a softmax over (real, fake). x: [batch, features].

    The second of two softmax probabilities is the sigmoid of the difference of their logits; so written, the loss is
    computed from the logit, without log(0).
    """
    import keras

    logits = keras.layers.Dense(2, dtype="float32", name="logits")(x)
    return keras.layers.Activation("sigmoid", dtype="float32", name="p_fake")(keras.ops.diff(logits, axis=-1))


def pooled_head(x: Any, units: int, dropout: Callable[[float, str], Any]) -> Any:
    """P(fake) of a feature map [batch, height, width, channels]: average pooling, Dense, Dropout 0.5, one sigmoid."""
    import keras

    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = keras.layers.Dense(units, activation="relu", name="head_dense")(x)
    return one_logit(dropout(0.5, "head_dropout")(x))


def flat_features(x: Any, units: int) -> Any:
    """Features [batch, units] of a feature map [batch, height, width, channels]: Flatten, Dense relu."""
    import keras

    x = keras.layers.Flatten(name="head_flatten")(x)
    return keras.layers.Dense(units, activation="relu", name="head_dense")(x)


# -- weights --


def load_weights(model: Any, weights: str, backbone: str | None = None) -> None:
    """Loads a whole model's weights (.keras, .weights.h5, the older .h5) or its backbone's alone (.weights.h5, the
    older .h5); nothing where --weights names no file.

    Args:
      model: built.
      weights: the value of --weights.
      backbone: name of the model's nested backbone, if it has one.

    Raises:
      CannotTrain: the file holds another model, or another variant.
    """
    path = weights_file(weights)
    if path is None:
        return
    import h5py
    import keras

    try:
        if path.suffix == ".keras":
            loaded = keras.models.load_model(path, compile=False)
            _check_same_network(loaded, model)
            model.set_weights(loaded.get_weights())
            return
        with h5py.File(path, "r") as file:
            is_backbone = backbone is not None and not _holds_whole(file, model)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping nested container")  # of a nested model; its layers are loaded
            (model.get_layer(backbone) if is_backbone else model).load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CannotTrain(f"the weights in {path} do not fit {model.name}: {reason}") from error


def _holds_whole(file: Any, model: Any) -> bool:
    """Whether an .h5 file holds the weights of a model with a backbone, and not those of the backbone alone."""
    layers = file.get("model_weights", file)
    if "layer_names" not in layers.attrs:  # Keras 3 groups layers by class, and no backbone has a Dense layer
        return "dense" in file.get("layers", ())
    # Keras 2 wrote a group for each layer: the backbone is one of a few, or its own layers are.
    num_layers = sum(bool(len(layers[name].attrs["weight_names"])) for name in layers.attrs["layer_names"])
    return num_layers == sum(bool(layer.weights) for layer in model.layers)


def _check_same_network(loaded: Any, model: Any) -> None:
    """ValueError unless the layers of the two compute the same from their weights: weights alone may fit a network that
    scales its images otherwise."""
    theirs, ours = _computations(loaded), _computations(model)
    for (_, kind, settings), (name, own_kind, own_settings) in zip(theirs, ours, strict=False):
        if kind != own_kind:
            raise ValueError(f"it has {kind} where {own_kind} is needed, {name}")
        for key, value in own_settings.items():
            if settings.get(key) != value:
                raise ValueError(f"its {key} of {name} is {settings.get(key)}, and must be {value}")
    if len(theirs) != len(ours):
        raise ValueError(f"it has {len(theirs)} layers, and must have {len(ours)}")


def _computations(model: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, class, settings) of each layer that changes P(fake), without the settings that only training needs."""
    import keras

    idle = (keras.Model, keras.layers.InputLayer, keras.layers.Dropout)
    found = []
    for layer in all_layers(model):
        if not isinstance(layer, idle):
            settings = {key: value for key, value in layer.get_config().items() if not ONLY_IN_TRAINING.fullmatch(key)}
            plain = json.loads(json.dumps(settings, default=str))  # what was a tuple may have been stored as a list
            found.append((layer.name, type(layer).__name__, plain))
    return found


def check_backbone(config: ModelConfig, file: str, smallest: int = 32) -> None:
    """Refuses in the driver what could not be built: images that are too small for the backbone, a file of weights
    that is missing, or ImageNet weights that cannot be had.

    Args:
      config: the job's.
      file: name of the backbone's weights in Keras's cache.
      smallest: side of the smallest image that the backbone takes, pixels.

    Raises:
      Refused: with what to pass instead.
    """
    if config.image_size < smallest:
        raise Refused(
            f"--image-size of {config.family} must be at least {smallest} pixels. Received: {config.image_size}. "
            f"Take {smallest} or more."
        )
    check_weights_file(config.weights)
    if config.weights != "imagenet":
        return
    cache = keras_dir() / "models" / file
    if cache.is_file():
        return
    try:
        socket.create_connection((WEIGHTS_HOST, 443), CONNECT_TIMEOUT_SECS).close()
    except OSError:
        raise Refused(
            f"--weights imagenet needs {file}, which is not in {cache.parent}, and {WEIGHTS_HOST} cannot be "
            "reached. Pass --weights none (every layer is trained from random weights) or --weights PATH (that file)."
        ) from None


# -- phases --


def train_all(model: Any, config: ModelConfig) -> str:
    """Marks every layer as trained, with moving averages that are about right after tens of steps, not hundreds."""
    import keras

    train_all_layers(model)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = SCRATCH_BN_MOMENTUM
    return "every layer is trained, because the weights were random (--weights none)"


def train_head(model: Any, config: ModelConfig) -> str:
    """Marks the head alone as trained."""
    train_all_layers(model)
    model.get_layer(config.family).trainable = False
    return "the head alone is trained, the backbone is frozen"


def train_top(num_frozen: Callable[[Any], int]) -> Callable[[Any, ModelConfig], str]:
    """A phase's `set_trainable`: the head, and the backbone from its layer number `num_frozen(backbone)` on."""

    def set_trainable(model: Any, config: ModelConfig) -> str:
        train_all_layers(model)
        layers = model.get_layer(config.family).layers
        first = num_frozen(model.get_layer(config.family))
        for layer in layers[:first]:
            layer.trainable = False
        return f"the head and layers {first} to {len(layers) - 1} of the backbone are trained"

    return set_trainable


def phases(config: Config, set_trainable: Callable[[Any, ModelConfig], str] = train_head) -> list[Phase]:
    """The head epochs at their rate, if there are any, then the others at theirs: the head first, then what
    `set_trainable` marks; everything in both when there are no weights to keep."""
    options = config.optimiser
    is_random = config.model.weights == "none"
    first, then = (train_all, train_all) if is_random else (train_head, set_trainable)
    head = [Phase(options.head_epochs, options.head_learning_rate, first)] if options.head_epochs else []
    return [*head, Phase(options.epochs - options.head_epochs, options.learning_rate, then)]

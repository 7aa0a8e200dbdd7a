"""What the loop needs of a model family."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.config import AugmentConfig, Config, ModelConfig

# The augmentation of several published systems: turns of up to a fifth of the circle, and nothing else.
TURNS = AugmentConfig(
    flip_left_right=False, flip_up_down=False, brightness=0.0, contrast=0.0, hue=0.0, saturation=0.0, rotation=0.2
)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with the same trainable layers and one optimiser."""

    epochs: int
    learning_rate: float
    set_trainable: Callable[
        [Any, ModelConfig], str
    ]  # (model, config): marks the layers; returns a sentence for the log


@dataclass(frozen=True)
class Ensemble:
    """A variant that is the average of several trainings of another one."""

    member: str  # the variant that is trained
    size: int  # members
    max_log_loss: float | None = None  # on validation, nats: a member above it is trained again; None: never
    max_retries: int = 0  # so many times at most


@dataclass(frozen=True)
class Family:
    """One architecture and its published variants."""

    name: str
    variants: Mapping[str, Config]  # the defaults of each variant; the first is the default variant
    check: Callable[[ModelConfig], None]  # in the driver, before anything starts; raises Refused
    build: Callable[..., Any]  # (ModelConfig, dropout, with_weights: bool) -> keras.Model
    phases: Callable[[Config], list[Phase]]
    ensembles: Mapping[str, Ensemble] = field(default_factory=dict)  # by variant

    def registered_name(self, config: Config) -> str:
        """Name of the model that a job of this family registers."""
        return config.job.registered_name or f"realshard-{self.name}"


def weights_file(weights: str) -> Path | None:
    """The path in a --weights value, or None for `imagenet` and `none`."""
    return None if weights in ("imagenet", "none") else Path(weights).expanduser()


def is_registered(weights: str) -> bool:
    """Whether --weights names a registered model; the driver gives the workers its file."""
    return weights.startswith("models:/")


def check_weights_file(weights: str) -> None:
    """Refuses a --weights that should be a file and is none. A registered model is not looked for here.

    Raises:
      Refused: no such file, or neither .keras nor .h5.
    """
    path = weights_file(weights)
    if path is not None and not is_registered(weights) and (not path.is_file() or path.suffix not in (".keras", ".h5")):
        raise Refused(
            "--weights must be imagenet, none, models:/NAME@ALIAS, or an existing .keras or .h5 file. "
            f"Received: {weights!r}. "
            "Give the path of such a file, or --weights none to train every layer from random weights."
        )


def is_keras_2_file(weights: str) -> bool:
    """Whether --weights names an .h5 file as Keras 2 wrote them, and not one of Keras 3."""
    path = weights_file(weights)
    if path is None or path.suffix != ".h5":
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "layer_names" in file.get("model_weights", file).attrs
    except OSError:  # no such file at all: whoever loads it will say so
        return False


def check_from_scratch(config: ModelConfig) -> None:
    """For families that nobody trained on ImageNet: weights come from a file or are random.

    Raises:
      Refused: --weights imagenet, or no such file.
    """
    if config.weights == "imagenet":
        raise Refused(
            f"--weights of {config.family} must be none or a file or model, since there are no ImageNet weights of it. "
            "Received: 'imagenet'. Leave --weights out."
        )
    check_weights_file(config.weights)


def check_dropout(config: ModelConfig, has_dropout: bool) -> None:
    """Refuses a --dropout that would change nothing.

    Raises:
      Refused: a rate is given, and the variant has no dropout layer.
    """
    if config.dropout is not None and not has_dropout:
        raise Refused(
            f"--dropout is the rate of a variant's dropout layers, of which {config.variant} has none. "
            f"Received: {config.dropout}. Leave it out."
        )


def dropout_layers(config: ModelConfig, dropout: Any = None) -> Callable[[float, str], Any]:
    """A function (rate, name) -> layer: `dropout`, by default Keras's, at the rate of --dropout if that is given."""
    from trainers.models.layers import stock_dropout

    make = dropout or stock_dropout
    return lambda rate, name: make(rate if config.dropout is None else config.dropout, name)


def all_layers(model: Any) -> Iterator[Any]:
    """The layers of a Keras model and of the models inside it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from all_layers(layer)


def train_all_layers(model: Any) -> None:
    """Marks every layer as trained. Setting `model.trainable` does not reach into models inside the model."""
    model.trainable = True
    for layer in all_layers(model):
        layer.trainable = True


def trains_batch_norm(model: Any) -> bool:
    """Whether a BatchNormalization layer of the model normalises with the statistics of the batch."""
    import keras

    return any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in all_layers(model))


def everything(model: Any, config: ModelConfig) -> str:
    """A phase's `set_trainable` where nothing is frozen."""
    train_all_layers(model)
    return "every layer is trained"


def one_phase(config: Config) -> list[Phase]:
    """The phases of a family that trains everything at once.

    Raises:
      Refused: head epochs were asked for.
    """
    options = config.optimiser
    if options.head_epochs:
        raise Refused(
            f"--head-epochs is for families with a pretrained backbone, which {config.model.family} has not. "
            f"Received: {options.head_epochs}. Leave it out."
        )
    return [Phase(options.epochs, options.learning_rate, everything)]

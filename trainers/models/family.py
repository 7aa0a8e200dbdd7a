"""What the loop needs of a model family."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.config import Config, ModelConfig


@dataclass(frozen=True)
class Phase:
    """A stretch of training with the same trainable layers and one optimiser."""

    epochs: int
    learning_rate: float
    set_trainable: Callable[
        [Any, ModelConfig], str
    ]  # (model, config): marks the layers; returns a sentence for the log


@dataclass(frozen=True)
class Family:
    """One architecture and its published variants."""

    name: str
    variants: Mapping[str, Config]  # the defaults of each variant; the first is the default variant
    check_weights: Callable[[str], None]  # (--weights), in the driver, before anything starts; raises Refused
    build: Callable[..., Any]  # (ModelConfig, dropout, backbone_weights: bool) -> keras.Model
    phases: Callable[[Config], list[Phase]]

    @property
    def default_registered_name(self) -> str:
        """Name of the registered model when none is given."""
        return f"realshard-{self.name}"


def weights_file(weights: str) -> Path | None:
    """The path in a --weights value, or None for `imagenet` and `none`."""
    return None if weights in ("imagenet", "none") else Path(weights).expanduser()


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

"""ViT-B/16 with a classifier of (real, fake), and checkpoints in Hugging Face's format. uint8 RGB in, probability out.

Backbone: keras_hub.models.ViTBackbone (Dosovitskiy et al., arXiv 2010.11929). A checkpoint is a directory with
config.json, preprocessor_config.json and model.safetensors, or `hf://OWNER/NAME`, which is fetched once.
"""

import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.config import Config, ModelConfig, OptimiserConfig
from trainers.errors import CannotTrain
from trainers.models import transfer
from trainers.models.family import (
    Family,
    Phase,
    check_dropout,
    check_weights_file,
    everything,
    is_registered,
    weights_file,
)

BACKBONE = "vit"
IMAGENET = "hf://google/vit-base-patch16-224"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
WORDS = ({"real", "human", "authentic", "original"}, {"fake", "deepfake", "ai", "artificial", "generated"})

VARIANTS = {
    "b16": Config(
        model=ModelConfig(family=BACKBONE, variant="b16"),
        # Ours: the published system was used as it is, and nothing is said of its training.
        optimiser=OptimiserConfig(learning_rate=2e-5, optimiser="adamw", weight_decay=0.01),
    ),
}


@dataclass(frozen=True)
class Architecture:
    """The sizes of a vision transformer, and how its pixels are scaled. The defaults are ViT-B/16's."""

    image_size: int = 224  # pixels
    patch_size: int = 16  # pixels
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    mlp_dim: int = 3072
    has_qkv_bias: bool = True
    norm_epsilon: float = 1e-12
    scale: float = 1 / 255  # what pixels 0..255 are multiplied by
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # what is subtracted then, by channel
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)  # and what it is divided by


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of itself, without its weights."""

    directory: Path
    architecture: Architecture
    labels: tuple[str, ...]

    @property
    def order(self) -> tuple[int, int] | None:
        """Which of its two outputs are (real, fake), by the names of its labels; None if they do not say."""
        if len(self.labels) != 2:
            return None
        words = [set(re.split("[^a-z]+", label.lower())) for label in self.labels]
        orders = [(a, b) for a, b in ((0, 1), (1, 0)) if words[a] & WORDS[0] and words[b] & WORDS[1]]
        return orders[0] if len(orders) == 1 else None


def is_checkpoint(weights: str) -> bool:
    """Whether --weights names a checkpoint in Hugging Face's format, and not a file of ours."""
    return weights == "imagenet" or weights.startswith("hf://") or Path(weights).expanduser().is_dir()


def read_checkpoint(weights: str) -> Checkpoint:
    """The checkpoint that --weights names; fetches it if it is on the hub.

    Raises:
      Refused: it cannot be had, or is no vision transformer for classification.
    """
    directory = _fetch(IMAGENET if weights == "imagenet" else weights)
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise Refused(
            f"a checkpoint holds {', '.join(FILES)}. Received: {weights!r} without {', '.join(missing)}. "
            "Name a complete one."
        )
    config = json.loads((directory / FILES[0]).read_text())
    pixels = json.loads((directory / FILES[1]).read_text())
    if config.get("architectures") != ["ViTForImageClassification"] or config.get("hidden_act", "gelu") != "gelu":
        raise Refused(
            f"a checkpoint must be a ViTForImageClassification with gelu. Received: {weights!r}, "
            f"{config.get('architectures')}, {config.get('hidden_act')}. Take another."
        )
    is_normalised = pixels.get("do_normalize", True)
    architecture = Architecture(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        mlp_dim=config["intermediate_size"],
        has_qkv_bias=config.get("qkv_bias", True),
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
        scale=pixels.get("rescale_factor", 1 / 255) if pixels.get("do_rescale", True) else 1.0,
        mean=tuple(pixels["image_mean"]) if is_normalised else (0.0, 0.0, 0.0),
        deviation=tuple(pixels["image_std"]) if is_normalised else (1.0, 1.0, 1.0),
    )
    names = config.get("id2label", {})
    return Checkpoint(directory, architecture, tuple(names[key] for key in sorted(names, key=int)))


def read_architecture(weights: str) -> Architecture | None:
    """The architecture of the model in the .keras file that --weights names; None if that is no such file, or no model
    of this family: whoever loads it will say so."""
    path = weights_file(weights)
    if path is None or path.suffix != ".keras":
        return None
    try:
        with zipfile.ZipFile(path) as file:
            told = json.loads(file.read("config.json"))
        settings = {layer["name"]: layer["config"] for layer in told["config"]["layers"]}
        sizes, scaled, standardised = (settings[name] for name in (BACKBONE, "scaled", "standardised"))
        return Architecture(
            image_size=_numbers(sizes["image_shape"])[0],
            patch_size=_numbers(sizes["patch_size"])[0],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            hidden_dim=sizes["hidden_dim"],
            mlp_dim=sizes["mlp_dim"],
            has_qkv_bias=sizes["use_mha_bias"],
            norm_epsilon=sizes["layer_norm_epsilon"],
            scale=scaled["scale"],
            mean=tuple(_numbers(standardised["mean"])),
            deviation=tuple(math.sqrt(variance) for variance in _numbers(standardised["variance"])),
        )
    except (OSError, KeyError, zipfile.BadZipFile):
        return None


def _numbers(value: Any) -> list:
    """A list or tuple in a .keras file's config.json, where Keras writes tuples as objects."""
    return value["items"] if isinstance(value, dict) else value


def _fetch(weights: str) -> Path:
    if not weights.startswith("hf://"):
        return Path(weights).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionResolutionError

    try:
        return Path(snapshot_download(weights.removeprefix("hf://"), allow_patterns=list(FILES)))
    except (OSError, ValueError, RevisionResolutionError) as error:
        raise Refused(
            f"--weights {weights} cannot be fetched: {str(error).strip().splitlines()[0]} "
            "Name a directory that holds the checkpoint, or take --weights none."
        ) from None


def build_vit(architecture: Architecture | None = None, name: str = "vit_b16"):
    """The uncompiled model, with random weights.

    Args:
      architecture: its sizes; default ViT-B/16.
      name: of the model.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake). Its layer `logits` gives
      float32 [batch, 2], (real, fake).
    """
    import keras
    import keras_hub

    sizes = architecture or Architecture()
    image = transfer.image_input(sizes.image_size)
    x = keras.layers.Rescaling(sizes.scale, dtype="float32", name="scaled")(image)
    variance = [deviation**2 for deviation in sizes.deviation]
    x = keras.layers.Normalization(mean=sizes.mean, variance=variance, dtype="float32", name="standardised")(x)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(sizes.image_size, sizes.image_size, 3),
        patch_size=sizes.patch_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.hidden_dim,
        mlp_dim=sizes.mlp_dim,
        use_mha_bias=sizes.has_qkv_bias,
        layer_norm_epsilon=sizes.norm_epsilon,
        name=BACKBONE,
    )
    x = backbone(x)  # [batch, 1 + patches, hidden_dim]; the class token comes first
    return keras.Model(image, transfer.two_logits(keras.ops.take(x, 0, axis=1)), name=name)


def load_checkpoint(model: Any, checkpoint: Checkpoint) -> None:
    """Sets the weights of a model built with the checkpoint's architecture: the backbone's, and the classifier's if its
    labels are of real and fake."""
    import keras_hub

    source = keras_hub.models.ViTImageClassifier.from_preset(str(checkpoint.directory), preprocessor=None)
    model.get_layer(BACKBONE).set_weights(source.backbone.get_weights())
    if checkpoint.order:
        kernel, bias = source.output_dense.get_weights()  # [hidden_dim, 2], [2]
        order = list(checkpoint.order)
        model.get_layer("logits").set_weights([kernel[:, order], bias[order]])


def check(config: ModelConfig) -> None:
    """Refuses weights that cannot be had, and images of another size than theirs. A registered model is not looked at
    here, but by `build`."""
    check_dropout(config, has_dropout=False)
    if is_registered(config.weights):
        return
    if is_checkpoint(config.weights):
        checkpoint = read_checkpoint(config.weights)
        sizes = checkpoint.architecture
        if checkpoint.order is None and config.weights != "imagenet":
            raise Refused(
                f"a checkpoint's labels must say which is real and which is fake. Received: {config.weights!r} with "
                f"{', '.join(checkpoint.labels[:5]) or 'none'}. Name them so in id2label of its config.json."
            )
    else:
        check_weights_file(config.weights)
        sizes = read_architecture(config.weights) or Architecture(image_size=config.image_size)
    if sizes.image_size != config.image_size:
        raise Refused(
            f"--image-size must be that of the weights, {sizes.image_size} pixels. Received: {config.image_size}. "
            f"Take --image-size {sizes.image_size}."
        )
    if config.image_size % sizes.patch_size:
        raise Refused(
            f"--image-size of {BACKBONE} must be a multiple of {sizes.patch_size} pixels. "
            f"Received: {config.image_size}. Take 224."
        )


def phases(config: Config) -> list[Phase]:
    """Everything is trained, after the head if that is asked for."""
    return transfer.phases(config, everything)


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_vit` from a config, with the sizes and the scaling of its --weights; without weights when they are to be
    set from elsewhere.

    Raises:
      CannotTrain: the weights are of another model.
    """
    if is_checkpoint(config.weights):
        checkpoint = read_checkpoint(config.weights)
        model = build_vit(checkpoint.architecture, f"vit_{config.variant}")
        if with_weights:
            load_checkpoint(model, checkpoint)
        return model
    name = f"vit_{config.variant}"
    sizes = read_architecture(config.weights) or Architecture(image_size=config.image_size)
    if sizes.image_size != config.image_size:
        raise CannotTrain(
            f"the weights in {config.weights} do not fit {name} of {config.image_size} pixels: they are of "
            f"{sizes.image_size}. Take --image-size {sizes.image_size}."
        )
    model = build_vit(sizes, name)
    if with_weights:
        transfer.load_weights(model, config.weights, BACKBONE)
    return model


FAMILY = Family(BACKBONE, VARIANTS, check, build, phases)

"""ResNet50 with one of four heads for P(fake). uint8 RGB in, probability out.

Backbone: keras.applications.ResNet50 (He et al., arXiv 1512.03385), without its top.
"""

from typing import Any

from trainers.config import AugmentConfig, Config, ModelConfig, OptimiserConfig
from trainers.models import transfer
from trainers.models.family import TURNS, Family, Phase, check_dropout, dropout_layers

BACKBONE = "resnet50"
NUM_FROZEN = 150  # layers[0:150] of the backbone's 175 keep the weights they were given
BGR_MEAN = (103.939, 116.779, 123.68)  # of ImageNet: keras.applications' "caffe" preprocessing
NOTOP_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
FROZEN = ("flatten_head", "gap256_rmsprop")  # the variants whose backbone is never trained; they scale by 1/255

VARIANTS = {
    "deep_head": Config(),
    "gap_head": Config(
        model=ModelConfig(variant="gap_head"),
        optimiser=OptimiserConfig(epochs=10, head_epochs=3, learning_rate=1e-5, reduce_lr_on_plateau=True),
    ),
    "flatten_head": Config(
        model=ModelConfig(variant="flatten_head"),
        optimiser=OptimiserConfig(learning_rate=1e-3, early_stopping_patience=0),
        augmentation=TURNS,
    ),
    "gap256_rmsprop": Config(
        model=ModelConfig(variant="gap256_rmsprop"),
        optimiser=OptimiserConfig(optimiser="rmsprop", learning_rate=1e-3, early_stopping_patience=0),
        augmentation=AugmentConfig(augment=False),
    ),
}


def build_resnet50(variant: str, image_size: int, weights: str = "none", dropout=None):
    """The uncompiled model.

    Args:
      variant: one of VARIANTS.
      image_size: side of the input, pixels, at least 32.
      weights: `imagenet` or a file of backbone or whole-model weights; `none`: random.
      dropout: function (rate, name) -> layer; default Keras's Dropout.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).

    Raises:
      CannotTrain: the weights are of another model.
    """
    import keras

    from trainers.models.layers import stock_dropout

    dropout = dropout or stock_dropout
    image = transfer.image_input(image_size)
    if variant in FROZEN:
        x = keras.layers.Rescaling(1 / 255, dtype="float32", name="scaled")(image)
    else:
        x = keras.layers.Rescaling(1.0, dtype="float32", name="as_float")(image)
        x = keras.ops.flip(x, axis=-1)  # RGB -> BGR
        x = keras.layers.Normalization(mean=BGR_MEAN, variance=(1.0, 1.0, 1.0), dtype="float32", name="minus_mean")(x)
    backbone = keras.applications.ResNet50(
        include_top=False,
        weights="imagenet" if weights == "imagenet" else None,
        input_shape=(image_size, image_size, 3),
        name=BACKBONE,
    )
    if weights == "none":
        _begin_shallow(backbone)
    x = backbone(x)  # [batch, image_size / 32, image_size / 32, 2048], rounded up
    if variant == "flatten_head":
        p_fake = transfer.one_logit(transfer.flat_features(x, 128))
    else:
        x = _convolutions(x, dropout) if variant == "deep_head" else x
        p_fake = transfer.pooled_head(x, 256 if variant == "gap256_rmsprop" else 128, dropout)
    model = keras.Model(image, p_fake, name=f"resnet50_{variant}")
    transfer.load_weights(model, weights, BACKBONE)
    return model


def _convolutions(x: Any, dropout: Any) -> Any:
    """The published deep head up to its pooling: six widening convolutions."""
    from keras import layers

    x = layers.BatchNormalization(name="head_bn")(x)
    for filters in (16, 32, 64, 128, 256, 512):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"head_conv{filters}")(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"head_bn{filters}")(x)
        x = dropout(0.5, f"head_dropout{filters}")(x)
    return x


def _begin_shallow(backbone: Any) -> None:
    """Lets every residual block begin as its shortcut alone, by a zero scale in its last BatchNormalization: random
    weights then train soundly from the first steps on. Goyal et al., arXiv 1706.02677, section 5.1."""
    for layer in backbone.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(layer.gamma * 0)


def check(config: ModelConfig) -> None:
    """Refuses what could not be built, see `transfer.check_backbone`."""
    check_dropout(config, has_dropout=config.variant != "flatten_head")
    transfer.check_backbone(config, NOTOP_FILE)


def phases(config: Config) -> list[Phase]:
    """One phase, or the head first; with ImageNet weights the backbone is frozen, in part or whole."""
    if config.model.variant in FROZEN:
        return transfer.phases(config)
    return transfer.phases(config, transfer.train_top(lambda backbone: NUM_FROZEN))


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_resnet50` from a config; without weights when they are to be set from elsewhere."""
    weights = config.weights if with_weights else "none"
    return build_resnet50(config.variant, config.image_size, weights, dropout_layers(config, dropout))


FAMILY = Family(BACKBONE, VARIANTS, check, build, phases)

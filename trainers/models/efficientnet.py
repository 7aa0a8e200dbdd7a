"""EfficientNetV2-B3 with a pooled head: the head is trained first, then the backbone's last stage with it.

Backbone: keras.applications.EfficientNetV2B3 (Tan and Le, arXiv 2104.00298), without its top. It drops whole residual
branches of an image at random, with rates from 0.01 in the first of them to 0.3 in the last.
"""

from typing import Any

from trainers.config import Config, ModelConfig, OptimiserConfig
from trainers.models import transfer
from trainers.models.family import Family, Phase, check_dropout

BACKBONE = "efficientnet_v2b3"
NOTOP_FILE = "efficientnetv2-b3_notop.h5"
TOP_BLOCK = "block6a_"  # how the names of the last stage's first layers begin
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
DEVIATION = (0.229, 0.224, 0.225)
HEAD_DROPOUT = 0.5

VARIANTS = {
    "gap_head": Config(
        model=ModelConfig(family=BACKBONE, variant="gap_head", image_size=300),
        optimiser=OptimiserConfig(epochs=10, head_epochs=3, learning_rate=1e-5, reduce_lr_on_plateau=True),
    ),
}


def build_efficientnet(image_size: int, weights: str = "none", dropout=None, dropout_rate: float = HEAD_DROPOUT):
    """The uncompiled model.

    Args:
      image_size: side of the input, pixels, at least 32.
      weights: `imagenet` or a file of backbone or whole-model weights; `none`: random.
      dropout: function (rate, name) -> layer; default Keras's Dropout.
      dropout_rate: of the head; those of the residual branches keep their proportion to it.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).

    Raises:
      CannotTrain: the weights are of another model.
    """
    import keras

    from trainers.models.layers import stock_dropout, with_dropout_of

    make = dropout or stock_dropout
    image = transfer.image_input(image_size)
    x = keras.layers.Rescaling(1 / 255, dtype="float32", name="scaled")(image)
    variance = tuple(deviation**2 for deviation in DEVIATION)
    x = keras.layers.Normalization(mean=MEAN, variance=variance, dtype="float32", name="standardised")(x)
    backbone = keras.applications.EfficientNetV2B3(
        include_top=False,
        include_preprocessing=False,  # those two layers, kept float32 whatever the backbone computes in
        weights="imagenet" if weights == "imagenet" else None,
        input_shape=(image_size, image_size, 3),
    )
    backbone = with_dropout_of(backbone, lambda rate, name: make(rate * dropout_rate / HEAD_DROPOUT, name))
    backbone.name = BACKBONE  # as an argument it would choose the architecture
    x = backbone(x)  # [batch, 10, 10, 1536] of 300 pixels
    p_fake = transfer.pooled_head(x, 128, lambda _, name: make(dropout_rate, name))
    model = keras.Model(image, p_fake, name=f"{BACKBONE}_gap_head")
    transfer.load_weights(model, weights, BACKBONE)
    return model


def num_frozen(backbone: Any) -> int:
    """How many layers come before the backbone's last stage."""
    return next(index for index, layer in enumerate(backbone.layers) if layer.name.startswith(TOP_BLOCK))


def check(config: ModelConfig) -> None:
    """Refuses what could not be built, see `transfer.check_backbone`."""
    check_dropout(config, has_dropout=True)
    transfer.check_backbone(config, NOTOP_FILE)


def phases(config: Config) -> list[Phase]:
    """The head, then the last stage with it."""
    return transfer.phases(config, transfer.train_top(num_frozen))


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_efficientnet` from a config; without weights when they are to be set from elsewhere."""
    weights = config.weights if with_weights else "none"
    rate = HEAD_DROPOUT if config.dropout is None else config.dropout
    return build_efficientnet(config.image_size, weights, dropout, rate)


FAMILY = Family(BACKBONE, VARIANTS, check, build, phases)

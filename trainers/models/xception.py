"""Xception, frozen but for its classifier of (real, fake). uint8 RGB in, probability out.

Backbone: keras.applications.Xception (Chollet, arXiv 1610.02357), without its top.
"""

from trainers.config import AugmentConfig, Config, ModelConfig, OptimiserConfig
from trainers.models import transfer
from trainers.models.family import Family, check_dropout

BACKBONE = "xception"
NOTOP_FILE = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
SMALLEST_IMAGE = 71  # pixels, of the backbone

VARIANTS = {
    "classifier": Config(
        model=ModelConfig(family=BACKBONE, variant="classifier", image_size=299),
        optimiser=OptimiserConfig(
            learning_rate=1e-3, early_stopping_patience=0, weight_decay=1e-4, decay_every_epochs=5
        ),
        augmentation=AugmentConfig(
            flip_up_down=False, brightness=0.2, contrast=0.2, hue=0.1, saturation=0.2, rotation=10 / 360
        ),
    ),
}


def build_xception(image_size: int, weights: str = "none"):
    """The uncompiled model.

    Args:
      image_size: side of the input, pixels, at least 71.
      weights: `imagenet` or a file of backbone or whole-model weights; `none`: random.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).

    Raises:
      CannotTrain: the weights are of another model.
    """
    import keras

    image = transfer.image_input(image_size)
    # [batch, 10, 10, 2048] of 299 pixels
    x = transfer.centred_backbone(keras.applications.Xception, BACKBONE, image, weights)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    model = keras.Model(image, transfer.two_logits(x), name=f"{BACKBONE}_classifier")
    transfer.load_weights(model, weights, BACKBONE)
    return model


def check(config: ModelConfig) -> None:
    """Refuses what could not be built, see `transfer.check_backbone`."""
    check_dropout(config, has_dropout=False)
    transfer.check_backbone(config, NOTOP_FILE, SMALLEST_IMAGE)


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_xception` from a config; without weights when they are to be set from elsewhere."""
    return build_xception(config.image_size, config.weights if with_weights else "none")


FAMILY = Family(BACKBONE, VARIANTS, check, build, transfer.phases)

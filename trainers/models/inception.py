"""InceptionV3, frozen, under a flattened head with a softmax over (real, fake). uint8 RGB in, probability out.

Backbone: keras.applications.InceptionV3 (Szegedy et al., arXiv 1512.00567), without its top.
"""

from trainers.config import Config, ModelConfig, OptimiserConfig
from trainers.models import transfer
from trainers.models.family import TURNS, Family, check_dropout

BACKBONE = "inception_v3"
NOTOP_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
SMALLEST_IMAGE = 75  # pixels, of the backbone

VARIANTS = {
    "flatten_head": Config(
        model=ModelConfig(family=BACKBONE, variant="flatten_head"),
        optimiser=OptimiserConfig(learning_rate=1e-3, early_stopping_patience=0),
        augmentation=TURNS,
    ),
}


def build_inception(image_size: int, weights: str = "none"):
    """The uncompiled model.

    Args:
      image_size: side of the input, pixels, at least 75.
      weights: `imagenet` or a file of backbone or whole-model weights; `none`: random.

    Returns:
      keras.Model: uint8 [batch, image_size, image_size, 3] RGB -> float32 [batch, 1], P(fake).

    Raises:
      CannotTrain: the weights are of another model.
    """
    import keras

    image = transfer.image_input(image_size)
    # [batch, 5, 5, 2048] of 224 pixels
    x = transfer.centred_backbone(keras.applications.InceptionV3, BACKBONE, image, weights)
    p_fake = transfer.two_logits(transfer.flat_features(x, 128))
    model = keras.Model(image, p_fake, name=f"{BACKBONE}_flatten_head")
    transfer.load_weights(model, weights, BACKBONE)
    return model


def check(config: ModelConfig) -> None:
    """Refuses what could not be built, see `transfer.check_backbone`."""
    check_dropout(config, has_dropout=False)
    transfer.check_backbone(config, NOTOP_FILE, SMALLEST_IMAGE)


def build(config: ModelConfig, dropout=None, with_weights: bool = True):
    """`build_inception` from a config; without weights when they are to be set from elsewhere."""
    return build_inception(config.image_size, config.weights if with_weights else "none")


FAMILY = Family(BACKBONE, VARIANTS, check, build, transfer.phases)

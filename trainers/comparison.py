"""What `make compare` trains: every variant of every family, with a budget that two CPUs can pay.

A variant keeps its network, its optimiser and its augmentation; size of the image, epochs, batch and rates are the
budget's. Nothing is pretrained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainers.config import Config, DataConfig
from trainers.models.families import FAMILIES

SEEDS = (0, 1, 2)  # of the small models; the large ones are trained once
EXPERIMENT = "comparison"
IMAGE_SIZE = 32  # pixels, of the corpus: making it smaller would take away what tells real from fake


@dataclass(frozen=True)
class Budget:
    """How a variant is trained for the comparison."""

    epochs: int
    learning_rate: float
    image_size: int = IMAGE_SIZE  # pixels
    train_split: str = "train"
    global_batch_size: int = 32
    seeds: Sequence[int] = SEEDS
    dropout: float | None = None  # of all its dropout layers; None: the variant's own

    def config(self, family: str, variant: str, dataset: str, data_dir: str, seed: int) -> Config:
        """The job's config, but for its name."""
        recipe = FAMILIES[family].variants[variant]
        options: dict[str, Any] = {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "global_batch_size": self.global_batch_size,
            "head_epochs": 0,  # there are no pretrained weights to keep
            "schedule": "cosine",  # so short a training ends well only when its rate has fallen
            "early_stopping_patience": 0,
            "reduce_lr_on_plateau": False,
            "decay_every_epochs": 0,
        }
        return replace(
            recipe,
            data=DataConfig(dataset=dataset, data_dir=data_dir, train_split=self.train_split),
            model=replace(recipe.model, image_size=self.image_size, weights="none", dropout=self.dropout),
            optimiser=replace(recipe.optimiser, **options),
            cluster=replace(recipe.cluster, devices_per_worker=1),
            job=replace(recipe.job, seed=seed, experiment=EXPERIMENT, register=False),
        )


_SMALL = Budget(epochs=4, learning_rate=1e-3)
_MUCH_DROPOUT = Budget(epochs=6, learning_rate=1e-3)
_LARGE = Budget(epochs=3, learning_rate=1e-3, seeds=(0,))

BUDGETS: dict[tuple[str, str], Budget] = {
    **{("cnn", f"v{number}"): _SMALL for number in range(1, 21)},
    **{("cnn", f"v{number}"): _MUCH_DROPOUT for number in (14, 15, 16, 17)},
    **{("cnn", f"v{number}"): replace(_LARGE, epochs=2) for number in (9, 20)},  # they convolve before they pool
    ("cnn", "v19"): _LARGE,
    ("cnn", "rgb224_adam"): _SMALL,
    ("cnn", "rgb224_rmsprop"): _SMALL,
    ("cnn", "two_by_two"): replace(_SMALL, epochs=10),  # its random turns blur what it looks for
    ("meso_inception4", "meso150"): _MUCH_DROPOUT,
    ("meso_inception4", "ensemble5"): _LARGE,
    ("meso_inception4", "ensemble10"): _LARGE,
    # From 256 pixels on the network is another one.
    ("meso_inception4", "meso256"): replace(
        _LARGE, image_size=256, epochs=3, global_batch_size=8, train_split="train[:60%]"
    ),
    ("resnet50", "gap_head"): _LARGE,
    ("resnet50", "deep_head"): replace(_LARGE, epochs=5, learning_rate=3e-4, dropout=0.1),
    ("resnet50", "flatten_head"): replace(_LARGE, epochs=5, learning_rate=3e-4),
    ("resnet50", "gap256_rmsprop"): _LARGE,
    # The smallest images that these two take.
    ("inception_v3", "flatten_head"): replace(_LARGE, image_size=75),
    ("xception", "classifier"): replace(_LARGE, image_size=71, epochs=1),
    ("efficientnet_v2b3", "gap_head"): replace(_LARGE, epochs=2),
    ("vit", "b16"): replace(_LARGE, learning_rate=1e-4),
}

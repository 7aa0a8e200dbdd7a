"""What a job is told about its data: which records take part, in which order, and how images are changed."""

from dataclasses import dataclass
from typing import Any

import simple_parsing

from trainers.checks import check, dataset_weights, flag, one_of, selection

ORDERS = ("plain", "balanced", "blocked")
PIXEL_CACHES = ("none", "memory", "disk")
# Of the augmentation, each with the most that it can be.
STRENGTHS = {"brightness": 1.0, "contrast": 0.99, "hue": 0.5, "saturation": 0.99, "rotation": 0.5, "shift": 0.5}


def _columns(metavar: str = "COLUMN=VALUE[,VALUE]") -> Any:
    return simple_parsing.field(default=(), metavar=metavar)


@dataclass(frozen=True)
class DataConfig:
    """The dataset, and which of its records take part."""

    # Name of a dataset built by `tfds build`: `faces` for its newest version, or `faces:1.0.0`. Several as one:
    # `faces,objects`, split by split, or `faces=3,objects=1`, which draws three training images of the one for each of
    # the other. `merged_faces` is the published mixture of deepfake_and_real and deepfake_faces.
    dataset: str = "ai_vs_human"
    data_dir: str = ""  # Where built datasets are. Default: TFDS_DATA_DIR, else TFDS's own ~/tensorflow_datasets.
    # What is trained on: a split or parts of splits as TFDS writes them, `train[:5000]+validation`. Of several
    # datasets, that part of each.
    train_split: str = "train"
    validation_split: str = "validation"  # What the best epoch is chosen on.
    test_split: str = "test"  # What is reported.
    split_scheme: str = ""  # Another division into splits that the manifest holds, for example `published`.
    # Which images make up a batch: `plain` shuffles them all, `balanced` draws as many real as fake, `blocked` shuffles
    # runs of neighbours, for datasets at a URL: one worker fetches each image once an epoch; of several each fetches
    # more than its share (of 4 with batches of 128, nearly half of the dataset).
    order: str = "plain"
    # Where decoded training and validation images are kept, if at all: `none`, `memory`, or `disk`, where a later job
    # finds them again (in REALSHARD_PIXELS, or below REALSHARD_HOME). For images that decode too slowly.
    pixel_cache: str = "none"
    pixel_cache_gib: float = 16.0  # What --pixel-cache may take at most, GiB, of each worker or of the disk.
    # Train and validate only on records whose column of the manifest has one of the values, for example
    # `category=car,cat`. The test split is always evaluated whole.
    only: tuple[str, ...] = _columns()
    exclude: tuple[str, ...] = _columns()  # The opposite: leave such records out, for example `generator=spectral`.
    # A control: train on labels that were shuffled among the images. The test AUC must come out near 0.5.
    shuffle_labels: bool = flag(False)

    def __post_init__(self):
        selection(self.only)
        selection(self.exclude)
        weights = dataset_weights(self.dataset)
        one_of("order", self.order, ORDERS)
        one_of("pixel_cache", self.pixel_cache, PIXEL_CACHES)
        check(self.pixel_cache_gib > 0, "--pixel-cache-gib must be positive", self.pixel_cache_gib, "take 16")
        check(
            self.order != "blocked" or None in weights.values(),
            "--order blocked shuffles one sequence, so --dataset can give no weights with it",
            self.dataset,
            "leave the weights out, or take --order plain",
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images, drawn for each image, on RGB in [0, 1]."""

    augment: bool = flag(True)  # Whether to change training images at all.
    # Blur this part of the images, sigma 0 to 3 pixels, as whoever passes them on may do. Published: 0.1 and 0.5.
    blur_probability: float = 0.0
    jpeg_probability: float = 0.0  # Compress this part of them as JPEG, quality 30 to 100. Published: 0.1 and 0.5.
    flip_left_right: bool = flag(True)  # Mirror half of them.
    flip_up_down: bool = flag(True)  # Turn half of them upside down.
    brightness: float = 0.1  # Add a number from [-brightness, brightness].
    contrast: float = 0.1  # Scale the distance from the mean by 1 - contrast .. 1 + contrast.
    hue: float = 0.1  # Turn the hue by at most this part of the circle.
    saturation: float = 0.1  # Scale the saturation by 1 - saturation .. 1 + saturation.
    rotation: float = 0.0  # Turn by at most this part of the circle, about the centre; what comes in is mirrored.
    shift: float = 0.0  # Move by at most this part of the side, in each direction; what comes in is mirrored.

    def __post_init__(self):
        for name in ("blur_probability", "jpeg_probability"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"--{name.replace('_', '-')} must lie between 0 and 1", value, "take 0.1 or 0.5")
        for name, most in STRENGTHS.items():
            value = getattr(self, name)
            check(0 <= value <= most, f"--{name} must lie between 0 and {most}", value, "take 0.1, or 0 for none")

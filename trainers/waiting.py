"""Why steps wait for images: what preparing one costs, stage by stage.

seconds = stage_seconds(source, rows, AugmentConfig())
print(bottleneck(0.45, seconds))
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfds_builders.records.pixels import RANDOM_CROP, RESIZE
from trainers.augment import augment_uint8
from trainers.inputs import Source, decoded_square

WAIT_SHARE = 0.3  # of a step's time, from which on its input is called the bottleneck
_ADVICE = {
    "read": "put the shards on faster storage, or take --order blocked at a URL",
    "decode": "take --pixel-cache, smaller images, or more --cpus-per-worker",
    "augment": "take more --cpus-per-worker, or leave augmentations out",
}


def stage_seconds(source: Source, rows: np.ndarray, augment: Any, seed: int = 0) -> dict[str, float]:
    """What preparing one image costs one thread, in seconds by stage: "read", "decode" (and resize), "augment".

    Args:
      source: where the images come from.
      rows: int64 [k], of some dozens of images to measure on.
      augment: an AugmentConfig.
      seed: of the augmentation.
    """

    @tf.function
    def decode(image):
        return decoded_square(image, source.image_size, source.aspect)

    @tf.function
    def change(image):
        return augment_uint8(image, augment, seed, tf.constant(0, tf.int64))

    seconds, started = {}, time.perf_counter()
    encoded = [tf.constant(image) for image in source.images(rows)]
    seconds["read"] = time.perf_counter() - started
    change(decode(encoded[0]))  # traced before the clock runs
    started = time.perf_counter()
    decoded = [decode(image) for image in encoded]
    seconds["decode"] = time.perf_counter() - started
    started = time.perf_counter()
    for image in decoded:
        change(image)
    seconds["augment"] = time.perf_counter() - started
    return {stage: value / len(rows) for stage, value in seconds.items()}


def bottleneck(wait_share: float, seconds: Mapping[str, float], aspect: str = RESIZE) -> str:
    """One sentence: how long steps wait for images, which stage is slowest, and what helps.

    Args:
      wait_share: part of a step's time until its images were there, 0 to 1.
      seconds: from `stage_seconds`.
      aspect: how images become squares.
    """
    slowest = max(seconds, key=lambda stage: seconds[stage])
    advice = _ADVICE[slowest]
    if slowest == "decode" and aspect == RANDOM_CROP:  # another window each time, and of the whole image
        advice = "take more --cpus-per-worker"
    parts = ", ".join(f"{stage} {1000 * value:.2f} ms" for stage, value in seconds.items())
    return (
        f"the input is the bottleneck: steps wait for images {wait_share:.0%} of their time; an image takes one thread "
        f"{parts}; slowest is {slowest}: {advice}"
    )

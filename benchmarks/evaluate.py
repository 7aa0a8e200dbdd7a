"""What evaluating adds to the network alone: the whole report card of a registered model against its forward passes.

    python benchmarks/evaluate.py                                   # ResNet50 at 224 pixels, 10,000 images: 15 minutes
    python benchmarks/evaluate.py --model meso_inception4/meso256   # a small network: 3 minutes
    python benchmarks/evaluate.py --images 1000                     # a quick look

Ours is trainers.evaluate: reading the records, decoding JPEG of 27 KB, resizing, scoring, metrics with their intervals,
figures, the page with the most wrong images. Against it stands the same registered model on as many pixels that lie in
memory, in batches of 32. Both in one process with the same threads, in turn. Its weights are random: nothing depends on
them. The last line is JSON; `ratio` is the time of ours over that of the network alone.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from build import build_dataset

_BATCH_IMAGES = 32
_OTHER_IMAGES = 64  # of each split, for the job that registers the model
_TRAINING_SHARE = 0.8  # of the images, about


def register(family: str, variant: str, data_dir: Path) -> str:
    """Registers the variant with random weights; returns the model's URI."""
    from trainers import job
    from trainers.config import DataConfig
    from trainers.models.families import FAMILIES

    usual = FAMILIES[family].variants[variant]
    parts = {split: f"{split}[:{_OTHER_IMAGES}]" for split in ("train", "validation", "test")}
    data = DataConfig("ai_vs_human", str(data_dir), **{f"{split}_split": part for split, part in parts.items()})
    config = replace(
        usual,
        data=data,
        model=replace(usual.model, weights="none"),
        optimiser=replace(usual.optimiser, epochs=0, head_epochs=0),
    )
    result = job.run(config, here=True)
    return f"models:/{result.model_name}/{result.model_version}"


def network_alone(uri: str, num_images: int) -> float:
    """Seconds of the forward passes."""
    import tensorflow as tf

    from trainers.registry import load_detector

    network = load_detector(uri).network
    shape = (_BATCH_IMAGES, network.image_size, network.image_size, 3)
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    network.score_pixels(pixels)  # the graph is made
    started = time.monotonic()
    for _ in range(num_images // _BATCH_IMAGES):
        network.score_pixels(pixels)
    return time.monotonic() - started


def whole_card(uri: str, data_dir: Path, num_images: int, out: Path) -> float:
    """Seconds of an evaluation, from loading the model to the last file."""
    from trainers.evaluate import evaluate

    started = time.monotonic()
    card = evaluate(uri, ["ai_vs_human"], str(data_dir), f"train[:{num_images}]", out)
    assert card["summary"]["n"] == num_images
    return time.monotonic() - started


def main() -> None:
    """Makes the dataset and the model, runs both sides in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50/deep_head", metavar="FAMILY/VARIANT", help="(%(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="rounded down to whole batches (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each side is run (%(default)s)")
    parser.add_argument("--work", type=Path, help="where to make the dataset (default: a temporary folder)")
    options = parser.parse_args()
    num_images = options.images // _BATCH_IMAGES * _BATCH_IMAGES
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        os.environ["REALSHARD_HOME"] = str(work / "home")
        build_dataset(work, "jpg", int(num_images / _TRAINING_SHARE) + 10 * _OTHER_IMAGES)
        uri = register(*options.model.split("/"), work / "data")
        whole_card(uri, work / "data", _BATCH_IMAGES, work / "card")  # imports, and the first figure
        alone, whole = [], []
        for _ in range(options.rounds):
            alone.append(network_alone(uri, num_images))
            whole.append(whole_card(uri, work / "data", num_images, work / "card"))
    ratio = statistics.median(b / a for a, b in zip(alone, whole, strict=True))
    print(f"\n{options.model}, {num_images:,} images\n{'':20}{'seconds':>10}{'ratio':>8}")
    print(f"{'the network alone':20}{statistics.median(alone):10.1f}{1:8.3f}")
    print(f"{'the whole card':20}{statistics.median(whole):10.1f}{ratio:8.3f}")
    print(json.dumps({"ratio": round(ratio, 3), "model": options.model, "images": num_images}))


if __name__ == "__main__":
    main()

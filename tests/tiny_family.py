"""A model family small enough to train many times in a test: convolution, BatchNorm, dropout, two phases."""

import contextlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from trainers.config import Config, ModelConfig
from trainers.models.family import Family, Phase, train_all_layers
from trainers.models.layers import stock_dropout

SLOW_SECS, POLL_SECS = 0.2, 0.05


def build(config: ModelConfig, dropout: Any = None, with_weights: bool = True) -> keras.Model:
    """uint8 [n, size, size, 3] -> P(fake) [n, 1], some 3,000 parameters."""
    dropout = dropout or stock_dropout
    layers = keras.layers
    image = keras.Input((config.image_size, config.image_size, 3), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, -1, dtype="float32")(image)
    for index, filters in enumerate((8, 16)):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        x = dropout(0.2, f"dropout{index}")(x)
        x = layers.MaxPool2D(name=f"pool{index}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = dropout(0.3, "dropout")(layers.Dense(16, "relu", name="dense")(x))
    return keras.Model(image, layers.Dense(1, "sigmoid", dtype="float32", name="p_fake")(x), name="tiny")


def _train_all(model: Any, config: ModelConfig) -> str:
    train_all_layers(model)
    return "all"


def _train_dense(model: Any, config: ModelConfig) -> str:
    for layer in model.layers:
        layer.trainable = isinstance(layer, keras.layers.Dense)
    return "the dense layers"


def phases(config: Config) -> list[Phase]:
    """The dense layers for the head epochs, then everything."""
    options = config.optimiser
    head = [Phase(options.head_epochs, options.head_learning_rate, _train_dense)] if options.head_epochs else []
    return [*head, Phase(options.epochs - options.head_epochs, options.learning_rate, _train_all)]


FAMILY = Family("tiny", {"tiny": Config()}, lambda config: None, build, phases)


def train(settings: dict[str, Any]) -> None:
    """trainers.worker.train of this family, in a worker that may die or be held.

    The file `deaths` beside the dataset, if there is one, has a line "RANK STEP" for each death, in the order of the
    steps: the worker of that rank kills itself by SIGKILL after the step, before anything of it is stored. A FIFO
    `hold-EPOCH` there holds the training after that epoch (counted from 0) until somebody who opened it for writing
    closes it. The file `hold` names a step after which every worker is held as long as the file is there; the file
    `notice` one after which every worker waits until it hears that a machine is leaving. The file `slow` names the
    rank of a worker that takes SLOW_SECS to augment an image. In the file `steps` a line "RANK STEP" says that a worker
    has taken a step; in the file `fetches` a line "PID begins" or "PID ends" that it fetches ImageNet weights.
    """
    import ray.train
    import tensorflow as tf

    from trainers import inputs, reports, waiting, worker
    from trainers.checkpoints import load_state
    from trainers.models.families import FAMILIES

    folder = Path(settings["task"].dataset_directories[0]).parent
    deaths = folder / "deaths"

    class DyingReports(reports.RayReports):
        step = 0

        @contextlib.contextmanager
        def latest(self):
            with super().latest() as directory:
                self.step = load_state(directory).step if directory else 0
                yield directory

        def is_machine_leaving(self):  # asked after each step
            self.step += 1
            first, *others = deaths.read_text().splitlines() if deaths.exists() else [""]
            if first == f"{self.rank} {self.step}":
                deaths.write_text("".join(f"{line}\n" for line in others) or "\n")
                os.kill(os.getpid(), signal.SIGKILL)
            is_leaving = super().is_machine_leaving()
            while self._is_step("notice") and not is_leaving:
                is_leaving = super().is_machine_leaving()
            note("steps", f"{self.rank} {self.step}")
            while self._is_step("hold"):
                time.sleep(POLL_SECS)
            return is_leaving

        def _is_step(self, name):
            try:
                return (folder / name).read_text() == str(self.step)
            except FileNotFoundError:
                return False

        def report(self, metrics, *arguments, **options):
            super().report(metrics, *arguments, **options)
            hold = folder / f"hold-{metrics.get('epoch')}"
            if hold.exists():
                hold.read_bytes()

    def build_noted(config, dropout=None, with_weights=True):
        if not with_weights or config.weights != "imagenet" or tf.distribute.has_strategy():
            return build(config, dropout, with_weights)
        note("fetches", f"{os.getpid()} begins")
        model = build(config, dropout, with_weights)
        note("fetches", f"{os.getpid()} ends")
        return model

    def note(name, line):
        with open(folder / name, "a") as file:
            file.write(f"{line}\n")

    def augment_slowly(*arguments):
        with tf.control_dependencies([tf.numpy_function(lambda: time.sleep(SLOW_SECS), [], [])]):
            return augment_uint8(*arguments)

    slow = folder / "slow"
    if slow.exists() and slow.read_text() == str(ray.train.get_context().get_world_rank()):
        augment_uint8 = inputs.augment_uint8
        inputs.augment_uint8 = waiting.augment_uint8 = augment_slowly

    FAMILIES["tiny"] = replace(FAMILY, build=build_noted)
    reports.RayReports = DyingReports  # type: ignore[misc]
    worker.train(settings)

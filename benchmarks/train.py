"""How fast training is: our job against bare `model.fit`, and two workers of one core against one.

    python benchmarks/train.py                                       # every comparison, 3 rounds: 15 minutes
    python benchmarks/train.py --only resnet50                       # one of them: 2 to 5 minutes
    python benchmarks/train.py --only cnn --rounds 1 --steps 8       # a quick look

Ours is a whole job (trainers.job.run): Ray Train, MLflow, images from TFRecords, decoded while it trains. Against it
stands Keras's `fit` on the same pixels in memory: same model, optimiser, trained layers, batch and steps per call,
no augmentation on either side. `fit` is compiled without XLA, as our step is; `--xla` measures both with it too.
Worker against workers: each is held on a core of its own, the global batch is the same.

A side is a process of its own. Sides alternate round by round. Images/s are those of all epochs but the first, without
the first call of each, medians over epochs and rounds; `ratio` columns are medians of the rounds' own ratios. "others"
is what else used the processors before a side began, in per cent of all cores. The last line is JSON; its `ratio` is
that of the first comparison: ours over fit, or two workers over one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from build import build_dataset

from trainers.config import ClusterConfig, Config, DataConfig, JobConfig, from_dict, to_dict
from trainers.models.families import FAMILIES
from trainers.strategy import Resources, prepare_process

EPOCHS = 3  # the first is left out
CALLS = 4  # of an epoch; the first is left out
LOOK_SECS = 2.0  # at what others do, before a side begins


@dataclass(frozen=True)
class Comparison:
    """What is measured of a published variant, whose own batch, image size and optimiser are used."""

    family: str
    variant: str
    steps: int  # an epoch
    against: str  # "fit", or "one worker" against two


COMPARISONS = {
    "resnet50": Comparison("resnet50", "deep_head", 8, "fit"),
    "cnn": Comparison("cnn", "v6", 8, "fit"),
    "cnn_workers": Comparison("cnn", "v6", 8, "one worker"),
    "meso_workers": Comparison("meso_inception4", "meso150", 12, "one worker"),
}


@dataclass(frozen=True)
class Side:
    """One way of training."""

    kind: str  # "fit" or "job"
    config: Config
    is_held: bool = False  # each worker on a core of its own


def config_of(comparison: Comparison, steps: int, work: Path) -> Config:
    """The variant's recipe on `steps` batches, without augmentation and early stopping."""
    usual = FAMILIES[comparison.family].variants[comparison.variant]
    images = steps * usual.optimiser.global_batch_size
    return replace(
        usual,
        data=DataConfig(
            dataset="ai_vs_human",
            data_dir=str(work / "data"),
            train_split=f"train[:{images}]",
            validation_split="validation[:32]",
            test_split="test[:32]",
        ),
        model=replace(usual.model, weights=str(weights_file(work)) if comparison.family == "resnet50" else "none"),
        optimiser=replace(
            usual.optimiser, epochs=EPOCHS, early_stopping_patience=0, steps_per_call=max(1, steps // CALLS)
        ),
        augmentation=replace(usual.augmentation, augment=False),
        job=JobConfig(register=False),
    )


def weights_file(work: Path) -> Path:
    """Random weights in a file: given one, ResNet50's first 150 layers are frozen, as they are with ImageNet's."""
    return work / "resnet50.weights.h5"


def save_weights(work: Path) -> None:
    """Makes that file; in a process of its own, since it takes TensorFlow."""
    family = FAMILIES["resnet50"]
    model = family.build(replace(family.variants["deep_head"].model, weights="none"))
    model.save_weights(weights_file(work))


def sides_of(name: str, config: Config, xla: bool) -> dict[str, Side]:
    """The rows of a comparison's table, of which the first is what the others are divided by."""
    if COMPARISONS[name].against == "one worker":
        clusters = [ClusterConfig(workers=str(workers), cpus_per_worker=1) for workers in (1, 2)]
        held = [Side("job", replace(config, cluster=cluster), is_held=True) for cluster in clusters]
        return dict(zip(("one worker", "two workers"), held, strict=True))
    sides = {"fit": Side("fit", config), "ours": Side("job", config)}
    if name != "resnet50":  # which waits for no image
        sides["ours, --pixel-cache memory"] = Side(
            "job", replace(config, data=replace(config.data, pixel_cache="memory"))
        )
    if xla:
        compiled = replace(config, optimiser=replace(config.optimiser, xla=True))
        sides |= {"fit, XLA": Side("fit", compiled), "ours, --xla": Side("job", compiled)}
    return sides


# -- in a process of its own --


def run_fit(config: Config) -> list[float]:
    """Images/s of each epoch of `fit` on the images that the job of this config reads."""
    prepare_process(Resources(workers=1, cpus=os.cpu_count() or 1, devices=1, gpus=0))
    import keras
    import numpy as np

    from trainers.dataset import find, load
    from trainers.inputs import training_batches
    from trainers.optimiser import make_optimizer
    from trainers.order import Order

    options, family = config.optimiser, FAMILIES[config.model.family]
    records = load(find(config.data.dataset, config.data.data_dir)).select(config.data.train_split)
    order = Order(len(records), options.global_batch_size, config.job.seed)
    batches = list(
        training_batches(
            records, order, image_size=config.model.image_size, seed=config.job.seed, num_steps=order.steps_per_epoch
        ).as_numpy_iterator()
    )
    images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    keras.utils.set_random_seed(config.job.seed)
    model = family.build(config.model)
    (phase,) = family.phases(config)
    phase.set_trainable(model, config.model)
    model.compile(
        make_optimizer(phase.learning_rate, options),
        "binary_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=options.steps_per_call,
        jit_compile=options.xla,
    )
    speeds = []

    class Clock(keras.callbacks.Callback):
        """Measures an epoch from the end of its first call to the end of its last."""

        def on_epoch_begin(self, epoch, logs=None):
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append((batch + 1, time.monotonic()))

        def on_epoch_end(self, epoch, logs=None):
            (first, began), (last, ended) = self.ends[0], self.ends[-1]
            speeds.append((last - first) * options.global_batch_size / (ended - began))

    model.fit(images, labels, options.global_batch_size, options.epochs, verbose=0, callbacks=[Clock()])
    return speeds


def run_job(config: Config, is_held: bool) -> list[float]:
    """Images/s of each epoch of a job."""
    from trainers import job, recovery
    from trainers.jobs import HISTORY

    if is_held:
        recovery.train = train_on_one_core
    history = json.loads((Path(job.run(config).directory) / HISTORY).read_text())
    return [entry["train/images_per_second"] for entry in history]


def train_on_one_core(settings: dict) -> None:
    """trainers.worker.train, held on the core of the worker's rank. Operations that do not depend on one another would
    otherwise use further cores, however many CPUs Ray counts for the worker."""
    import ray.train

    from trainers import worker

    cores = sorted(os.sched_getaffinity(0))
    core = cores[ray.train.get_context().get_world_rank() % len(cores)]
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    worker.train(settings)


# -- outside --


def run_apart(*arguments: str, work: Path) -> str:
    """The last line that this file prints when it is started with the arguments."""
    environment = os.environ | {"REALSHARD_HOME": str(work / "home"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["RAY_worker_niceness"] = "0"  # as `fit` has: Ray's own 15 yields to whatever else runs
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def measure(sides: dict[str, Side], rounds: int, work: Path) -> dict[str, list[tuple[float, float]]]:
    """(images/s, per cent of the processors that others used before) of each side in each round."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            others = psutil.cpu_percent(LOOK_SECS)
            told = {"kind": side.kind, "config": to_dict(side.config), "is_held": side.is_held}
            speeds = json.loads(run_apart("--side", json.dumps(told), work=work))
            measured[name].append((statistics.median(speeds[1:]), others))
            print(f"{name}: {measured[name][-1][0]:.1f} images/s", file=sys.stderr, flush=True)
    return measured


def report(title: str, measured: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Prints one table; returns each side's ratio to the first."""
    print(f"\n{title}\n{'':32}{'images/s':>10}{'ratio':>8}{'others':>9}")
    base, ratios = next(iter(measured.values())), {}
    for name, rounds in measured.items():
        ratios[name] = statistics.median(a / b for (a, _), (b, _) in zip(rounds, base, strict=True))
        speed, others = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{name:32}{speed:10,.1f}{ratios[name]:8.3f}{others:8.0f}%", flush=True)
    return ratios


def main() -> None:
    """Makes the dataset, runs every side and prints the tables."""
    if sys.argv[1:2] == ["--side"]:
        side = json.loads(sys.argv[2])
        config = from_dict(side["config"])
        print(json.dumps(run_fit(config) if side["kind"] == "fit" else run_job(config, side["is_held"])))
        return
    if sys.argv[1:2] == ["--weights"]:
        save_weights(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=list(COMPARISONS), default=list(COMPARISONS), help="(default: all)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is run")
    parser.add_argument("--steps", type=int, help="of an epoch, at least 8 (default: 8 or 12)")
    parser.add_argument("--xla", action="store_true", help="measure fit and ours with XLA too, which starts slowly")
    parser.add_argument("--work", type=Path, help="where to make the dataset (default: a temporary folder)")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        steps = {name: options.steps or COMPARISONS[name].steps for name in options.only}
        configs = {name: config_of(COMPARISONS[name], steps[name], work) for name in options.only}
        num_images = max(steps[name] * config.optimiser.global_batch_size for name, config in configs.items())
        build_dataset(work, "jpg", num_images * 3 // 2)  # 80 % of them are for training
        if "resnet50" in configs:
            run_apart("--weights", str(work), work=work)
        for name, config in configs.items():
            title = f"{name}: {config.model.family} {config.model.variant}, {config.model.image_size} pixels, "
            title += f"batch {config.optimiser.global_batch_size}"
            ratios = report(title, measure(sides_of(name, config, options.xla), options.rounds, work))
            found |= {f"{name}, {side}": round(ratio, 3) for side, ratio in list(ratios.items())[1:]}
    print(json.dumps({"ratio": next(iter(found.values()))} | found))


if __name__ == "__main__":
    main()

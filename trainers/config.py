"""What a job is told: frozen dataclasses, their checks, and the command line made from them.

The comments behind the fields are the texts of --help. Every flag `--x-y` can also be given a default by the
environment variable `REALSHARD_X_Y`; a flag on the command line wins over it.
"""

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simple_parsing

from tfds_builders.records.errors import Refused

ENVIRONMENT_PREFIX = "REALSHARD_"
SMALLEST_IMAGE = 32  # pixels; ResNet50 halves the sides five times
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # also a directory name and an MLflow run name

THRESHOLD_RULES = ("fixed", "balanced", "fpr")  # see trainers/decision.py


def _flag(default: bool) -> Any:
    return simple_parsing.flag(default, negative_prefix="--no-")


def _columns(metavar: str = "COLUMN=VALUE[,VALUE]") -> Any:
    return simple_parsing.field(default=(), metavar=metavar)


@dataclass(frozen=True)
class DataConfig:
    """The dataset, and which of its records take part."""

    dataset: str = "ai_vs_human"  # Name of a dataset built by `tfds build`.
    data_dir: str = ""  # Where built datasets are. Default: TFDS_DATA_DIR, else TFDS's own ~/tensorflow_datasets.
    # Train and validate only on records whose column of the manifest has one of the values, for example
    # `category=car,cat`. The test split is always evaluated whole.
    only: tuple[str, ...] = _columns()
    exclude: tuple[str, ...] = _columns()  # The opposite: leave such records out, for example `generator=spectral`.
    # A control: train on labels that were shuffled among the images. The test AUC must come out near 0.5.
    shuffle_labels: bool = _flag(False)

    def __post_init__(self):
        selection(self.only)
        selection(self.exclude)
        _check(bool(self.dataset), "--dataset must name a built dataset", self.dataset, "give its name")


@dataclass(frozen=True)
class ModelConfig:
    """The model."""

    variant: str = "deep_head"  # Which head, and which layers are trained.
    # Where the weights come from: `imagenet` (the backbone's, downloaded once), `none` (random, every layer is
    # trained), or a file: .keras or .weights.h5 of a model trained here, or keras.applications' ..._notop.h5.
    weights: str = "imagenet"
    image_size: int = 224  # Side of the square that images are resized to, pixels.
    threshold: float = 0.5  # P(fake) from which on an image is called fake.
    # How the threshold is chosen on the validation images after training: `fixed` (--threshold), `balanced` (best
    # balanced accuracy) or `fpr` (the most fakes with at most --target-fpr of the reals called fake).
    threshold_rule: str = "fixed"
    target_fpr: float = 0.01  # With --threshold-rule fpr: the largest share of reals called fake.
    calibrate: bool = _flag(False)  # Fit a temperature on the validation images, so that P(fake) is a probability.
    # Verdicts are unsure around the threshold, where less than this share of validation verdicts is right; 0: never.
    unsure_below: float = 0.0
    family: str = simple_parsing.field(default="resnet50", cmd=False)

    def __post_init__(self):
        _check(
            self.image_size >= SMALLEST_IMAGE,
            f"--image-size must be at least {SMALLEST_IMAGE} pixels",
            self.image_size,
            "take 224, or 64 to be quick",
        )
        _check(0 < self.threshold < 1, "--threshold must lie between 0 and 1", self.threshold, "take 0.5")
        _check(
            self.threshold_rule in THRESHOLD_RULES,
            f"--threshold-rule must be one of {', '.join(THRESHOLD_RULES)}",
            self.threshold_rule,
            "take fixed",
        )
        _check(0 < self.target_fpr < 1, "--target-fpr must lie between 0 and 1", self.target_fpr, "take 0.01")
        _check(0 <= self.unsure_below < 1, "--unsure-below must lie between 0 and 1", self.unsure_below, "take 0.9")
        _check(bool(self.weights), "--weights must be given", self.weights, "take imagenet, none or a file")


@dataclass(frozen=True)
class OptimiserConfig:
    """How it is trained. The batch is the GLOBAL one: the replicas share it."""

    epochs: int = 10  # Passes over the training records, at most.
    global_batch_size: int = 32  # Images a step, over all replicas.
    learning_rate: float = 1e-4  # Of Adam.
    # Before the other epochs, so many in which the backbone is frozen and only the head is trained. With --weights
    # none everything is trained in all epochs; if there are head epochs, at their rate.
    head_epochs: int = 0
    head_learning_rate: float = 1e-3  # Of Adam, in the head epochs.
    early_stopping_patience: int = 5  # Stop after so many epochs without a smaller validation loss; 0: never.
    reduce_lr_on_plateau: bool = _flag(False)  # Cut the rate when the validation loss stops falling.
    plateau_factor: float = 0.1  # What the rate is multiplied by then.
    plateau_patience: int = 3  # After so many epochs without a smaller validation loss.
    min_learning_rate: float = 1e-6  # The rate is not cut below this.
    steps_per_call: int = 0  # Steps between two looks at the loss; 0: about two seconds' worth.

    def __post_init__(self):
        _check(self.epochs >= 1, "--epochs must be at least 1", self.epochs, "take 10")
        _check(self.global_batch_size >= 1, "--global-batch-size must be at least 1", self.global_batch_size, "take 32")
        _check(self.learning_rate > 0, "--learning-rate must be positive", self.learning_rate, "take 1e-4")
        _check(
            self.head_learning_rate > 0, "--head-learning-rate must be positive", self.head_learning_rate, "take 1e-3"
        )
        _check(
            0 <= self.head_epochs < self.epochs,
            "--head-epochs must be at least 0 and leave some of --epochs",
            f"{self.head_epochs} of {self.epochs}",
            "take fewer head epochs",
        )
        _check(0 < self.plateau_factor < 1, "--plateau-factor must lie between 0 and 1", self.plateau_factor, "0.1")
        for name in ("early_stopping_patience", "plateau_patience", "steps_per_call", "min_learning_rate"):
            value = getattr(self, name)
            _check(value >= 0, f"--{name.replace('_', '-')} must not be negative", value, "take 0 or more")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images, drawn for each image, on RGB in [0, 1]."""

    augment: bool = _flag(True)  # Whether to change training images at all.
    flip_left_right: bool = _flag(True)  # Mirror half of them.
    flip_up_down: bool = _flag(True)  # Turn half of them upside down.
    brightness: float = 0.1  # Add a number from [-brightness, brightness].
    contrast: float = 0.1  # Scale the distance from the mean by 1 - contrast .. 1 + contrast.
    hue: float = 0.1  # Turn the hue by at most this part of the circle.
    saturation: float = 0.1  # Scale the saturation by 1 - saturation .. 1 + saturation.

    def __post_init__(self):
        for name, most in (("brightness", 1.0), ("contrast", 0.99), ("hue", 0.5), ("saturation", 0.99)):
            value = getattr(self, name)
            _check(0 <= value <= most, f"--{name} must lie between 0 and {most}", value, "take 0.1, or 0 for none")


@dataclass(frozen=True)
class ClusterConfig:
    """What it runs on: the Ray cluster at RAY_ADDRESS, or this machine."""

    workers: int = 1  # Ray Train workers, each a process with its own devices.
    # Devices of each worker, one replica each: GPUs, or logical CPU devices where the cluster has no GPU.
    # 0: all GPUs of a machine, or one CPU device.
    devices_per_worker: int = 0
    cpus_per_worker: int = 0  # CPUs of each worker, for reading images and for training without GPU. 0: all.

    def __post_init__(self):
        _check(self.workers >= 1, "--workers must be at least 1", self.workers, "take 1")
        for name in ("devices_per_worker", "cpus_per_worker"):
            value = getattr(self, name)
            _check(value >= 0, f"--{name.replace('_', '-')} must not be negative", value, "take 0 for the default")


@dataclass(frozen=True)
class JobConfig:
    """The job: one name, one MLflow run, one registered model."""

    # Name of the job; the same command with the name of an unfinished job resumes it. Default: a new name.
    name: str = ""
    seed: int = 0  # Of the weights, the order, the augmentation and the dropout.
    experiment: str = "realshard"  # MLflow experiment.
    register: bool = _flag(True)  # Register the trained model.
    registered_name: str = ""  # Name of the registered model. Default: realshard-FAMILY.

    def __post_init__(self):
        _check(
            not self.name or NAME.fullmatch(self.name) is not None,
            "--name must be 1 to 100 letters, digits, dots, dashes and underscores, and not begin with a sign",
            self.name,
            "leave it out for a new name",
        )
        _check(0 <= self.seed < 2**31, "--seed must be a number from 0 to 2147483647", self.seed, "take 0")


@dataclass(frozen=True)
class Config:
    """All of it."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    job: JobConfig = field(default_factory=JobConfig)

    def __post_init__(self):
        if self.cluster.devices_per_worker:
            check_global_batch(self.optimiser.global_batch_size, self.cluster.workers * self.cluster.devices_per_worker)


def check_global_batch(global_batch_size: int, replicas: int) -> int:
    """The batch of one replica, images.

    Raises:
      ValueError: the replicas cannot share the global batch equally; names the nearest sizes that they can.
    """
    below = global_batch_size // replicas * replicas
    nearest = f"{below} or {below + replicas}" if below else f"{replicas}"
    _check(
        global_batch_size % replicas == 0,
        f"--global-batch-size must be divisible by the number of replicas, {replicas}",
        global_batch_size,
        f"take {nearest}, or another number of workers or devices",
    )
    return global_batch_size // replicas


def selection(terms: Sequence[str]) -> dict[str, set[str]]:
    """`("category=car,cat", "generator=blend")` as {"category": {"car", "cat"}, "generator": {"blend"}}.

    Raises:
      ValueError: a term is not of the form COLUMN=VALUE[,VALUE...], or a column comes twice.
    """
    selected: dict[str, set[str]] = {}
    for term in terms:
        column, sign, values = term.partition("=")
        _check(
            bool(column and sign) and column not in selected,
            "--only and --exclude take COLUMN=VALUE[,VALUE...], each column once",
            term,
            "write for example category=car,cat",
        )
        selected[column] = set(values.split(","))
    return selected


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The config as plain dicts, lists, strings and numbers, fit for JSON: {group: {field: value}}."""
    return {
        group: {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        for group, fields in dataclasses.asdict(config).items()
    }


def from_dict(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """The inverse of `to_dict`."""
    groups = {}
    for group in dataclasses.fields(Config):
        given = values[group.name]
        assert callable(group.default_factory)  # every group is a dataclass
        groups[group.name] = group.default_factory(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        )
    return Config(**groups)


def flatten(config: Config) -> dict[str, Any]:
    """The config as one flat dict, {field: value}: field names are unique over the groups."""
    return {name: value for fields in to_dict(config).values() for name, value in fields.items()}


def difference(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs between two `to_dict` results, as "--flag old -> new"; of the cluster and the job only the seed
    counts, since where a job runs and where its model goes do not change the result."""
    found = []
    for group in new:
        for name, value in new[group].items():
            before = old.get(group, {}).get(name)
            if before != value and (group not in ("cluster", "job") or name == "seed"):
                found.append(f"--{name.replace('_', '-')} {before} -> {value}")
    return found


class _Parser(simple_parsing.ArgumentParser):
    """Prints the groups of --help by their descriptions alone."""

    def format_help(self) -> str:
        text = super().format_help()
        text = re.sub(r"^Config \['config'\]:\n.*\n\n", "", text, flags=re.MULTILINE)
        return re.sub(r"^\w+ \['config\.\w+'\]:\n  (.*)\n\n", r"\1\n", text, flags=re.MULTILINE)


def parse(
    argv: Sequence[str], variants: Mapping[str, Config], description: str = "", prog: str | None = None
) -> Config:
    """The config of a command line.

    Args:
      argv: the arguments, without the program's name.
      variants: the defaults of each variant; the first is the default variant.
      description: what --help says first.
      prog: the program's name in --help.

    Raises:
      Refused: an unknown variant, or a value that breaks a rule.
    """
    arguments = _from_environment() + list(argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--variant", default=next(iter(variants)))
    variant = first.parse_known_args(arguments)[0].variant
    if variant not in variants:
        raise Refused(f"--variant must be one of {', '.join(variants)}. Received: {variant!r}. Take one of them.")
    parser = _Parser(
        prog=prog,
        description=description,
        add_option_string_dash_variants=simple_parsing.DashVariant.DASH,
        allow_abbrev=False,
    )
    parser.add_arguments(Config, dest="config", default=variants[variant])
    flags = [argument.split("=")[0] for argument in argv if argument.startswith("--")]
    twice = {flag for flag in flags if flags.count(flag) > 1}
    if twice:
        raise Refused(
            f"a flag may be given once. Received twice: {', '.join(sorted(twice))}. Give all values after one."
        )
    try:
        return parser.parse_args(arguments).config
    except ValueError as error:
        raise Refused(str(error)) from None


def _from_environment() -> list[str]:
    """The REALSHARD_* variables that have the name of a flag, as arguments."""
    arguments = []
    for group in dataclasses.fields(Config):
        for option in dataclasses.fields(group.default_factory):  # type: ignore[arg-type]
            value = os.environ.get(ENVIRONMENT_PREFIX + option.name.upper())
            if value and option.name != "family":
                flag = "--" + option.name.replace("_", "-")
                arguments += [flag, *value.split()] if option.default == () else [flag, value]
    return arguments


def _check(holds: bool, rule: str, received: Any, advice: str) -> None:
    if not holds:
        raise ValueError(f"{rule}. Received: {received!r}. Advice: {advice}.")

"""What a job is told: frozen dataclasses and their checks. The comments behind the fields are the texts of --help."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import simple_parsing

from trainers.checks import check, check_global_batch, flag, not_negative, one_of
from trainers.data_config import AugmentConfig, DataConfig

SMALLEST_IMAGE = 32  # pixels; ResNet50 halves the sides five times
OPTIMISERS = ("adam", "adamw", "rmsprop", "sgd")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # also a directory name and an MLflow run name
ASPECTS = ("resize", "centre_crop", "random_crop")  # as in records/pixels.py
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
RATE_SCALES = ("none", "linear", "sqrt")
# Change no bit of the result: where the data is, which its fingerprint tells, and how it gets to the devices.
WITHOUT_EFFECT = ("data_dir", "pixel_cache", "pixel_cache_gib", "steps_per_call")
THRESHOLD_RULES = ("fixed", "balanced", "fpr")  # see trainers/decision.py


@dataclass(frozen=True)
class ModelConfig:
    """The model."""

    variant: str = "deep_head"  # Which network, head and recipe: see the list above.
    # Where the weights come from: `imagenet` (the backbone's, downloaded once), `none` (random, every layer is
    # trained), models:/NAME@ALIAS (a registered model is trained further), or a file: .keras or .weights.h5 of a model
    # trained here, or keras.applications' ..._notop.h5.
    # trainers/vit.py also takes a checkpoint in Hugging Face's format: a directory, or hf://OWNER/NAME.
    weights: str = "imagenet"
    image_size: int = 224  # Side of the square that a model sees of an image, pixels.
    # How an image becomes a square: `resize` squeezes it; `centre_crop` resizes the largest square in its middle;
    # `random_crop` resamples nothing, which keeps forensic traces: a window of --image-size of the image's own pixels,
    # from anywhere in training, the middle one in evaluation and serving. Sides that are shorter are mirrored.
    aspect: str = "resize"
    threshold: float = 0.5  # P(fake) from which on an image is called fake.
    # How the threshold is chosen on the validation images after training: `fixed` (--threshold), `balanced` (best
    # balanced accuracy) or `fpr` (the most fakes with at most --target-fpr of the reals called fake).
    threshold_rule: str = "fixed"
    target_fpr: float = 0.01  # With --threshold-rule fpr: the largest share of reals called fake.
    calibrate: bool = flag(False)  # Fit a temperature on the validation images, so that P(fake) is a probability.
    # Verdicts are unsure around the threshold, where less than this share of validation verdicts is right; 0: never.
    unsure_below: float = 0.0
    dropout: float | None = None  # Rate of all dropout layers. Default: the variant's own rates.
    family: str = simple_parsing.field(default="resnet50", cmd=False)

    def __post_init__(self):
        check(
            self.image_size >= SMALLEST_IMAGE,
            f"--image-size must be at least {SMALLEST_IMAGE} pixels",
            self.image_size,
            "take 224, or 64 to be quick",
        )
        one_of("aspect", self.aspect, ASPECTS)
        check(0 < self.threshold < 1, "--threshold must lie between 0 and 1", self.threshold, "take 0.5")
        check(
            self.dropout is None or 0 <= self.dropout < 1,
            "--dropout must be at least 0 and less than 1",
            self.dropout,
            "leave it out for the variant's own rates",
        )
        one_of("threshold_rule", self.threshold_rule, THRESHOLD_RULES)
        check(0 < self.target_fpr < 1, "--target-fpr must lie between 0 and 1", self.target_fpr, "take 0.01")
        check(0 <= self.unsure_below < 1, "--unsure-below must lie between 0 and 1", self.unsure_below, "take 0.9")
        check(bool(self.weights), "--weights must be given", self.weights, "take imagenet, none or a file")


@dataclass(frozen=True)
class OptimiserConfig:
    """How it is trained. The batch is the GLOBAL one: the replicas share it."""

    epochs: int = 10  # Passes over the training records, at most. 0: the weights are evaluated as they are.
    global_batch_size: int = 32  # Images a step, over all replicas.
    learning_rate: float = 1e-4  # Of the optimiser.
    # Before the other epochs, so many at --head-learning-rate in which the backbone is frozen and only the head is
    # trained; with --weights none everything is.
    head_epochs: int = 0
    head_learning_rate: float = 1e-3  # In the head epochs.
    early_stopping_patience: int = 5  # Stop after so many epochs without a smaller validation loss; 0: never.
    reduce_lr_on_plateau: bool = flag(False)  # Cut the rate when the validation loss stops falling.
    plateau_factor: float = 0.1  # What the rate is multiplied by then.
    plateau_patience: int = 3  # After so many epochs without a smaller validation loss.
    min_learning_rate: float = 1e-6  # The rate is not cut below this, nor does a cosine end below it.
    # Multiply the rates by the global batch over that of the variant's defaults (`linear`), or by its root (`sqrt`).
    scale_rate: str = "none"
    warm_up_steps: int = 0  # Steps over which the rate rises linearly to its value, at the beginning of each phase.
    schedule: str = "constant"  # Or `cosine`: the rate falls to the least one over a phase, step by step.
    clip_norm: float = 0.0  # The gradient of the global batch is scaled down to this norm at most; 0: never.
    accumulate: int = 1  # Parts that a replica's share of the batch is cut into, to need less memory.
    ema_decay: float = 0.0  # Evaluate and keep a moving average of the weights with this decay a step; 0: none.
    class_weights: str = "none"  # Or `balanced`: both classes count alike in the loss, however often they are drawn.
    # What layers compute in: `float32` (on GPUs too, without TF32), `mixed_bfloat16` or `mixed_float16`. Weights stay
    # float32.
    precision: str = "float32"
    # Compile what a replica computes (XLA). Starting takes longer, rounding differs, dropout draws other masks, and
    # several replicas cannot train batch normalisation.
    xla: bool = flag(False)
    steps_per_call: int = 0  # Steps between two looks at the loss; 0: about two seconds' worth.
    optimiser: str = "adam"  # adam, adamw, rmsprop, or sgd (with momentum 0.9).
    # Of all trained weights: adamw's own, and with the others this times the weight, added to its gradient.
    weight_decay: float = 0.0
    decay_every_epochs: int = 0  # After so many epochs, and again after as many, the rate is cut; 0: never.
    decay_factor: float = 0.1  # What it is multiplied by then.

    def __post_init__(self):
        not_negative(
            self,
            "epochs",
            "early_stopping_patience",
            "plateau_patience",
            "steps_per_call",
            "min_learning_rate",
            "warm_up_steps",
            "clip_norm",
            "decay_every_epochs",
        )
        check(self.global_batch_size >= 1, "--global-batch-size must be at least 1", self.global_batch_size, "take 32")
        check(self.learning_rate > 0, "--learning-rate must be positive", self.learning_rate, "take 1e-4")
        check(
            self.head_learning_rate > 0, "--head-learning-rate must be positive", self.head_learning_rate, "take 1e-3"
        )
        check(
            0 <= self.head_epochs < self.epochs or not self.epochs,
            "--head-epochs must be at least 0 and leave some of --epochs",
            f"{self.head_epochs} of {self.epochs}",
            "take fewer head epochs",
        )
        check(0 < self.plateau_factor < 1, "--plateau-factor must lie between 0 and 1", self.plateau_factor, "0.1")
        one_of("scale_rate", self.scale_rate, RATE_SCALES)
        one_of("schedule", self.schedule, ("constant", "cosine"))
        one_of("class_weights", self.class_weights, ("none", "balanced"))
        one_of("precision", self.precision, PRECISIONS)
        check(
            self.schedule == "constant" or not self.reduce_lr_on_plateau,
            "--schedule cosine and --reduce-lr-on-plateau exclude each other",
            "both",
            "take one of them: --no-reduce-lr-on-plateau, or --schedule constant",
        )
        check(0 <= self.ema_decay < 1, "--ema-decay must be at least 0 and less than 1", self.ema_decay, "take 0.999")
        check(
            self.accumulate >= 1 and self.global_batch_size % self.accumulate == 0,
            "--accumulate must be at least 1 and divide --global-batch-size",
            f"{self.accumulate} for {self.global_batch_size}",
            "take a divisor",
        )
        one_of("optimiser", self.optimiser, OPTIMISERS)
        check(0 < self.decay_factor < 1, "--decay-factor must lie between 0 and 1", self.decay_factor, "take 0.1")
        check(0 <= self.weight_decay < 1, "--weight-decay must be at least 0 and less than 1", self.weight_decay, "0")


@dataclass(frozen=True)
class ClusterConfig:
    """What it runs on: the Ray cluster at RAY_ADDRESS, or this machine."""

    # Ray Train workers, each a process with its own devices. Of a range such as `1:4` the largest number is taken, when
    # the job starts, for which there is room and whose replicas can share the global batch equally.
    workers: str = "1"
    # Devices of each worker, one replica each: GPUs, or logical CPU devices where the cluster has no GPU.
    # 0: all GPUs of a machine, so that the next job on its cluster waits for this one's end; or one CPU device.
    devices_per_worker: int = 0
    # CPUs of each worker, for reading images and for training without GPU. 0: all, so that the next job waits; of a
    # machine with GPUs, those that go with the worker's share of them.
    cpus_per_worker: int = 0
    max_failures: int = 3  # How often a job goes on by itself, from its newest checkpoint, after workers died.
    checkpoint_steps: int = 0  # Steps between two checkpoints inside an epoch, besides the one at its end; 0: none.
    checkpoint_minutes: float = 10.0  # Minutes from one checkpoint to the next; 0: none inside an epoch.
    deterministic: bool = flag(False)  # Take operations that give the same bits every time, where others are faster.

    def __post_init__(self):
        given = re.fullmatch(r"([1-9][0-9]*)(?::([1-9][0-9]*))?", str(self.workers))
        check(
            given is not None and int(given[1]) <= int(given[2] or given[1]),
            "--workers must be a number of at least 1, or a range such as 1:4",
            self.workers,
            "take 1",
        )
        not_negative(
            self, "devices_per_worker", "cpus_per_worker", "max_failures", "checkpoint_steps", "checkpoint_minutes"
        )

    @property
    def worker_counts(self) -> range:
        """The numbers of workers that will do."""
        fewest, _, most = str(self.workers).partition(":")
        return range(int(fewest), int(most or fewest) + 1)


@dataclass(frozen=True)
class JobConfig:
    """The job: one name, one MLflow run, one registered model."""

    # Name of the job; the same command with the name of an unfinished job resumes it. Default: a new name.
    name: str = ""
    seed: int = 0  # Of the weights, the order, the augmentation and the dropout.
    experiment: str = "realshard"  # MLflow experiment.
    register: bool = flag(True)  # Register the trained model.
    log_checkpoints: bool = flag(False)  # Keep in MLflow the model of every epoch that was the best so far.
    system_metrics_secs: int = 10  # Seconds between two samples of how busy the training machines are; 0: none.
    registered_name: str = ""  # Name of the registered model. Default: realshard-FAMILY.

    def __post_init__(self):
        check(
            not self.name or NAME.fullmatch(self.name) is not None,
            "--name must be 1 to 100 letters, digits, dots, dashes and underscores, and not begin with a sign",
            self.name,
            "leave it out for a new name",
        )
        not_negative(self, "system_metrics_secs")
        check(0 <= self.seed < 2**31, "--seed must be a number from 0 to 2147483647", self.seed, "take 0")


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
        size, parts = self.optimiser.global_batch_size, self.optimiser.accumulate
        replicas = [workers * self.cluster.devices_per_worker for workers in self.cluster.worker_counts]
        if all(number and size % (number * parts) for number in replicas):
            check_global_batch(size, replicas[0], parts)
        check(
            self.optimiser.class_weights == "none" or self.data.order != "balanced",
            "--class-weights balanced and --order balanced correct the same thing twice",
            "both",
            "take one of them",
        )
        check(
            self.model.aspect != "random_crop" or self.data.pixel_cache == "none",
            "--pixel-cache holds one square of each image, --aspect random_crop cuts out another each time",
            "both",
            "take one of them, or --aspect centre_crop",
        )


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
    """What differs between two `to_dict` results, as "--flag old -> new", and may change what is trained: of the
    cluster and the job only the seed counts, of the others all but WITHOUT_EFFECT."""
    found = []
    for group in new:
        for name, value in new[group].items():
            before = old.get(group, {}).get(name)
            counts = name == "seed" if group in ("cluster", "job") else name not in WITHOUT_EFFECT
            if before != value and counts:
                found.append(f"--{name.replace('_', '-')} {before} -> {value}")
    return found

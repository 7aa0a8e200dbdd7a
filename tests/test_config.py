"""The command line: defaults, environment, refusals."""

import json

import pytest

from tfds_builders.records.errors import Refused
from trainers.checks import check_global_batch, dataset_weights, selection
from trainers.command_line import parse
from trainers.config import Config, difference, from_dict, to_dict
from trainers.models.resnet import VARIANTS


def refusal(*argv: str) -> str:
    with pytest.raises(Refused) as caught:
        parse(argv, VARIANTS)
    return str(caught.value)


def test_bare_command_is_the_published_deep_head():
    config = parse([], VARIANTS)
    assert config == Config()
    assert (config.model.variant, config.model.weights, config.model.image_size) == ("deep_head", "imagenet", 224)
    assert (config.optimiser.learning_rate, config.optimiser.global_batch_size, config.optimiser.epochs) == (
        1e-4,
        32,
        10,
    )
    assert not config.optimiser.reduce_lr_on_plateau


def test_variant_brings_its_own_defaults_and_flags_win_over_them():
    config = parse(["--epochs", "12", "--variant", "gap_head"], VARIANTS)
    assert config.optimiser.reduce_lr_on_plateau
    assert (config.optimiser.head_epochs, config.optimiser.learning_rate, config.optimiser.epochs) == (3, 1e-5, 12)


def test_environment_sets_defaults_and_flags_win(monkeypatch):
    monkeypatch.setenv("REALSHARD_WEIGHTS", "none")
    monkeypatch.setenv("REALSHARD_EPOCHS", "3")
    monkeypatch.setenv("REALSHARD_REGISTER", "false")
    monkeypatch.setenv("REALSHARD_ONLY", "category=car,cat generator=blend")
    config = parse(["--epochs", "5"], VARIANTS)
    assert (config.model.weights, config.optimiser.epochs, config.job.register) == ("none", 5, False)
    assert selection(config.data.only) == {"category": {"car", "cat"}, "generator": {"blend"}}


def test_environment_is_checked_like_flags(monkeypatch):
    monkeypatch.setenv("REALSHARD_IMAGE_SIZE", "7")
    assert "--image-size must be at least 32" in refusal()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--variant nope", "must be one of deep_head, gap_head, flatten_head, gap256_rmsprop"),
        ("--image-size 31", "at least 32 pixels"),
        ("--epochs -1", "--epochs must not be negative"),
        ("--global-batch-size 0", "--global-batch-size must be at least 1"),
        ("--learning-rate 0", "--learning-rate must be positive"),
        ("--learning-rate nan", "--learning-rate must be positive"),
        ("--head-epochs 10", "leave some of --epochs"),
        ("--plateau-factor 1", "between 0 and 1"),
        ("--early-stopping-patience -1", "must not be negative"),
        ("--optimiser adagrad", "--optimiser must be one of adam, adamw, rmsprop, sgd"),
        ("--weight-decay -0.1", "--weight-decay must be at least 0"),
        ("--decay-every-epochs -1", "--decay-every-epochs must not be negative"),
        ("--decay-factor 1", "--decay-factor must lie between 0 and 1"),
        ("--dropout 1", "--dropout must be at least 0 and less than 1"),
        ("--rotation 0.6", "--rotation must lie between 0 and 0.5"),
        ("--hue 0.6", "--hue must lie between 0 and 0.5"),
        ("--workers 0", "--workers must be a number of at least 1, or a range"),
        ("--workers 4:1", "--workers must be a number of at least 1, or a range"),
        ("--workers 1:", "--workers must be a number of at least 1, or a range"),
        ("--workers 5:7 --devices-per-worker 1", "take 30 or 35"),
        ("--max-failures -1", "must not be negative"),
        ("--checkpoint-steps -1", "must not be negative"),
        ("--checkpoint-minutes -1", "must not be negative"),
        ("--devices-per-worker 3", "take 30 or 33"),
        ("--workers 5 --devices-per-worker 2 --global-batch-size 4", "take 10"),
        ("--name ../../etc", "--name must be"),
        ("--seed -1", "--seed must be"),
        ("--threshold 1", "between 0 and 1"),
        ("--only car", "COLUMN=VALUE"),
        ("--exclude category=car category=cat", "each column once"),
        ("--seed 1 --seed 2", "Received twice: --seed"),
        ("--dataset a,a", "several different ones"),
        ("--dataset a=1,b", "of each of several datasets or of none"),
        ("--dataset a=2", "of each of several datasets or of none"),
        ("--dataset a=0,b=1", "positive numbers"),
        ("--dataset a=x,b=1", "positive numbers"),
        ("--dataset a=1,b=2 --order blocked", "no weights with it"),
        ("--order sorted", "--order must be one of plain, balanced, blocked"),
        ("--pixel-cache tape", "--pixel-cache must be one of"),
        ("--pixel-cache-gib 0", "--pixel-cache-gib must be positive"),
        ("--aspect stretch", "--aspect must be one of"),
        ("--aspect random_crop --pixel-cache disk", "another each time"),
        ("--blur-probability 1.5", "--blur-probability must lie between 0 and 1"),
        ("--jpeg-probability -1", "--jpeg-probability must lie between 0 and 1"),
        ("--precision float16", "--precision must be one of"),
        ("--clip-norm -1", "--clip-norm must not be negative"),
        ("--accumulate 5", "--accumulate must be at least 1 and divide"),
        ("--accumulate 8 --devices-per-worker 8", "times --accumulate, 8 x 8"),
        ("--ema-decay 1", "less than 1"),
        ("--class-weights 3", "--class-weights must be one of"),
        ("--class-weights balanced --order balanced", "twice"),
        ("--scale-rate cubic", "--scale-rate must be one of"),
        ("--schedule step", "--schedule must be one of"),
        ("--variant gap_head --schedule cosine", "exclude each other"),
        ("--warm-up-steps -1", "--warm-up-steps must not be negative"),
    ],
)
def test_bad_values_are_refused_with_the_rule(argv, says):
    message = refusal(*argv.split())
    assert says in message
    assert "\n" not in message


def test_workers_are_a_number_or_a_range():
    counts = [parse(["--workers", given], VARIANTS).cluster.worker_counts for given in ("3", "2:4")]
    assert counts == [range(3, 4), range(2, 5)]
    parse(["--workers", "5:8", "--devices-per-worker", "1"], VARIANTS)  # 8 of them can share the batch of 32


def test_unknown_flag_is_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--image_size", "64"], VARIANTS)
    assert caught.value.code == 2
    assert "--image_size" in capsys.readouterr().err


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], VARIANTS)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    flags = ["--" + name.replace("_", "-") for fields in to_dict(Config()).values() for name in fields]
    assert [flag for flag in flags if flag not in text] == ["--family"]
    assert "config." not in text  # no names of our classes


def test_config_survives_json():
    config = parse(["--only", "category=car", "--no-register", "--variant", "gap_head"], VARIANTS)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_difference_names_flags_and_ignores_where_a_job_runs():
    old = to_dict(parse(["--epochs", "3", "--workers", "2", "--name", "a"], VARIANTS))
    new = to_dict(parse(["--epochs", "4", "--seed", "1", "--name", "a"], VARIANTS))
    assert difference(old, new) == ["--epochs 3 -> 4", "--seed 0 -> 1"]


def test_difference_ignores_what_changes_no_bit_of_the_result():
    there = ["--data-dir", "/elsewhere", "--pixel-cache", "disk", "--pixel-cache-gib", "99", "--steps-per-call", "7"]
    assert difference(to_dict(parse([], VARIANTS)), to_dict(parse(there, VARIANTS))) == []


@pytest.mark.parametrize(
    ("expression", "weights"),
    [("a", {"a": None}), ("a, b", {"a": None, "b": None}), ("a=3,b/c=0.5", {"a": 3.0, "b/c": 0.5})],
)
def test_datasets_and_their_weights(expression, weights):
    assert dataset_weights(expression) == weights


@pytest.mark.parametrize(("size", "replicas", "share"), [(32, 1, 32), (32, 8, 4), (5, 5, 1)])
def test_global_batch_is_shared_equally(size, replicas, share):
    assert check_global_batch(size, replicas) == share

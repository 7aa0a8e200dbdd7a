"""Training on real data with a tiny model: one device or two, in one go or resumed, evaluated exactly."""

import dataclasses
import json
import re
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests import tiny_family
from tests.small_dataset import write_dataset
from tfds_builders.records.errors import Refused
from trainers.config import ClusterConfig, Config, DataConfig, JobConfig, ModelConfig, OptimiserConfig, to_dict
from trainers.dataset import load
from trainers.errors import CannotTrain
from trainers.history import SPEED, median_speed
from trainers.models.families import FAMILIES
from trainers.order import Order
from trainers.progress import Progress, duration
from trainers.reports import DirectoryReports
from trainers.strategy import Resources, make_strategy
from trainers.training import Training
from trainers.validation import Evaluation, evaluation_metrics
from trainers.worker import Task


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": 90, "validation": 37, "test": 41})


@pytest.fixture
def tiny(monkeypatch, two_devices):
    monkeypatch.setitem(FAMILIES, "tiny", tiny_family.FAMILY)


def config(checkpoint_steps: int = 0, **optimiser) -> Config:
    options = {"epochs": 2, "global_batch_size": 12, "learning_rate": 1e-2} | optimiser
    return Config(
        model=ModelConfig(family="tiny", variant="tiny", weights="none", image_size=32),
        optimiser=OptimiserConfig(**options),
        cluster=ClusterConfig(checkpoint_steps=checkpoint_steps),
        job=JobConfig(seed=5),
    )


def training(dataset: Path, config: Config, directory: Path, devices: int = 1, reports=DirectoryReports) -> Training:
    task = Task(to_dict(config), (str(dataset),), load(dataset).fingerprint, Resources(1, 1, devices, 0))
    return Training(task, reports(directory))


def outcome(directory: Path):
    """(weights of the best epoch, history, predictions) that a training left."""
    latest = directory / "latest"
    weights = keras.models.load_model(latest / "model.keras").get_weights()
    history = json.loads((latest / "history.json").read_text())
    return weights, history, pq.read_table(latest / "predictions.parquet")


TIMES = ("seconds", "train/images_per_second", "train/step_seconds", "train/data_wait_share")


def ignoring_time(history):
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in history]


def test_two_replicas_train_as_one_with_dropout_augmentation_and_batch_norm(tiny, dataset, tmp_path):
    for devices in (1, 2):
        training(dataset, config(), tmp_path / str(devices), devices).run()
    (one, history_1, table_1), (two, history_2, table_2) = outcome(tmp_path / "1"), outcome(tmp_path / "2")
    for entry_1, entry_2 in zip(history_1, history_2, strict=True):
        assert entry_1["train/loss"] == pytest.approx(entry_2["train/loss"], rel=1e-4)
        assert entry_1["validation/loss"] == pytest.approx(entry_2["validation/loss"], rel=1e-4)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(table_1["p_fake"], table_2["p_fake"], atol=1e-4)


@pytest.mark.parametrize("devices", [1, 2])
def test_results_name_every_record_once(tiny, dataset, tmp_path, devices):
    training(dataset, config(epochs=1), tmp_path, devices).run()
    _, _, table = outcome(tmp_path)
    manifest = load(dataset).table
    expected = {
        i for i, split in zip(*(manifest[c].to_pylist() for c in ("id", "split")), strict=True) if split != "train"
    }
    assert sorted(table["id"].to_pylist()) == sorted(expected)
    assert table.num_rows == 37 + 41
    assert not table["p_fake"].null_count


class Interrupted(Exception):
    """The power went."""


class StopsAfter(DirectoryReports):
    """Reports that fail after some checkpoints."""

    left = 0

    def report(self, metrics, write, wait=False):
        if StopsAfter.left == 0:
            raise Interrupted
        StopsAfter.left -= 1
        super().report(metrics, write, wait)


def test_resumed_training_equals_the_uninterrupted_one_bit_for_bit(tiny, dataset, tmp_path):
    two_phases = config(epochs=5, head_epochs=2, reduce_lr_on_plateau=True, plateau_patience=1)
    training(dataset, two_phases, tmp_path / "whole").run()
    resumed = tmp_path / "resumed"
    for StopsAfter.left in (1, 1, 2):  # in the first phase, at its end, in the second
        with pytest.raises(Interrupted):
            training(dataset, two_phases, resumed, reports=StopsAfter).run()
    training(dataset, two_phases, resumed).run()
    (whole, history_1, table_1), (again, history_2, table_2) = outcome(tmp_path / "whole"), outcome(resumed)
    assert ignoring_time(history_1) == ignoring_time(history_2)
    assert [entry["phase"] for entry in history_1] == [0, 0, 1, 1, 1]
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    assert table_1.equals(table_2)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.long)])
def test_training_resumed_inside_an_epoch_equals_the_uninterrupted_one_bit_for_bit(tiny, dataset, tmp_path, devices):
    """8 steps an epoch, and checkpoints after 3 and 6 of them."""
    options = {"epochs": 3, "head_epochs": 1, "reduce_lr_on_plateau": True, "plateau_patience": 1}
    training(dataset, config(**options), tmp_path / "whole", devices).run()
    resumed = tmp_path / "resumed"
    positions = []
    for StopsAfter.left in (1, 1, 2, 2):
        with pytest.raises(Interrupted):
            training(dataset, config(checkpoint_steps=3, **options), resumed, devices, StopsAfter).run()
        positions.append(json.loads((resumed / "latest" / "state.json").read_text())["step"])
    assert positions == [3, 6, 8 + 3, 8 + 8]
    training(dataset, config(checkpoint_steps=3, **options), resumed, devices).run()
    (whole, history_1, table_1), (again, history_2, table_2) = outcome(tmp_path / "whole"), outcome(resumed)
    assert ignoring_time(history_1) == ignoring_time(history_2)
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    assert table_1.equals(table_2)


class Noting(DirectoryReports):
    """Reports that note the steps of the checkpoints inside an epoch, and obey the first worker, if that has a say."""

    say: int | None = None

    def __init__(self, directory):
        super().__init__(directory)
        self.steps: list[int] = []

    def agree(self, number):
        return number if self.say is None else self.say

    def report(self, metrics, write, wait=False):
        self.steps += [metrics["step"]] if "step" in metrics else []
        super().report(metrics, write, wait)


@pytest.mark.parametrize(
    ("minutes", "say", "steps"),
    [
        (1e-9, None, [1, 2, 3, 4, 5, 6, 7]),
        (60.0, None, []),
        (0.0, 1, []),  # nobody is asked
        (1e-9, 0, []),  # by the first worker's clock the time is not up
    ],
)
def test_checkpoints_are_due_after_minutes_of_the_first_workers_clock(tiny, dataset, tmp_path, minutes, say, steps):
    """8 steps an epoch; the checkpoint at its end is the epoch's."""
    told = config(epochs=1, steps_per_call=1)
    told = dataclasses.replace(told, cluster=ClusterConfig(checkpoint_minutes=minutes))
    reports = Noting(tmp_path)
    reports.say = say
    training(dataset, told, tmp_path, reports=lambda _: reports).run()
    assert reports.steps == steps


def test_training_begun_on_one_device_goes_on_on_two(tiny, dataset, tmp_path):
    training(dataset, config(), tmp_path / "one").run()
    StopsAfter.left = 2
    with pytest.raises(Interrupted):
        training(dataset, config(checkpoint_steps=3), tmp_path / "both", reports=StopsAfter).run()
    training(dataset, config(), tmp_path / "both", devices=2).run()
    (one, history_1, _), (both, history_2, _) = outcome(tmp_path / "one"), outcome(tmp_path / "both")
    for entry_1, entry_2 in zip(history_1, history_2, strict=True):
        assert entry_1["train/loss"] == pytest.approx(entry_2["train/loss"], rel=1e-4)
    for a, b in zip(one, both, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


class LosesItsMachine(DirectoryReports):
    """Reports that hear, during the third call of steps, that the machine is about to be taken away."""

    def __init__(self, directory):
        super().__init__(directory)
        self.calls, self.saved = 0, []

    def report(self, metrics, write, wait=False):
        self.saved.append((self.calls, wait))
        super().report(metrics, write, wait)

    def is_machine_leaving(self):
        self.calls += 1
        return self.calls >= 3


def test_checkpoint_comes_first_when_the_machine_is_about_to_go(tiny, dataset, tmp_path):
    told = config(epochs=1, steps_per_call=1)
    reports = LosesItsMachine(tmp_path / "leaving")
    training(dataset, told, tmp_path, reports=lambda _: reports).run()
    assert reports.saved == [(3, True), (8, False), (8, True)]  # at once and waited for; the epoch; the results
    training(dataset, told, tmp_path / "staying").run()
    one, two = outcome(tmp_path / "leaving"), outcome(tmp_path / "staying")
    assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True))


def test_an_epoch_resumed_after_its_last_step_has_no_speed(tiny, dataset, tmp_path, capsys):
    """8 steps an epoch; the machine is about to be taken away at the last, and is before the epoch is reported."""

    class Leaves(StopsAfter):
        steps = 0

        def is_machine_leaving(self):
            self.steps += 1
            return self.steps == 8

    told = config(epochs=2, steps_per_call=1)
    StopsAfter.left = 1
    with pytest.raises(Interrupted):
        training(dataset, told, tmp_path, reports=Leaves).run()
    capsys.readouterr()
    training(dataset, told, tmp_path).run()
    _, history, _ = outcome(tmp_path)
    assert [SPEED in entry for entry in history] == [False, True]
    assert median_speed(history) == history[1][SPEED]
    assert median_speed(history[:1]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ") and "validation" in line]
    assert ["images/s" in line for line in said] == [False, True]


def test_finished_training_is_not_done_again(tiny, dataset, tmp_path, capsys):
    training(dataset, config(epochs=1), tmp_path).run()
    before = (tmp_path / "latest" / "model.keras").stat().st_mtime_ns
    training(dataset, config(epochs=1), tmp_path).run()
    assert (tmp_path / "latest" / "model.keras").stat().st_mtime_ns == before
    assert "had already finished" in capsys.readouterr().out


def test_first_phase_leaves_frozen_weights_alone(tiny, dataset, tmp_path):
    StopsAfter.left = 1
    with pytest.raises(Interrupted):
        training(dataset, config(epochs=3, head_epochs=2), tmp_path, reports=StopsAfter).run()
    with np.load(tmp_path / "latest" / "model.npz") as saved:
        after = [saved[name] for name in sorted(saved.files)]
    keras.utils.set_random_seed(5)
    fresh = tiny_family.build(ModelConfig(image_size=32))
    paths = [variable.path for variable in fresh.variables]
    same = {path: np.array_equal(a, b.numpy()) for path, a, b in zip(paths, after, fresh.variables, strict=True)}
    assert all(same[path] for path in paths if path.startswith(("conv", "bn")))
    assert not any(same[path] for path in paths if path.startswith(("dense/kernel", "p_fake/kernel")))


def test_best_epoch_is_kept_and_training_stops_early(tiny, dataset, tmp_path):
    wild = config(epochs=8, learning_rate=0.3, early_stopping_patience=2)
    training(dataset, wild, tmp_path).run()
    _, history, table = outcome(tmp_path)
    values = [entry["validation/loss"] for entry in history]
    best = int(np.argmin(values))
    assert len(history) == min(8, best + 3)
    validation = table.filter(np.array(table["split"].to_pylist()) == "validation")
    labels = np.array(validation["label"])
    measured = evaluation_metrics(labels, np.array(validation["p_fake"]), "validation")
    assert measured["validation/loss"] == pytest.approx(values[best], rel=1e-5)


def test_learning_finds_the_trace_and_shuffled_labels_do_not(tiny, tmp_path):
    dataset = write_dataset(tmp_path / "data", {"train": 160, "validation": 40, "test": 400})
    sound = config(epochs=6)
    shuffled = Config(DataConfig(shuffle_labels=True), sound.model, sound.optimiser, job=sound.job)
    losses = {}  # on the test split: cross-entropy
    for name, told in (("sound", sound), ("shuffled", shuffled)):
        training(dataset, told, tmp_path / name).run()
        table = outcome(tmp_path / name)[2]
        test = table.filter(np.array(table["split"].to_pylist()) == "test")
        losses[name] = evaluation_metrics(np.array(test["label"]), np.array(test["p_fake"]), "test")["test/loss"]
    assert losses["sound"] < 0.2
    # Not the AUC: shuffled labels agree with the true ones a little more or less than half, and a network that has seen
    # the trace ranks by it, one way or the other. But it cannot be sure: a constant has log 2 = 0.69.
    assert losses["shuffled"] > 0.5


def test_non_finite_loss_stops_and_names_the_step_and_its_images(tiny, dataset, tmp_path):
    with pytest.raises(CannotTrain, match=r"at step \d+: .*--learning-rate") as caught:
        training(dataset, config(learning_rate=1e30), tmp_path).run()
    step = int(re.search(r"at step (\d+)", str(caught.value))[1])
    records = load(dataset).select("train")
    rows, _ = Order(len(records), 12, seed=5).batch(step)
    assert str(caught.value).endswith(", ".join(records.ids(rows)))
    assert not (tmp_path / "latest" / "predictions.parquet").exists()


def test_another_dataset_is_not_trained_on(tiny, dataset, tmp_path):
    task = Task(to_dict(config()), (str(dataset),), "0" * 64, Resources(1, 1, 1, 0))
    with pytest.raises(Refused, match=r"must be the one that the job began with, 0{12}\. Received: "):
        Training(task, DirectoryReports(tmp_path))


def test_replicas_that_differ_end_the_training(tiny, dataset, tmp_path, monkeypatch):
    def apart(self, when):
        raise CannotTrain(when)

    monkeypatch.setattr("trainers.agreement.Agreement.check", apart)
    with pytest.raises(CannotTrain, match="After epoch 1"):
        training(dataset, config(), tmp_path, devices=2).run()
    assert not (tmp_path / "latest").exists()


# -- the parts --


@pytest.mark.parametrize("num_records", [1, 37])
def test_evaluation_counts_every_record_once(two_devices, num_records):
    strategy = make_strategy(Resources(1, 1, 2, 0))
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])

    def make(context, replica_batch=4):
        padded = -(-num_records // (2 * replica_batch)) * 2 * replica_batch
        rows = np.arange(padded)
        data = {
            "image": (rows[:, None] * 2).astype(np.float32),
            "row": np.minimum(rows, num_records - 1),
            "mask": (rows < num_records).astype(np.float32),
        }
        return tf.data.Dataset.from_tensor_slices(data).batch(replica_batch)

    counted = []
    scores = Evaluation(strategy, model)(make, num_records, counted.append)
    assert sum(counted) == num_records
    np.testing.assert_array_equal(scores, np.arange(num_records) * 2)
    with pytest.raises(RuntimeError, match="evaluated 0 times"):
        Evaluation(strategy, model)(make, num_records + 1)


def test_evaluation_loss_is_keras_own():
    random = np.random.default_rng(0)
    labels, p_fake = random.integers(0, 2, 50), random.random(50)
    p_fake[:2] = 0, 1  # clipped as Keras does
    ours = evaluation_metrics(labels, p_fake, "validation")
    theirs = keras.losses.BinaryCrossentropy()(labels.astype("float64"), p_fake)
    assert ours["validation/loss"] == pytest.approx(float(theirs), rel=1e-5)
    assert ours["validation/accuracy"] == pytest.approx(np.mean((p_fake >= 0.5) == labels))
    with pytest.raises(CannotTrain, match="1 validation image"):
        evaluation_metrics(labels, np.where(np.arange(50) == 3, np.nan, p_fake), "validation")


def test_progress_measures_without_the_first_call_and_says_what_is_left():
    now, lines = [0.0], []
    progress = Progress("epoch 1/2 step", 11, 8, lines.append, lambda: now[0])
    for seconds, steps in ((20, 1), (4, 2), (4, 2), (4, 2)):  # 20 s of compilation, then half a step a second
        now[0] += seconds
        progress.update(steps, 0.5)
    assert progress.images_per_second == pytest.approx(4)
    assert lines[1:] == ["epoch 1/2 step 5/11 loss 0.5000 4.0 images/s, 0:00:12 left"]  # at most one in five seconds
    assert duration(3725) == "1:02:05"


def test_progress_says_nothing_of_what_is_done_within_seconds():
    now, lines = [0.0], []
    progress = Progress("test image", 640, write=lines.append, clock=lambda: now[0])
    for _ in range(20):  # in 4.8 s
        now[0] += 0.24
        progress.update(32)
    assert lines == []


def test_validation_and_test_say_how_far_they_are(tiny, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trainers.progress.LINE_EVERY_SECS", 0)
    training(dataset, config(epochs=0), tmp_path).run()
    said = re.findall(r"^(.*) [\d.]+ images/s, 0:00:\d\d left$", capsys.readouterr().out, flags=re.MULTILINE)
    assert said == ["validation image 32/37", "test image 32/41"]


def test_no_epochs_evaluate_the_weights_as_they_are(tiny, dataset, tmp_path, capsys):
    training(dataset, config(epochs=0), tmp_path).run()
    weights, history, table = outcome(tmp_path)
    keras.utils.set_random_seed(5)
    fresh = tiny_family.build(ModelConfig(image_size=32))
    assert all(np.array_equal(a, b) for a, b in zip(weights, fresh.get_weights(), strict=True))
    assert history == []
    assert table.num_rows == 37 + 41
    assert "nothing is trained" in capsys.readouterr().out


@pytest.mark.parametrize("optimiser", ["adamw", "rmsprop", "sgd"])
def test_rate_decay_and_other_optimisers_are_used(tiny, dataset, tmp_path, optimiser):
    options = {"optimiser": optimiser, "weight_decay": 0.01, "decay_every_epochs": 1, "decay_factor": 0.5}
    job = training(dataset, config(epochs=2, learning_rate=1e-2, **options), tmp_path)
    job.run()
    _, history, _ = outcome(tmp_path)
    assert [entry["learning_rate"] for entry in history] == pytest.approx([1e-2, 5e-3])

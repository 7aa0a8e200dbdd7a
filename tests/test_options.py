"""Options of a whole training: they leave the result a function of the step, and can be seen in its history."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tests import tiny_family
from tests.small_dataset import write_dataset
from tests.test_loop import Interrupted, StopsAfter, config, ignoring_time, outcome, training
from tests.test_loop import dataset as dataset
from tests.test_loop import tiny as tiny
from trainers.config import AugmentConfig, DataConfig, ModelConfig, to_dict
from trainers.dataset import load
from trainers.errors import CannotTrain
from trainers.inputs import Source
from trainers.reports import DirectoryReports
from trainers.selection import selected, shared_groups
from trainers.strategy import Resources
from trainers.training import Training
from trainers.waiting import bottleneck, stage_seconds
from trainers.worker import Task

EVERY_OPTION = {
    "schedule": "cosine",
    "warm_up_steps": 3,
    "clip_norm": 0.5,
    "accumulate": 2,
    "ema_decay": 0.8,
    "class_weights": "balanced",
    "scale_rate": "sqrt",
}


def told(data=None, augmentation=None, model=None, **optimiser):
    plain = config(**optimiser)
    return dataclasses.replace(
        plain,
        data=DataConfig(**data or {}),
        augmentation=AugmentConfig(**augmentation or {}),
        model=dataclasses.replace(plain.model, **model or {}),
    )


def same(directory_1, directory_2):
    (weights_1, history_1, table_1), (weights_2, history_2, table_2) = outcome(directory_1), outcome(directory_2)
    return (
        all(np.array_equal(a, b) for a, b in zip(weights_1, weights_2, strict=True))
        and ignoring_time(history_1) == ignoring_time(history_2)
        and table_1.equals(table_2)
    )


def test_all_options_together_resume_bit_for_bit_and_are_in_the_history(tiny, dataset, tmp_path, capsys):
    """8 steps an epoch, and checkpoints after 3 and 6 of them."""
    options = told({"order": "plain"}, epochs=4, head_epochs=1, checkpoint_steps=3, **EVERY_OPTION)
    training(dataset, options, tmp_path / "whole").run()
    assert "--clip-norm 0.0 -> 0.5" in capsys.readouterr().out
    for StopsAfter.left in (1, 3, 4):
        with pytest.raises(Interrupted):
            training(dataset, options, tmp_path / "resumed", reports=StopsAfter).run()
    training(dataset, options, tmp_path / "resumed").run()
    assert same(tmp_path / "whole", tmp_path / "resumed")
    _, history, _ = outcome(tmp_path / "whole")
    assert all(entry["train/gradient_norm"] > 0 and entry["train/step_seconds"] > 0 for entry in history)
    last_rates = [entry["learning_rate"] for entry in history]
    assert last_rates[1] > last_rates[2] > last_rates[3] > 0


def test_cached_pixels_and_two_replicas_change_nothing(tiny, dataset, tmp_path):
    for name, data, devices in (
        ("plain", {}, 1),
        ("memory", {"pixel_cache": "memory"}, 1),
        ("disk", {"pixel_cache": "disk"}, 2),
    ):
        options = told(data | {"order": "balanced"}, model={"aspect": "centre_crop"}, epochs=1)
        task = Task(
            to_dict(options),
            (str(dataset),),
            load(dataset).fingerprint,
            Resources(1, 1, devices, 0),
            pixels_directory=str(tmp_path / "pixels"),
        )
        Training(task, DirectoryReports(tmp_path / name)).run()
    assert same(tmp_path / "plain", tmp_path / "memory")
    assert len(list((tmp_path / "pixels").glob("*/pixels.u8"))) == 2  # of training and validation
    for a, b in zip(outcome(tmp_path / "plain")[0], outcome(tmp_path / "disk")[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_steps_of_a_call_change_nothing(tiny, dataset, tmp_path, devices):
    """8 steps an epoch: all in one call, one by one, and calls that are cut short."""
    for steps in (8, 1, 3):
        training(dataset, told(epochs=2, steps_per_call=steps, **EVERY_OPTION), tmp_path / str(steps), devices).run()
    assert same(tmp_path / "8", tmp_path / "1")
    assert same(tmp_path / "8", tmp_path / "3")


def test_half_precision_is_saved_and_judged_in_whole(tiny, dataset, tmp_path):
    training(dataset, told(epochs=1, precision="mixed_bfloat16"), tmp_path).run()
    model = keras.models.load_model(tmp_path / "latest" / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    _, _, table = outcome(tmp_path)
    from trainers.inputs import BatchIterator, evaluation_batches

    test = load(dataset).select("test")
    with BatchIterator(evaluation_batches(test, image_size=32, batch_size=41)) as batches:
        expected = model(next(batches)["image"], training=False).numpy()[:, 0]
    found = table.filter(np.array(table["split"].to_pylist()) == "test")["p_fake"].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_averaged_weights_are_those_that_are_kept(tiny, dataset, tmp_path):
    training(dataset, told(epochs=1), tmp_path / "raw").run()
    training(dataset, told(epochs=1, ema_decay=0.9), tmp_path / "averaged").run()
    (raw, raw_history, _), (averaged, history, _) = outcome(tmp_path / "raw"), outcome(tmp_path / "averaged")
    assert raw_history[0]["train/loss"] == history[0]["train/loss"]  # the same steps
    assert raw_history[0]["validation/loss"] != history[0]["validation/loss"]
    keras.utils.set_random_seed(5)
    start = tiny_family.build(ModelConfig(image_size=32)).get_weights()

    def way(weights):
        return sum(np.abs(a - b).sum() for a, b in zip(weights, start, strict=True))

    assert 0 < way(averaged) < way(raw)  # an average lags behind


def test_parts_of_splits_keep_their_role(tiny, tmp_path):
    dataset = write_dataset(tmp_path / "data", {"train": 60, "validation": 8})
    options = told({"train_split": "train[:50%]", "test_split": "train[50%:]"}, epochs=1)
    training(dataset, options, tmp_path).run()
    splits = outcome(tmp_path)[2]["split"].to_pylist()
    assert (splits.count("validation"), splits.count("test"), len(splits)) == (8, 30, 38)


@pytest.mark.parametrize(("place", "shared"), [(40, 0), (42, 1)])
def test_groups_cut_in_two_are_counted(dataset, place, shared):
    data = {"train_split": f"train[:{place}]", "test_split": f"train[{place}:]"}
    assert shared_groups(selected(load(dataset), told(data))) == {"validation": 0, "test": shared}


def test_the_bottleneck_is_named_with_what_helps(dataset):
    source = Source(load(dataset).select("train"), None, 32, "resize")
    seconds = stage_seconds(source, np.arange(8), AugmentConfig())
    assert list(seconds) == ["read", "decode", "augment"]
    assert all(value > 0 for value in seconds.values())
    seconds = {"read": 0.0001, "decode": 0.0021, "augment": 0.0005}
    assert "--pixel-cache" not in bottleneck(0.456, seconds, "random_crop")  # which is refused with it
    sentence = bottleneck(0.456, seconds)
    assert "46%" in sentence
    assert "slowest is decode: take --pixel-cache" in sentence
    assert "2.10 ms" in sentence


def test_a_training_that_waits_for_images_says_so_once(tiny, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trainers.feed.WAIT_SHARE", 0.0)
    training(dataset, told(epochs=2), tmp_path, devices=2).run()
    said = [line for line in capsys.readouterr().out.splitlines() if "is the bottleneck" in line]
    assert len(said) == 1
    assert said[0].startswith("the input is the bottleneck: steps wait for images")


def test_history_is_plain_json(tiny, dataset, tmp_path):
    training(dataset, told(epochs=1, precision="mixed_float16", clip_norm=1.0), tmp_path).run()
    (entry,) = json.loads((tmp_path / "latest" / "history.json").read_text())
    assert entry["train/loss_scale"] == 2.0**15
    assert 0 <= entry["train/data_wait_share"] <= 1


def test_scaling_of_the_loss_resumes_where_it_was(tiny, dataset, tmp_path, monkeypatch):
    """The scale doubles after so many steps without overflow that a resumed training must know how many there were."""

    class Growing(keras.optimizers.LossScaleOptimizer):
        def __init__(self, inner):
            super().__init__(inner, initial_scale=4.0, dynamic_growth_steps=5)

    monkeypatch.setattr(keras.optimizers, "LossScaleOptimizer", Growing)
    options = told(epochs=2, precision="mixed_float16", checkpoint_steps=3, accumulate=2)
    training(dataset, options, tmp_path / "whole").run()
    scales = [entry["train/loss_scale"] for entry in outcome(tmp_path / "whole")[1]]
    assert scales == [8.0, 32.0]  # after 8 and after 16 steps
    for StopsAfter.left in (1, 1):  # after 3 steps, and after 6
        with pytest.raises(Interrupted):
            training(dataset, options, tmp_path / "resumed", reports=StopsAfter).run()
    training(dataset, options, tmp_path / "resumed").run()
    assert same(tmp_path / "whole", tmp_path / "resumed")


def test_compiled_training_is_the_same_but_for_dropout_and_moves_the_averages_of_batch_norm(
    tiny, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "trainers.training.dropout_maker", lambda _: lambda rate, name: keras.layers.Dropout(0, name=name)
    )
    for name, options in (("plain", {}), ("compiled", {"xla": True})):
        training(dataset, told(epochs=1, **options), tmp_path / name).run()
    (plain, history_1, _), (compiled, history_2, _) = outcome(tmp_path / "plain"), outcome(tmp_path / "compiled")
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    assert history_1[0]["train/loss"] == pytest.approx(history_2[0]["train/loss"], rel=1e-3)


def test_compiling_a_later_phase_that_cannot_be_is_refused_before_the_first_step(tiny, dataset, tmp_path):
    """The head epochs train the dense layers alone, which could be compiled."""
    with pytest.raises(CannotTrain, match=r"batch statistics over several replicas\. Received: 2 replicas"):
        training(dataset, told(epochs=2, head_epochs=1, xla=True), tmp_path / "two", devices=2).run()
    assert not (tmp_path / "two").exists()  # no epoch was taken

"""ResNet50: published sizes, what is trained, preprocessing, weights; and dropout of the global batch."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfds_builders.records.errors import Refused
from trainers.config import Config, ModelConfig
from trainers.errors import CannotTrain
from trainers.models import efficientnet
from trainers.models.layers import GlobalBatch, GlobalBatchDropout, dropout_maker, with_global_batch_norm
from trainers.models.resnet import FAMILY, VARIANTS, build_resnet50, check, phases
from trainers.models.transfer import train_head
from trainers.strategy import Resources, make_strategy


def num_trainable(model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.fixture(scope="module")
def small_model():
    return build_resnet50("deep_head", 32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_deep_head_has_the_published_parameters():
    model = build_resnet50("deep_head", 224)
    (phase,) = phases(Config())
    said = phase.set_trainable(model, ModelConfig())
    assert (model.count_params(), num_trainable(model)) == (25_532_977, 11_929_297)
    assert "layers 150 to 174" in said


def test_gap_head_trains_its_head_first():
    config = VARIANTS["gap_head"]
    model = build_resnet50("gap_head", 32)
    head, top = phases(config)
    head.set_trainable(model, config.model)
    assert num_trainable(model) == 2048 * 128 + 128 + 128 + 1
    top.set_trainable(model, config.model)
    assert num_trainable(model) > 10_000_000
    assert (head.epochs, head.learning_rate, top.epochs, top.learning_rate) == (3, 1e-3, 7, 1e-5)


@pytest.mark.parametrize(("variant", "parameters"), [("flatten_head", 128 * 2048), ("gap256_rmsprop", 256 * 2048)])
def test_other_heads_leave_the_backbone_frozen(variant, parameters):
    """At 32 pixels the feature map has one place, so a flattened head is as wide as a pooled one."""
    config = VARIANTS[variant]
    model = build_resnet50(variant, 32)
    (phase,) = phases(config)
    phase.set_trainable(model, config.model)
    units = parameters // 2048
    assert num_trainable(model) == parameters + units + units + 1
    pixels = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3).astype(np.uint8)
    scaled = keras.Model(model.input, model.get_layer("scaled").output)(pixels)
    np.testing.assert_allclose(scaled, pixels / 255, rtol=1e-6)


@pytest.mark.parametrize(("variant", "rates"), [("deep_head", [(10, 1e-4)]), ("gap_head", [(3, 1e-3), (7, 1e-5)])])
def test_without_weights_every_layer_is_trained(variant, rates, small_model):
    defaults = VARIANTS[variant]
    config = Config(model=ModelConfig(variant=variant, weights="none"), optimiser=defaults.optimiser)
    for phase in phases(config):
        assert "every layer" in phase.set_trainable(small_model, config.model)
        assert all(layer.trainable for layer in small_model.get_layer("resnet50").layers)
    assert [(phase.epochs, phase.learning_rate) for phase in phases(config)] == rates


def test_preprocessing_is_the_backbones_own_once(small_model, images):
    inside = keras.Model(small_model.input, small_model.get_layer("minus_mean").output)
    expected = keras.applications.resnet50.preprocess_input(images.astype(np.float32))
    np.testing.assert_array_equal(inside(images), expected)


def test_saved_model_loads_and_predicts_the_same(small_model, images, tmp_path):
    small_model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), small_model(images))
    assert loaded.output.dtype == "float32"
    assert loaded.input.dtype == "uint8"


def test_weights_of_whole_models_and_of_backbones_load(small_model, tmp_path):
    small_model.save(tmp_path / "whole.keras")
    small_model.save_weights(tmp_path / "whole.weights.h5")
    small_model.save(tmp_path / "whole.h5")  # as Keras 2 did
    small_model.get_layer("resnet50").save_weights(tmp_path / "backbone.weights.h5")
    small_model.get_layer("resnet50").save(tmp_path / "backbone.h5")
    expected = small_model.get_weights()
    for name in ("whole.keras", "whole.weights.h5", "whole.h5"):
        loaded = build_resnet50("deep_head", 32, str(tmp_path / name)).get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(loaded, expected, strict=True)), name
    backbone = small_model.get_layer("resnet50").get_weights()
    for name in ("backbone.weights.h5", "backbone.h5"):
        loaded = build_resnet50("gap_head", 32, str(tmp_path / name)).get_layer("resnet50").get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(loaded, backbone, strict=True)), name
    with pytest.raises(CannotTrain, match="do not fit resnet50_gap_head"):
        build_resnet50("gap_head", 32, str(tmp_path / "whole.keras"))


def test_missing_weights_are_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("trainers.models.transfer.WEIGHTS_HOST", "weights.invalid")  # no such host, by RFC 2606
    with pytest.raises(Refused, match="Pass --weights none"):
        check(ModelConfig(weights="imagenet"))
    with pytest.raises(Refused, match="an existing"):
        check(ModelConfig(weights=str(tmp_path / "absent.keras")))
    check(ModelConfig(weights="none"))


# -- dropout --


def masks(strategy, step: int, size: int, name: str = "dropout", rate: float = 0.5) -> np.ndarray:
    """What the layer leaves of ones [size, 50], gathered from all replicas."""
    with strategy.scope():
        batch = GlobalBatch(7, size, tf.Variable(step, dtype=tf.int64, trainable=False))
        layer = dropout_maker(batch)(rate, name)
    share = size // strategy.num_replicas_in_sync

    @tf.function
    def run():
        return strategy.run(lambda: layer(tf.ones([share, 50]), training=True))

    # Not strategy.gather: its collectives clash when a process, such as this one, has made several strategies.
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(run())])


def test_dropout_of_two_replicas_is_that_of_one(two_devices):
    one = masks(make_strategy(Resources(1, 1, 1, 0)), step=3, size=8)
    two = masks(make_strategy(Resources(1, 1, 2, 0)), step=3, size=8)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(two[:4], two[4:])  # which is what the stock layer would give


def test_dropout_differs_by_step_and_layer_and_keeps_the_mean():
    strategy = tf.distribute.get_strategy()
    base = masks(strategy, 3, 64)
    assert not np.array_equal(base, masks(strategy, 4, 64))
    assert not np.array_equal(base, masks(strategy, 3, 64, name="other"))
    np.testing.assert_array_equal(base, masks(strategy, 3, 64))
    assert set(np.unique(base)) == {0, 2}
    assert abs(base.mean() - 1) < 0.06  # 3200 fair coins: three standard deviations are 0.053


def test_dropout_does_nothing_in_inference():
    batch = GlobalBatch(0, 4, tf.Variable(0, dtype=tf.int64))
    layer = GlobalBatchDropout(0.5, batch)
    np.testing.assert_array_equal(layer(tf.ones([3, 5]), training=False), np.ones([3, 5]))


def test_dropout_does_nothing_in_a_frozen_part():
    batch = GlobalBatch(0, 3, tf.Variable(0, dtype=tf.int64))
    layer = GlobalBatchDropout(0.5, batch)
    assert (layer(tf.ones([3, 50]), training=True).numpy() == 0).any()
    layer.trainable = False
    np.testing.assert_array_equal(layer(tf.ones([3, 50]), training=True), np.ones([3, 50]))


def branches(model) -> list:
    """The layers that drop EfficientNet's residual branches."""
    return [each for each in model.get_layer(efficientnet.BACKBONE).layers if isinstance(each, keras.layers.Dropout)]


def test_efficientnets_dropped_branches_are_those_of_the_global_batch():
    batch = GlobalBatch(0, 8, tf.Variable(0, dtype=tf.int64))
    config = efficientnet.VARIANTS["gap_head"].model
    stock, training = (efficientnet.build_efficientnet(32, dropout=dropout) for dropout in (None, dropout_maker(batch)))
    assert {type(layer) for layer in branches(stock)} == {keras.layers.Dropout}
    assert {type(layer) for layer in branches(training)} == {GlobalBatchDropout}
    assert [layer.rate for layer in branches(training)] == [layer.rate for layer in branches(stock)]
    assert [v.shape for v in training.weights] == [v.shape for v in stock.weights]
    last = branches(training)[-1]
    kept = last(tf.ones([8, 2, 2, 3]), training=True).numpy()
    assert {tuple(np.unique(image).tolist()) for image in kept} == {(0.0,), (float(np.float32(1) / (1 - last.rate)),)}
    train_head(training, config)
    np.testing.assert_array_equal(last(tf.ones([8, 2, 2, 3]), training=True), np.ones([8, 2, 2, 3]))


def test_dropout_reaches_efficientnets_branches_in_proportion():
    usual = efficientnet.VARIANTS["gap_head"].model
    rates = {
        dropout: [layer.rate for layer in branches(efficientnet.build(replace(usual, image_size=32, **change)))]
        for dropout, change in ((dropout, {"weights": "none", "dropout": dropout}) for dropout in (None, 0.0, 0.25))
    }
    assert len(rates[None]) == 26
    assert rates[None][-1] == pytest.approx(0.295, abs=1e-3)
    assert set(rates[0.0]) == {0.0}
    np.testing.assert_allclose(rates[0.25], np.array(rates[None]) / 2)


def test_training_model_and_stock_model_have_the_same_weights(small_model):
    batch = GlobalBatch(0, 4, tf.Variable(0, dtype=tf.int64))
    training = FAMILY.build(ModelConfig(image_size=32, weights="none"), dropout_maker(batch))
    assert [v.shape for v in training.weights] == [v.shape for v in small_model.weights]
    assert "GlobalBatchDropout" not in str(small_model.to_json())


# -- batch normalisation --


def small_net() -> keras.Model:
    image = keras.Input((4,))
    x = keras.layers.BatchNormalization(name="inner_bn")(image)
    inner = keras.Model(image, x, name="inner")
    outside = keras.Input((4,))
    x = keras.layers.BatchNormalization(name="bn", momentum=0.5)(inner(outside))
    return keras.Model(outside, keras.layers.Dense(1, name="dense")(x))


def gradients_and_averages(model, inputs) -> tuple[dict, dict]:
    """Of the mean squared output, on one device, with Keras's own layers."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(inputs, training=True))) / len(inputs)
    gradients = tape.gradient(loss, model.trainable_variables)
    named = {v.path: g.numpy() for v, g in zip(model.trainable_variables, gradients, strict=True)}
    return named, {v.path: v.numpy() for v in model.non_trainable_variables}


def test_batch_norm_of_two_replicas_is_keras_own_on_the_whole_batch(two_devices):
    inputs = (np.random.default_rng(0).normal(0, 1, (8, 4)) + [0, 1, -5, 20]).astype(np.float32)
    keras.utils.set_random_seed(3)
    stock = small_net()
    strategy = make_strategy(Resources(1, 1, 2, 0))
    with strategy.scope():
        model = with_global_batch_norm(small_net())
        model.set_weights(stock.get_weights())
    expected_gradients, expected_averages = gradients_and_averages(stock, inputs)

    def replica():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        share = tf.constant(inputs)[rank * 4 : rank * 4 + 4]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(share, training=True))) / len(inputs)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    gradients = [strategy.reduce("SUM", g, axis=None) for g in tf.function(lambda: strategy.run(replica))()]
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradients[variable.path], rtol=1e-3, atol=1e-5)
    for variable in model.non_trainable_variables:
        np.testing.assert_allclose(variable.numpy(), expected_averages[variable.path], rtol=1e-4, atol=1e-5)


def test_global_batch_norm_keeps_variables_frozen_layers_and_inference(small_model, images):
    model = with_global_batch_norm(small_model)
    assert [v.path for v in model.variables] == [v.path for v in small_model.variables]
    np.testing.assert_array_equal(model(images, training=False), small_model(images, training=False))
    FAMILY.phases(Config())[0].set_trainable(model, ModelConfig())
    bn = model.get_layer("resnet50").get_layer("conv1_bn")
    assert not bn.trainable
    before = bn.moving_mean.numpy().copy()
    bn(tf.ones([2, 3, 3, 64]), training=True)
    np.testing.assert_array_equal(bn.moving_mean, before)

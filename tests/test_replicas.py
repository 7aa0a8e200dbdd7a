"""N replicas train as one does: step by step, against one device and against plain Keras; all replicas stay alike."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small_dataset import write_dataset
from trainers.agreement import Agreement, digest
from trainers.config import AugmentConfig, ModelConfig
from trainers.dataset import load
from trainers.errors import CannotTrain
from trainers.inputs import training_batches
from trainers.loop import TrainStep
from trainers.models.cnn import NETWORKS, build_cnn
from trainers.models.layers import GlobalBatch, dropout_maker, stock_dropout, with_global_batch_norm
from trainers.models.resnet import NUM_FROZEN, build_resnet50
from trainers.models.transfer import train_top
from trainers.order import Order
from trainers.strategy import Resources, make_strategy

BATCH = 12
SEED = 5


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load(write_dataset(tmp_path_factory.mktemp("data"), 60, size=(64, 64))).select("train")


def small_resnet(dropout=stock_dropout, rate: float = 0.3) -> keras.Model:
    """Three residual blocks with batch normalisation, in a model inside the model as ResNet50's backbone is."""
    layers = keras.layers
    image = keras.Input((32, 32, 3), dtype="uint8")
    inside = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(inside)
    for block, filters in enumerate((8, 16, 32)):
        shortcut = layers.Conv2D(filters, 1, 2, use_bias=False, name=f"shortcut{block}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{block}_a")(x)
        x = layers.Conv2D(filters, 3, 2, padding="same", use_bias=False, name=f"conv{block}")(layers.ReLU()(x))
        x = layers.Add()([layers.BatchNormalization(momentum=0.9, name=f"bn{block}_b")(x), shortcut])
    backbone = keras.Model(inside, x, name="backbone")
    x = backbone(layers.Rescaling(1 / 127.5, -1, dtype="float32")(image))
    x = dropout(rate, "dropout")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(1, "sigmoid", name="p_fake")(x))


def deep_head(dropout) -> keras.Model:
    """Of the image size 64; what is trained when ImageNet weights are given."""
    model = build_resnet50("deep_head", 64, "none", dropout)
    train_top(lambda backbone: NUM_FROZEN)(model, ModelConfig(weights="imagenet"))
    return model


def cnn_v6(dropout) -> keras.Model:
    return build_cnn(NETWORKS["v6"], 32, "cnn_v6", dropout)


def batches_of(records, image_size: int, replicas: int, augment: AugmentConfig | None):
    order = Order(len(records), BATCH, SEED)
    return training_batches(records, order, image_size=image_size, seed=SEED, augment=augment, replicas=replicas)


def train(
    build: Callable, records, devices: int, num_steps: int, image_size: int, augment: bool = True, rate: float = 1e-3
):
    """(losses [num_steps], model, strategy) after steps of Adam."""
    strategy = make_strategy(Resources(1, 1, devices, 0))
    keras.utils.set_random_seed(SEED)
    with strategy.scope():
        batch = GlobalBatch(SEED, BATCH, tf.Variable(0, dtype=tf.int64, trainable=False))
        model = build(dropout_maker(batch))
        if devices > 1:
            model = with_global_batch_norm(model)
        optimizer = keras.optimizers.Adam(rate)
    step = TrainStep(strategy, model, optimizer, batch)
    options = AugmentConfig() if augment else None
    iterator = iter(
        strategy.distribute_datasets_from_function(lambda _: batches_of(records, image_size, devices, options))
    )
    losses = step(iterator, np.full(num_steps, rate)).losses
    del iterator
    Agreement(strategy, [*model.variables, *optimizer.variables]).check("now")
    return losses, model, strategy


def assert_same_weights(one, two, tolerance: float = 1e-4, least: float = 0.0) -> None:
    """No element of a variable differs by more than `tolerance` of the variable's largest, or of `least` if that is
    more."""
    for a, b in zip(one.variables, two.variables, strict=True):
        if "seed_generator" not in a.path:
            a_value, b_value = a.numpy(), b.numpy()
            size, difference = max(np.abs(a_value).max(), least), np.abs(a_value - b_value).max()
            assert difference <= tolerance * size, f"{a.path}: {difference} of {size}"


def assert_replicas_are_bit_equal(strategy, model) -> None:
    for variable in model.variables:
        first, *others = (part.numpy() for part in strategy.experimental_local_results(variable.value))
        assert others
        assert all(np.array_equal(first, other) for other in others), variable.path


def test_fifty_steps_of_a_resnet_on_two_replicas_are_those_of_one(two_devices, records):
    losses_1, one, _ = train(small_resnet, records, 1, 50, 32)
    losses_2, two, strategy = train(small_resnet, records, 2, 50, 32)
    assert losses_1[-10:].mean() < losses_1[:10].mean()  # it learns
    np.testing.assert_allclose(losses_2, losses_1, rtol=1e-4)
    assert_same_weights(one, two)
    assert_replicas_are_bit_equal(strategy, two)


def test_fifty_steps_are_those_of_keras_own_training(two_devices, records):
    """No dropout here: which masks Keras draws is its own affair."""
    keras.utils.set_random_seed(SEED)
    plain = small_resnet(rate=0.0)
    plain.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    batches = batches_of(records, 32, 1, AugmentConfig()).take(50)
    expected = [plain.train_on_batch(batch["image"], batch["label"][:, None], return_dict=True) for batch in batches]
    losses, model, _ = train(lambda dropout: small_resnet(dropout, 0.0), records, 2, 50, 32)
    np.testing.assert_allclose(losses, [metrics["loss"] for metrics in expected], rtol=1e-4)
    assert_same_weights(plain, model)


def in_float64(build: Callable) -> Callable:
    """The same, computing in float64 throughout, also where detectors compute in float32 under any policy."""

    def layer_in_float64(layer):
        if not isinstance(layer, keras.layers.Layer) or layer.compute_dtype != "float32":
            return layer
        return type(layer).from_config(layer.get_config() | {"dtype": "float64"})

    def build_in_float64(dropout):
        keras.config.set_dtype_policy("float64")
        try:
            model = build(dropout)
        finally:
            keras.config.set_dtype_policy("float32")
        new = keras.models.clone_model(model, clone_function=layer_in_float64, recursive=True)
        new.set_weights(model.get_weights())
        return new

    return build_in_float64


def test_fifty_steps_of_cnn_v6_on_two_replicas_are_those_of_one(two_devices, records):
    """With dropout and augmentation, at ten times the published rate."""
    assert_replicas_train_as_one(cnn_v6, records, 32, 1e-3)


@pytest.mark.long
def test_fifty_steps_of_deep_head_on_two_replicas_are_those_of_one(two_devices, records):
    """Of what is trained when ImageNet weights are given: 150 layers are frozen."""
    assert_replicas_train_as_one(deep_head, records, 64, 1e-4)


def assert_replicas_train_as_one(build: Callable, records, image_size: int, rate: float) -> None:
    """In float64. In float32 these detectors turn any rounding error, as of another order of sums, into differences of
    per cents within 50 steps, on one device too (DECISIONS.md)."""
    losses_1, one, _ = train(in_float64(build), records, 1, 50, image_size, rate=rate)
    losses_2, two, strategy = train(in_float64(build), records, 2, 50, image_size, rate=rate)
    np.testing.assert_allclose(losses_2, losses_1, rtol=1e-6)
    # Biases before a batch normalisation have no gradient but rounding errors: they stay far smaller than one step.
    assert_same_weights(one, two, 1e-6, least=rate)
    assert_replicas_are_bit_equal(strategy, two)


def test_cnn_v6_in_float32_begins_on_two_replicas_as_on_one(two_devices, records):
    losses_1, _, _ = train(cnn_v6, records, 1, 8, 32, rate=1e-4)
    losses_2, two, strategy = train(cnn_v6, records, 2, 8, 32, rate=1e-4)
    np.testing.assert_allclose(losses_2, losses_1, rtol=1e-4)
    assert_replicas_are_bit_equal(strategy, two)


def test_batch_norm_loses_no_digits_when_the_mean_is_large(two_devices):
    inputs = (np.random.default_rng(0).normal(0, 0.1, (8, 3)) + [0, 100, -1000]).astype(np.float32)
    strategy = make_strategy(Resources(1, 1, 2, 0))
    with strategy.scope():
        model = with_global_batch_norm(
            keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(momentum=0.0)])
        )

    @tf.function
    def run():
        def replica():
            rank = tf.distribute.get_replica_context().replica_id_in_sync_group
            model(tf.constant(inputs)[rank * 4 : rank * 4 + 4], training=True)

        strategy.run(replica)

    run()
    _, _, _, variance = model.get_weights()
    np.testing.assert_allclose(variance, inputs.astype(np.float64).var(axis=0), rtol=1e-3)


def test_mixed_precision_takes_the_moments_in_float32(two_devices):
    inputs = (np.random.default_rng(0).normal(0, 1, (8, 3)) + 50).astype(np.float32)
    strategy = make_strategy(Resources(1, 1, 2, 0))
    with strategy.scope():
        layer = keras.layers.BatchNormalization(momentum=0.0, dtype="mixed_bfloat16")
        model = with_global_batch_norm(keras.Sequential([keras.Input((3,), dtype="float32"), layer]))

    @tf.function
    def run():
        def replica():
            rank = tf.distribute.get_replica_context().replica_id_in_sync_group
            return model(tf.constant(inputs)[rank * 4 : rank * 4 + 4], training=True)

        return strategy.experimental_local_results(strategy.run(replica))

    outputs = np.concatenate([tf.cast(part, tf.float32) for part in run()])
    assert run()[0].dtype == tf.bfloat16
    # Inputs have 8 bits here, but their mean has more: 50 and a fraction that bfloat16 cannot tell.
    seen = tf.cast(tf.cast(inputs, tf.bfloat16), tf.float32).numpy()
    np.testing.assert_allclose(model.get_weights()[2], seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(outputs, (seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-3), atol=2e-2)


def test_replicas_that_differ_are_named(two_devices):
    strategy = make_strategy(Resources(1, 1, 2, 0))
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="first"), keras.layers.Dense(2)])
    agreement = Agreement(strategy, model.variables)
    agreement.check("Now")
    second = strategy.experimental_local_results(model.get_layer("first").bias.value)[1]
    second.assign(np.float32([0, 0, 1e-30, 0]))
    with pytest.raises(CannotTrain, match=r"After epoch 3 1 of 4 differ, first \S*first/bias"):
        agreement.check("After epoch 3")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64", "uint32"])
def test_digests_tell_values_and_places_apart(dtype):
    values = [[1, 2, 3], [2, 1, 3], [1, 2, 4], [0, 0, 0], [1, 2, 3]]
    digests = [int(digest(tf.cast(tf.constant(value), dtype))) for value in values]
    assert len(set(digests[:4])) == 4
    assert digests[0] == digests[4]

"""Options of the training step, against a plain Keras loop over the global batch, on one device and on two."""

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from trainers.calls import step_metrics, train_steps
from trainers.config import OptimiserConfig
from trainers.loop import StepOptions, TrainStep
from trainers.models.layers import GlobalBatch, dropout_maker
from trainers.optimiser import averaged_weights, class_weights, computing_in, make_optimizer
from trainers.order import Order
from trainers.policies import mixed_order
from trainers.strategy import Resources, make_strategy

BATCH, STEPS = 12, 5
RATES = np.linspace(1e-3, 2e-2, STEPS)
random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (STEPS, BATCH, 4, 4, 3)).astype(np.uint8)
LABELS = (random.random((STEPS, BATCH)) < 0.3).astype(np.float32)


def build(dropout=None):
    """A small model without batch normalisation; the same weights each time."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((4, 4, 3), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 64, -2, dtype="float32")(image))
    x = layers.Dense(8, "relu", name="hidden")(x)
    x = dropout(0.5, "dropout")(x) if dropout else x
    return keras.Model(image, layers.Dense(1, "sigmoid", dtype="float32")(x))


class Trained:
    """A model after STEPS steps of the loop; `calls` is what was measured."""

    def __init__(self, devices, step_options=None, labels=LABELS, with_dropout=False, **options):
        self.options = OptimiserConfig(**options)
        self.strategy = strategy = make_strategy(Resources(1, 1, devices, 0))
        with strategy.scope():
            step = tf.Variable(0, dtype=tf.int64, trainable=False)
            batch = GlobalBatch(0, BATCH, step)
            with computing_in(self.options.precision):
                self.model = build(dropout_maker(batch) if with_dropout else None)
            self.optimizer = make_optimizer(1e-3, self.options)
        self.before = self.model.get_weights()
        train_step = TrainStep(strategy, self.model, self.optimizer, batch, step_options)

        def parts(context):  # replica by replica
            data = {"image": IMAGES.reshape(-1, 4, 4, 3), "label": labels.reshape(-1)}
            return tf.data.Dataset.from_tensor_slices(data).batch(BATCH // devices).repeat()

        iterator = iter(strategy.distribute_datasets_from_function(parts))
        self.calls = list(train_steps(train_step, iterator, RATES, steps_per_call=2))
        self.losses, self.norms = (np.concatenate([call[i] for call in self.calls]) for i in (0, 2))

    def averages(self):
        with averaged_weights(self.strategy, self.model, self.optimizer, self.options):
            return self.model.get_weights()


class Reference:
    """The same steps as Keras alone takes them, with the whole batch on one device."""

    def __init__(self, clip_norm=0.0, weights=(1.0, 1.0), decay=0.0):
        model = build()
        optimizer, loss_of = keras.optimizers.Adam(), keras.losses.BinaryCrossentropy()
        self.losses, self.norms, self.averages = [], [], None
        for images, labels, rate in zip(IMAGES, LABELS, RATES, strict=True):
            with tf.GradientTape() as tape:
                loss = loss_of(labels[:, None], model(images), sample_weight=np.where(labels, *weights[::-1]))
            gradients = tape.gradient(loss, model.trainable_variables)
            if clip_norm:
                gradients, norm = tf.clip_by_global_norm(gradients, clip_norm)
                self.norms.append(float(norm))
            optimizer.learning_rate = rate
            optimizer.apply(gradients, model.trainable_variables)
            self.losses.append(float(loss))
            self.weights = model.get_weights()
            mix = zip(self.averages or self.weights, self.weights, strict=True)
            self.averages = [decay * old + (1 - decay) * new for old, new in mix]


def assert_close(found, expected, tolerance=2e-5):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (StepOptions(), {}),
        (StepOptions(clip_norm=0.05), {"clip_norm": 0.05}),
        (StepOptions(class_weights=(0.5, 3.0)), {"weights": (0.5, 3.0)}),
        (StepOptions(accumulate=3), {}),
        (StepOptions(0.05, 2, (0.5, 3.0)), {"clip_norm": 0.05, "weights": (0.5, 3.0)}),
        (StepOptions(xla=True), {}),
        (StepOptions(0.05, 2, (0.5, 3.0), xla=True), {"clip_norm": 0.05, "weights": (0.5, 3.0)}),
    ],
)
def test_steps_are_those_of_a_plain_loop_over_the_global_batch(two_devices, devices, options, reference):
    found, expected = Trained(devices, options), Reference(**reference)
    assert_close(found.losses, expected.losses)
    assert_close(found.model.get_weights(), expected.weights)
    if options.clip_norm:
        assert min(expected.norms) > options.clip_norm  # so it was clipped
        assert_close(found.norms, expected.norms)
    else:
        assert not found.norms.any()


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulation_drops_out_the_same_units(two_devices, devices):
    whole = Trained(1, with_dropout=True)
    parts = Trained(devices, StepOptions(accumulate=2), with_dropout=True)
    assert_close(parts.losses, whole.losses)
    assert_close(parts.model.get_weights(), whole.model.get_weights())
    assert np.abs(np.array(whole.losses) - Trained(1).losses).max() > 1e-2  # there is something to get wrong


def test_compiled_replicas_drop_out_their_rows_of_one_mask(two_devices):
    one, two = (Trained(devices, StepOptions(xla=True), with_dropout=True) for devices in (1, 2))
    assert_close(one.losses, two.losses)
    assert_close(one.model.get_weights(), two.model.get_weights())


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_averaged_weights_follow_the_weights(two_devices, devices, precision):
    trained, expected = Trained(devices, ema_decay=0.7, precision=precision), Reference(decay=0.7)
    tolerance = 2e-5 if precision == "float32" else 5e-3
    assert_close(trained.averages(), expected.averages, tolerance)
    assert_close(trained.model.get_weights(), expected.weights, tolerance)  # outside of the block they are back


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_computes_in_half_and_keeps_whole_weights(two_devices, devices, precision):
    trained = Trained(devices, StepOptions(clip_norm=0.05), precision=precision)
    hidden, expected = trained.model.get_layer("hidden"), Reference(clip_norm=0.05)
    assert (hidden.compute_dtype, hidden.kernel.dtype) == (precision.removeprefix("mixed_"), "float32")
    assert trained.model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert_close(trained.losses, expected.losses, 3e-2)
    assert_close(trained.norms, expected.norms, 3e-2)
    metrics = step_metrics(trained.calls)
    assert metrics.get("train/loss_scale") == (2.0**15 if precision == "mixed_float16" else None)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_that_overflows_on_one_replica_is_skipped_on_all(two_devices, devices, accumulate):
    labels = np.zeros((STEPS, BATCH), np.float32)
    labels[:, -1] = 1  # on the last replica, in its last part
    heavy = StepOptions(accumulate=accumulate, class_weights=(1.0, 1e9))
    trained = Trained(devices, heavy, labels, precision="mixed_float16")
    assert all(np.array_equal(a, b) for a, b in zip(trained.model.get_weights(), trained.before, strict=True))
    assert trained.calls[-1].loss_scale == 2.0 ** (15 - STEPS)


@pytest.mark.parametrize("devices", [1, 2])
def test_of_parts_that_overflow_nothing_is_left_for_the_next_step(two_devices, devices):
    labels = np.zeros((STEPS, BATCH), np.float32)
    labels[0, 0] = 1  # on the first replica, in its first part
    whole, parts = (
        Trained(devices, StepOptions(accumulate=number, class_weights=(1.0, 1e9)), labels, precision="mixed_float16")
        for number in (1, 2)
    )
    assert parts.calls[-1].loss_scale == whole.calls[-1].loss_scale == 2.0**14
    assert_close(parts.model.get_weights(), whole.model.get_weights(), 5e-3)
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(parts.model.get_weights(), parts.before, strict=True))


def test_balanced_class_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 3 + [1] * 17, np.int8)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    order = Order(20, 4, seed=0)
    np.testing.assert_allclose(class_weights(labels, order, "balanced"), expected)
    assert class_weights(labels, order, "none") == (1.0, 1.0)


def test_balanced_class_weights_count_what_is_drawn_of_mixed_datasets():
    labels = np.repeat([0, 1, 0, 1], [90, 10, 10, 190])
    sources = pa.array(["faces"] * 100 + ["objects"] * 200)
    order = mixed_order(sources, {"faces": 3, "objects": 1}, 32, seed=0)
    drawn = labels[
        np.concatenate([order.batch(step)[0] for step in range(25)])
    ]  # of faces six times all, of objects once
    real, fake = class_weights(labels, order, "balanced") * np.bincount(drawn)
    assert real == pytest.approx(fake)
    assert real + fake == pytest.approx(len(drawn))


def test_waiting_is_part_of_the_time(two_devices):
    metrics = step_metrics(Trained(1).calls)
    assert 0 <= metrics["train/data_wait_share"] <= 1
    assert metrics["train/step_seconds"] > 0

"""Early stopping, best epoch and plateau: the same decisions as Keras's callbacks take."""

import random

import keras
import numpy as np
import pytest

from trainers.history import best_epoch, decayed_rate, is_stopped, plateau_rate, position

random.seed(0)
HISTORIES = [
    [1.0],
    [3, 2, 1, 0.5],
    [1, 1, 1, 1, 1, 1, 1, 1],
    [1, 2, 3, 4, 5, 6, 7, 8],
    [5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3],
    [2, 1, 1.5, 0.9, 1, 1, 1, 1, 1, 0.8, 1, 1, 1, 1],
    *[[round(random.uniform(0, 1), 1) for _ in range(15)] for _ in range(20)],
]


class Replay:
    """Feeds a history to Keras callbacks, as `fit` would."""

    def __init__(self, rate=1e-4):
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.model.compile(keras.optimizers.Adam(rate), "mse")

    def run(self, callback, values):
        """Yields (epoch, rate of the next epoch) until the callback stops training."""
        callback.set_model(self.model)
        callback.on_train_begin()
        self.model.stop_training = False
        for epoch, value in enumerate(values):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_loss": value})
            yield epoch, float(np.asarray(self.model.optimizer.learning_rate))
            if self.model.stop_training:
                break


@pytest.mark.parametrize("patience", [1, 2, 5])
@pytest.mark.parametrize("values", HISTORIES, ids=str)
def test_early_stopping_as_in_keras(values, patience):
    callback = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    replay = Replay()
    for epoch, _ in replay.run(callback, values):
        assert is_stopped(values[: epoch + 1], patience) == replay.model.stop_training
        assert best_epoch(values[: epoch + 1]) == callback.best_epoch


@pytest.mark.parametrize(("factor", "patience", "minimum"), [(0.1, 3, 1e-6), (0.5, 1, 3e-5), (0.2, 2, 0.0)])
@pytest.mark.parametrize("values", HISTORIES, ids=str)
def test_plateau_as_in_keras(values, factor, patience, minimum):
    callback = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=factor, patience=patience, min_delta=0, min_lr=minimum
    )
    for epoch, rate in Replay(1e-4).run(callback, values):
        assert plateau_rate(values[: epoch + 1], 1e-4, factor, patience, minimum) == rate


def test_patience_zero_never_stops():
    assert not is_stopped([1.0] * 100, 0)


@pytest.mark.parametrize(
    ("phases_done", "values", "expected"),
    [
        ([], [], 0),
        ([0], [1], 0),
        ([0, 0], [1, 2], 1),  # the first phase has had its two epochs
        ([0, 0, 1], [1, 2, 3], 1),  # the second judges its own epochs only
        ([0, 0, 1, 1, 1], [1, 2, 1, 2, 2], None),  # stopped: two without improvement
        ([0, 0, 1, 1, 1, 1], [1, 2, 4, 3, 2, 1], None),  # all epochs had
    ],
)
def test_position_in_two_phases(phases_done, values, expected):
    history = [{"phase": p, "validation/loss": v} for p, v in zip(phases_done, values, strict=True)]
    assert position(history, [2, 4], patience=2) == expected


def test_rate_decays_in_steps():
    rates = [decayed_rate(epoch, 1e-3, every=5, factor=0.1) for epoch in range(11)]
    assert rates == pytest.approx([1e-3] * 5 + [1e-4] * 5 + [1e-5])
    assert [decayed_rate(epoch, 1e-3, every=1, factor=0.5) for epoch in range(2)] == [1e-3, 5e-4]
    assert decayed_rate(100, 1e-3, every=0, factor=0.1) == 1e-3

"""Learning rates are functions of the step."""

import keras
import numpy as np
import pytest

from trainers.config import OptimiserConfig
from trainers.rate import epoch_rates, rates, scaled


@pytest.mark.parametrize(("policy", "expected"), [("none", 1e-4), ("linear", 8e-4), ("sqrt", 1e-4 * 8**0.5)])
def test_rates_grow_with_the_batch(policy, expected):
    assert scaled(1e-4, 256, 32, policy) == pytest.approx(expected)


def test_warm_up_rises_to_the_whole_rate():
    steps = np.arange(6)
    found = rates(steps, 0.4, warm_up_steps=4, schedule="constant", num_steps=6, least=0.0)
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(("least", "warm_up_steps"), [(1e-6, 0), (1e-4, 5), (1.0, 0)])
def test_cosine_is_keras_own_after_the_warm_up(least, warm_up_steps):
    steps = np.arange(40)
    found = rates(steps, 1e-3, warm_up_steps=warm_up_steps, schedule="cosine", num_steps=30, least=least)
    theirs = keras.optimizers.schedules.CosineDecay(1e-3, 30 - warm_up_steps, alpha=min(least / 1e-3, 1))
    expected = [float(theirs(step - warm_up_steps)) for step in steps[warm_up_steps:]]
    np.testing.assert_allclose(found[warm_up_steps:], expected, rtol=1e-4)
    np.testing.assert_allclose(found[:warm_up_steps], 1e-3 * (steps[:warm_up_steps] + 1) / (warm_up_steps or 1))


def test_a_step_has_its_rate_wherever_training_begins():
    options = {"warm_up_steps": 3, "schedule": "cosine", "num_steps": 20, "least": 1e-5}
    whole = rates(np.arange(20), 1e-2, **options)
    assert np.array_equal(rates(np.arange(7, 20), 1e-2, **options), whole[7:])


def test_the_epochs_of_a_phase_make_up_its_schedule():
    options = OptimiserConfig(warm_up_steps=7, schedule="cosine", min_learning_rate=1e-5)
    epochs = [epoch_rates(options, 1e-2, [1.0] * done, num_steps=5, num_epochs=4) for done in range(4)]
    whole = rates(np.arange(20), 1e-2, warm_up_steps=7, schedule="cosine", num_steps=20, least=1e-5)
    assert np.array_equal(np.concatenate(epochs), whole)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"decay_every_epochs": 2, "decay_factor": 0.5}, [1, 1, 0.5, 0.5, 0.25]),
        ({"reduce_lr_on_plateau": True, "plateau_patience": 1, "plateau_factor": 0.2}, [1, 1, 0.2, 0.2, 0.1]),
    ],
)
def test_epochs_have_the_rates_that_are_asked_for(options, expected):
    losses = [0.9, 0.9, 0.8, 0.8]  # the second is no better than the first, the fourth no better than the third
    options = OptimiserConfig(min_learning_rate=0.1, **options)
    found = [epoch_rates(options, 1.0, losses[:done], num_steps=3, num_epochs=5) for done in range(5)]
    np.testing.assert_allclose(np.stack(found), np.repeat(expected, 3).reshape(5, 3), rtol=1e-6)

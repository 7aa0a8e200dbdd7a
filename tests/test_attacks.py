"""Attacks: within their size, in whole levels, and stronger than chance."""

import keras
import numpy as np
import pytest
import small_model
from small_dataset import picture

from tfds_builders.records.errors import Refused
from trainers.attacks import Attacker
from trainers.models.average import average_models
from trainers.perturbations import random_signs

SIZE = small_model.IMAGE_SIZE
LABELS = np.arange(24) % 2


@pytest.fixture(scope="module")
def pixels():
    return np.stack([picture(label, (SIZE, SIZE), seed) for seed, label in enumerate(LABELS)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return keras.saving.load_model(small_model.save_model(tmp_path_factory.mktemp("attacks") / "model.keras"))


def log_losses(model, pixels) -> np.ndarray:
    p = np.clip(model(pixels).numpy()[:, 0].astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.where(LABELS == 1, np.log(p), np.log1p(-p))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pgd_is_stronger_than_fgsm_and_fgsm_than_noise_of_its_size(model, pixels, size):
    attacker = Attacker(model)
    changed = {
        "noise": np.stack([random_signs(image, size, seed) for seed, image in enumerate(pixels)]),
        "fgsm": attacker.fgsm(pixels, LABELS, size),
        "pgd": attacker.pgd(pixels, LABELS, size),
    }
    losses = {name: log_losses(model, images).mean() for name, images in changed.items()}
    assert losses["pgd"] > losses["fgsm"] > losses["noise"]
    assert losses["fgsm"] > log_losses(model, pixels).mean()
    for images in changed.values():
        assert (images.dtype, images.shape) == (np.uint8, pixels.shape)
        assert np.abs(images.astype(int) - pixels).max() == size


def test_no_image_is_attacked_better_by_one_step_than_by_several(model, pixels):
    attacker = Attacker(model)
    fgsm, pgd = (log_losses(model, attack(pixels, LABELS, 2)) for attack in (attacker.fgsm, attacker.pgd))
    assert (pgd >= fgsm - 1e-6).all()


def steep_model(slope: float) -> keras.Model:
    """P(fake) of the mean of all pixels times `slope`."""
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(image))
    steep = keras.layers.Dense(1, "sigmoid", kernel_initializer=keras.initializers.Constant(slope))(mean)
    return keras.Model(image, steep)


@pytest.mark.parametrize("slopes", [(1.0,), (1.0, 0.8)])
def test_a_saturated_score_still_has_a_gradient(slopes, pixels):
    members = [steep_model(slope) for slope in slopes]
    model = average_models(members, "pair") if len(members) > 1 else members[0]
    assert model(pixels).numpy().min() == 1.0
    attacker = Attacker(model)
    for attack in (attacker.fgsm, attacker.pgd):
        attacked = attack(pixels, np.ones(len(pixels)), 2)
        np.testing.assert_array_equal(attacked, np.maximum(pixels.astype(int) - 2, 0))


def test_of_an_ensembles_steps_the_one_counts_that_moves_its_mean_most(tmp_path, pixels):
    """One member is steep the other way: the sum of the logits is not what the mean of P(fake) says."""
    members = [keras.saving.load_model(small_model.save_model(tmp_path / "a.keras")), steep_model(-0.02)]
    model = average_models(members, "pair")
    attacker = Attacker(model)
    fgsm, pgd = (log_losses(model, attack(pixels, LABELS, 2)) for attack in (attacker.fgsm, attacker.pgd))
    assert (pgd >= fgsm - 1e-6).all()


def test_an_ensemble_is_attacked_through_its_members(tmp_path, pixels):
    members = [keras.saving.load_model(small_model.save_model(tmp_path / f"{seed}.keras", seed)) for seed in range(2)]
    model = average_models(members, "pair")
    attacked = Attacker(model).fgsm(pixels, LABELS, 4)
    assert log_losses(model, attacked).mean() > log_losses(model, pixels).mean()


def test_a_model_without_a_gradient_is_refused(pixels):
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    rounded = keras.ops.cast(keras.ops.cast(image, "int32"), "float32")
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid")(keras.layers.GlobalAveragePooling2D()(rounded)))
    with pytest.raises(Refused, match="gradient"):
        Attacker(model).fgsm(pixels, LABELS, 1)

"""Changed images: pure, of the same shape, and worse the stronger the change."""

import numpy as np
import pytest
from small_dataset import picture

from trainers.perturbations import PERTURBATIONS

PIXELS = picture(1, (48, 64), seed=3)
CASES = [(name, strength) for name, change in PERTURBATIONS.items() for strength in change.strengths]


def distance(name: str, strength: float, pixels: np.ndarray) -> float:
    changed = PERTURBATIONS[name].apply(pixels, strength, 5).astype(float)
    return float(np.sqrt(np.mean((changed - pixels) ** 2)))


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_a_change_is_a_function_of_pixels_strength_and_seed(name, strength):
    before = PIXELS.copy()
    first, second = (PERTURBATIONS[name].apply(PIXELS, strength, 11) for _ in range(2))
    assert (first.dtype, first.shape) == (np.uint8, PIXELS.shape)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(PIXELS, before)
    assert (first != PIXELS).any()


@pytest.mark.parametrize("name", ["jpeg", "webp", "blur", "noise", "brightness"])
def test_later_strengths_are_stronger(name):
    distances = [distance(name, strength, PIXELS) for strength in PERTURBATIONS[name].strengths]
    assert distances == sorted(set(distances))


@pytest.mark.parametrize("name", ["noise", "crop", "brightness", "screenshot"])
def test_the_seed_draws_what_is_random(name):
    strength = PERTURBATIONS[name].strengths[-1]
    results = {PERTURBATIONS[name].apply(PIXELS, strength, seed).tobytes() for seed in range(8)}
    assert len(results) > 1


def test_noise_and_brightness_have_the_size_that_is_said():
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert distance("noise", 5, grey) == pytest.approx(5, rel=0.05)
    assert distance("brightness", 25, grey) == 25

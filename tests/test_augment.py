"""Random changes of training images."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_dataset import picture

from trainers.augment import augment_uint8, blur, compress
from trainers.config import AugmentConfig

NOTHING = AugmentConfig(
    flip_left_right=False, flip_up_down=False, brightness=0.0, contrast=0.0, hue=0.0, saturation=0.0
)
PUBLISHED = AugmentConfig()
IMAGE = picture(0, (20, 28), seed=3)  # colourful, away from black and white: 47..208
LEVEL = 1 / 255


def augment(config, position=0, seed=0, image=IMAGE):
    return augment_uint8(tf.constant(image), config, seed, tf.constant(position, tf.int64)).numpy()


def changed(position, **only):
    """The image under the one operation, as float levels in 0..1."""
    return augment(dataclasses.replace(NOTHING, **only), position).astype(float) * LEVEL


PLAIN = IMAGE * LEVEL


@pytest.mark.parametrize("config", [NOTHING, dataclasses.replace(PUBLISHED, augment=False)])
def test_nothing_changes_nothing(config):
    assert np.array_equal(augment(config), IMAGE)


def test_the_same_position_gives_the_same_image():
    first = augment(PUBLISHED, position=2**40 + 5, seed=9)
    assert first.dtype == np.uint8
    assert first.shape == IMAGE.shape
    assert np.array_equal(first, augment(PUBLISHED, position=2**40 + 5, seed=9))


def test_positions_and_seeds_differ():
    images = [augment(PUBLISHED, position, seed).tobytes() for position in (0, 1, 2**40) for seed in (0, 1, 2**40)]
    assert len(set(images)) == 9


def test_it_is_the_same_inside_a_graph():
    inside = tf.function(lambda position: augment_uint8(tf.constant(IMAGE), PUBLISHED, 4, position))
    assert np.array_equal(inside(tf.constant(12, tf.int64)), augment(PUBLISHED, 12, 4))


@pytest.mark.parametrize("name", ["flip_left_right", "flip_up_down"])
def test_flips_come_half_the_time(name):
    flipped = IMAGE[:, ::-1] if name == "flip_left_right" else IMAGE[::-1]
    results = [augment(dataclasses.replace(NOTHING, **{name: True}), position) for position in range(200)]
    num_flipped = sum(np.array_equal(result, flipped) for result in results)
    num_same = sum(np.array_equal(result, IMAGE) for result in results)
    assert num_flipped + num_same == 200
    assert 70 < num_flipped < 130  # four standard deviations are 28


def test_brightness_adds_one_number():
    shifts = []
    for position in range(40):
        difference = changed(position, brightness=0.1) - PLAIN
        assert np.ptp(difference) <= LEVEL + 1e-9
        shifts.append(difference.mean())
    assert -0.1 - LEVEL < min(shifts) < -0.05
    assert 0.05 < max(shifts) < 0.1 + LEVEL


def test_contrast_scales_around_the_mean_of_each_channel():
    mean = PLAIN.mean((0, 1))
    factors = []
    for position in range(40):
        result = changed(position, contrast=0.1)
        factor = ((result - mean) * (PLAIN - mean)).sum() / ((PLAIN - mean) ** 2).sum()
        assert np.abs(result - ((PLAIN - mean) * factor + mean)).max() < LEVEL
        factors.append(factor)
    assert 0.9 - 0.005 < min(factors) < 0.95
    assert 1.05 < max(factors) < 1.1 + 0.005


def test_hue_keeps_the_largest_and_the_smallest_channel():
    turned = 0
    for position in range(10):
        result = changed(position, hue=0.1)
        assert np.abs(result.max(-1) - PLAIN.max(-1)).max() <= LEVEL
        assert np.abs(result.min(-1) - PLAIN.min(-1)).max() <= LEVEL
        turned += np.abs(result - PLAIN).max() > 3 * LEVEL
    assert turned >= 8


def test_saturation_scales_the_distance_from_the_largest_channel():
    value = PLAIN.max(-1, keepdims=True)
    factors = []
    for position in range(40):
        result = changed(position, saturation=0.1)
        factor = ((value - result) * (value - PLAIN)).sum() / ((value - PLAIN) ** 2).sum()
        assert np.abs(result - (value - (value - PLAIN) * factor)).max() < 2 * LEVEL
        factors.append(factor)
    assert 0.9 - 0.005 < min(factors) < 0.95
    assert 1.05 < max(factors) < 1.1 + 0.005


def test_switching_one_operation_off_leaves_the_others_draws():
    without_flips = dataclasses.replace(PUBLISHED, flip_left_right=False, flip_up_down=False)
    unflipped = [augment(without_flips, position) for position in range(8)]
    flipped = [augment(PUBLISHED, position) for position in range(8)]
    for plain, other in zip(unflipped, flipped, strict=True):
        candidates = [plain, plain[::-1], plain[:, ::-1], plain[::-1, ::-1]]
        # The mean, summed in another order, may turn a rounding.
        assert min(np.abs(other.astype(int) - candidate).max() for candidate in candidates) <= 1


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.7, 3.0])
def test_blur_is_a_gaussian(sigma):
    from scipy.ndimage import gaussian_filter

    expected = gaussian_filter(IMAGE.astype(float), (sigma, sigma, 0), mode="mirror", radius=(9, 9, 0))
    assert np.abs(blur(tf.constant(IMAGE), sigma).numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("quality", [30, 75, 100])
def test_compression_is_that_of_a_jpeg_file(quality):
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).astype(int)
    found = compress(tf.constant(IMAGE), quality).numpy()
    assert np.abs(found - expected).mean() < 1
    assert np.abs(found.astype(int) - IMAGE).mean() > (0.5 if quality < 100 else 0)


@pytest.mark.parametrize("name", ["blur_probability", "jpeg_probability"])
def test_blur_and_compression_come_as_often_as_told(name):
    for probability, least, most in ((0.1, 8, 40), (0.5, 70, 130)):
        config = dataclasses.replace(NOTHING, **{name: probability})
        images = [augment(config, position) for position in range(200)]
        assert least <= sum(not np.array_equal(image, IMAGE) for image in images) <= most
    always = dataclasses.replace(NOTHING, **{name: 1.0})
    assert len({augment(always, position).tobytes() for position in range(8)}) > 4  # of different strength
    assert augment(always, 3, seed=1).tobytes() != augment(always, 3, seed=2).tobytes()


def test_new_operations_leave_the_draws_of_the_others_alone():
    with_jpeg = dataclasses.replace(PUBLISHED, jpeg_probability=1e-9, blur_probability=1e-9)
    for position in range(6):
        assert np.array_equal(augment(with_jpeg, position), augment(PUBLISHED, position))


def test_black_and_white_stay_in_range():
    extremes = np.zeros((8, 8, 3), np.uint8)
    extremes[:4] = 255
    for position in range(20):
        result = augment(PUBLISHED, position, image=extremes).astype(int)
        # At most 0.1 of brightness and 5 % of contrast away; an overflow would turn white into black.
        dark, bright = sorted((result[:4].mean(), result[4:].mean()))
        assert dark < 40
        assert bright > 215


# -- turns and shifts --


def test_a_turn_keeps_the_centre_and_differs_from_image_to_image():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255  # turned about itself
    turning = dataclasses.replace(NOTHING, rotation=0.5)
    assert (augment(turning, 3, image=image)[10, 10] >= 254).all()
    results = {augment(turning, position).tobytes() for position in range(20)}
    assert len(results) == 20


def test_turns_are_those_of_keras(monkeypatch):
    """A quarter of the circle clockwise is exact: np.rot90 with k = -1."""
    square = IMAGE[:20, :20]
    monkeypatch.setattr("trainers.augment._around", lambda centre, radius, draw: tf.constant(radius))
    turned = augment(dataclasses.replace(NOTHING, rotation=0.25), image=square)
    np.testing.assert_allclose(turned.astype(int), np.rot90(square, k=-1).astype(int), atol=1)


def test_shifts_move_by_parts_of_the_sides_and_mirror_what_comes_in(monkeypatch):
    monkeypatch.setattr("trainers.augment._around", lambda centre, radius, draw: tf.constant(radius))
    moved = augment(dataclasses.replace(NOTHING, shift=0.25))  # of 20 x 28: 5 down, 7 to the right
    np.testing.assert_array_equal(moved[5:, 7:], IMAGE[:-5, :-7])
    np.testing.assert_array_equal(moved[:5, 7:], IMAGE[:5, :-7][::-1])
    np.testing.assert_array_equal(moved[5:, :7], IMAGE[:-5, :7][:, ::-1])


def test_turns_stay_within_their_limit():
    """A line through the centre, turned by at most a tenth of the circle, ends above the diagonal."""
    line = np.zeros((41, 41, 3), np.uint8)
    line[20] = 255
    for position in range(50):
        turned = augment(dataclasses.replace(NOTHING, rotation=0.1), position, image=line)[..., 0]
        y = np.argwhere(turned[:, 30] > 100)[:, 0] - 20  # 10 pixels from the centre
        assert len(y)
        assert abs(y).max() <= 10 * np.tan(2 * np.pi * 0.1) + 1.5

"""Random changes of training images, drawn for each example from (seed, position) alone.

The same position gives the same image on any worker, in any batch, before and after a restart.
"""

import math
from typing import Any

import tensorflow as tf

_NUM_DRAWS = 9  # one number per operation, whether it is on or not: switching one off leaves the others' draws alone
# Of what was added later: the crop's place downwards; blur or not, sigma; JPEG or not, quality; the place to the right.
_NUM_FURTHER_DRAWS = 6
MAX_SIGMA = 3.0  # pixels
_RADIUS = 9  # pixels; three times the largest sigma
MIN_QUALITY, MAX_QUALITY = 30, 100


def augment_uint8(image: tf.Tensor, config: Any, seed: int, position: tf.Tensor) -> tf.Tensor:
    """One image, changed in this order: blur, JPEG, flips, turn and shift, brightness, contrast, hue, saturation.

    Blur and JPEG are those of "CNN-generated images are surprisingly easy to spot... for now" (arXiv 1912.11035,
    section 4.1): each with its own probability, sigma uniform in [0, 3], quality uniform in 30..100. They come first,
    on uint8, as whoever passes an image on would do it.

    The operations are those of `tf.image.random_*` on RGB in [0, 1], their results clipped to [0, 1] once at the end
    as the published layers do, and rounded to the nearest of 256 levels.

    Args:
      image: uint8 [height, width, 3], RGB.
      config: an AugmentConfig: `augment`, `flip_left_right`, `flip_up_down` (bool); `brightness` (largest difference),
        `contrast`, `saturation` (largest deviation of the factor from 1), `hue` and `rotation` (largest turn, part of
        the circle), `shift` (largest move, part of the side); `blur_probability`, `jpeg_probability`.
      seed: of the training.
      position: scalar int64, the example's place in the whole training (see `trainers.order`).

    Returns:
      uint8 [height, width, 3].
    """
    if not config.augment:
        return image
    # philox everywhere: "auto" may choose another generator on another kind of device.
    draws = tf.random.stateless_uniform([_NUM_DRAWS], tf.stack([tf.constant(seed, tf.int64), position]), alg="philox")
    left_right, up_down, brightness, contrast, hue, saturation, rotation, down, right = tf.unstack(draws)
    _, has_blur, sigma, has_jpeg, quality, _ = tf.unstack(_further_draws(seed, position))
    if config.blur_probability:
        image = tf.cond(has_blur < config.blur_probability, lambda: blur(image, MAX_SIGMA * sigma), lambda: image)
    if config.jpeg_probability:
        quality = MIN_QUALITY + tf.cast(quality * (MAX_QUALITY - MIN_QUALITY + 1), tf.int32)
        image = tf.cond(has_jpeg < config.jpeg_probability, lambda: compress(image, quality), lambda: image)
    if config.flip_left_right:
        image = tf.cond(left_right < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    if config.flip_up_down:
        image = tf.cond(up_down < 0.5, lambda: tf.reverse(image, [0]), lambda: image)
    if config.rotation or config.shift:
        turn = 2 * math.pi * _around(0.0, config.rotation, rotation)
        image = _moved(image, turn, _around(0.0, config.shift, down), _around(0.0, config.shift, right))
    if not (config.brightness or config.contrast or config.hue or config.saturation):
        return image
    # In levels 0..255: of these operations only brightness depends on the scale, and two passes are saved.
    colours = tf.cast(image, tf.float32)
    if config.brightness:
        colours += 255.0 * _around(0.0, config.brightness, brightness)
    if config.contrast:
        colours = tf.image.adjust_contrast(colours, _around(1.0, config.contrast, contrast))
    if config.hue:
        colours = tf.image.adjust_hue(colours, _around(0.0, config.hue, hue))
    if config.saturation:
        colours = tf.image.adjust_saturation(colours, _around(1.0, config.saturation, saturation))
    return tf.cast(tf.clip_by_value(tf.round(colours), 0.0, 255.0), tf.uint8)


def crop_place(seed: int, position: tf.Tensor) -> tf.Tensor:
    """Where a window is cut out of the image at `position`, down and to the right: float32 [2], uniform in [0, 1)."""
    draws = _further_draws(seed, position)
    return tf.stack([draws[0], draws[-1]])


def blur(image: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3] under a Gaussian of `sigma` pixels, 0 to 3; edges are mirrored."""
    offsets = tf.range(-_RADIUS, _RADIUS + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(offsets / tf.maximum(sigma, 1e-3)))
    weights /= tf.reduce_sum(weights)
    around = [[_RADIUS, _RADIUS], [_RADIUS, _RADIUS], [0, 0]]
    pixels = tf.pad(tf.cast(image, tf.float32), around, "REFLECT")[None]
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):  # one side after the other: the kernel is separable
        kernel = tf.tile(tf.reshape(weights, shape), (1, 1, 3, 1))
        pixels = tf.nn.depthwise_conv2d(pixels, kernel, (1, 1, 1, 1), "VALID")
    return tf.ensure_shape(tf.cast(tf.round(pixels[0]), tf.uint8), image.shape)


def compress(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3] after JPEG compression at `quality`, scalar int32 in 0..100."""
    compressed = tf.image.adjust_jpeg_quality(image, quality, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(compressed, image.shape)


def _further_draws(seed: int, position: tf.Tensor) -> tf.Tensor:
    # Positions count from 0, so the others are free for draws that leave the first ones as they were.
    key = tf.stack([tf.constant(seed, tf.int64), -1 - position])
    return tf.random.stateless_uniform([_NUM_FURTHER_DRAWS], key, alg="philox")


def _moved(image: tf.Tensor, turn: tf.Tensor, down: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3], turned about its centre (radians, clockwise as seen) and then moved (parts of the
    sides). Bilinear, and mirrored at the edges, as Keras's RandomRotation and RandomTranslation do by default."""
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    cos, sin = tf.cos(turn), tf.sin(turn)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    # From a place (x, y) of the result to where it comes from: back by the shift, then back by the turn.
    from_x, from_y = -centre_x - right * width, -centre_y - down * height
    row_x = [cos, sin, cos * from_x + sin * from_y + centre_x]
    row_y = [-sin, cos, -sin * from_x + cos * from_y + centre_y]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.stack([*row_x, *row_y, 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]
    return tf.cast(tf.clip_by_value(tf.round(moved), 0.0, 255.0), tf.uint8)


def _around(centre: float, radius: float, draw: tf.Tensor) -> tf.Tensor:
    """`draw`, uniform in [0, 1), as a number uniform in [centre - radius, centre + radius)."""
    return centre - radius + 2 * radius * draw

"""One sample image: a crop, re-synthesised or not, through one and the same camera and encoder.

Everything about image number i follows from (seed, i) alone, so a corpus is the same however many processes make it.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from tfds_builders.samples.generators import GENERATORS
from tfds_builders.samples.photographs import MAX_DRAWS, MIN_CONTRAST, PHOTOGRAPHS, Photograph, pixels_of

_SCALES = (0.5, 1.6)  # pixels of the photograph per pixel of the sample
_QUALITIES = (92, 100)  # of the JPEG that every sample has been through
_GRAIN = (0.001, 0.004)  # standard deviation of the sensor noise, of the range 0..1
_GAINS = (0.25, 8.0)  # of a fake's fine detail
_GAIN_STEPS = 6


class Sample(NamedTuple):
    """One image and what is known of it."""

    number: int
    photograph: Photograph
    label: int  # 0 real, 1 fake
    generator: str  # "" for a real one
    png: bytes


def make_sample(index: int, num_images: int, seed: int, size: int) -> Sample:
    """Makes sample `index` of `num_images`: even ones are real, odd ones fake; photographs and generators take turns.

    Returns:
      A sample whose `png` is a PNG file of size x size pixels.
    """
    random = np.random.default_rng([seed, index])
    label, turn = index % 2, index // 2
    photograph = PHOTOGRAPHS[_photograph_of(turn, (num_images + 1) // 2)]
    crop = _crop(pixels_of(photograph), size, random)
    quality = int(random.integers(_QUALITIES[0], _QUALITIES[1] + 1))
    noise = random.normal(0, 1, crop.shape).astype(np.float32)
    grain = float(random.uniform(*_GRAIN))
    png = _expose(crop, noise, grain, quality)
    if not label:
        return Sample(index, photograph, label, "", png)
    names = list(GENERATORS)
    generator = names[int(random.integers(len(names)))]
    fake = GENERATORS[generator](crop, random)
    return Sample(index, photograph, label, generator, _expose_alike(fake, noise, grain, quality, len(png)))


def _photograph_of(turn: int, num_turns: int) -> int:
    """Shares the turns out over the photographs by the square root of their area: larger ones hold more crops."""
    weights = np.sqrt([np.prod(pixels_of(photograph).shape[:2]) for photograph in PHOTOGRAPHS])
    ends = np.cumsum(weights) / weights.sum() * num_turns
    return int(np.searchsorted(ends, turn, side="right").clip(0, len(PHOTOGRAPHS) - 1))


def _crop(photograph: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """A square at a random place and scale, not a flat one, resampled to size x size: float32 [size, size, 3], 0..1."""
    height, width, _ = photograph.shape
    low, high = np.log(_SCALES[0]), np.log(_SCALES[1])
    for _ in range(MAX_DRAWS):
        side = int(min(round(size * np.exp(random.uniform(low, high))), height, width))
        top, left = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
        part = photograph[top : top + side, left : left + side]
        if part.std() > MIN_CONTRAST:
            break
    resized = Image.fromarray(part).resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(resized, np.float32) / 255
    return pixels[:, ::-1] if random.random() < 0.5 else pixels


def _expose(pixels: np.ndarray, noise: np.ndarray, grain: float, quality: int) -> bytes:
    """Adds the sensor's noise, goes through JPEG and stores the result as PNG."""
    exposed = np.clip(np.rint((pixels + grain * noise) * 255), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(exposed).save(file, "JPEG", quality=quality)
    decoded = Image.open(io.BytesIO(file.getvalue()))
    result = io.BytesIO()
    decoded.save(result, "PNG", compress_level=3)
    return result.getvalue()


def _expose_alike(pixels: np.ndarray, noise: np.ndarray, grain: float, quality: int, num_bytes: int) -> bytes:
    """As `_expose`, with the fine detail made stronger or weaker until the file is about as long as `num_bytes`.

    Re-synthesis smooths, and smooth images make short files; a detector would learn the length of the file instead.
    """
    smooth = ndimage.gaussian_filter(pixels, (1, 1, 0), mode="reflect")
    low, high, gain = *_GAINS, 1.0
    best = _expose(pixels, noise, grain, quality)
    for _ in range(_GAIN_STEPS):
        if abs(len(best) - num_bytes) < 0.01 * num_bytes:
            break
        low, high = (gain, high) if len(best) < num_bytes else (low, gain)
        gain = (low * high) ** 0.5
        best = _expose(smooth + gain * (pixels - smooth), noise, grain, quality)
    return best

"""What happens to images on their way: compressed again, blurred, scaled, cropped, photographed from a screen.

    changed = PERTURBATIONS["jpeg"].apply(pixels, 50, seed=7)

Pure functions: uint8 RGB pixels [height, width, 3], a strength and a seed in, pixels of the same shape out. What is
random is drawn from the seed alone.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Perturbation:
    """A change in several strengths, the mildest first.

    Attributes:
      apply: (pixels, strength, seed) -> pixels.
      strengths: in `unit`.
    """

    apply: Callable[[np.ndarray, float, int], np.ndarray]
    strengths: tuple[float, ...]
    unit: str


def jpeg(pixels: np.ndarray, quality: float, seed: int = 0) -> np.ndarray:
    """Saved as JPEG of this quality, 1..100, chroma halved."""
    return _saved(pixels, "JPEG", quality=int(quality), subsampling=2)


def webp(pixels: np.ndarray, quality: float, seed: int = 0) -> np.ndarray:
    """Saved as lossy WebP of this quality, 0..100."""
    return _saved(pixels, "WEBP", quality=int(quality))


def blur(pixels: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Gaussian blur of this standard deviation, pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def resize(pixels: np.ndarray, factor: float, seed: int = 0) -> np.ndarray:
    """Scaled by the factor and back again, bilinear; below 1 detail is lost, above 1 it is smoothed."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    small = image.resize((max(1, round(width * factor)), max(1, round(height * factor))), _BILINEAR)
    return np.asarray(small.resize((width, height), _BILINEAR))


def noise(pixels: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    """Normal noise of this standard deviation, levels of 255, on every channel by itself."""
    return rounded(pixels + np.random.default_rng(seed).normal(0, deviation, pixels.shape))


def random_signs(pixels: np.ndarray, size: float, seed: int = 0) -> np.ndarray:
    """`size` levels up or down, by chance, on every channel: as large as an attack, without its aim."""
    signs = np.random.default_rng(seed).integers(0, 2, pixels.shape) * 2 - 1
    return rounded(pixels.astype(np.float32) + size * signs)


def crop(pixels: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """A piece with this share of each side, from a random place, enlarged to the old size."""
    height, width = pixels.shape[:2]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    random = np.random.default_rng(seed)
    top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
    piece = Image.fromarray(np.ascontiguousarray(pixels[top : top + rows, left : left + columns]))
    return np.asarray(piece.resize((width, height), _BICUBIC))


def brightness(pixels: np.ndarray, levels: float, seed: int = 0) -> np.ndarray:
    """Lighter or darker, whichever the seed draws, by so many of 255 levels."""
    sign = 1 if np.random.default_rng(seed).random() < 0.5 else -1
    return rounded(pixels.astype(np.float64) + sign * levels)


def screenshot(pixels: np.ndarray, quality: float, seed: int = 0) -> np.ndarray:
    """Shown on a screen and caught from there: drawn at 0.8 to 1.25 times the size, with a gamma of 0.9 to 1.1, cut
    off by up to 3 % at the sides, saved as JPEG of this quality, and brought back to the old size."""
    height, width = pixels.shape[:2]
    random = np.random.default_rng(seed)
    scale, gamma = random.uniform(0.8, 1.25), random.uniform(0.9, 1.1)
    shown = Image.fromarray(rounded(255 * (pixels / 255) ** gamma))
    shown = shown.resize((max(8, round(width * scale)), max(8, round(height * scale))), _BICUBIC)
    left, top, right, bottom = random.uniform(0, 0.03, 4)
    box = (left * shown.width, top * shown.height, (1 - right) * shown.width, (1 - bottom) * shown.height)
    caught = Image.fromarray(jpeg(np.asarray(shown.crop(tuple(round(side) for side in box))), quality))
    return np.asarray(caught.resize((width, height), _BICUBIC))


PERTURBATIONS = {
    "jpeg": Perturbation(jpeg, (95, 90, 75, 50, 30), "quality"),
    "webp": Perturbation(webp, (95, 80, 50, 30), "quality"),
    "blur": Perturbation(blur, (0.5, 1, 2, 4), "pixels"),
    "resize": Perturbation(resize, (1.5, 0.75, 0.5, 0.25), "times the size"),
    "noise": Perturbation(noise, (1, 2, 5, 10), "levels"),
    "crop": Perturbation(crop, (0.9, 0.75, 0.5), "of each side"),
    "brightness": Perturbation(brightness, (10, 25, 50), "levels"),
    "screenshot": Perturbation(screenshot, (90, 70, 50), "quality"),
}


def _saved(pixels: np.ndarray, image_format: str, **options: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def rounded(values: np.ndarray) -> np.ndarray:
    """uint8: the nearest of 256 levels."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

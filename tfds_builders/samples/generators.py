"""Processes that leave the traces of image generators: each takes a photograph's crop apart and makes it anew.

Every function takes float32 [side, side, 3] in [0, 1] (side divisible by 4) and a random generator, and returns the
same shape; what it draws (kernels, strengths) differs from image to image, as generators differ from one training to
the next.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

_STAGES = 2  # each doubles the size

Generator = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def transposed_convolution(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Twice: zeros between the pixels and a kernel over them, as a stride-2 transposed convolution.

    A kernel whose four phases do not sum alike leaves a chequered pattern (Odena et al. 2016).
    """
    pixels = _code(image)
    for _ in range(_STAGES):
        spread = np.zeros((2 * pixels.shape[0], 2 * pixels.shape[1], 3), pixels.dtype)
        spread[::2, ::2] = pixels
        side = int(random.choice([3, 4]))
        tent = 1 - np.abs(np.arange(side) - (side - 1) / 2) / (side / 2 + 0.5)
        kernel = np.outer(tent, tent) * random.uniform(0.5, 1.5, (side, side))
        pixels = ndimage.convolve(spread, (4 * kernel / kernel.sum())[..., None], mode="reflect")
    return pixels


def nearest_convolution(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Twice: every pixel doubled, then a 3x3 convolution, the up-sampling of many decoders."""
    pixels = _code(image)
    for _ in range(_STAGES):
        kernel = np.full((3, 3), random.uniform(0.01, 0.04)) * random.uniform(0.5, 1.5, (3, 3))
        kernel[1, 1] += 1 - kernel.sum()
        doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
        pixels = ndimage.convolve(doubled, kernel[..., None], mode="reflect")
    return pixels


def pixel_shuffle(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Twice: a tiny random convolution net makes four phases of each pixel, which are shuffled together."""
    pixels = _code(image)
    for _ in range(_STAGES):
        kernels = random.normal(0, 0.12, (4, 3, 3, 1))
        hidden = np.stack([np.maximum(ndimage.convolve(pixels, kernel, mode="reflect"), 0) for kernel in kernels])
        # (4 hidden, side, side, 3) -> (4 phases, side, side, 3)
        phases = np.einsum("pq,qyxc->pyxc", random.normal(0, 0.6, (4, 4)), hidden)
        phases -= phases.mean(axis=0)
        base = ndimage.zoom(pixels, (2, 2, 1), order=1, grid_mode=True, mode="reflect")
        for phase, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            base[dy::2, dx::2] += phases[phase]
        pixels = base
    return pixels


def spectral(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The outer spectrum is replaced by copies of the inner one, each turned in phase.

    Up-sampling repeats the spectrum of the small image at high frequencies (Durall et al. 2020).
    """
    side = image.shape[0]
    spectrum = np.fft.fft2(image, axes=(0, 1))
    frequency = np.abs(np.fft.fftfreq(side))
    outer = np.maximum(*np.meshgrid(frequency, frequency)) > random.uniform(0.12, 0.18)
    copies = np.zeros_like(spectrum)
    for shift in ((side // 4, 0), (0, side // 4), (side // 4, side // 4), (side // 2, side // 2)):
        turned = random.uniform(0.1, 0.3) * np.exp(2j * np.pi * random.random())
        copies += turned * np.roll(spectrum, shift, axis=(0, 1))
    spectrum = np.where(outer[..., None], copies + spectrum * random.uniform(0, 0.1), spectrum)
    return np.fft.ifft2(spectrum, axes=(0, 1)).real


def splice(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A turned and coarsely resampled part of the picture, blended into it with a soft edge, as face swaps are."""
    side = image.shape[0]
    turned = ndimage.rotate(image, random.uniform(8, 25), axes=(0, 1), order=1, reshape=False, mode="reflect")
    donor = _code(turned).repeat(2**_STAGES, axis=0).repeat(2**_STAGES, axis=1)
    y, x = np.mgrid[0:side, 0:side] / side
    centre, radius = random.uniform(0.4, 0.6, 2), random.uniform(0.5, 0.7, 2)
    distance = np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1])
    mask = np.clip((1.05 - distance) / 0.15, 0, 1)[..., None]
    return mask * donor + (1 - mask) * image


GENERATORS: dict[str, Generator] = {
    "transposed_convolution": transposed_convolution,
    "nearest_convolution": nearest_convolution,
    "pixel_shuffle": pixel_shuffle,
    "spectral": spectral,
    "splice": splice,
}


def _code(image: np.ndarray) -> np.ndarray:
    """What a decoder starts from: the image at a quarter of its size, by averaging 4x4 pixels."""
    factor = 2**_STAGES
    side = image.shape[0] // factor
    # (side, factor, side, factor, 3) -> (side, side, 3)
    return image.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))

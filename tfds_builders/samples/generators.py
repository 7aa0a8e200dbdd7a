"""Processes that leave the traces of image generators: each takes a photograph's crop apart and makes it anew.

Every function takes float32 [side, side, 3] in [0, 1] (side even) and a random generator, and returns the same shape;
what it draws (kernels, strengths) differs from image to image, as generators differ from one training to the next.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Generator = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def transposed_convolution(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half the size, then zeros between the pixels and a kernel over them, as a stride-2 transposed convolution.

    A kernel whose four phases do not sum alike leaves a chequered pattern (Odena et al. 2016).
    """
    small = _half(image)
    spread = np.zeros_like(image)
    spread[::2, ::2] = small
    side = int(random.choice([3, 4]))
    tent = 1 - np.abs(np.arange(side) - (side - 1) / 2) / (side / 2 + 0.5)
    kernel = np.outer(tent, tent) * random.uniform(0.4, 1.6, (side, side))
    return ndimage.convolve(spread, (4 * kernel / kernel.sum())[..., None], mode="reflect")


def nearest_convolution(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half the size, every pixel doubled, then a 3x3 convolution: the up-sampling of many decoders."""
    doubled = _half(image).repeat(2, axis=0).repeat(2, axis=1)
    kernel = np.full((3, 3), random.uniform(0.01, 0.04)) * random.uniform(0.5, 1.5, (3, 3))
    kernel[1, 1] += 1 - kernel.sum()
    return ndimage.convolve(doubled, kernel[..., None], mode="reflect")


def pixel_shuffle(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half the size, a tiny random convolution net that makes four phases of each pixel, and their shuffling."""
    small = _half(image)
    hidden = np.stack(
        [ndimage.convolve(small, random.normal(0, 0.12, (3, 3))[..., None], mode="reflect") for _ in range(4)]
    )
    hidden = np.maximum(hidden, 0)  # (4, side/2, side/2, 3)
    mixing = random.normal(0, 0.6, (4, 4))
    phases = np.einsum("pq,qyxc->pyxc", mixing, hidden)
    result = np.empty_like(image)
    base = ndimage.zoom(small, (2, 2, 1), order=1, grid_mode=True, mode="reflect")
    for phase, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        result[dy::2, dx::2] = base[dy::2, dx::2] + phases[phase] - phases.mean(axis=0)
    return result


def spectral(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The outer spectrum is replaced by a mirrored copy of the inner one, with a random phase.

    Up-sampling repeats the spectrum of the small image at high frequencies (Durall et al. 2020).
    """
    side = image.shape[0]
    spectrum = np.fft.fft2(image, axes=(0, 1))
    frequency = np.abs(np.fft.fftfreq(side))
    outer = np.maximum(*np.meshgrid(frequency, frequency)) > random.uniform(0.2, 0.25)
    mirrored = np.roll(spectrum, (side // 2, side // 2), axis=(0, 1)) * random.uniform(0.06, 0.12)
    phase = np.exp(2j * np.pi * random.random((side, side, 1)))
    spectrum = np.where(outer[..., None], mirrored * phase + 0.5 * spectrum * random.uniform(0, 0.4), spectrum)
    return np.fft.ifft2(spectrum, axes=(0, 1)).real


def splice(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A turned and resampled part of the picture, blended into it with a soft edge, as face swaps are."""
    side = image.shape[0]
    turned = ndimage.rotate(image, random.uniform(8, 25), axes=(0, 1), order=1, reshape=False, mode="reflect")
    small = ndimage.zoom(turned, (0.5, 0.5, 1), order=1, grid_mode=True, mode="reflect")
    donor = small.repeat(2, axis=0).repeat(2, axis=1)
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


def _half(image: np.ndarray) -> np.ndarray:
    """Half the size by averaging 2x2 pixels."""
    side = image.shape[0] // 2
    # (side, 2, side, 2, 3) -> (side, side, 3)
    return image.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))

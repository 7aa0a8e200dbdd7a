"""Where the evidence lies: how P(fake) changes when a part of the picture is covered.

Works with any registered model, since it only asks it (Zeiler & Fergus 2014, section 4.2).
"""

import numpy as np

from tfds_builders.records.decode import decode_rgb, encode_png
from tfds_builders.records.pixels import RANDOM_CROP, cut_window
from trainers.registry import Detector

CELLS = 7  # by 7: 49 questions and the picture itself
MAX_SIDE = 512  # pixels: a larger picture is covered after it was made smaller, if the model does so anyway


def occlusion_map(detector: Detector, data: bytes, cells: int = CELLS) -> tuple[float, np.ndarray]:
    """P(fake) of an encoded image, and the evidence of each of `cells` x `cells` equal parts.

    Returns:
      P(fake), and float64 [cells, cells]: P(fake) of the picture less that with the part painted in its mean colour;
      above 0 the part speaks for fake, below 0 for real; 0 where the model does not look, which cuts out a window.

    Raises:
      BadImage: the file cannot be read.
    """
    from PIL import Image

    network = detector.network
    picture = Image.fromarray(decode_rgb(data))
    if network.aspect != RANDOM_CROP:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
    pixels = np.asarray(picture)
    part_of_row, part_of_column = (np.arange(side) * cells // side for side in pixels.shape[:2])
    part_of = (part_of_row[:, None] * cells + part_of_column).astype(np.uint16)  # of each pixel
    if network.aspect == RANDOM_CROP:  # the pixels of the window are what counts: they must stay as they are
        pixels = cut_window(pixels, network.image_size).numpy()
        part_of = cut_window(part_of[..., None], network.image_size).numpy()[..., 0]
    questions = [encode_png(pixels)]
    for part in range(cells * cells):
        covered, is_covered = pixels.copy(), part_of == part
        if is_covered.any():
            covered[is_covered] = pixels[is_covered].mean(axis=0).round()
        questions.append(encode_png(covered))
    scores = np.array([verdict.p_fake for verdict in detector.predict(questions)], np.float64)
    return float(scores[0]), scores[0] - scores[1:].reshape(cells, cells)

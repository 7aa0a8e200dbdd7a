"""Where the evidence lies: how P(fake) changes when a part of the picture is covered.

Works with any registered model, since it only asks it (Zeiler & Fergus 2014, section 4.2).
"""

from itertools import pairwise

import numpy as np

from tfds_builders.records.decode import decode_rgb, encode_png
from trainers.registry import Detector

CELLS = 7  # by 7: 49 questions and the picture itself
MAX_SIDE = 512  # pixels: a larger picture is covered after it was made smaller, which the model does anyway


def occlusion_map(detector: Detector, data: bytes, cells: int = CELLS) -> tuple[float, np.ndarray]:
    """P(fake) of an encoded image, and the evidence of each of `cells` x `cells` equal parts.

    Returns:
      P(fake), and float64 [cells, cells]: P(fake) of the picture less that with the part painted in its mean colour;
      above 0 the part speaks for fake, below 0 for real.

    Raises:
      BadImage: the file cannot be read.
    """
    from PIL import Image

    picture = Image.fromarray(decode_rgb(data))
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    pixels = np.asarray(picture)
    rows, columns = (np.linspace(0, side, cells + 1).round().astype(int) for side in pixels.shape[:2])
    questions = [encode_png(pixels)]
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            covered = pixels.copy()
            part = covered[top:bottom, left:right]
            if part.size:
                part[:] = part.mean(axis=(0, 1)).round()
            questions.append(encode_png(covered))
    scores = np.array([verdict.p_fake for verdict in detector.predict(questions)], np.float64)
    return float(scores[0]), scores[0] - scores[1:].reshape(cells, cells)

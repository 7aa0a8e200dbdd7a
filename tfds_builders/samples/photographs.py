"""The photographs that scikit-image and scikit-learn ship with their wheels; nothing is downloaded."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

MIN_CONTRAST = 12  # of a sample, standard deviation, of 255: a piece of clear sky shows nothing of how it was made
MAX_DRAWS = 20  # of a piece with contrast


class Photograph(NamedTuple):
    """One file. Views of one scene (a stereo pair) share its name, which is the group of what is cut from them."""

    scene: str
    category: str
    package: str
    path: str


PHOTOGRAPHS = (
    Photograph("astronaut", "people", "skimage.data", "astronaut.png"),
    Photograph("camera", "people", "skimage.data", "camera.png"),
    Photograph("chelsea", "nature", "skimage.data", "chelsea.png"),
    Photograph("flower", "nature", "sklearn.datasets.images", "flower.jpg"),
    Photograph("grass", "nature", "skimage.data", "grass.png"),
    Photograph("gravel", "nature", "skimage.data", "gravel.png"),
    Photograph("brick", "objects", "skimage.data", "brick.png"),
    Photograph("coffee", "objects", "skimage.data", "coffee.png"),
    Photograph("coins", "objects", "skimage.data", "coins.png"),
    Photograph("motorcycle", "objects", "skimage.data", "motorcycle_left.png"),
    Photograph("motorcycle", "objects", "skimage.data", "motorcycle_right.png"),
    Photograph("page", "objects", "skimage.data", "page.png"),
    Photograph("china", "places", "sklearn.datasets.images", "china.jpg"),
    Photograph("rocket", "places", "skimage.data", "rocket.jpg"),
    Photograph("cell", "science", "skimage.data", "cell.png"),
    Photograph("hubble", "science", "skimage.data", "hubble_deep_field.jpg"),
    Photograph("ihc", "science", "skimage.data", "ihc.png"),
    Photograph("moon", "science", "skimage.data", "moon.png"),
    Photograph("retina", "science", "skimage.data", "retina.jpg"),
)
SCENES = tuple(dict.fromkeys(photograph.scene for photograph in PHOTOGRAPHS))
CATEGORIES = tuple(sorted({photograph.category for photograph in PHOTOGRAPHS}))


@cache
def pixels_of(photograph: Photograph) -> np.ndarray:
    """uint8 [height, width, 3], RGB; grey photographs have three equal channels."""
    with Image.open(Path(str(files(photograph.package) / photograph.path))) as image:
        return np.asarray(image.convert("RGB"))

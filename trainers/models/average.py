"""Several detectors as one Keras model: the mean of their P(fake)."""

from collections.abc import Sequence
from typing import Any


def average_models(members: Sequence[Any], name: str) -> Any:
    """A model that holds the members, and gives the mean of what they give.

    Args:
      members: models uint8 [batch, size, size, 3] -> P(fake) [batch, 1], of one input size. They are renamed.
      name: of the new model.

    Raises:
      ValueError: the members' inputs differ.
    """
    import keras

    shapes = {tuple(member.input.shape) for member in members}
    if len(shapes) != 1:
        raise ValueError(f"members of an ensemble must take images of one size. Received: {sorted(shapes)}.")
    image = keras.Input(shapes.pop()[1:], dtype="uint8", name="image")
    for number, member in enumerate(members, 1):
        member.name = f"member{number}"
    p_fake = keras.layers.Average(name="mean")([member(image) for member in members])
    return keras.Model(image, p_fake, name=name)

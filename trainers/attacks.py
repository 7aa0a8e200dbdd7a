"""Changes made to fool the detector: FGSM and PGD on the pixels it is given.

    attacked = Attacker(keras_model).pgd(pixels, labels, size=2)

Both push the logit (of an ensemble those of its members) towards the wrong verdict by changing each channel of each
pixel by at most `size` of 255 levels, and give whole levels again, so that an attacked image can be stored: an attack
that rounding undoes is none.
"""

from typing import Any

import numpy as np

from tfds_builders.records.errors import Refused
from trainers.perturbations import rounded

PGD_STEPS = 10
SIZES = (1, 2, 4)  # of 255 levels


class Attacker:
    """Attacks on one model.

    Args:
      model: a functional Keras model, uint8 RGB [n, size, size, 3] -> P(fake) [n, 1].

    Raises:
      Refused: a model without a gradient with respect to its pixels.
    """

    def __init__(self, model: Any):
        import keras
        import tensorflow as tf

        members = [_on_floats(member) for member in _members_of(model)]
        loss = keras.losses.binary_crossentropy

        def gradient(images: Any, labels: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(images)
                label, scores = labels[:, None], [member(images, training=False) for member in members]
                right = tf.stack([loss(label, p_fake) for p_fake in scores])  # [members, n]: -log P(label)
                wrong = tf.stack([loss(1 - label, p_fake) for p_fake in scores])
                # The loss with this label less that with the other one is the logit, up to its sign: its gradient does
                # not vanish where P(fake) is saturated, as the loss's own does. (Keras undoes a graph's sigmoid.) The
                # mean of an ensemble is flat where its members are saturated, so all their logits are pushed at once.
                pushed = tf.reduce_sum(right - wrong, axis=0)
            found = tape.gradient(pushed, images)
            if found is None:
                raise Refused(f"attacks need a gradient with respect to the pixels. Received: {model.name} has none.")
            # How wrong the verdict is: the logit of the mean of the members' P(fake), up to its sign.
            return tf.reduce_logsumexp(-wrong, axis=0) - tf.reduce_logsumexp(-right, axis=0), found

        shape = (None, *model.input.shape[1:])
        signature = [tf.TensorSpec(shape, tf.float32), tf.TensorSpec((None,), tf.float32)]
        self._gradient = tf.function(gradient, input_signature=signature)

    def fgsm(self, pixels: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
        """One step of `size` along the gradient's sign (Goodfellow, Shlens & Szegedy 2015).

        Args:
          pixels: uint8 [n, height, width, 3].
          labels: int [n], 0 real, 1 fake: what the detector should say.
          size: levels of 255.

        Returns:
          uint8 [n, height, width, 3].
        """
        _, gradient = self._at(pixels.astype(np.float32), labels)
        return rounded(pixels + size * np.sign(gradient))

    def pgd(self, pixels: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
        """PGD_STEPS steps of a quarter of `size`, each brought back to at most `size` from the image (Madry et al.
        2018), begun where `fgsm` ends; of all rounded steps the one that is most wrong, image by image.

        Arguments and result are those of `fgsm`.
        """
        start = pixels.astype(np.float32)
        low, high = np.maximum(start - size, 0), np.minimum(start + size, 255)
        current = self.fgsm(pixels, labels, size).astype(np.float32)
        best, most_wrong = pixels, np.full(len(pixels), -np.inf, np.float32)
        for _ in range(PGD_STEPS + 1):
            whole = rounded(current)
            wrongness, _ = self._at(whole.astype(np.float32), labels)
            is_better = wrongness > most_wrong
            best = np.where(is_better[:, None, None, None], whole, best)
            most_wrong = np.maximum(wrongness, most_wrong)
            _, gradient = self._at(current, labels)
            current = np.clip(current + max(size / 4, 0.5) * np.sign(gradient), low, high)
        return best

    def _at(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How wrong each image is judged, [n], and the gradient of that, [n, height, width, 3]."""
        wrongness, gradient = self._gradient(pixels, labels.astype(np.float32))
        return wrongness.numpy(), gradient.numpy()


def _members_of(model: Any) -> list[Any]:
    """The models whose mean the model is, see `trainers.models.average`; else the model alone."""
    import keras

    is_mean = any(isinstance(layer, keras.layers.Average) for layer in model.layers[-1:])
    members = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return members if is_mean and members else [model]


def _on_floats(model: Any) -> Any:
    """The same layers on a floating-point input, since integers have no gradient."""
    import keras

    pixels = keras.Input(model.input.shape[1:], dtype="float32")
    try:
        return keras.models.clone_model(model, input_tensors=pixels, clone_function=lambda layer: layer)
    except ValueError as error:
        raise Refused(f"attacks need a functional Keras model. Received: {model.name}. ({error})") from None

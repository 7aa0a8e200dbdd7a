"""The published figures of the variants, as references beside our own: their authors', on their data, never ours.

PUBLISHED["cnn", "v6"].balanced_accuracy        # 0.878, fake positive
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Images of the official test split of deepfake_and_real.
_TEST_REAL, _TEST_FAKE = 5413, 5492


@dataclass(frozen=True)
class Published:
    """Of one variant. Fake is the positive class; None is what the source does not tell."""

    accuracy: float
    dataset: str  # what it was measured on
    precision: float | None = None
    recall: float | None = None
    recall_real: float | None = None
    note: str = ""

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean of the recalls of both classes."""
        if self.recall is None or self.recall_real is None:
            return None
        return (self.recall + self.recall_real) / 2

    @property
    def is_constant(self) -> bool:
        """Whether one class was never told: the accuracy is the share of the other, and no success."""
        return 0.0 in (self.recall, self.recall_real)


def fake_positive(accuracy: float, precision: float, recall: float) -> Published:
    """What a source measured on `deepfake_and_real` with real as the positive class.

    Args:
      accuracy: as published.
      precision, recall: of real.
    """
    real_as_real = recall * _TEST_REAL
    fake_as_real = real_as_real / precision - real_as_real
    fake_as_fake, real_as_fake = _TEST_FAKE - fake_as_real, _TEST_REAL - real_as_real
    return Published(
        accuracy,
        "deepfake_and_real",
        precision=fake_as_fake / (fake_as_fake + real_as_fake),
        recall=fake_as_fake / _TEST_FAKE,
        recall_real=recall,
    )


def _all_called_fake(right: int, images: int) -> Published:
    """Every image was called fake: so many of them were."""
    return Published(right / images, "an unbalanced test set of faces", right / images, recall=1.0, recall_real=0.0)


# Of cnn, v1 to v20: accuracy, and precision and recall of real.
_CNN = {
    1: (0.791, 0.779, 0.808),
    2: (0.821, 0.779, 0.893),
    3: (0.818, 0.859, 0.757),
    4: (0.825, 0.849, 0.788),
    5: (0.855, 0.894, 0.803),
    6: (0.878, 0.894, 0.856),
    7: (0.851, 0.895, 0.793),
    8: (0.851, 0.901, 0.787),
    9: (0.792, 0.904, 0.650),
    10: (0.852, 0.892, 0.798),
    11: (0.870, 0.926, 0.803),
    12: (0.857, 0.893, 0.810),
    13: (0.891, 0.928, 0.847),
    14: (0.883, 0.942, 0.815),
    15: (0.601, 0.555, 0.985),
    16: (0.860, 0.816, 0.928),
    17: (0.504, 1.000, 0.000),
    18: (0.877, 0.951, 0.793),
    19: (0.882, 0.867, 0.900),
    20: (0.859, 0.882, 0.827),
}

PUBLISHED: Mapping[tuple[str, str], Published] = {
    **{("cnn", f"v{number}"): fake_positive(*figures) for number, figures in _CNN.items()},
    ("cnn", "rgb224_adam"): _all_called_fake(164, 191),
    ("cnn", "rgb224_rmsprop"): _all_called_fake(318, 381),
    ("resnet50", "deep_head"): Published(
        0.97336, "ai_vs_human", 0.99581, 0.95138, 0.99589, "the checkpoint was chosen on the same images"
    ),
    ("resnet50", "gap256_rmsprop"): _all_called_fake(318, 381),
    ("xception", "classifier"): Published(0.865, "faces of DFDC", note="claimed without any output"),
    ("vit", "b16"): Published(0.865, "dfdc_faces, folders 00 and 02", note="one printed figure, of a checkpoint"),
    ("meso_inception4", "meso150"): Published(0.612, "faces", note="best member, picked by a wrong index"),
    ("meso_inception4", "ensemble5"): Published(0.627, "faces"),
}

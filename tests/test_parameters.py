"""Parameter counts, layer by layer, against the arithmetic of the published architectures."""

import itertools
import math

import keras
import pytest

from trainers.models.cnn import NETWORKS, build_cnn
from trainers.models.efficientnet import build_efficientnet
from trainers.models.inception import build_inception
from trainers.models.mesonet import build_mesonet
from trainers.models.resnet import build_resnet50
from trainers.models.vit import build_vit
from trainers.models.xception import build_xception


def conv(inputs: int, outputs: int, height: int, width: int | None = None) -> int:
    """Weights of a convolution without bias."""
    return height * (width or height) * inputs * outputs


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def norm(channels: int) -> int:
    """Scale, offset, moving mean and moving variance."""
    return 4 * channels


def counts(model: keras.Model) -> list[int]:
    """Of the layers that have any, in order."""
    return [layer.count_params() for layer in model.layers if layer.count_params()]


def rates(model: keras.Model) -> list[float]:
    return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


# -- cnn, in the notation of the published table --

# Filters of Conv3x3 + relu + norm + pooling; units of Dense + relu, with the dropout after them.
REGULAR = {
    "v5": ("32 64 128", "256~.5 128~.5 64"),
    "v6": ("32 64 128 256", "512~.5 256~.5 128"),
    "v7": ("32 64 128", "256~.5 128~.5 64~.5 32"),
    "v8": ("32 64 128", "128~.5 64"),
    "v10": ("32 64 128", "128~.5 64"),
    "v11": ("32 64 128 256", "512~.5 256~.5 128~.5"),
    "v12": ("32 64 128 256", "512 256 128"),
    "v13": ("32 64 128 256", "512~.3 256~.3 128"),
    "v14": ("32 64 128 256", "512~.7 256~.7 128"),
    "v15": ("32 64 128 256", "512~.7 256~.7 128~.7 64"),
    "v16": ("32 64 128 256", "512~.7 256~.7 64~.7"),
    "v17": ("32 64 128 256", "512~.9 256~.9 128"),
    "v18": ("32 64 128 256", "256~.5 128~.5 64"),
    "v19": ("32 64 128 256 512", "512~.5 256~.5 128"),
}
SIZE = 32


def dense_part(features: int, units: list[int], norms: bool = False) -> list[int]:
    found = []
    for number in units:
        found += [dense(features, number), norm(number)] if norms else [dense(features, number)]
        features = number
    return [*found, dense(features, 1)]


@pytest.mark.parametrize("variant", REGULAR)
def test_regular_cnn(variant):
    filters = [int(number) for number in REGULAR[variant][0].split()]
    terms = [term.partition("~") for term in REGULAR[variant][1].split()]
    # v19 pools with stride 1 after its third and fourth convolution: 8 -> 7 -> 6.
    side = 3 if variant == "v19" else SIZE // 2 ** len(filters)
    expected = []
    for inputs, outputs in zip([3, *filters], filters, strict=False):
        expected += [conv(inputs, outputs, 3) + outputs, norm(outputs)]
    expected += dense_part(side**2 * filters[-1], [int(units) for units, _, _ in terms])
    model = build_cnn(NETWORKS[variant], SIZE, variant)
    assert counts(model) == expected
    assert rates(model) == [float(rate) for _, sign, rate in terms if sign]


def two_sizes(filters: int, side: int) -> list[int]:
    """Conv4x4 16, norm, Conv2x2, norm, dense 128 64 32 on a map of side x side."""
    convolutions = [conv(3, 16, 4) + 16, norm(16), conv(16, filters, 2) + filters, norm(filters)]
    return [*convolutions, *dense_part(side**2 * filters, [128, 64, 32])]


PLAIN = [conv(3, 32, 3) + 32, conv(32, 64, 3) + 64, conv(64, 128, 3) + 128]
# 32 -> 30 -> 15 -> 13 -> 6 -> 4 -> 2 by valid convolutions and pooling
PLAIN += [dense(2 * 2 * 128, 256), dense(256, 1)]
OTHERS = {
    # 32 -> 29 by 4x4, -> 14 by pooling, -> 13 by 2x2, -> 12 by pooling with stride 1
    "v1": (two_sizes(36, 12), []),
    # 32 -> 15 by 4x4 with stride 2, -> 7, -> 6, -> 5
    "v2": (two_sizes(32, 5), []),
    "v3": (two_sizes(32, 12), []),
    "v4": (two_sizes(32, 12), [0.25, 0.5]),
    "v9": (
        [conv(3, 32, 3) + 32, norm(32), conv(32, 64, 3) + 64, norm(64), conv(64, 128, 3) + 128, norm(128)]
        + dense_part(16 * 16 * 128, [256, 128], norms=True),
        [0.5, 0.5],
    ),
    "v20": (
        [conv(3, 32, 3) + 32, norm(32), conv(32, 64, 3) + 64, norm(64)]
        + [conv(64, 128, 3) + 128, norm(128), conv(128, 256, 3) + 256, norm(256)]
        + dense_part(8 * 8 * 256, [512, 256, 128], norms=True),
        [0.5, 0.5],
    ),
    "rgb224_adam": (PLAIN, [0.5]),
    "rgb224_rmsprop": (PLAIN, [0.5]),
    # 32 -> 28 -> 24 -> 12 -> 10 -> 8 -> 4
    "two_by_two": (
        [conv(3, 32, 5) + 32, conv(32, 32, 5) + 32, conv(32, 64, 3) + 64, conv(64, 64, 3) + 64]
        + [dense(4 * 4 * 64, 128), dense(128, 2)],
        [],
    ),
}


@pytest.mark.parametrize("variant", OTHERS)
def test_other_cnn(variant):
    model = build_cnn(NETWORKS[variant], SIZE, variant)
    expected, dropout = OTHERS[variant]
    assert counts(model) == expected
    assert rates(model) == dropout


def test_no_variant_of_cnn_is_forgotten():
    assert set(NETWORKS) == {*REGULAR, *OTHERS}


@pytest.mark.parametrize(
    ("variant", "slope", "is_norm_first"),
    [("v1", 0.01, False), ("v2", None, False), ("v3", 0.02, False), ("v9", None, True), ("v20", 0.01, True)],
)
def test_activations_of_cnn(variant, slope, is_norm_first):
    layers = build_cnn(NETWORKS[variant], SIZE, variant).layers
    slopes = {layer.negative_slope for layer in layers if isinstance(layer, keras.layers.LeakyReLU)}
    assert slopes == ({slope} if slope else set())
    kinds = [type(layer).__name__ for layer in layers]
    activation = "LeakyReLU" if slope else "ReLU"
    assert (kinds.index("BatchNormalization") < kinds.index(activation)) is is_norm_first


# -- meso_inception4 --


@pytest.mark.parametrize(("size", "side"), [(150, 10), (256, 8)])
def test_meso_inception4(size, side):
    """150 -> 75 -> 38 -> 19 -> 10 by pooling that pads; 256 -> 128 -> 64 -> 32 -> 8, where the last pooling is 4x4."""

    def block(inputs: int, filters: tuple[int, ...]) -> list[int]:
        found = [conv(inputs, filters[0], 1) + filters[0]]
        for number in filters[1:]:
            found += [conv(inputs, number, 1) + number, conv(number, number, 3) + number]
        return found

    expected = [*block(3, (1, 4, 4, 2)), norm(11), *block(11, (2, 4, 4, 2)), norm(12)]
    expected += [conv(12, 16, 5) + 16, norm(16), conv(16, 16, 5) + 16, norm(16)]
    expected += [dense(side**2 * 16, 16), dense(16, 1)]
    model = build_mesonet(size)
    assert sorted(counts(model)) == sorted(expected)  # branches stand side by side in the list of layers
    dilations = [layer.dilation_rate[0] for layer in model.layers if getattr(layer, "kernel_size", 0) == (3, 3)]
    assert sorted(dilations) == [1, 1, 2, 2, 3, 3]


# -- backbones: the whole by the published tables, then the head --


def resnet50() -> int:
    total, channels = conv(3, 64, 7) + 64 + norm(64), 64
    for filters, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            if not block:
                total += conv(channels, 4 * filters, 1) + 4 * filters + norm(4 * filters)
            for inputs, outputs, kernel in ((channels, filters, 1), (filters, filters, 3), (filters, 4 * filters, 1)):
                total += conv(inputs, outputs, kernel) + outputs + norm(outputs)
            channels = 4 * filters
    return total


def test_resnet50_heads():
    at_224 = {"flatten_head": dense(7 * 7 * 2048, 128) + dense(128, 1)}
    for variant, head in {"gap_head": dense(2048, 128) + dense(128, 1), **at_224}.items():
        assert build_resnet50(variant, 224).count_params() == resnet50() + head
    widths = (2048, 16, 32, 64, 128, 256, 512)
    deep = norm(2048) + sum(conv(a, b, 3) + b + norm(b) for a, b in itertools.pairwise(widths))
    assert resnet50() + deep + dense(512, 128) + dense(128, 1) == 25_532_977  # as published


def inception_v3() -> int:
    def unit(inputs: int, outputs: int, height: int, width: int | None = None) -> int:
        return conv(inputs, outputs, height, width) + 3 * outputs  # its normalisation has no scale

    def chain(inputs: int, *steps: tuple[int, ...]) -> int:
        total = 0
        for outputs, *kernel in steps:
            total, inputs = total + unit(inputs, outputs, *kernel), outputs
        return total

    total = chain(3, (32, 3), (32, 3), (64, 3), (80, 1), (192, 3))
    for inputs, pooled in ((192, 32), (256, 64), (288, 64)):
        total += chain(inputs, (64, 1)) + chain(inputs, (48, 1), (64, 5))
        total += chain(inputs, (64, 1), (96, 3), (96, 3)) + chain(inputs, (pooled, 1))
    total += chain(288, (384, 3)) + chain(288, (64, 1), (96, 3), (96, 3))
    for c in (128, 160, 160, 192):
        total += 2 * chain(768, (192, 1)) + chain(768, (c, 1), (c, 1, 7), (192, 7, 1))
        total += chain(768, (c, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
    total += chain(768, (192, 1), (320, 3)) + chain(768, (192, 1), (192, 1, 7), (192, 7, 1), (192, 3))
    for inputs in (1280, 2048):
        total += chain(inputs, (320, 1)) + chain(inputs, (192, 1))
        total += chain(inputs, (384, 1)) + 2 * unit(384, 384, 1, 3)
        total += chain(inputs, (448, 1), (384, 3)) + 2 * unit(384, 384, 1, 3)
    return total


def xception() -> int:
    def separable(inputs: int, outputs: int) -> int:
        return 9 * inputs + inputs * outputs + norm(outputs)

    total = conv(3, 32, 3) + norm(32) + conv(32, 64, 3) + norm(64)
    for inputs, middle, outputs in ((64, 128, 128), (128, 256, 256), (256, 728, 728), (728, 728, 1024)):
        total += conv(inputs, outputs, 1) + norm(outputs) + separable(inputs, middle) + separable(middle, outputs)
    return total + 8 * 3 * separable(728, 728) + separable(1024, 1536) + separable(1536, 2048)


def efficientnet_v2b3() -> int:
    def width(filters: int) -> int:
        return int(filters * 1.2 + 4) // 8 * 8

    channels = width(32)
    total = conv(3, channels, 3) + norm(channels)
    # (filters, repeats, expansion, squeeze): the first three stages convolve in one, the others depthwise
    stages = ((16, 1, 1, 0), (32, 2, 4, 0), (48, 2, 4, 0), (96, 3, 4, 0.25), (112, 5, 6, 0.25), (192, 8, 6, 0.25))
    for filters, repeats, expansion, squeeze in stages:
        outputs = width(filters)
        for _ in range(math.ceil(1.4 * repeats)):
            wide = channels * expansion
            if expansion == 1:
                total += conv(channels, outputs, 3) + norm(outputs)
            elif not squeeze:
                total += conv(channels, wide, 3) + norm(wide) + conv(wide, outputs, 1) + norm(outputs)
            else:
                narrow = int(channels * squeeze)
                total += conv(channels, wide, 1) + norm(wide) + 9 * wide + norm(wide)
                total += dense(wide, narrow) + dense(narrow, wide) + conv(wide, outputs, 1) + norm(outputs)
            channels = outputs
    return total + conv(channels, 1536, 1) + norm(1536)


def vit_b16() -> int:
    width, wide, patches = 768, 3072, (224 // 16) ** 2
    embedding = dense(16 * 16 * 3, width) + width + (patches + 1) * width
    block = 4 * dense(width, width) + 2 * 2 * width + dense(width, wide) + dense(wide, width)
    return embedding + 12 * block + 2 * width


@pytest.mark.parametrize(
    ("build", "backbone", "head"),
    [
        (lambda: build_inception(224), inception_v3, dense(5 * 5 * 2048, 128) + dense(128, 2)),
        (lambda: build_xception(299), xception, dense(2048, 2)),
        (lambda: build_efficientnet(300), efficientnet_v2b3, dense(1536, 128) + dense(128, 1)),
        (build_vit, vit_b16, dense(768, 2)),
    ],
    ids=["inception_v3", "xception", "efficientnet_v2b3", "vit"],
)
def test_backbone_and_head(build, backbone, head):
    assert build().count_params() == backbone() + head

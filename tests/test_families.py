"""Every family: bytes in, P(fake) out, the preprocessing inside and once, saved whole, able to learn."""

import dataclasses
import os
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils

from tfds_builders.records.errors import Refused
from trainers.command_line import parse
from trainers.config import Config, ModelConfig, OptimiserConfig, from_dict, to_dict
from trainers.errors import CannotTrain
from trainers.models import cnn, efficientnet, inception, mesonet, resnet, vit, xception
from trainers.models.families import FAMILIES
from trainers.update_rules import update_rule

ENTRY_POINTS = {
    "resnet": resnet,
    "inception": inception,
    "xception": xception,
    "mesonet": mesonet,
    "cnn": cnn,
    "vit": vit,
    "efficientnet": efficientnet,
}
SMALLEST = {"inception_v3": 75, "xception": 71}  # pixels; of the others 32
# One variant of each kind; ViT-B/16 stands for itself in test_vit.py, with a small transformer.
KINDS = [
    ("resnet50", "flatten_head"),
    ("inception_v3", "flatten_head"),
    ("xception", "classifier"),
    ("efficientnet_v2b3", "gap_head"),
    ("cnn", "v6"),
    ("cnn", "two_by_two"),
    ("meso_inception4", "meso150"),
    ("meso_inception4", "ensemble5"),
]


def small(family: str, variant: str, **changes) -> ModelConfig:
    """The variant's model at the smallest image size, with random weights."""
    recipe = FAMILIES[family].variants[variant].model
    return dataclasses.replace(recipe, image_size=SMALLEST.get(family, 32), weights="none", **changes)


def random_images(size: int, number: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def models():
    """{(family, variant): model}, each built once."""
    return {kind: FAMILIES[kind[0]].build(small(*kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_pixels_in_probability_out(kind, models):
    model, size = models[kind], small(*kind).image_size
    p_fake = model(random_images(size)).numpy()
    assert model.input.dtype == "uint8"
    assert p_fake.dtype == np.float32
    assert p_fake.shape == (3, 1)
    assert ((p_fake > 0) & (p_fake < 1)).all()


@pytest.mark.parametrize(
    ("kind", "layer", "expected"),
    [
        (("resnet50", "flatten_head"), "scaled", lambda x: x / 255),
        (("inception_v3", "flatten_head"), "scaled", keras.applications.inception_v3.preprocess_input),
        (("xception", "classifier"), "scaled", keras.applications.xception.preprocess_input),
        # Its own preprocess_input does nothing, the network holds the scaling of mode "torch".
        (
            ("efficientnet_v2b3", "gap_head"),
            "standardised",
            lambda x: imagenet_utils.preprocess_input(x, data_format="channels_last", mode="torch"),
        ),
        (("cnn", "v6"), "scaled", lambda x: x / 127),
        (("cnn", "two_by_two"), "scaled", lambda x: x / 255),
        (("meso_inception4", "meso150"), "scaled", lambda x: x / 255),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_preprocessing_is_inside_once(kind, layer, expected, models):
    model = models[kind]
    images = random_images(small(*kind).image_size)
    inside = keras.Model(model.input, model.get_layer(layer).output)
    np.testing.assert_allclose(inside(images), expected(images.astype(np.float32)), atol=2e-6)
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    backbones = [part for part in model.layers if isinstance(part, keras.Model)]
    assert not [part.name for backbone in backbones for part in backbone.layers if isinstance(part, scaling)]


LOAD = """
import os, sys
import keras, numpy as np
images = dict(np.load("images.npz"))
for name in sorted(images):
    if not name.endswith(".p"):
        model = keras.models.load_model(name + ".keras")
        assert np.array_equal(model(images[name]), images[name + ".p"]), name
        os.remove(name + ".keras")
assert not [name for name in sys.modules if name.split(".")[0] in ("trainers", "tfds_builders")]
print("all the same")
"""


LARGE = [kind for kind in KINDS if kind[0] in ("resnet50", "inception_v3", "efficientnet_v2b3")]


@pytest.mark.parametrize(
    "kinds", [[kind for kind in KINDS if kind not in LARGE], pytest.param(LARGE, marks=pytest.mark.long)]
)
def test_saved_models_load_without_this_project(kinds, models, tmp_path):
    arrays = {}
    for kind in kinds:
        model, name = models[kind], "-".join(kind)
        arrays[name] = random_images(small(*kind).image_size, 2)
        arrays[f"{name}.p"] = model(arrays[name]).numpy()
        model.save(tmp_path / f"{name}.keras")
    np.savez(tmp_path / "images.npz", **arrays)
    run = subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "all the same", run.stderr


# -- what is trained --


def trained(model, config: Config, phase: int = 0) -> set[str]:
    """The layers of the model whose variables phase number `phase` trains."""
    FAMILIES[config.model.family].phases(config)[phase].set_trainable(model, config.model)
    return {variable.path.split("/")[0] for variable in model.trainable_variables}


def with_weights(config: Config) -> Config:
    """As if weights had been given, so that backbones are kept."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, weights="imagenet"))


def test_backbones_are_frozen_as_published(models):
    config = with_weights(inception.VARIANTS["flatten_head"])
    assert trained(models["inception_v3", "flatten_head"], config) == {"head_dense", "logits"}
    config = with_weights(xception.VARIANTS["classifier"])
    assert trained(models["xception", "classifier"], config) == {"logits"}
    config, model = with_weights(efficientnet.VARIANTS["gap_head"]), models["efficientnet_v2b3", "gap_head"]
    assert trained(model, config, 0) == {"head_dense", "p_fake"}
    backbone = model.get_layer("efficientnet_v2b3")
    FAMILIES["efficientnet_v2b3"].phases(config)[1].set_trainable(model, config.model)
    stages = {layer.name.split("_")[0][:6] for layer in backbone.layers if layer.trainable}
    assert stages == {"block6", "top"}
    assert trained(models["cnn", "v6"], cnn.VARIANTS["v6"]) >= {"conv1", "dense1", "p_fake"}


def test_dropout_can_be_set_and_is_refused_where_there_is_none():
    rates = [
        layer.rate
        for layer in FAMILIES["cnn"].build(small("cnn", "v6", dropout=0.2)).layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert rates == [0.2, 0.2]
    for family, variant in [("cnn", "v12"), ("inception_v3", "flatten_head"), ("resnet50", "flatten_head")]:
        with pytest.raises(Refused, match=f"of which {variant} has none"):
            FAMILIES[family].check(small(family, variant, dropout=0.2))
    for family, variant in [("cnn", "v4"), ("meso_inception4", "meso256"), ("resnet50", "deep_head")]:
        FAMILIES[family].check(small(family, variant, dropout=0.2))


# -- weights --


def test_weights_load_from_files_of_every_kind(models, tmp_path):
    model = models["cnn", "v6"]
    expected = model.get_weights()
    for name, save in (("m.keras", model.save), ("m.weights.h5", model.save_weights)):
        save(tmp_path / name)
        loaded = FAMILIES["cnn"].build(dataclasses.replace(small("cnn", "v6"), weights=str(tmp_path / name)))
        assert all(np.array_equal(a, b) for a, b in zip(loaded.get_weights(), expected, strict=True)), name
    with pytest.raises(CannotTrain, match="do not fit cnn_v5"):
        FAMILIES["cnn"].build(dataclasses.replace(small("cnn", "v5"), weights=str(tmp_path / "m.keras")))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.long] if kind in LARGE else []) for kind in KINDS], ids="-".join
)
def test_a_model_of_each_family_is_trained_further_from_its_own_file(kind, models, tmp_path):
    models[kind].save(tmp_path / "first.keras")
    further = dataclasses.replace(small(*kind), weights=str(tmp_path / "first.keras"))
    loaded = FAMILIES[kind[0]].build(further).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(loaded, models[kind].get_weights(), strict=True))


@pytest.mark.parametrize(
    ("family", "first", "then", "says"),
    [
        ("cnn", "v3", "v4", r"negative_slope of conv1_relu is 0\.02, and must be 0\.01"),
        ("resnet50", "gap_head", "flatten_head", "scale of scaled is 1.0, and must be 0.0039"),
    ],
)
def test_weights_that_fit_another_network_are_refused(family, first, then, says, tmp_path):
    """At 32 pixels both have arrays of the same shapes; what they make of an image differs."""
    build = FAMILIES[family].build
    build(small(family, first)).save(tmp_path / "first.keras")
    further = dataclasses.replace(small(family, then), weights=str(tmp_path / "first.keras"))
    with pytest.raises(CannotTrain, match=says):
        build(further)


def published_mesonet(size: int) -> keras.Model:
    """The network that the published weights of MesoInception-4 are of: ReLU, and P(real). float [n, size, size, 3] in
    [0, 1] -> [n, 1]."""
    layers = keras.layers

    def conv(x, filters, kernel, dilation=1):
        return layers.Conv2D(filters, kernel, padding="same", dilation_rate=dilation, activation="relu")(x)

    def pooled(x, pool):
        return layers.MaxPooling2D(pool, padding="same")(layers.BatchNormalization()(x))

    image = x = keras.Input((size, size, 3))
    for a, b, c, d in ((1, 4, 4, 2), (2, 4, 4, 2)):
        parts = [conv(conv(x, n, 1), n, 3, dilation) for n, dilation in ((b, 1), (c, 2), (d, 3))]
        x = pooled(layers.Concatenate()([conv(x, a, 1), *parts]), 2)
    x = pooled(conv(pooled(conv(x, 16, 5), 2), 16, 5), 4)
    x = layers.LeakyReLU(0.1)(layers.Dense(16)(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(1, activation="sigmoid")(x))


def write_keras_2_file(model: keras.Model, path) -> None:
    """Layers in order, each with the names of its arrays: what Keras 2 wrote."""
    import h5py

    with h5py.File(path, "w") as file:
        names = []
        for layer in model.layers:
            group = file.create_group(layer.name)
            arrays = [f"{layer.name}/{index}" for index in range(len(layer.weights))]
            group.attrs["weight_names"] = [array.encode() for array in arrays]
            for array, value in zip(arrays, layer.get_weights(), strict=True):
                group.create_dataset(array, data=value)
            names.append(layer.name.encode())
        file.attrs["layer_names"] = names
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.1.5"


def test_published_weights_of_mesonet_are_loaded_as_the_network_they_are_of(tmp_path):
    published = published_mesonet(256)
    random = np.random.default_rng(0)
    published.set_weights([random.uniform(0.1, 0.3, w.shape) * random.choice([-1, 1], w.shape) ** (w.ndim > 1)
                           for w in published.get_weights()])  # fmt: skip
    write_keras_2_file(published, tmp_path / "published.h5")
    brightest = np.reshape([30, 80, 150, 256], (4, 1, 1, 1))
    images = random.integers(0, brightest, (4, 256, 256, 3)).astype(np.uint8)
    p_real = published(images / 255.0).numpy()
    assert np.ptp(p_real) > 0.01
    config = ModelConfig(family="meso_inception4", variant="meso256", image_size=256)
    config = dataclasses.replace(config, weights=str(tmp_path / "published.h5"))
    loaded = FAMILIES["meso_inception4"].build(config)
    np.testing.assert_allclose(loaded(images), 1 - p_real, atol=1e-5)
    stock = FAMILIES["meso_inception4"].build(config, with_weights=False)  # what a training saves
    stock.set_weights(loaded.get_weights())
    np.testing.assert_allclose(stock(images), 1 - p_real, atol=1e-5)
    stock.save(tmp_path / "registered.keras")
    again = FAMILIES["meso_inception4"].build(dataclasses.replace(config, weights=str(tmp_path / "registered.keras")))
    np.testing.assert_allclose(again(images), 1 - p_real, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("cnn", {"weights": "imagenet"}, "must be none or a file"),
        ("meso_inception4", {"weights": "imagenet"}, "must be none or a file"),
        ("cnn", {"weights": "absent.keras"}, "an existing"),
        ("xception", {"image_size": 70}, "at least 71 pixels"),
        ("inception_v3", {"image_size": 74}, "at least 75 pixels"),
        ("vit", {"image_size": 40}, "a multiple of 16 pixels"),
    ],
)
def test_what_cannot_be_built_is_refused(family, changes, says):
    variant = next(iter(FAMILIES[family].variants))
    with pytest.raises(Refused, match=says) as caught:
        FAMILIES[family].check(dataclasses.replace(small(family, variant), **changes))
    assert "\n" not in str(caught.value)


def test_head_epochs_are_refused_where_there_is_no_backbone():
    config = dataclasses.replace(cnn.VARIANTS["v6"], optimiser=OptimiserConfig(head_epochs=2))
    with pytest.raises(Refused, match="--head-epochs"):
        FAMILIES["cnn"].phases(config)


# -- recipes and entry points --


def test_recipes_are_the_published_ones():
    def facts(config: Config) -> tuple:
        options = config.optimiser
        return (
            config.model.image_size,
            options.optimiser,
            options.learning_rate,
            options.global_batch_size,
            options.epochs,
        )

    assert facts(cnn.VARIANTS["v13"]) == (128, "adam", 1e-4, 64, 50)
    assert facts(cnn.VARIANTS["rgb224_rmsprop"]) == (224, "rmsprop", 1e-4, 32, 10)
    assert facts(cnn.VARIANTS["two_by_two"]) == (224, "adam", 1e-3, 32, 10)
    assert facts(resnet.VARIANTS["gap256_rmsprop"]) == (224, "rmsprop", 1e-3, 32, 10)
    assert facts(inception.VARIANTS["flatten_head"]) == (224, "adam", 1e-3, 32, 10)
    assert facts(xception.VARIANTS["classifier"]) == (299, "adam", 1e-3, 32, 10)
    assert facts(mesonet.VARIANTS["meso150"]) == (150, "adam", 1e-3, 32, 2)
    assert facts(efficientnet.VARIANTS["gap_head"]) == (300, "adam", 1e-5, 32, 10)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_entry_point_lists_its_variants(name, repository, capsys, monkeypatch):
    file = repository / "trainers" / f"{name}.py"
    assert os.access(file, os.X_OK)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(file), run_name="__main__")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    variants = ENTRY_POINTS[name].VARIANTS
    assert f"python trainers/{name}.py" in text
    assert f"the first if it is left out: {', '.join(variants)}." in " ".join(text.split())
    assert f"realshard-{ENTRY_POINTS[name].FAMILY.name}" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_every_variant_is_found_by_its_family_and_survives_json():
    assert {module.FAMILY.name for module in ENTRY_POINTS.values()} == set(FAMILIES)
    for name, family in FAMILIES.items():
        for variant in family.variants:
            config = parse(["--variant", variant], family.variants)
            assert (config.model.family, config.model.variant) == (name, variant)
            assert from_dict(to_dict(config)) == config


# -- learning --


def overfit(model, config: Config, max_steps: int) -> float:
    """AUC on 32 images of noise, half of which have a faint period-2 pattern, after training on them."""
    size = config.model.image_size
    random = np.random.default_rng(1)
    labels = np.arange(32) % 2
    pattern = np.indices((size, size)).sum(0)[None, :, :, None] % 2 * 40
    images = (random.integers(60, 160, (32, size, size, 3)) + pattern * labels[:, None, None, None]).astype(np.uint8)
    phase = FAMILIES[config.model.family].phases(config)[0]
    phase.set_trainable(model, config.model)
    model.compile(update_rule(config.optimiser.learning_rate, config.optimiser), "binary_crossentropy")
    auc = 0.0
    for _ in range(0, max_steps, 10):
        for _ in range(10):
            model.train_on_batch(images, labels[:, None])
        p_fake = model.predict_on_batch(images)[:, 0]
        auc = float((p_fake[labels == 1][:, None] > p_fake[labels == 0]).mean())
        if auc == 1.0:
            break
    return auc


CHEAP = [("cnn", "v6"), ("cnn", "two_by_two")]
OVERFITTED = CHEAP + [
    pytest.param(family, variant, marks=pytest.mark.long)
    for family in FAMILIES
    for variant in FAMILIES[family].variants
    if (family, variant) not in CHEAP and variant not in FAMILIES[family].ensembles
]


@pytest.mark.parametrize(("family", "variant"), OVERFITTED)
def test_it_overfits_a_few_images(family, variant):
    recipe = FAMILIES[family].variants[variant]
    optimiser = OptimiserConfig(learning_rate=1e-4 if family == "vit" else 1e-3, optimiser=recipe.optimiser.optimiser)
    config = dataclasses.replace(recipe, model=small(family, variant), optimiser=optimiser)
    keras.utils.set_random_seed(0)
    model = FAMILIES[family].build(config.model, lambda rate, name: keras.layers.Dropout(0.0, name=name))
    assert overfit(model, config, max_steps=200) == 1.0

"""Vision transformers: checkpoints in Hugging Face's format, against the transformer's formulas in numpy."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfds_builders.records.errors import Refused
from trainers import packing
from trainers.config import ModelConfig
from trainers.errors import CannotTrain
from trainers.models.vit import FAMILY, VARIANTS, Architecture, build_vit, check, read_checkpoint

WIDTH, WIDE, HEADS, BLOCKS, PATCH, SIZE = 24, 40, 3, 2, 16, 32
MEAN, DEVIATION = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "hidden_size": WIDTH,
    "intermediate_size": WIDE,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "id2label": {"0": "Real", "1": "Fake"},
    "label2id": {"Real": 0, "Fake": 1},
}
PIXELS = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": MEAN,
    "image_std": DEVIATION,
}


def random_weights() -> dict[str, np.ndarray]:
    """float32 arrays by their names in such a checkpoint, large enough for logits to differ between images."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, WIDTH),
        "vit.embeddings.position_embeddings": (1, 1 + (SIZE // PATCH) ** 2, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "classifier.weight": (2, WIDTH),
        "classifier.bias": (2,),
    }
    linear = {
        "attention.attention.query": (WIDTH, WIDTH),
        "attention.attention.key": (WIDTH, WIDTH),
        "attention.attention.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (WIDE, WIDTH),
        "output.dense": (WIDTH, WIDE),
    }
    norms = ["vit.layernorm"]
    for block in range(BLOCKS):
        prefix = f"vit.encoder.layer.{block}"
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"], shapes[f"{prefix}.{name}.bias"] = shape, shape[:1]
        norms += [f"{prefix}.layernorm_before", f"{prefix}.layernorm_after"]
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in norms:
        weights[f"{name}.weight"] = random.uniform(0.5, 1.5, WIDTH).astype(np.float32)
        weights[f"{name}.bias"] = random.normal(0, 0.3, WIDTH).astype(np.float32)
    return weights


def write_checkpoint(directory: Path, weights: dict[str, np.ndarray], **changes) -> Path:
    """config.json with `changes`, preprocessor_config.json, and the arrays in the safetensors format: the header's
    length as 8 little-endian bytes, the header as JSON, the arrays."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    (directory / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    header, data = {}, b""
    for name, array in weights.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return directory


def reference_logits(images: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """float64 [n, 2]: Dosovitskiy et al., arXiv 2010.11929, equations 1 to 4, with a linear classifier."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T.astype(np.float64) + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)  # [n, heads, places, width / heads]

    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    pixels = (images / 255.0 - MEAN) / DEVIATION
    side = SIZE // PATCH
    # patches: [n, side, PATCH, side, PATCH, 3] -> [n, side * side, 3 * PATCH * PATCH]
    patches = (
        pixels.reshape(-1, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 5, 2, 4).reshape(len(images), side**2, -1)
    )
    projection = w["vit.embeddings.patch_embeddings.projection.weight"].reshape(WIDTH, -1)
    x = patches @ projection.T + w["vit.embeddings.patch_embeddings.projection.bias"]
    token = np.repeat(w["vit.embeddings.cls_token"], len(images), axis=0)
    x = np.concatenate([token, x], axis=1) + w["vit.embeddings.position_embeddings"]
    for block in range(BLOCKS):
        prefix = f"vit.encoder.layer.{block}"
        y = norm(x, f"{prefix}.layernorm_before")
        query, key, value = (
            heads(linear(y, f"{prefix}.attention.attention.{part}")) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + linear(mixed, f"{prefix}.attention.output.dense")
        y = gelu(linear(norm(x, f"{prefix}.layernorm_after"), f"{prefix}.intermediate.dense"))
        x = x + linear(y, f"{prefix}.output.dense")
    return linear(norm(x, "vit.layernorm")[:, 0], "classifier")


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, weights):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), weights)


def config(directory: Path) -> ModelConfig:
    return ModelConfig(family="vit", variant="b16", image_size=SIZE, weights=str(directory))


def logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.Model(model.input, model.get_layer("logits").output)(images).numpy()


def test_checkpoint_gives_the_logits_of_the_formulas(checkpoint, weights, images):
    check(config(checkpoint))
    model = FAMILY.build(config(checkpoint))
    expected = reference_logits(images, weights)
    assert np.ptp(expected, axis=0).min() > 0.1  # images differ
    np.testing.assert_allclose(logits(model, images), expected, atol=1e-4)
    p_fake = np.exp(expected[:, 1]) / np.exp(expected).sum(1)
    np.testing.assert_allclose(model(images)[:, 0], p_fake, atol=1e-4)


def test_labels_are_read_from_the_checkpoint(weights, images, tmp_path):
    directory = write_checkpoint(tmp_path / "turned", weights, id2label={"0": "AI-generated", "1": "human"})
    assert read_checkpoint(str(directory)).order == (1, 0)
    expected = reference_logits(images, weights)[:, ::-1]
    np.testing.assert_allclose(logits(FAMILY.build(config(directory)), images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "LABEL_0, LABEL_1"),
        ({"id2label": {"0": "real", "1": "fake", "2": "cat"}}, "which is real and which is fake"),
        ({"id2label": {"0": "real", "1": "real"}}, "which is real and which is fake"),
        ({"image_size": 64}, "--image-size 64"),
        ({"architectures": ["SwinForImageClassification"]}, "ViTForImageClassification"),
    ],
)
def test_unfit_checkpoints_are_refused(changes, says, weights, tmp_path):
    directory = write_checkpoint(tmp_path / "unfit", weights, **changes)
    with pytest.raises(Refused, match=says) as caught:
        check(config(directory))
    assert "\n" not in str(caught.value)


def test_incomplete_checkpoints_are_refused(weights, tmp_path):
    directory = write_checkpoint(tmp_path / "incomplete", weights)
    (directory / "model.safetensors").unlink()
    with pytest.raises(Refused, match=r"without model\.safetensors"):
        check(config(directory))


def test_a_checkpoint_that_cannot_be_fetched_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Refused, match="cannot be fetched") as caught:
        check(ModelConfig(family="vit", variant="b16", weights="hf://nobody/nothing"))
    assert "\n" not in str(caught.value)


def test_saved_model_loads_without_this_project_and_names_keras_hub(checkpoint, images, tmp_path):
    model = FAMILY.build(config(checkpoint))
    model.save(tmp_path / "vit.keras")
    np.savez(tmp_path / "images.npz", images=images, p=model(images))
    program = (
        "import sys, keras, numpy as np; a = np.load('images.npz'); m = keras.models.load_model('vit.keras');"
        "assert np.array_equal(m(a['images']), a['p']); assert 'trainers' not in sys.modules; print('same')"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "same", run.stderr
    assert any(line.startswith("keras-hub==") for line in packing.pip_requirements(tmp_path / "vit.keras"))


def test_a_model_made_from_a_checkpoint_is_trained_further_as_it_is(checkpoint, images, tmp_path):
    """Its sizes and its scaling are no weights; the defaults are others."""
    first = FAMILY.build(config(checkpoint))
    first.save(tmp_path / "first.keras")
    further = config(tmp_path / "first.keras")
    check(further)
    for model in (FAMILY.build(further), FAMILY.build(further, with_weights=False)):
        model.set_weights(first.get_weights())
        np.testing.assert_array_equal(model(images), first(images))
    np.testing.assert_array_equal(FAMILY.build(further)(images), first(images))


def test_weights_of_other_images_are_refused(checkpoint, tmp_path):
    FAMILY.build(config(checkpoint)).save(tmp_path / "first.keras")
    larger = dataclasses.replace(config(tmp_path / "first.keras"), image_size=64)
    with pytest.raises(Refused, match=f"Take --image-size {SIZE}"):
        check(larger)
    with pytest.raises(CannotTrain, match=f"Take --image-size {SIZE}"):  # a registered model's are seen here alone
        FAMILY.build(larger)
    check(dataclasses.replace(larger, weights="models:/realshard-vit@champion"))


def test_models_without_its_layers_do_not_need_keras_hub(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    assert not any(line.startswith("keras-hub") for line in packing.pip_requirements(tmp_path / "plain.keras"))


def test_default_architecture_takes_other_image_sizes_in_steps_of_a_patch():
    small = dataclasses.replace(Architecture(), image_size=48, num_layers=1, hidden_dim=12, mlp_dim=8)
    assert build_vit(small)(np.zeros((1, 48, 48, 3), np.uint8)).shape == (1, 1)


def test_head_is_trained_first_if_asked_for(checkpoint):
    recipe = VARIANTS["b16"]
    options = dataclasses.replace(recipe.optimiser, head_epochs=1)
    job = dataclasses.replace(recipe, model=config(checkpoint), optimiser=options)
    model = FAMILY.build(job.model)
    head, whole = FAMILY.phases(job)
    head.set_trainable(model, job.model)
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} == {"logits"}
    whole.set_trainable(model, job.model)
    assert len(model.trainable_variables) == len(model.weights)

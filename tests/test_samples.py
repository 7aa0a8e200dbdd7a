"""Sample corpora: deterministic, balanced, learnable from pixels and from nothing else."""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from tfds_builders.records.errors import Refused
from tfds_builders.samples.corpus import write_corpus
from tfds_builders.samples.generators import GENERATORS
from tfds_builders.samples.images import make_sample

_NUM_IMAGES = 300


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert write_corpus("ai_vs_human", out, _NUM_IMAGES, seed=7, size=64, processes=2)
    return out


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def test_layout_and_balance(corpus):
    images = sorted(corpus.rglob("*.png"))
    assert len(images) == _NUM_IMAGES
    assert sum(path.parent.name == "1_fake" for path in images) == _NUM_IMAGES // 2
    for path in images:
        assert path.parent.name in ("0_real", "1_fake")
        assert path.parent.parent.parent == corpus
        assert path.name.partition("__")[1]
        assert Image.open(path).size == (64, 64)
    scenes = {
        label: {path.name.partition("__")[0] for path in images if path.parent.name == label}
        for label in ("0_real", "1_fake")
    }
    assert scenes["0_real"] == scenes["1_fake"]
    assert len(scenes["0_real"]) >= 15
    assert "motorcycle" in scenes["0_real"]  # one scene, two views


def test_generators_are_listed_beside_the_fakes(corpus):
    with open(corpus / "generators.csv", newline="") as file:
        rows = {row["path"]: row["generator"] for row in csv.DictReader(file)}
    assert set(rows) == {str(path.relative_to(corpus)) for path in corpus.rglob("1_fake/*.png")}
    assert set(rows.values()) == set(GENERATORS)
    assert len(GENERATORS) >= 4


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(corpus, tmp_path):
    write_corpus("ai_vs_human", tmp_path / "again", _NUM_IMAGES, seed=7, size=64, processes=1)
    assert _digests(tmp_path / "again") == _digests(corpus)
    other = make_sample(5, _NUM_IMAGES, 8, 64)
    assert other.png != make_sample(5, _NUM_IMAGES, 7, 64).png


def test_a_finished_corpus_is_kept_and_another_one_refused(corpus):
    before = _digests(corpus)
    assert not write_corpus("ai_vs_human", corpus, _NUM_IMAGES, seed=7, size=64, processes=1)
    with pytest.raises(Refused, match="Choose another folder"):
        write_corpus("ai_vs_human", corpus, _NUM_IMAGES, seed=8, size=64, processes=1)
    assert _digests(corpus) == before


@pytest.mark.parametrize(
    ("number", "size", "sentence"), [(10, 64, "--images"), (200, 33, "--size"), (200, 8, "--size")]
)
def test_numbers_out_of_range_are_refused(number, size, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        write_corpus("ai_vs_human", tmp_path, number, seed=0, size=size, processes=1)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_generators_change_the_picture_and_keep_its_content(name):
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64] / 64
    image = np.stack([y, x, (y + x) / 2], axis=-1).astype(np.float32)
    fake = GENERATORS[name](image, random)
    assert fake.shape == image.shape
    assert np.abs(fake - image).mean() > 1e-3
    coarse = [ndimage.gaussian_filter(pixels, (4, 4, 0)).ravel() for pixels in (image, fake)]
    assert np.corrcoef(coarse)[0, 1] > 0.9


def test_the_file_tells_nothing_of_the_class(corpus):
    """Length and bytes a pixel, the only facts that differ: below 0.6 on photographs not trained on."""
    images = sorted(corpus.rglob("*.png"))
    facts = np.array([[len(path.read_bytes())] for path in images], dtype=float)
    labels = np.array([path.parent.name == "1_fake" for path in images])
    scenes = [path.name.partition("__")[0] for path in images]
    model = LogisticRegression()
    facts = (facts - facts.mean()) / facts.std()
    scores = cross_val_predict(model, facts, labels, groups=scenes, cv=GroupKFold(5), method="predict_proba")[:, 1]
    assert roc_auc_score(labels, scores) < 0.6


def test_samples_are_photographs_and_not_flat():
    for index in range(20):
        sample = make_sample(index, 40, 0, 64)
        pixels = np.asarray(Image.open(io.BytesIO(sample.png)))
        assert pixels.std() > 5
        assert (sample.generator != "") == (sample.label == 1)

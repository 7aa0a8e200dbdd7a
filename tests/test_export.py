"""Exports give the registered model's scores, or are not stored."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
import small_model

from tests.small_dataset import write_dataset
from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import load_pixels
from trainers import export, registry, tracking
from trainers.dataset import load
from trainers.decision import Decision
from trainers.reader import open_reader

MODEL = f"models:/{small_model.NAME}@champion"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A registered model with a temperature, and the dataset it says it was made from."""
    root = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(root / "home"))
        patch.setattr(export, "_TIMED_SECS", 0.01)
        directory = write_dataset(root / "data", {"train": 4, "validation": 4, "test": 40}, size=(30, 40))
        run_id = small_model.new_run("job-exported")
        fingerprint = load(directory).fingerprint
        tracking.log_dataset(run_id, "toy/train", fingerprint, "train", sources=[str(directory)], profile={})
        keras_file = small_model.save_model(root / "model.keras")
        small_model.register(run_id, keras_file, decision=Decision(0.4, temperature=1.7, base_rate=0.5))
        yield types.SimpleNamespace(run_id=run_id, directory=directory)


def stored(run_id: str, name: str) -> bytes | None:
    return tracking.read_artifact(run_id, f"exports/{small_model.NAME}-v1/{name}")


def test_exports_give_the_registered_scores_and_are_kept_in_the_run(built, capsys, tmp_path):
    assert export.main([MODEL, "--to", "savedmodel", "litert"]) == 0
    for line, name in zip(capsys.readouterr().out.splitlines(), ("savedmodel", "litert"), strict=True):
        assert line.startswith(name)
    exports = {one["format"]: one for one in json.loads(stored(built.run_id, "exports.json"))}
    assert exports["litert"]["bytes"] == len(stored(built.run_id, "model.tflite"))
    for one in exports.values():
        assert 0 <= one["max_difference"] <= registry.MAX_DIFFERENCE
        assert one["images_per_second"] > 0
    assert json.loads(stored(built.run_id, "detector.json"))["threshold"] == 0.4
    records = load(built.directory).select("test")
    images = list(open_reader(records).images(np.arange(len(records))))
    expected = [verdict.p_fake for verdict in registry.load_detector(MODEL).predict(images)]
    assert np.ptp(expected) > 0.01
    pixels = np.stack([load_pixels(image, small_model.IMAGE_SIZE) for image in images])
    for scores in (savedmodel(exports["savedmodel"], built.run_id, tmp_path), litert(built.run_id)):
        np.testing.assert_allclose(scores(pixels), expected, atol=1e-5)
        np.testing.assert_allclose(scores(pixels[:1]), expected[:1], atol=1e-5)  # any number of images


def test_a_later_export_is_told_beside_the_earlier_ones(built):
    export.export(MODEL, ["savedmodel", "litert"])
    before = json.loads(stored(built.run_id, "exports.json"))
    (again,) = export.export(MODEL, ["litert"])
    assert json.loads(stored(built.run_id, "exports.json")) == [before[0], dataclasses.asdict(again)]
    assert [one["format"] for one in before] == ["savedmodel", "litert"]


def savedmodel(made: dict, run_id: str, folder: Path):
    """Scores by the stored SavedModel, with TensorFlow alone."""
    import tensorflow as tf

    loaded = tf.saved_model.load(tracking.client_of().download_artifacts(run_id, made["path"], str(folder)))
    return lambda pixels: loaded.serve(tf.constant(pixels)).numpy()


def litert(run_id: str):
    """Scores by the stored LiteRT model, with its interpreter alone."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=stored(run_id, "model.tflite"))
    runner = interpreter.get_signature_runner()
    return lambda pixels: next(iter(runner(pixels=pixels).values()))


def test_an_export_that_gives_other_scores_is_refused_and_not_kept(built, monkeypatch):
    write = export.FORMATS["savedmodel"]

    def write_wrongly(model, folder):
        path, scores = write(model, folder)
        return path, lambda pixels: scores(pixels) + 1e-4

    monkeypatch.setitem(export.FORMATS, "wrong", write_wrongly)
    before = tracking.client_of().list_artifacts(built.run_id, "exports")
    with pytest.raises(Refused, match=r"as wrong, 0\.0001 off on 32 images"):
        export.export(MODEL, ["wrong"])
    assert tracking.client_of().list_artifacts(built.run_id, "exports") == before


def test_a_model_whose_data_are_gone_is_not_exported(built):
    hidden = built.directory.rename(built.directory.with_name("hidden"))
    try:
        with pytest.raises(Refused, match="is not where the run"):
            export.export(MODEL, ["savedmodel"])
    finally:
        hidden.rename(built.directory)


def test_a_model_whose_data_were_moved_is_exported_when_told_where_they_are(built):
    data = built.directory.parents[1]
    moved = data.rename(data.with_name("moved"))
    try:
        assert export.main([MODEL, "--to", "litert", "--data-dir", str(moved)]) == 0
    finally:
        moved.rename(data)

"""Registered models: they say what the trained one says, here, over REST, and where this repository is unknown."""

import base64
import contextlib
import importlib.metadata
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import small_model
from small_model import FORMATS, IMAGE_SIZE, NAME, image_bytes

from tfds_builders.records import pixels
from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import decode_uint8, load_pixels, resize_uint8
from trainers import packing, registry, tracking
from trainers.calibration import apply_temperature
from trainers.decision import Decision
from trainers.logged_models import link_metrics
from trainers.occlusion import occlusion_map
from trainers.run_logger import RunLogger
from trainers.strategy import Resources, prepare_process

CHAMPION = f"models:/{NAME}@champion"


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A home with the tiny model registered once: run_id, keras_file, home."""
    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(root / "home"))
        keras_file = small_model.save_model(root / "model.keras")
        run_id = small_model.new_run("job-registered")
        assert small_model.register(run_id, keras_file) == 1
        yield types.SimpleNamespace(run_id=run_id, keras_file=keras_file, home=root / "home")


@pytest.fixture
def images():
    return [image_bytes(image_format, seed=seed) for seed, image_format in enumerate(FORMATS)]


def scores_of(keras_file, images, aspect="resize") -> np.ndarray:
    """P(fake) computed apart from the code under test: Keras alone on the pixels."""
    import keras

    pixels = np.stack([load_pixels(data, IMAGE_SIZE, aspect) for data in images])
    return keras.saving.load_model(keras_file)(pixels).numpy()[:, 0].copy()


def aliases(name: str) -> dict[str, int]:
    found = tracking.client_of().get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_a_registered_model_says_what_the_trained_one_says(registered, images):
    detector = registry.load_detector(CHAMPION)
    verdicts = detector.predict(images)
    expected = scores_of(registered.keras_file, images)
    assert np.ptp(expected) > 0.01  # the model does tell these images apart
    np.testing.assert_allclose([verdict.p_fake for verdict in verdicts], expected, atol=1e-6)
    assert [verdict.label for verdict in verdicts] == ["fake" if p >= 0.5 else "real" for p in expected]
    assert (detector.name, detector.version) == (NAME, 1)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_prediction_sees_the_pixels_that_training_sees(image_format):
    data = image_bytes(image_format)
    trained_on = resize_uint8(decode_uint8(data), IMAGE_SIZE).numpy()
    np.testing.assert_array_equal(load_pixels(data, IMAGE_SIZE), trained_on)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_any_number_of_images_is_answered_in_order(registered, count):
    files = [image_bytes("PNG", height=20 + number, seed=number) for number in range(count)]
    verdicts = registry.load_detector(CHAMPION).predict(files)
    np.testing.assert_allclose(
        [verdict.p_fake for verdict in verdicts], scores_of(registered.keras_file, files), atol=1e-6
    )


@pytest.mark.parametrize("bad", [b"", b"<html>no image</html>", image_bytes("JPEG")[:300], image_bytes("PNG")[:-40]])
def test_a_bad_image_gets_a_reason_and_the_others_their_verdict(registered, images, bad):
    detector = registry.load_detector(CHAMPION)
    before, verdict, after = detector.predict([images[0], bad, images[1]])
    assert (verdict.label, verdict.p_fake) == (None, None)
    assert len(verdict.error) > 10
    assert [before, after] == detector.predict(images[:2])
    assert [only.label for only in detector.predict([bad, bad])] == [None, None]


def test_the_first_version_is_the_champion_and_later_ones_challenge(registered):
    name = "realshard-aliases"
    versions = [small_model.register(registered.run_id, registered.keras_file, registered_name=name) for _ in range(3)]
    assert versions == [1, 2, 3]
    assert aliases(name) == {"champion": 1, "challenger": 3}


def test_a_version_names_its_run_and_the_dataset(registered):
    version = tracking.client_of().get_model_version(NAME, "1")
    assert version.run_id == registered.run_id
    assert version.tags["realshard.run_id"] == registered.run_id
    assert version.tags["realshard.fingerprint"] == "f" * 64


@pytest.mark.parametrize("aspect", ["centre_crop", "random_crop"])
def test_how_images_become_squares_travels_in_the_model(registered, images, aspect):
    name = f"realshard-{aspect}"
    small_model.register(registered.run_id, registered.keras_file, registered_name=name, aspect=aspect)
    detector = registry.load_detector(f"models:/{name}/1")
    verdicts = detector.predict(images)
    expected = scores_of(registered.keras_file, images, aspect)
    np.testing.assert_allclose([verdict.p_fake for verdict in verdicts], expected, atol=1e-6)
    assert np.abs(expected - scores_of(registered.keras_file, images)).max() > 1e-3
    assert detector.network.aspect == aspect


def test_a_random_crop_of_a_model_from_before_it_kept_pixels_is_a_centre_crop(registered):
    # Such a model's own decoder resizes the middle square, and its settings bear no version.
    network = registry.load_detector(CHAMPION).network
    network.aspect = "random_crop"
    del network.settings["version"]
    pyfunc = types.SimpleNamespace(unwrap_python_model=lambda: network)
    assert registry.Detector(pyfunc).network.aspect == "centre_crop"


def test_the_evidence_of_a_window_lies_inside_it(registered):
    size, cells = small_model.IMAGE_SIZE, 7
    small_model.register(
        registered.run_id, registered.keras_file, registered_name="realshard-window", aspect="random_crop"
    )
    detector = registry.load_detector("models:/realshard-window/1")
    data = small_model.image_bytes("PNG", 700, 7 * size)  # the window is the middle part, or lies in it
    p_fake, evidence = occlusion_map(detector, data, cells)
    assert p_fake == detector.predict([data])[0].p_fake
    assert np.argwhere(evidence).tolist() == [[3, 3]]


def test_label_names_and_threshold_travel_in_the_model(registered, images):
    scores = scores_of(registered.keras_file, images)
    threshold = float(np.median(scores))  # so that both labels occur
    small_model.register(
        registered.run_id,
        registered.keras_file,
        registered_name="realshard-names",
        decision=Decision(threshold),
        label_names=("echt", "falsch"),
    )
    verdicts = registry.load_detector("models:/realshard-names/1").predict(images)
    assert [verdict.label for verdict in verdicts] == ["falsch" if p >= threshold else "echt" for p in scores]
    assert {verdict.label for verdict in verdicts} == {"echt", "falsch"}
    assert {verdict.threshold for verdict in verdicts} == {threshold}


def test_a_model_with_a_temperature_reports_calibrated_scores_and_is_unsure_in_its_band(registered, images):
    scores = scores_of(registered.keras_file, images)
    calibrated = apply_temperature(scores, 2.5)
    low, high = (float(np.quantile(calibrated, share)) for share in (0.3, 0.7))
    threshold = (low + high) / 2
    small_model.register(
        registered.run_id,
        registered.keras_file,
        registered_name="realshard-calibrated",
        decision=Decision(threshold, temperature=2.5, unsure=(low, high), base_rate=0.5),
        expected=scores,  # of the network: it is compared after the temperature
    )
    verdicts = registry.load_detector("models:/realshard-calibrated/1").predict(images)
    np.testing.assert_allclose([verdict.p_fake for verdict in verdicts], calibrated, atol=1e-6)
    assert [verdict.label for verdict in verdicts] == ["fake" if p >= threshold else "real" for p in calibrated]
    unsure = [verdict.is_unsure for verdict in verdicts]
    assert unsure == [low <= p < high for p in calibrated]
    assert set(unsure) == {True, False}


@pytest.mark.parametrize("error", [1e-4, float("nan")])
def test_a_packed_model_that_does_not_agree_is_not_registered(registered, images, error, monkeypatch):
    reference = scores_of(registered.keras_file, images)
    reference[3] += error
    monkeypatch.setattr(packing, "score_images", lambda *_: reference)
    assert_is_refused(registered, "the packed model does not give its network's scores")


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_a_network_that_is_not_the_trained_one_is_not_registered(registered, images, error):
    expected = scores_of(registered.keras_file, images)
    expected[3] += error
    assert_is_refused(registered, "the stored network does not give the trained one's scores", expected=expected)


def assert_is_refused(registered, sentence: str, **changes) -> None:
    client = tracking.client_of()
    name = "realshard-wrong"
    with pytest.raises(RuntimeError, match=sentence):
        small_model.register(registered.run_id, registered.keras_file, registered_name=name, **changes)
    assert client.search_registered_models(f"name = '{name}'") == []
    experiment = tracking.experiment("tests")
    assert [model.name for model in client.search_logged_models([experiment]) if model.name == name] == []


def test_registering_and_loading_leave_nothing_in_the_working_directory(registered, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_model.register(registered.run_id, registered.keras_file, registered_name="realshard-elsewhere")
    registry.load_detector("models:/realshard-elsewhere/1").predict(images)
    assert list(tmp_path.iterdir()) == []


def test_a_logged_model_has_the_metrics_of_its_epoch_and_the_data_they_were_measured_on(registered):
    run_id = small_model.new_run("job-linked")
    for split in ("train", "validation"):
        tracking.log_dataset(run_id, f"toy/{split}", "ab" * 32, split, sources=["/x"], profile={})
    logger = RunLogger(run_id)
    for epoch, loss in enumerate((0.5, 0.4, 0.3)):
        logger.epoch(epoch, {"train/loss": loss, "validation/loss": 2 * loss, "seconds": 7})
    logger.flush()
    small_model.register(run_id, registered.keras_file, registered_name="realshard-linked", epoch=1)
    client = tracking.client_of()
    digests = {entry.dataset.name: entry.dataset.digest for entry in client.get_run(run_id).inputs.dataset_inputs}
    for _ in range(2):  # the second time changes nothing
        link_metrics(client, run_id)
        (output,) = client.get_run(run_id).outputs.model_outputs
        assert output.step == 1
        measured = client.get_logged_model(output.model_id).metrics
        assert sorted((m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in measured) == [
            ("train/loss", 0.4, 1, "toy/train", digests["toy/train"]),
            ("validation/loss", 0.8, 1, "toy/validation", digests["toy/validation"]),
        ]
        assert [metric.value for metric in client.get_metric_history(run_id, "train/loss")] == [0.5, 0.4, 0.3]


def test_scores_of_other_devices_may_differ_a_little_and_the_version_says_by_how_much(registered, images):
    expected = scores_of(registered.keras_file, images) + 2e-3  # TF32 keeps 10 bits
    name = "realshard-expected"
    assert small_model.register(registered.run_id, registered.keras_file, registered_name=name, expected=expected) == 1
    assert tracking.client_of().get_model_version(name, "1").tags["training_difference"] == "0.002"


def test_a_temperature_does_not_make_rounding_a_difference(registered, images, tmp_path, monkeypatch):
    import keras

    certain = small_model.save_model(tmp_path / "certain.keras")
    model = keras.saving.load_model(certain)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 0.01, bias + 15])  # P(fake) so near 1 that a few float32 are left
    model.save(certain)
    scores = scores_of(certain, images)
    rounded = np.nextafter(scores, np.float32(0))  # by another kernel
    assert np.abs(apply_temperature(rounded, 4.0) - apply_temperature(scores, 4.0)).max() > 1e-4
    monkeypatch.setattr(packing, "score_images", lambda *_: rounded)
    name = "realshard-certain"
    decision = Decision(temperature=4.0, base_rate=0.5)
    assert small_model.register(registered.run_id, certain, registered_name=name, decision=decision) == 1


def test_float32_is_float32_on_gpus_too(registered):
    import tensorflow as tf

    def training():
        with contextlib.suppress(RuntimeError):  # this process has its devices already
            prepare_process(Resources(workers=1, cpus=1, devices=1, gpus=0))

    for begin in (training, lambda: registry.load_detector(CHAMPION)):
        tf.config.experimental.enable_tensor_float_32_execution(True)
        begin()
        assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_loaded_model_takes_gpu_memory_as_it_needs_it(registered, monkeypatch, has_begun):
    """Else a verdict on one picture would take all memory of all GPUs. Too late for that, it is loaded all the same."""
    import tensorflow as tf

    growing = []

    def grow(device, enable):
        growing.append((device, enable))
        if has_begun:
            raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a GPU"] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    assert registry.load_detector(CHAMPION).version == 1
    assert growing == [("a GPU", True)]


def test_the_run_goes_on_after_registering_and_owns_the_model(registered):
    run = tracking.client_of().get_run(registered.run_id)
    assert run.info.status == "RUNNING"
    assert len(run.outputs.model_outputs) >= 1
    assert list((registered.home / "mlflow" / "models").iterdir())


def test_the_models_requirements_are_the_installed_versions(registered):
    (file, *_) = (registered.home / "mlflow" / "models").rglob("requirements.txt")
    requirements = dict(line.split("==") for line in file.read_text().split())
    assert set(requirements) >= {"tensorflow", "keras", "numpy", "pillow", "mlflow"}
    assert requirements == {name: importlib.metadata.version(name) for name in requirements}


def test_rest_takes_base64_and_answers_json_with_null_for_unreadable(registered, images):
    from mlflow.pyfunc import scoring_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())
        model = scoring_server.load_model_with_mlflow_config(CHAMPION)
    rows = [[base64.b64encode(data).decode()] for data in (images[0], b"no image")]
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}})
    answer = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    assert answer.status == 200
    good, bad = json.loads(answer.response, parse_constant=pytest.fail)["predictions"]
    assert good["p_fake"] == pytest.approx(scores_of(registered.keras_file, images[:1])[0], abs=1e-6)
    assert (good["error"], bad["label"], bad["p_fake"]) == (None, None, None)
    assert bad["error"]


STANDALONE = """
import json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if path not in {hidden!r}]
import mlflow, pandas
model = mlflow.pyfunc.load_model({uri!r})
answers = model.predict(pandas.DataFrame({{"image": [open({image!r}, "rb").read(), b"?"]}}))
(decoder,) = [name for name in sys.modules if name.startswith("realshard_decoder_") and "." not in name]
project = [name for name in sys.modules if name.split(".")[0] in ("tfds_builders", "trainers")]
print(json.dumps([answers["p_fake"].tolist(), sys.modules[decoder].__file__, project]))
"""


def test_a_registered_model_works_where_this_repository_is_unknown(registered, images, tmp_path, repository):
    (tmp_path / "image.gif").write_bytes(images[FORMATS.index("GIF")])
    code = STANDALONE.format(
        hidden=["", str(repository), str(tmp_path)], uri=CHAMPION, image=str(tmp_path / "image.gif")
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"MLFLOW_TRACKING_URI": tracking.tracking_uri(), "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (p_fake, unreadable), decoder, project = json.loads(done.stdout.splitlines()[-1])
    expected = scores_of(registered.keras_file, [images[FORMATS.index("GIF")]])
    assert p_fake == pytest.approx(expected[0], abs=1e-6)
    assert unreadable is None
    assert str(registered.home) in decoder
    assert project == []


def test_a_registered_model_keeps_its_decoder_when_the_projects_changes(registered, images, monkeypatch):
    expected = scores_of(registered.keras_file, images)

    def changed(*arguments):
        raise AssertionError("the project's decoder was used, not the model's own")

    for module, name in ((pixels, "load_pixels"), (pixels, "resize_uint8"), (pixels, "decode_rgb")):
        monkeypatch.setattr(module, name, changed)
    verdicts = registry.load_detector(CHAMPION).predict(images)
    np.testing.assert_allclose([verdict.p_fake for verdict in verdicts], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (f"models:/{NAME}@best", f"known are .*models:/{NAME}@champion"),
        (f"models:/{NAME}/77", "there is no model"),
        ("models:/realshard-unknown@champion", "there is no model models:/realshard-unknown@champion"),
        ("realshard-tiny", "named models:/NAME@ALIAS or models:/NAME/VERSION, received 'realshard-tiny'"),
    ],
)
def test_an_unknown_model_is_refused_with_those_that_exist(registered, uri, sentence):
    with pytest.raises(Refused, match=sentence):
        registry.load_detector(uri)


def test_a_home_where_nothing_was_trained_is_left_alone(realshard_home):
    with pytest.raises(Refused, match="nothing has been trained yet"):
        registry.load_detector(CHAMPION)
    assert list(realshard_home.iterdir()) == []


def test_a_model_whose_files_are_gone_is_refused(registered, tmp_path):
    name = "realshard-lost"
    small_model.register(registered.run_id, registered.keras_file, registered_name=name)
    client = tracking.client_of()
    model_id = client.get_model_version(name, "1").source.removeprefix("models:/")
    (registered.home / "mlflow" / "models" / model_id).rename(tmp_path / "lost")
    with pytest.raises(Refused, match=f"models:/{name}@champion cannot be loaded"):
        registry.load_detector(f"models:/{name}@champion")

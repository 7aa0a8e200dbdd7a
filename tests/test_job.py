"""The job, from its config to the registered model, in a real Ray Train worker; and what is refused beforehand."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from cluster.ports import pick_free_port
from tests.small_dataset import write_dataset
from tfds_builders.records.errors import Refused
from trainers import evaluate, job, job_result, lineage, tracking
from trainers.config import ClusterConfig, Config, DataConfig, JobConfig, ModelConfig, OptimiserConfig
from trainers.dataset import load
from trainers.engine import RayWorkers
from trainers.jobs import JobFolder
from trainers.metrics import of_split
from trainers.models.resnet import build_resnet50
from trainers.operating import best_balanced_threshold
from trainers.reader import RecordReader
from trainers.registry import load_detector
from trainers.strategy import Resources
from trainers.worker import Task


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data_dir with the built dataset `toy`."""
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 24, "validation": 9, "test": 11})
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A REALSHARD_HOME that the tests of one finished job share."""
    before = os.environ["REALSHARD_HOME"]
    path = tmp_path_factory.mktemp("home")
    os.environ["REALSHARD_HOME"] = str(path)
    yield path
    os.environ["REALSHARD_HOME"] = before


def small(data: Path, **changes) -> Config:
    config = Config(
        data=DataConfig(dataset="toy", data_dir=str(data)),
        model=ModelConfig(weights="none", image_size=32, threshold_rule="balanced", calibrate=True),
        optimiser=OptimiserConfig(epochs=1, global_batch_size=8),
        cluster=ClusterConfig(cpus_per_worker=2),
        job=JobConfig(name="first"),
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def finished(ray_session, data, home) -> job.JobResult:
    return job.run(small(data))


def test_job_leaves_model_predictions_and_history(finished, home):
    folder = home / "jobs" / "first"
    assert Path(finished.directory) == folder
    predictions = pq.read_table(folder / "predictions.parquet")
    assert predictions.column_names == [
        *("id", "split", "label", "category", "group", "video", "generator"),
        "p_fake",
    ]
    assert predictions["split"].to_pylist() == ["validation"] * 9 + ["test"] * 11
    (epoch,) = json.loads((folder / "history.json").read_text())
    assert {"epoch", "train/loss", "validation/loss", "train/images_per_second", "learning_rate"} <= set(epoch)
    model = keras.models.load_model(folder / "model.keras")  # without this project's layers
    assert model.input.shape == (None, 32, 32, 3)
    assert not (home / "ray" / "first").exists()  # the checkpoints have served
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png"}


def test_job_is_one_finished_run_with_config_metrics_and_artifacts(finished):
    client = tracking.client_of()
    runs = client.search_runs([client.get_experiment_by_name("realshard").experiment_id])
    (run,) = [run for run in runs if run.info.run_name == "first"]
    assert (run.info.run_id, run.info.status) == (finished.run_id, "FINISHED")
    assert (run.data.params["variant"], run.data.params["global_batch_size"]) == ("deep_head", "8")
    assert run.data.metrics["test/auc"] == pytest.approx(finished.metrics["auc"])
    assert len(client.get_metric_history(finished.run_id, "validation/loss")) == 1
    inputs = {entry.tags[0].value: entry.dataset.digest[:12] for entry in run.inputs.dataset_inputs}
    assert inputs == dict.fromkeys(("train", "validation", "test"), finished.fingerprint[:12])
    artifacts = {file.path for file in client.list_artifacts(finished.run_id)}
    assert {"predictions.parquet", "history.json", "config.json", "figures"} <= artifacts
    assert {"dataset", "dataset_card.md", "model_card.md", "card.json", "card.html"} <= artifacts
    page = (Path(finished.directory) / "card.html").read_text()
    assert f"{finished.metrics['auc']:.4f}" in page
    assert "P(fake) was calibrated by a temperature" in page
    assert "the expected calibration error there was 0." in page
    told = (Path(finished.directory) / "model_card.md").read_text()
    card = json.loads((Path(finished.directory) / "card.json").read_text())
    assert all(sentence in told for sentence in [*card["notes"], card["calibration"]])
    assert page.split("Training images as the network saw them")[1].count("<img") == 8  # the global batch


def test_a_job_whose_test_images_have_siblings_in_training_says_so_first(data, realshard_home):
    """Four neighbours are one group here: parts of a split tear groups."""
    splits = {"train_split": "train[:10]", "validation_split": "validation", "test_split": "train[10:]"}
    options = OptimiserConfig(epochs=0, global_batch_size=8)
    config = dataclasses.replace(
        small(data, optimiser=options), data=DataConfig(dataset="toy", data_dir=str(data), **splits)
    )
    result = job.run(config, here=True)
    folder = Path(result.directory)
    notes = json.loads((folder / "card.json").read_text())["notes"]
    (note,) = [note for note in notes if "Related to the training part" in note]
    assert "2 further images" in note
    assert note in (folder / "card.html").read_text()


def test_the_first_model_tells_where_it_came_from(finished):
    chain = lineage.lineage_of("models:/realshard-resnet50@champion")
    assert chain["run"]["id"] == finished.run_id
    assert chain["builds"]["toy"]["fingerprint"] == finished.fingerprint
    assert [row["split"] for row in chain["datasets"]] == ["train", "validation", "test"]
    assert lineage.UNKNOWN not in (chain["code"]["packages"], chain["training"]["machine"], chain["run"]["ray_job"])


def test_threshold_and_temperature_are_chosen_on_validation_and_stored_in_the_model(finished, data):
    validation, test = (
        of_split(pq.read_table(Path(finished.directory) / "predictions.parquet"), split)
        for split in ("validation", "test")
    )
    detector = load_detector("models:/realshard-resnet50@champion")
    settings = detector.network.settings
    labels, scores = validation["label"].to_numpy(), validation["p_fake"].to_numpy()
    assert settings["threshold"] == pytest.approx(best_balanced_threshold(labels, scores))
    assert settings["temperature"] not in (None, 1.0)
    assert settings["base_rate"] == pytest.approx(4 / 9)
    assert finished.metrics["threshold"] == settings["threshold"]
    images = RecordReader(load(data / "toy" / "1.0.0").select("test")).images(np.arange(11))
    reported = [verdict.p_fake for verdict in detector.predict(list(images))]
    np.testing.assert_allclose(reported, test["p_fake"].to_numpy(), atol=1e-5)


def test_the_card_of_a_jobs_model_has_its_learning_curves_and_training_images(finished, data, tmp_path):
    card = evaluate.evaluate("models:/realshard-resnet50@champion", ["toy"], str(data), "test", tmp_path)
    assert card["summary"]["auc"] == pytest.approx(finished.metrics["auc"])
    assert "was calibrated by a temperature (" in card["calibration"]
    assert "44.4% are fake" in card["calibration"]
    assert (tmp_path / "figures" / "learning_curves.png").exists()
    page = (tmp_path / "card.html").read_text("utf-8")
    assert page.split("Training images as the network saw them")[1].count("<img") == 8  # the global batch


def test_first_model_is_the_champion_and_names_its_run(finished):
    assert (finished.model_name, finished.model_version, finished.alias) == ("realshard-resnet50", 1, "champion")
    version = tracking.client_of().get_model_version_by_alias("realshard-resnet50", "champion")
    assert version.run_id == finished.run_id


def test_its_card_says_whether_its_dataset_was_audited(finished):
    card = json.loads((Path(finished.directory) / "card.json").read_text())
    assert [note for note in card["notes"] if note.startswith("Audit: toy:1.0.0 was not audited")]


def test_summary_says_what_came_out(finished):
    text = job_result.describe(finished)
    for part in ("first", "toy:1.0.0", "24 train, 9 validation, 11 test", finished.run_id, "version 1, alias champion"):
        assert part in text


def test_same_command_again_finds_the_job_finished(finished, data):
    again = job.run(small(data))
    assert again.is_reused
    assert dataclasses.replace(again, is_reused=False) == finished


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED"])
def test_a_job_ended_after_its_model_was_registered_is_completed_with_it(finished, data, status):
    (Path(finished.directory) / "result.json").unlink()
    client = tracking.client_of()
    client.update_run(finished.run_id, status=status)
    again = job.run(small(data), here=True)
    assert (again.model_version, again.alias, again.run_id) == (1, "champion", finished.run_id)
    assert again.metrics == finished.metrics
    assert [int(version.version) for version in client.search_model_versions("name='realshard-resnet50'")] == [1]
    assert client.get_run(finished.run_id).info.status == "FINISHED"
    assert job.run(small(data)).is_reused


def test_another_config_under_the_same_name_is_refused_with_the_difference(finished, data):
    with pytest.raises(Refused, match="--epochs 1 -> 2"):
        job.run(small(data, optimiser=OptimiserConfig(epochs=2, global_batch_size=8)))


def test_a_job_is_the_same_where_its_dataset_is_mounted_elsewhere(finished, data, tmp_path):
    shutil.copytree(data, tmp_path / "elsewhere")
    assert job.run(small(tmp_path / "elsewhere")).is_reused


def test_another_dataset_under_the_same_name_is_refused(finished, tmp_path):
    write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11}, seed=1)
    with pytest.raises(Refused, match=r"dataset \w{12} -> \w{12}"):
        job.run(small(tmp_path))


def test_a_pixel_cache_that_does_not_fit_is_refused_before_the_job_begins(data, realshard_home):
    there = DataConfig(dataset="toy", data_dir=str(data), pixel_cache="memory", pixel_cache_gib=5e-5)
    with pytest.raises(Refused, match=r"5e-05 GiB, 9.44e-05 are needed\. Raise --pixel-cache-gib"):
        job.run(dataclasses.replace(small(data), data=there))
    assert not JobFolder("first").path.exists()


def test_compiling_what_cannot_be_is_refused_before_the_job_begins(data, realshard_home, tmp_path):
    """Given weights to keep, the head epochs train no batch normalisation."""
    build_resnet50("gap_head", 32).save(tmp_path / "begin.keras")
    config = small(
        data,
        model=ModelConfig(variant="gap_head", weights=str(tmp_path / "begin.keras"), image_size=32),
        optimiser=OptimiserConfig(epochs=2, head_epochs=1, global_batch_size=8, xla=True),
        cluster=ClusterConfig(devices_per_worker=2),
    )
    with pytest.raises(Refused, match=r"--xla cannot compile .* Received: 2 replicas"):
        job.run(config)
    assert not JobFolder("first").path.exists()  # so that --no-xla can have the name


def test_failure_in_a_worker_is_one_sentence_and_leaves_no_result(ray_session, data, realshard_home, tmp_path):
    build_resnet50("gap_head", 32).save(tmp_path / "other.keras")
    with pytest.raises(Refused, match="do not fit resnet50_deep_head") as caught:
        job.run(small(data, model=ModelConfig(weights=str(tmp_path / "other.keras"), image_size=32)))
    assert "\n" not in str(caught.value)
    assert {path.name for path in JobFolder("first").path.iterdir()} == {".lock", "config.json"}
    client = tracking.client_of()
    (run,) = client.search_runs([client.get_experiment_by_name("realshard").experiment_id])
    assert run.info.status == "FAILED"


def test_an_interrupt_while_its_run_is_opened_ends_the_run(data, realshard_home, monkeypatch):
    client = tracking.client_of()

    def interrupted(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(client), "log_batch", interrupted)  # of the params: the run has been made
    with pytest.raises(KeyboardInterrupt):
        job.run(small(data), here=True)
    (run,) = client.search_runs([client.get_experiment_by_name("realshard").experiment_id])
    assert run.info.status == "KILLED"


def test_a_damaged_record_ends_the_job_in_one_sentence(ray_session, realshard_home, tmp_path):
    directory = write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11})
    shard = directory / "toy-train.tfrecord-00000-of-00002"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Refused, match=rf"{shard.name}, offset \d+, id 'train/\w+/\d+.png': ") as caught:
        job.run(small(tmp_path))
    assert "\n" not in str(caught.value)
    assert {path.name for path in JobFolder("first").path.iterdir()} == {".lock", "config.json"}


def test_a_dataset_at_a_url_is_trained_on_and_its_model_registered(data, realshard_home):
    """In this process, where it takes seconds. What the registered model is compared with is read from the URL too."""
    there = DataConfig(dataset="toy", data_dir=f"file://{data}")
    model = ModelConfig(family="cnn", variant="v8", weights="none", image_size=32)
    far = dataclasses.replace(small(data), data=there, model=model)
    result = job.run(far, here=True)
    assert (result.model_name, result.model_version, result.images["test"]) == ("realshard-cnn", 1, 11)


@pytest.mark.long
def test_two_datasets_make_one_job_that_names_both(ray_session, data, realshard_home):
    write_dataset(data, {"train": 12, "test": 4}, name="other", seed=1)
    mixture = DataConfig(dataset="toy=1,other=3", data_dir=str(data), order="balanced")
    result = job.run(dataclasses.replace(small(data), data=mixture))
    assert (result.dataset, result.images) == ("toy:1.0.0+other:1.0.0", {"train": 36, "validation": 9, "test": 15})
    version = tracking.client_of().get_model_version(result.model_name, str(result.model_version))
    assert (version.tags["dataset"], version.tags["fingerprint"]) == (result.dataset, result.fingerprint)


def test_an_interrupted_job_goes_on_with_its_version_when_a_newer_one_is_there(realshard_home, tmp_path, monkeypatch):
    def is_interrupted(begun, *_):
        raise KeyboardInterrupt(begun.dataset.title)

    def on(dataset: str) -> Config:
        return dataclasses.replace(small(tmp_path), data=DataConfig(dataset=dataset, data_dir=str(tmp_path)))

    monkeypatch.setattr(job, "_train", is_interrupted)
    splits = {"train": 24, "validation": 9, "test": 11}
    write_dataset(tmp_path, splits)
    with pytest.raises(KeyboardInterrupt, match=r"toy:1\.0\.0"):
        job.run(on("toy"))
    write_dataset(tmp_path, splits, version="1.1.0", seed=1)
    for named in ("toy", "toy:1.0.0"):
        with pytest.raises(KeyboardInterrupt, match=r"toy:1\.0\.0"):
            job.run(on(named))
    with pytest.raises(Refused, match=r"--dataset toy:1\.0\.0 -> toy:1\.1\.0.*Give it what it had"):
        job.run(on("toy:1.1.0"))


def test_equal_data_are_the_same_whatever_their_version_is_called(realshard_home):
    folder, config = JobFolder("renamed"), Config()
    folder.path.mkdir(parents=True)
    for name in ("toy", "toy:1.0.0", "toy:1.1.0"):
        assert folder.begin(dataclasses.replace(config, data=DataConfig(dataset=name)), "a" * 64) is None
    with pytest.raises(Refused, match=r"--dataset toy -> toy:1\.1\.0"):
        folder.begin(dataclasses.replace(config, data=DataConfig(dataset="toy:1.1.0")), "b" * 64)


# -- refused before anything starts --


def test_job_being_run_elsewhere_is_refused(realshard_home, data):
    with JobFolder("first").locked(), pytest.raises(Refused, match="by another"):
        job.run(small(data))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"dataset": "absent"}}, r"tfds build tfds_builders/absent"),
        ({"data": {"exclude": ("label=fake",)}}, "needs both classes"),
        ({"data": {"only": ("categori=people",)}}, "no column 'categori'"),
        ({"data": {"only": ("category=peeple",)}}, "peeple"),
        ({"model": {"weights": "absent.keras"}}, "existing"),
        ({"data": {"train_split": "train", "test_split": "train[:3]"}}, "no image in common"),
        ({"data": {"train_split": "train[:2%]"}}, "no record in this selection"),
        ({"data": {"split_scheme": "published"}}, "no split scheme 'published'"),
    ],
)
def test_bad_input_is_refused(changes, says, data, realshard_home):
    config = small(data)
    for group, values in changes.items():
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
    with pytest.raises(Refused, match=says) as caught:
        job.run(config)
    assert "\n" not in str(caught.value)
    assert not (realshard_home / "jobs").exists()


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "MLFLOW_TRACKING_URI"])
def test_servers_that_do_not_answer_are_refused(variable, data, realshard_home, monkeypatch):
    closed_port = pick_free_port()
    scheme = "http://" if variable.startswith("MLFLOW") else ""
    monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{closed_port}")
    with pytest.raises(Refused, match=f"127.0.0.1:{closed_port}"):
        job.run(small(data))
    assert not (realshard_home / "jobs").exists()


def test_workers_that_do_not_fit_are_refused(ray_session, data, realshard_home):
    with pytest.raises(Refused, match="must fit into the Ray cluster"):
        job.run(small(data, cluster=ClusterConfig(workers="100")))


def test_bare_script_says_how_to_build_the_dataset(repository, tmp_path):
    environment = os.environ | {"TFDS_DATA_DIR": str(tmp_path), "REALSHARD_HOME": str(tmp_path / "home")}
    script = str(repository / "trainers" / "resnet.py")
    assert os.access(script, os.X_OK)
    done = subprocess.run([sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "tfds build tfds_builders/ai_vs_human" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_driver_leaves_gpus_to_the_workers(ray_session, monkeypatch):
    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind)))
    with RayWorkers():
        assert hidden == [([], "GPU")]


def test_a_job_says_once_what_it_waits_for(ray_session, realshard_home, monkeypatch, capsys):
    """Ray Train would wait without a word. Four CPUs are there."""
    begun = []
    monkeypatch.setattr("trainers.engine.train_in_workers", lambda *given: begun.append(given) or True)
    task, folder = Task({}, (), "", Resources(workers=1, cpus=3, devices=1, gpus=0)), JobFolder("second")
    others = ray_session.util.placement_group([{"CPU": 2}])
    ray_session.get(others.ready())
    with RayWorkers() as engine:
        engine.train(task, folder)
        assert capsys.readouterr().out.startswith("job second waits for 1 CPU(s) that other jobs hold;")
        ray_session.util.remove_placement_group(others)  # Ray counts it as held a moment longer
        engine.train(task, folder)
    assert capsys.readouterr().out == ""
    assert len(begun) == 2


def test_new_names_are_all_different():
    names = {job.new_name(Config()) for _ in range(50)}  # 32 random bits: equal ones once in three million runs
    assert len(names) == 50
    assert all(name.startswith("resnet50-deep_head-") for name in names)

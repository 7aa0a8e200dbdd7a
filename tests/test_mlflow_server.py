"""A job whose runs are in PostgreSQL and whose artifacts go through an MLflow server, both of them away for a while."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import tiny_family
from tests.mlflow_server import MlflowServer, Postgres
from tests.small_dataset import write_dataset
from trainers import job, lineage, predict, promote, registry, tracking
from trainers.config import ClusterConfig, Config, DataConfig, JobConfig, ModelConfig, OptimiserConfig
from trainers.dataset import load
from trainers.decision import Decision
from trainers.history import best_epoch, losses
from trainers.models.families import FAMILIES
from trainers.reader import RecordReader

pytestmark = pytest.mark.long

SPLITS = {"train": 24, "validation": 9, "test": 11}
NAME = "realshard-far"
OUTAGE_SECS, FIRST_SECS = 30, 10
HOLDS = {"server": (1, 3), "database": (4, 6)}  # an outage begins after one epoch and ends after the other
EPOCHS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, SPLITS)
    for epoch in (epoch for epochs in HOLDS.values() for epoch in epochs):
        os.mkfifo(root / "toy" / f"hold-{epoch}")
    return root


def interrupt(part: MlflowServer | Postgres, before: Path, during: Path) -> None:
    """Takes `part` away for 30 s while the training is between two holds, and held there."""
    with before.open("wb"):  # opens when the training has come there
        part.stop()
        # MLflow tries again 4, 12 and 28 s after the first attempt, and then not for half a minute: let the third
        # find the server back.
        time.sleep(FIRST_SECS)
    with during.open("wb"):
        time.sleep(OUTAGE_SECS - FIRST_SECS)
        part.start()


@pytest.fixture(scope="module")
def finished(ray_session, data, tmp_path_factory):
    """The job, after both outages."""
    home = tmp_path_factory.mktemp("home")
    with (
        pytest.MonkeyPatch.context() as patch,
        Postgres() as database,
        MlflowServer(database.uri, tmp_path_factory.mktemp("server")) as server,
    ):
        patch.setenv("REALSHARD_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setitem(FAMILIES, "tiny", tiny_family.FAMILY)
        patch.setattr("trainers.recovery.train", tiny_family.train)

        over = []

        def outages() -> None:
            for name, epochs in HOLDS.items():
                part = {"server": server, "database": database}[name]
                interrupt(part, *(data / "toy" / f"hold-{epoch}" for epoch in epochs))
                over.append(name)

        threading.Thread(target=outages, daemon=True).start()  # of a job that fails it would wait for ever
        result = job.run(
            Config(
                data=DataConfig(dataset="toy", data_dir=str(data)),
                model=ModelConfig(family="tiny", variant="tiny", weights="none", image_size=32),
                optimiser=OptimiserConfig(epochs=EPOCHS, global_batch_size=12, early_stopping_patience=0),
                cluster=ClusterConfig(cpus_per_worker=1),
                job=JobConfig(name="far", registered_name=NAME, system_metrics_secs=5, log_checkpoints=True),
            )
        )
        assert over == list(HOLDS)
        yield result


def test_nothing_is_missing_after_the_outages(finished):
    client = tracking.client_of()
    run = client.get_run(finished.run_id)
    assert run.info.status == "FINISHED"
    history = json.loads((Path(finished.directory) / "history.json").read_text())
    assert len(history) == EPOCHS
    for key in sorted(history[0].keys() - {"epoch", "phase"}):
        logged = [(metric.step, metric.value) for metric in client.get_metric_history(finished.run_id, key)]
        assert sorted(logged) == [(entry["epoch"], entry[key]) for entry in history], key
    assert run.data.metrics["test/auc"] == finished.metrics["auc"]
    assert run.data.params["epochs"] == str(EPOCHS)
    artifacts = {file.path for file in client.list_artifacts(finished.run_id)}
    assert {"predictions.parquet", "history.json", "config.json", "figures", "dataset", "model_card.md"} <= artifacts
    assert (finished.model_version, finished.alias) == (1, "champion")


def test_each_epoch_that_was_the_best_so_far_has_its_model_with_its_metrics(finished, images):
    client = tracking.client_of()
    run = client.get_run(finished.run_id)
    history = json.loads((Path(finished.directory) / "history.json").read_text())
    values = losses(history)
    improvements = [epoch for epoch in range(EPOCHS) if best_epoch(values[: epoch + 1]) == epoch]
    models = {output.model_id: output.step for output in run.outputs.model_outputs}
    assert sorted(models.values()) == sorted([*improvements, finished.best_epoch])  # and the registered one
    digests = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    for model_id, epoch in models.items():
        measured = {metric.key: metric for metric in client.get_logged_model(model_id).metrics}
        for key in ("train/loss", "validation/loss"):
            assert (measured[key].step, measured[key].value) == (epoch, history[epoch][key])
            name = f"{finished.dataset}/{key.split('/')[0]}"
            assert (measured[key].dataset_name, measured[key].dataset_digest) == (name, digests[name])
        assert ("test/auc" in measured) == (epoch == finished.best_epoch)
    (checkpoint, *_) = (model for model, epoch in models.items() if epoch == finished.best_epoch)
    verdicts = registry.load_logged(checkpoint).predict(images)
    table = pq.read_table(Path(finished.directory) / "predictions.parquet")
    np.testing.assert_allclose([v.p_fake for v in verdicts], table["p_fake"].to_numpy()[-len(images) :], atol=1e-5)


def test_the_machine_was_watched(finished):
    samples = tracking.client_of().get_metric_history(finished.run_id, "system/cpu_utilization_percentage")
    assert [sample.step for sample in samples] == list(range(len(samples)))
    assert len(samples) >= 8  # also of the outages


def test_artifacts_come_from_the_server(finished):
    assert tracking.client_of().get_run(finished.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    stored = tracking.read_artifact(finished.run_id, "predictions.parquet")
    assert stored == (Path(finished.directory) / "predictions.parquet").read_bytes()


@pytest.fixture
def images(data) -> list[bytes]:
    return list(RecordReader(load(data / "toy" / "1.0.0").select("test")).images(np.arange(SPLITS["test"])))


def test_the_model_is_loaded_and_asked_from_the_server(finished, images, tmp_path, capsys):
    table = pq.read_table(Path(finished.directory) / "predictions.parquet")
    expected = table["p_fake"].to_numpy()[-len(images) :]
    for number, image in enumerate(images):
        (tmp_path / f"{number:02d}.png").write_bytes(image)
    assert predict.main(["--model", f"models:/{NAME}@champion", "--json", str(tmp_path)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose([answer["p_fake"] for answer in answers], expected, atol=1e-5)


def test_a_second_version_challenges_and_is_judged(finished, images, capsys):
    version = registry.register(
        finished.run_id,
        Path(finished.directory) / "model.keras",
        images=images,
        registered_name=NAME,
        image_size=32,
        decision=Decision(),
        label_names=("real", "fake"),
        tags={"fingerprint": finished.fingerprint},
    )
    assert version == 2
    client = tracking.client_of()
    assert client.get_registered_model(NAME).aliases == {"champion": "1", "challenger": "2"}
    assert promote.main([NAME, "--apply"]) == 1  # it is the same model
    assert "not better for certain" in capsys.readouterr().out
    assert json.loads(client.get_model_version(NAME, "2").tags[promote.GATE_TAG])["promote"] is False


def test_lineage_is_read_from_the_server(finished, capsys):
    assert lineage.main([f"models:/{NAME}@champion", "--json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    assert (chain["run"]["id"], chain["run"]["job"], chain["run"]["status"]) == (finished.run_id, "far", "FINISHED")
    assert [(row["split"], row["records"]) for row in chain["datasets"]] == list(SPLITS.items())
    assert chain["builds"]["toy"]["fingerprint"] == finished.fingerprint

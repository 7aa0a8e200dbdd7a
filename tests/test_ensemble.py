"""Ensembles: which trainings are kept, the average as one model, and a job that trains the members."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import tiny_family
from tests.small_dataset import write_dataset
from trainers import ensemble
from trainers.config import Config, JobConfig, ModelConfig, OptimiserConfig, to_dict
from trainers.dataset import load
from trainers.ensemble import attempt_to_keep, mean_history, member_seed
from trainers.jobs import JobFolder
from trainers.models.average import average_models
from trainers.models.families import FAMILIES
from trainers.models.family import Ensemble
from trainers.reports import DirectoryReports
from trainers.strategy import Resources
from trainers.training import Training
from trainers.worker import Task


@pytest.mark.parametrize(
    ("log_losses", "kept"),
    [
        ([], None),  # not yet trained
        ([0.68], 0),  # just good enough
        ([0.69], None),
        ([0.69, 0.70, 0.4], 2),
        ([0.69, 0.70, 0.71, 0.72, 0.73], None),  # four retries so far
        ([0.69, 0.71, 0.72, 0.685, 0.73, 0.70], 3),  # five: the best will have to do
    ],
)
def test_members_that_did_not_learn_are_trained_again(log_losses, kept):
    assert attempt_to_keep(log_losses, max_log_loss=0.68, max_retries=5) == kept


def test_without_a_limit_the_first_training_is_kept():
    assert attempt_to_keep([9.0], max_log_loss=None, max_retries=5) == 0


def test_every_training_has_a_seed_of_its_own():
    seeds = [member_seed(7, member, attempt, max_retries=5) for member in range(10) for attempt in range(6)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 60
    assert 0 <= member_seed(2**31 - 1, 9, 5, 5) < 2**31


def test_mean_history_stops_with_the_first_member():
    first = [{"epoch": 0, "phase": 0, "validation/loss": 0.4}, {"epoch": 1, "phase": 0, "validation/loss": 0.2}]
    second = [{"epoch": 0, "phase": 0, "validation/loss": 0.6}]
    (entry,) = mean_history([first, second])
    assert entry == {"epoch": 0, "phase": 0, "validation/loss": pytest.approx(0.5)}
    assert isinstance(entry["epoch"], int)


def test_mean_history_has_what_all_members_measured():
    one = {"epoch": 0, "phase": 0, "validation/loss": 0.4}
    for first, second in (({}, {"train/step_seconds": 1.0}), ({"train/step_seconds": 1.0}, {})):
        (entry,) = mean_history([[one | first], [one | second]])
        assert entry == one


def test_average_is_one_model_that_loads(tmp_path):
    members = [tiny_family.build(ModelConfig(image_size=32)) for _ in range(3)]
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    expected = np.mean([member(images) for member in members], axis=0)
    average_models(members, "three").save(tmp_path / "three.keras")
    loaded = keras.models.load_model(tmp_path / "three.keras")
    np.testing.assert_allclose(loaded(images), expected, atol=1e-6)
    assert loaded.input.dtype == "uint8"


def test_members_of_different_sizes_are_refused():
    members = [tiny_family.build(ModelConfig(image_size=size)) for size in (32, 48)]
    with pytest.raises(ValueError, match="images of one size"):
        average_models(members, "two")


@pytest.fixture
def job(monkeypatch, tmp_path, realshard_home, two_devices):
    """(task, folder) of an ensemble of two tiny models, each of which is trained twice: no log-loss is below 0."""
    plan = Ensemble(member="tiny", size=2, max_log_loss=0.0, max_retries=1)
    variants = {"tiny": Config(), "pair": Config()}
    family = dataclasses.replace(tiny_family.FAMILY, variants=variants, ensembles={"pair": plan})
    monkeypatch.setitem(FAMILIES, "tiny", family)
    dataset = write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11})
    config = Config(
        model=ModelConfig(family="tiny", variant="pair", weights="none", image_size=32),
        optimiser=OptimiserConfig(epochs=2, global_batch_size=8, learning_rate=1e-2),
        job=JobConfig(seed=5),
    )
    folder = JobFolder("pair")
    folder.path.mkdir(parents=True)
    return Task(to_dict(config), (str(dataset),), load(dataset).fingerprint, Resources(1, 1, 1, 0)), folder


def test_job_trains_the_members_and_leaves_their_average(job):
    task, folder = job
    trained: list[tuple[str, str, int]] = []

    def train_one(task: Task, folder: JobFolder) -> None:
        trained.append((folder.name, task.config["model"]["variant"], task.config["job"]["seed"]))
        reports = folder.path / "reports"
        Training(task, DirectoryReports(reports)).run()
        folder.take(reports / "latest", ("history.json", "predictions.parquet", "model.keras"))

    ensemble.train(task, folder, train_one)
    names = [f"pair.member{member}-{attempt}" for member in (1, 2) for attempt in (1, 2)]
    assert trained == [(name, "tiny", seed) for name, seed in zip(names, (5, 6, 7, 8), strict=True)]
    history = json.loads((folder.path / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [0, 1]

    def best(directory: Path) -> float:
        return min(entry["validation/loss"] for entry in json.loads((directory / "history.json").read_text()))

    kept = [min((folder.path / f"member{member}-{attempt}" for attempt in (1, 2)), key=best) for member in (1, 2)]
    tables = [pq.read_table(directory / "predictions.parquet") for directory in kept]
    average = pq.read_table(folder.path / "predictions.parquet")
    assert average["id"].equals(tables[0]["id"])
    np.testing.assert_allclose(average["p_fake"], np.mean([table["p_fake"] for table in tables], axis=0))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    members = [keras.models.load_model(directory / "model.keras") for directory in kept]
    whole = keras.models.load_model(folder.path / "model.keras")
    np.testing.assert_allclose(whole(images), np.mean([member(images) for member in members], axis=0), atol=1e-6)

    ensemble.train(task, folder, train_one)  # resumed: the members are there
    assert len(trained) == 4

"""Whole jobs of what is not simply trained: an ensemble, and a checkpoint that is evaluated as it is."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.small_dataset import write_dataset
from tests.test_vit import SIZE, random_weights, write_checkpoint
from trainers import job, job_result
from trainers.config import ClusterConfig, DataConfig, JobConfig
from trainers.models import mesonet, vit
from trainers.registry import load_detector

pytestmark = pytest.mark.long


def config(recipe, dataset: Path, name: str, **model):
    """The recipe on a toy dataset, with small images and random or given weights."""
    return dataclasses.replace(
        recipe,
        data=DataConfig(dataset="toy", data_dir=str(dataset)),
        model=dataclasses.replace(recipe.model, image_size=SIZE, **model),
        cluster=ClusterConfig(cpus_per_worker=2),
        job=JobConfig(name=name),
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 24, "validation": 9, "test": 11})
    return root


def verdict(result: job.JobResult) -> float:
    """P(fake) that the registered model gives a picture."""
    from tests.small_model import image_bytes

    (found,) = load_detector(f"models:/{result.model_name}/{result.model_version}").predict([image_bytes("PNG")])
    assert found.error is None
    return found.p_fake


def test_a_checkpoint_is_evaluated_and_registered_without_training(ray_session, dataset, realshard_home, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", random_weights())
    recipe = vit.VARIANTS["b16"]
    recipe = dataclasses.replace(recipe, optimiser=dataclasses.replace(recipe.optimiser, epochs=0, global_batch_size=8))
    result = job.run(config(recipe, dataset, "as-it-is", weights=str(checkpoint)))
    assert (result.epochs, result.model_name) == (0, "realshard-vit")
    assert result.metrics["n"] == 11
    assert "evaluated as they are" in job_result.describe(result)
    assert 0 < verdict(result) < 1


def test_an_ensemble_is_one_job_with_one_model(ray_session, dataset, realshard_home, monkeypatch):
    plan = dataclasses.replace(mesonet.ENSEMBLES["ensemble5"], size=2, max_log_loss=0.0, max_retries=1)
    monkeypatch.setitem(mesonet.ENSEMBLES, "ensemble5", plan)  # the job's driver decides; workers train single members
    result = job.run(config(mesonet.VARIANTS["ensemble5"], dataset, "pair"))
    folders = sorted(path.name for path in Path(result.directory).glob("member*"))
    assert folders == ["member1-1", "member1-2", "member2-1", "member2-2"]
    assert result.epochs == 2
    assert len(json.loads((Path(result.directory) / "history.json").read_text())) == 2
    assert not list((realshard_home / "ray").glob("pair*"))
    assert 0 < verdict(result) < 1

"""A registered model is trained further: which version, whose weights, and what is then known of its data."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from small_dataset import write_dataset

from tfds_builders.records.errors import Refused
from trainers import evaluate, job, lineage, matrix, tracking
from trainers.config import Config, DataConfig, JobConfig
from trainers.dataset import load
from trainers.models.cnn import VARIANTS
from trainers.origin import origin_of

FIRST = "models:/realshard-cnn@champion"
SECOND = "models:/further/1"


def config(data: Path, dataset: str, weights: str, name: str) -> Config:
    """A small network that is evaluated as it is."""
    recipe = VARIANTS["v8"]
    return dataclasses.replace(
        recipe,
        data=DataConfig(dataset=dataset, data_dir=str(data)),
        model=dataclasses.replace(recipe.model, image_size=32, weights=weights),
        optimiser=dataclasses.replace(recipe.optimiser, epochs=0, global_batch_size=8),
        job=JobConfig(name=dataset, registered_name=name, seed=len(dataset)),
    )


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """(data_dir, first result, second result): the second began with the first's model, on other data."""
    root = tmp_path_factory.mktemp("further")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(root / "home"))
        for seed, name in enumerate(("one", "other")):
            write_dataset(root / "data", {"train": 16, "validation": 6, "test": 8}, name=name, seed=seed)
        first = job.run(config(root / "data", "one", "none", "realshard-cnn"), here=True)
        second = job.run(config(root / "data", "other", FIRST, "further"), here=True)
        yield root / "data", first, second


def test_it_has_the_first_models_weights_and_keeps_to_its_version(jobs):
    _, first, second = jobs
    weights = [keras.models.load_model(Path(each.directory) / "model.keras").get_weights() for each in (first, second)]
    assert all(np.array_equal(one, two) for one, two in zip(*weights, strict=True))
    told = json.loads((Path(second.directory) / "config.json").read_text())
    assert told["config"]["model"]["weights"] == "models:/realshard-cnn/1"
    assert not list(Path(second.directory).glob("starting_weights*"))


def test_its_run_names_the_model_it_began_with(jobs):
    _, first, second = jobs
    tags = tracking.client_of().get_run(second.run_id).data.tags
    assert tags["realshard.weights"] == "models:/realshard-cnn/1"
    assert tags["realshard.weights_run_id"] == first.run_id
    assert "begun with models:/realshard-cnn/1" in lineage.describe(lineage.lineage_of(SECOND))


def test_what_the_first_model_was_trained_on_counts(jobs, tmp_path):
    data, _, second = jobs
    origin = origin_of(second.run_id)
    both = [load(data / name / "1.0.0").select("train").ids() for name in ("one", "other")]
    assert sorted(origin.train["id"].to_pylist()) == sorted([*both[0], *both[1]])
    assert (origin.trained_on, origin.unknown) == ("other:1.0.0 after one:1.0.0", "")
    card = evaluate.evaluate(SECOND, ["one"], str(data), "train[:5]", tmp_path)
    assert "Trained on this set: 5 of 5 images below trained this model." in card["notes"]
    with pytest.raises(Refused, match=r"records of other:1\.0\.0 after one:1\.0\.0"):
        matrix.measure([SECOND], evaluate.select(["one"], str(data), "train[:5]"))


def test_the_data_of_a_bare_file_are_unknown(jobs, tmp_path):
    data, first, _ = jobs
    file = str(Path(first.directory) / "model.keras")
    told = config(data, "one", file, "from-file")
    job.run(dataclasses.replace(told, job=dataclasses.replace(told.job, name="from-file")), here=True)
    card = evaluate.evaluate("models:/from-file/1", ["other"], str(data), "test", tmp_path)
    (note,) = [note for note in card["notes"] if "began with" in note]
    assert file in note
    assert "not known here" in note
    (row,) = matrix.measure(["models:/from-file/1"], evaluate.select(["other"], str(data), "test"), by_group=False)
    assert row["trained_on"] == f"one:1.0.0 after unknown data ({file})"


@pytest.mark.parametrize("weights", ["models:/nobody@champion", "models:/realshard-cnn/9", "models:/realshard-cnn"])
def test_a_model_that_is_not_there_is_refused(jobs, weights):
    with pytest.raises(Refused, match="models:/"):
        job.run(config(jobs[0], "other", weights, "further"), here=True)


def test_a_model_of_another_network_is_refused(jobs):
    told = config(jobs[0], "other", FIRST, "further")
    told = dataclasses.replace(told, model=dataclasses.replace(told.model, variant="v6"))
    with pytest.raises(Refused, match="do not fit cnn_v6"):
        job.run(dataclasses.replace(told, job=dataclasses.replace(told.job, name="unfit")), here=True)

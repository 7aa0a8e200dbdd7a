"""The search: what it tries, what it refuses, and a real one with Ray Tune."""

import dataclasses
import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.small_dataset import write_dataset
from tfds_builders.records.errors import Refused
from trainers import metrics, search, tracking
from trainers.command_line import parse, parse_both
from trainers.config import AugmentConfig, ClusterConfig, DataConfig, JobConfig, OptimiserConfig
from trainers.models import cnn, efficientnet, inception, resnet
from trainers.models.families import FAMILIES
from trainers.search_config import SearchConfig


def plan(*argv: str) -> SearchConfig:
    return parse_both(["--search", *argv], cnn.VARIANTS)[1]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--search-space", "must name something to try"),
        ("--search-space epochs=1,2", "takes learning_rate, weight_decay, dropout, augmentation"),
        ("--search-space dropout=0.9:0.1", "numbers from 0 to 0.99"),
        ("--search-space dropout=often", "numbers from 0 to 0.99"),
        ("--search-space learning_rate=0:1", "positive numbers"),
        ("--search-space weight_decay=0:1e-3", "write weight_decay=A,B,C"),
        ("--search-space dropout=0.1 dropout=0.2", "each name once"),
        ("--search-trials 0", "--search-trials must be at least 1"),
        ("--search-by test_auc", "must be one of auc, log_loss"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_a_sentence(argv, says):
    with pytest.raises(Refused, match=says) as caught:
        plan(*argv.split())
    assert "Received" in str(caught.value)


def test_dropout_is_left_out_where_there_is_none_and_refused_if_asked_for():
    config = parse(["--weights", "none"], inception.VARIANTS)
    assert {choice.parameter for choice in search.possible(config, SearchConfig())} == {
        "learning_rate",
        "weight_decay",
        "augmentation",
    }
    with pytest.raises(Refused, match="has none"):
        search.possible(config, plan("--search-space", "dropout=0.1,0.2"))
    assert len(search.possible(parse(["--augment"], cnn.VARIANTS), SearchConfig())) == 4


def test_augmentation_is_left_out_where_the_recipe_has_none_and_refused_if_asked_for():
    config = parse([], cnn.VARIANTS)
    assert not config.augmentation.augment
    tried = search.possible(config, SearchConfig())
    assert [choice.parameter for choice in tried] == ["learning_rate", "weight_decay", "dropout"]
    for values in search.draw(tried, 5, seed=0):
        assert search.with_values(config, values).augmentation == config.augmentation  # above all no flips
    assert search.with_values(config, {"augmentation": 2.0}).augmentation == config.augmentation
    with pytest.raises(Refused, match="Received: a recipe without any, v6"):
        search.possible(config, plan("--search-space", "augmentation=0:2"))


def test_settings_are_drawn_within_the_space_and_all_different():
    space = plan("--search-space", "learning_rate=1e-4:1e-2", "dropout=0.2,0.5").space
    drawn = search.draw(space, 40, seed=3)
    assert drawn == search.draw(space, 40, seed=3) != search.draw(space, 40, seed=4)
    assert all(1e-4 <= values["learning_rate"] <= 1e-2 and values["dropout"] in (0.2, 0.5) for values in drawn)
    assert 5 < sum(values["learning_rate"] < 1e-3 for values in drawn) < 35  # by its logarithm: half of them
    few = search.draw(plan("--search-space", "dropout=0.1,0.2,0.3", "weight_decay=0.1,0.2").space, 20, seed=0)
    assert len({tuple(values.items()) for values in few}) == len(few) == 6


@pytest.mark.parametrize(("variants", "variant"), [(resnet.VARIANTS, "gap_head"), (efficientnet.VARIANTS, "gap_head")])
@pytest.mark.parametrize("weights", ["none", "backbone.weights.h5"])
def test_the_rate_that_is_tried_is_one_that_trains(variants, variant, weights):
    config = parse(["--variant", variant, "--weights", weights], variants)
    head, rest = FAMILIES[config.model.family].phases(search.with_values(config, {"learning_rate": 0.007}))
    assert (head.learning_rate, rest.learning_rate) == (config.optimiser.head_learning_rate, 0.007)
    assert rest.epochs > head.epochs


def test_augmentation_multiplies_the_strengths_within_their_limits():
    augmentation = AugmentConfig(hue=0.3, brightness=0.1, flip_up_down=False)
    config = dataclasses.replace(parse([], cnn.VARIANTS), augmentation=augmentation)
    strong = search.with_values(config, {"augmentation": 2.0, "weight_decay": 0.01}).augmentation
    assert (strong.hue, strong.brightness, strong.rotation, strong.augment) == (0.5, 0.2, 0.0, True)
    assert not strong.flip_up_down
    assert not search.with_values(config, {"augmentation": 0.0}).augmentation.augment


def test_the_command_gives_the_config_again():
    config = parse(
        ["--variant", "v13", "--augment", "--image-size", "64", "--only", "category=car,cat", "--no-register"],
        cnn.VARIANTS,
    )
    config = search.with_values(config, {"learning_rate": 0.00123, "dropout": 0.25, "augmentation": 0.5})
    command = shlex.split(search.command_of(config, "cnn.py"))
    assert command[:2] == ["python", "trainers/cnn.py"]
    assert parse(command[2:], cnn.VARIANTS) == config


@pytest.mark.long
def test_a_search_chooses_by_validation_and_goes_on(ray_session, tmp_path, realshard_home):
    write_dataset(tmp_path, {"train": 24, "validation": 16, "test": 11})
    recipe = cnn.VARIANTS["v8"]
    config = dataclasses.replace(
        recipe,
        data=DataConfig(dataset="toy", data_dir=str(tmp_path)),
        model=dataclasses.replace(recipe.model, image_size=32),
        optimiser=OptimiserConfig(epochs=1, global_batch_size=8),
        cluster=ClusterConfig(cpus_per_worker=2),
        job=JobConfig(name="look"),
    )
    wanted = plan("--search-trials", "2", "--search-space", "learning_rate=1e-4:1e-2", "dropout=0.1,0.6")
    found = search.run(config, wanted, "cnn.py")

    assert len({trial.job for trial in found.trials}) == 2
    assert not [trial.error for trial in found.trials if trial.error]
    for trial in found.trials:
        predictions = pq.read_table(realshard_home / "jobs" / trial.job / "predictions.parquet")
        summary = metrics.summarise(metrics.of_split(predictions, "validation"), bootstrap=0)
        assert trial.score == pytest.approx(summary["auc"])
    assert found.best.score == max(trial.score for trial in found.trials)
    best = parse(shlex.split(found.command)[2:], cnn.VARIANTS)
    assert (best.optimiser.learning_rate, best.model.dropout) == tuple(
        found.best.values[name] for name in ("learning_rate", "dropout")
    )

    client = tracking.client_of()
    runs = client.search_runs([client.get_experiment_by_name("realshard").experiment_id])
    children = {run.info.run_name: run for run in runs if tracking.PARENT_TAG in run.data.tags}
    assert set(children) == {trial.job for trial in found.trials}
    for trial in found.trials:
        run = children[trial.job]
        assert run.data.tags[tracking.PARENT_TAG] == found.run_id
        assert {name: float(run.data.params[name]) for name in trial.values} == trial.values
    stored = json.loads(Path(client.download_artifacts(found.run_id, search.RESULT, str(tmp_path))).read_text())
    assert (stored["command"], stored["trials"][0]["job"]) == (found.command, found.best.job)

    begun = {run.info.run_id: run.info.start_time for run in runs}
    assert search.run(config, wanted, "cnn.py") == found  # draws the same, and finds the finished jobs
    again = client.search_runs([client.get_experiment_by_name("realshard").experiment_id])
    assert {run.info.run_id: run.info.start_time for run in again} == begun

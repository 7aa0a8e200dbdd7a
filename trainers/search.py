"""A search for better settings with Ray Tune: each trial is a job, the best is that with the best validation figure.

    python trainers/cnn.py --search --search-trials 20 --search-space learning_rate=1e-4:1e-2 dropout=0.2,0.5

The trials are children of one MLflow run, which keeps search.json: all trials, and the command of the best. Settings
are drawn by --seed, all different, so the same command with the same --name draws them again and finds the jobs that
have finished. The test images have no say.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfds_builders.records.errors import Refused
from trainers import job, metrics, tracking
from trainers.config import Config, flatten, from_dict, to_dict
from trainers.data_config import STRENGTHS
from trainers.engine import RayWorkers
from trainers.home import VARIABLE, home, ray_dir
from trainers.job_result import JobResult
from trainers.jobs import CONFIG, PREDICTIONS, JobFolder, write_json
from trainers.models.families import FAMILIES
from trainers.run_logger import RunLogger, ending_badly
from trainers.search_config import DEFAULT_SPACE, LOGARITHMIC, Choice, SearchConfig
from trainers.storage import default_data_dir

RESULT = "search.json"
_IS_BETTER_LARGER = {"auc": True, "log_loss": False}


@dataclass(frozen=True)
class Trial:
    """One job of a search."""

    job: str
    values: dict[str, float]  # drawn
    score: float | None  # on validation; None if it failed
    error: str = ""


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    name: str
    run_id: str  # the MLflow parent
    by: str  # the validation figure it chose by
    trials: tuple[Trial, ...]  # the best first
    command: str  # that trains the best again

    @property
    def best(self) -> Trial:
        """The trial with the best figure."""
        return self.trials[0]


def run(config: Config, plan: SearchConfig, program: str) -> SearchResult:
    """Draws settings, runs a job for each, and finds the best.

    Args:
      config: what all jobs have in common. They are not registered.
      plan: of the search.
      program: the entry point's file, for the command of the best.

    Raises:
      Refused: bad input, or no trial came to its end.
    """
    space = possible(config, plan)
    name = config.job.name or f"search-{job.new_name(config)}"
    folder = JobFolder(name)
    if (folder.path / CONFIG).exists():
        raise Refused(f"a search has a name of its own. Received: {name!r}, which is a job's. Take another --name.")
    try:
        _trial_config(config, {}, name)
    except ValueError as error:  # the name of a trial would be too long
        raise Refused(str(error)) from None
    settings = draw(space, plan.search_trials, config.job.seed)
    trials_jobs = [JobFolder(_trial_config(config, values, name).job.name) for values in settings]
    begun = next((each for each in trials_jobs if (each.path / CONFIG).exists()), trials_jobs[0])
    config, _ = job.with_dataset(config, begun)  # one version for all trials, whatever is built meanwhile
    with folder.locked(), RayWorkers():
        told = flatten(config) | dataclasses.asdict(plan)
        run_id = tracking.open_run(tracking.experiment(config.job.experiment), name, told, {}, reopen=True)
        logger = RunLogger(run_id)
        with ending_badly(logger.finish, f"the same command with --name {name}"):
            trials = _ranked(_try(config, plan, settings, name, run_id), plan.search_by)
            if trials[0].score is None:
                raise Refused(f"no trial of {name} came to its end. The first one: {trials[0].error}")
            best = with_values(config, trials[0].values)
            result = SearchResult(name, run_id, plan.search_by, trials, command_of(best, program))
            write_json(folder.path / RESULT, dataclasses.asdict(result))
            logger.artifact(folder.path / RESULT)
            logger.tags({"realshard.best_job": result.best.job, "realshard.best_command": result.command})
        logger.finish()
    shutil.rmtree(ray_dir() / name, ignore_errors=True)  # Tune's own notes
    return result


def draw(space: Sequence[Choice], number: int, seed: int) -> list[dict[str, float]]:
    """Settings to try, drawn at random and all different; fewer than `number` where the space has not so many.

    A trial's job is named by its settings, so equal ones would be one job.
    """
    random = np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    for _ in range(100 * number):  # of 8 possible settings, 800 draws miss one once in 10^45 searches
        values = rounded({choice.parameter: _drawn(choice, random) for choice in space})
        if values not in found:
            found.append(values)
        if len(found) == number:
            break
    return found


def _drawn(choice: Choice, random: np.random.Generator) -> float:
    if not choice.is_range:
        return float(random.choice(choice.values))
    low, high = choice.values
    if choice.parameter in LOGARITHMIC:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))
    return float(random.uniform(low, high))


def _try(
    config: Config, plan: SearchConfig, settings: Sequence[Mapping[str, float]], name: str, run_id: str
) -> list[Trial]:
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths in the config are the caller's

    def trial(given: dict[str, dict[str, float]]) -> None:
        values = given["settings"]
        os.environ.update(places)
        try:
            score = _score(job.run(_trial_config(from_dict(told), values, name), parent=run_id), plan.search_by)
        except Refused as error:  # a SystemExit, which would end Tune's process without a word
            raise RuntimeError(str(error)) from None
        tune.report({"score": score})

    told = to_dict(config)
    # Tune's processes have the environment that Ray was started in.
    places = {
        VARIABLE: str(home()),
        "MLFLOW_TRACKING_URI": tracking.tracking_uri(),
        "TFDS_DATA_DIR": default_data_dir(),
    }
    tuner = tune.Tuner(
        # A trial waits for the workers of its job: it takes no CPU from them, and Tune wants it to take something.
        tune.with_resources(trial, {"memory": 1}),
        param_space={"settings": tune.grid_search(list(settings))},
        tune_config=tune.TuneConfig(search_alg=BasicVariantGenerator(max_concurrent=plan.search_at_once)),
        run_config=tune.RunConfig(name=name, storage_path=str(ray_dir()), verbose=0),
    )
    return [
        Trial(
            _trial_config(config, found.config["settings"], name).job.name,
            found.config["settings"],
            None if found.error else found.metrics["score"],
            _reason(found.error) if found.error else "",
        )
        for found in tuner.fit()
    ]


def _score(result: JobResult, by: str) -> float:
    import pyarrow.parquet as pq

    predictions = pq.read_table(Path(result.directory) / PREDICTIONS)
    return metrics.summarise(metrics.of_split(predictions, "validation"), bootstrap=0)[by]


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _ranked(trials: Sequence[Trial], by: str) -> tuple[Trial, ...]:
    """The best first; what failed last; the earlier first among equals."""
    sign = -1 if _IS_BETTER_LARGER[by] else 1
    return tuple(sorted(trials, key=lambda trial: float("inf") if trial.score is None else sign * trial.score))


def possible(config: Config, plan: SearchConfig) -> tuple[Choice, ...]:
    """What the plan tries of this model: of the usual space what changes something, thus no dropout for a variant
    without dropout layers, and no augmentation where there is nothing to multiply.

    Raises:
      Refused: one of these was asked for; or another setting of the model that cannot be.
    """
    check = FAMILIES[config.model.family].check
    check(config.model)
    is_asked = plan.search_space != DEFAULT_SPACE
    idle = set()
    for parameter, ensure in (
        ("dropout", lambda: check(replace(config.model, dropout=0.5))),
        ("augmentation", lambda: _ensure_augmented(config)),
    ):
        try:
            ensure()
        except Refused:
            if is_asked and any(choice.parameter == parameter for choice in plan.space):
                raise
            idle.add(parameter)
    return tuple(choice for choice in plan.space if choice.parameter not in idle)


def _ensure_augmented(config: Config) -> None:
    augmentation = config.augmentation
    if not augmentation.augment or not any(getattr(augmentation, name) for name in STRENGTHS):
        raise Refused(
            "--search-space augmentation multiplies strengths that are there. Received: a recipe without any, "
            f"{config.model.variant}. Leave it out, or give some, such as --augment --brightness 0.1."
        )


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """The values to three digits, as commands and tables show them."""
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def with_values(config: Config, values: Mapping[str, float]) -> Config:
    """The config with other settings.

    Args:
      values: by name, as in --search-space; `augmentation` multiplies the strengths that the config has, 0 is none, and
        without augmentation there are none.
    """
    options: dict[str, Any] = {name: values[name] for name in ("learning_rate", "weight_decay") if name in values}
    model = replace(config.model, dropout=values.get("dropout", config.model.dropout))
    augmentation = config.augmentation
    if augmentation.augment and (strength := values.get("augmentation")) is not None:
        strengths: dict[str, Any] = rounded(
            {name: min(strength * getattr(augmentation, name), most) for name, most in STRENGTHS.items()}
        )
        augmentation = replace(augmentation, augment=strength > 0, **strengths)
    return replace(config, model=model, optimiser=replace(config.optimiser, **options), augmentation=augmentation)


def _trial_config(config: Config, values: Mapping[str, float], search: str) -> Config:
    """The config of a trial, whose name follows from what was drawn."""
    key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    config = with_values(config, values)
    return replace(config, job=replace(config.job, name=f"{search}.{key}", register=False))


def command_of(config: Config, program: str) -> str:
    """The command line that gives this config, without the job's name."""
    usual = to_dict(FAMILIES[config.model.family].variants[config.model.variant])
    arguments = ["--variant", config.model.variant]
    for group, fields in to_dict(config).items():
        for name, value in fields.items():
            if value == usual[group][name] or name in ("name", "variant", "family"):
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                arguments += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(["python", f"trainers/{program}", *arguments])


def describe(result: SearchResult) -> str:
    """A few lines for the end of a command."""
    lines = [f"search      {result.name}, {len(result.trials)} trials, MLflow run {result.run_id}"]
    for trial in result.trials:
        values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items())
        score = f"failed: {trial.error}" if trial.score is None else f"{trial.score:.4f}"
        lines.append(f"            validation {result.by} {score}  {values}  ({trial.job})")
    return "\n".join([*lines, f"best        {result.command}"])

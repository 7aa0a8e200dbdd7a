"""One training job, seen from the driver: checks, Ray Train, then metrics, figures and the registered model.

    result = job.run(config)

A job has a name, one folder (trainers/jobs.py) and one MLflow run. Running it again resumes it, or, when it has
finished, gives its result.
"""

import dataclasses
import secrets
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import LABELS
from trainers import ensemble, starting_weights, tracking
from trainers.config import Config, flatten, to_dict
from trainers.dataset import Dataset, Records
from trainers.decision import Decision, decide_for
from trainers.dossier import write_dossier
from trainers.engine import RayWorkers, ThisProcess
from trainers.home import pixels_dir, ray_dir
from trainers.jobs import CONFIG, JobFolder
from trainers.logged_models import link_metrics
from trainers.mixture import find_all, load_all, resolve
from trainers.models.families import FAMILIES
from trainers.models.family import Family
from trainers.policies import make_order
from trainers.provenance import environment_tags
from trainers.run_logger import RunLogger, ending_badly
from trainers.storage import default_data_dir
from trainers.strategy import describe
from trainers.worker import HISTORY, MODEL, PREDICTIONS, Task, selected, shared_groups

NUM_COMPARED_IMAGES = 32  # on which the registered model must agree with the trained one


@dataclass(frozen=True)
class JobResult:
    """What a finished job gave."""

    name: str
    directory: str  # the job's folder
    dataset: str  # name:version
    fingerprint: str
    run_id: str  # of MLflow
    metrics: dict[str, Any]  # of the test split, from trainers.metrics.summarise
    images: dict[str, int]  # by split: those that took part
    epochs: int
    best_epoch: int  # counted from 0
    images_per_second: float  # while training, median over the epochs
    model_name: str | None = None
    model_version: int | None = None
    alias: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # by stage
    is_reused: bool = False  # the job had finished before; nothing was done


def run(config: Config, *, parent: str = "", here: bool = False) -> JobResult:
    """Runs the job that `config` describes, resumes it, or finds that it has finished.

    Args:
      config: of the job.
      parent: the MLflow run that the job's is a child of, if any.
      here: train in this process rather than in Ray Train's workers.

    Raises:
      Refused: bad input, or something that the user must change; one sentence.
    """
    family = FAMILIES[config.model.family]
    config = dataclasses.replace(config, data=resolve(config.data))
    dataset = load_all(find_all(config.data.dataset, data_dir(config)))
    records = _checked_records(dataset, config)
    name = config.job.name or new_name(config)
    folder = JobFolder(name)
    uri = tracking.tracking_uri()
    tracking.ensure_reachable(uri)
    config = starting_weights.pinned(config, uri)
    engine = ThisProcess() if here else RayWorkers()
    if not (folder.path / HISTORY).exists():
        family.check(config.model)
    with folder.locked():
        finished = folder.begin(config, dataset.fingerprint)
        if finished:
            print(f"job {name} had finished already: {folder.path}", flush=True)
            return dataclasses.replace(JobResult(**finished), is_reused=True)
        lineage = starting_weights.tags_of(config) | ({tracking.PARENT_TAG: parent} if parent else {})
        return _run(config, family, dataset, records, folder, uri, engine, lineage)


def _run(
    config: Config,
    family: Family,
    dataset: Dataset,
    records: dict[str, Records],
    folder: JobFolder,
    uri: str,
    engine: RayWorkers | ThisProcess,
    lineage: Mapping[str, str],
) -> JobResult:
    title = dataset.title
    seconds, started = {}, time.monotonic()
    with engine:
        resources = engine.resources(config)
        print(f"job {folder.name} on {title}: {describe(resources, config.optimiser.global_batch_size)}", flush=True)
        tags = {
            "realshard.dataset": title,
            "realshard.fingerprint": dataset.fingerprint,
            "realshard.family": family.name,
            **environment_tags(resources, engine.job_id),
            **lineage,
        }
        experiment = tracking.experiment(config.job.experiment)
        reopen = (folder.path / HISTORY).exists()  # its run may have finished, and the job been ended before its result
        run_id = tracking.open_run(experiment, folder.name, flatten(config), tags, reopen=reopen)
        logger, again = RunLogger(run_id, uri), f"the same command with --name {folder.name}"
        with ending_badly(logger, again):
            sources = tuple(str(source) for source in dataset.sources)
            for split, part in records.items():
                profile = {"records": len(part), "fake": int(part.labels.sum())}
                tracking.log_dataset(
                    run_id, f"{title}/{split}", dataset.fingerprint, split, sources=sources, profile=profile
                )
            told = to_dict(starting_weights.fetched(config, folder.path))
            task = Task(told, sources, dataset.fingerprint, resources, run_id, uri, str(pixels_dir()))
            ensemble.train(task, folder, engine.train)
            seconds["train"] = time.monotonic() - started
    with ending_badly(logger, again):
        result = _close(config, family, dataset, records, folder, run_id, logger, seconds)
    folder.finish(dataclasses.asdict(result))
    shutil.rmtree(ray_dir() / folder.name, ignore_errors=True)  # checkpoints of a finished job
    (folder.path / starting_weights.FILE).unlink(missing_ok=True)
    return JobResult(**folder.result())  # as a later call will read it


def _close(
    config: Config,
    family: Family,
    dataset: Dataset,
    records: dict[str, Records],
    folder: JobFolder,
    run_id: str,
    logger: RunLogger,
    seconds: dict[str, float],
) -> JobResult:
    """Metrics, figures, artifacts, the registered model; ends the MLflow run."""
    import json

    import pyarrow.parquet as pq

    from trainers import metrics
    from trainers.card import calibration_of, card_of
    from trainers.card_files import CARD, FIGURES, PAGE, write_card
    from trainers.card_pictures import AUGMENTED, WORST, Part, augmented, most_wrong_images
    from trainers.history import best_epoch, losses, metrics_of
    from trainers.origin import notes_of, origin_from

    started = time.monotonic()
    history = json.loads((folder.path / HISTORY).read_text())
    scored = pq.read_table(folder.path / PREDICTIONS)  # by the network
    decision = decide_for(config.model, metrics.of_split(scored, "validation"))
    predictions = decision.applied(scored)  # as the registered model will report them
    pq.write_table(predictions, folder.path / PREDICTIONS)
    test = metrics.of_split(predictions, "test")
    first = starting_weights.tags_of(config).get(starting_weights.RUN_TAG)
    origin = origin_from(dataset, records, config, first)
    notes = notes_of(origin, [origin.test])
    card = card_of(test, decision.threshold, unsure=decision.unsure, notes=notes)
    summary = card["summary"]
    best = best_epoch(losses(history)) if history else 0
    lacked = logger.ensure_complete({entry["epoch"]: metrics_of(entry) for entry in history})
    if lacked:
        print(f"{lacked} values of metrics that MLflow lacked were logged at the end", flush=True)
    logger.ensure_complete({best: metrics.flatten(summary, "test/")})
    card["calibration"] = calibration_of(decision.temperature, decision.base_rate)
    card["facts"] = {"job": folder.name, "MLflow run": run_id, "trained and tested on": dataset.title}
    pictures = {
        WORST: most_wrong_images(test, [Part(dataset, records["test"])]),
        AUGMENTED: augmented(config, records["train"]),
    }
    write_card(folder.path, test, card, f"{folder.name} on {dataset.title}, test", history, pictures)
    logger.figures(folder.path / FIGURES)
    for file in (PREDICTIONS, HISTORY, CONFIG, CARD, PAGE):
        logger.artifact(folder.path / file)
    model = config.job.registered_name or family.default_registered_name
    tags = tracking.client_of().get_run(run_id).data.tags
    for part in write_dossier(folder.path, dataset, config, model, summary, tags):
        logger.artifact(folder.path / part, str(part.parent) if part.parent.name else None)
    seconds["report"] = time.monotonic() - started
    result = JobResult(
        name=folder.name,
        directory=str(folder.path),
        dataset=dataset.title,
        fingerprint=dataset.fingerprint,
        run_id=run_id,
        metrics=summary,
        images={split: len(part) for split, part in records.items()},
        epochs=len(history),
        best_epoch=best,
        images_per_second=statistics.median(entry["train/images_per_second"] for entry in history) if history else 0.0,
        seconds=seconds,
    )
    if config.job.register:
        started = time.monotonic()
        test = metrics.of_split(scored, "test")
        result = _register(config, family, dataset, records["test"], test, decision, folder, result)
        seconds["register"] = time.monotonic() - started
    link_metrics(tracking.client_of(), run_id)
    logger.finish("FINISHED")
    return result


def _register(
    config: Config,
    family: Family,
    dataset: Dataset,
    records: Records,
    test: Any,
    decision: Decision,
    folder: JobFolder,
    result: JobResult,
) -> JobResult:
    from trainers.reader import open_reader
    from trainers.registry import register, version_of

    rows = np.arange(min(len(records), NUM_COMPARED_IMAGES))
    name = config.job.registered_name or family.default_registered_name
    version = version_of(result.run_id, name) or register(
        result.run_id,
        folder.path / MODEL,
        images=list(open_reader(records).images(rows)),
        registered_name=name,
        image_size=config.model.image_size,
        decision=decision,
        label_names=LABELS,
        tags={
            "variant": config.model.variant,
            "dataset": result.dataset,
            "fingerprint": dataset.fingerprint,
            "test_auc": result.metrics["auc"],
            "threshold": decision.threshold,
        },
        expected=test["p_fake"].to_numpy()[rows],
        aspect=config.model.aspect,
        epoch=result.best_epoch,
    )
    aliases = tracking.client_of().get_model_version(name, str(version)).aliases
    return dataclasses.replace(result, model_name=name, model_version=version, alias=aliases[0] if aliases else None)


def describe_result(result: JobResult) -> str:
    """A few lines for the end of a command."""
    numbers = result.metrics

    def number(key: str) -> str:
        return "undefined" if numbers.get(key) is None else f"{numbers[key]:.4f}"

    training = f"{result.epochs} epochs, best {result.best_epoch + 1}, {result.images_per_second:.1f} images/s"
    lines = [
        f"job         {result.name}, {result.directory}",
        f"dataset     {result.dataset}, {', '.join(f'{n} {split}' for split, n in result.images.items())} images",
        f"test        AUC {number('auc')}, accuracy {number('accuracy')}, balanced {number('balanced_accuracy')}",
        f"training    {training if result.epochs else 'none, the weights were evaluated as they are'}",
        f"MLflow run  {result.run_id}",
    ]
    if numbers.get("degenerate"):
        lines.append(f"            no detector: {numbers['degenerate_because']}")
    if result.model_name:
        lines.append(f"model       {result.model_name} version {result.model_version}, alias {result.alias}")
    return "\n".join(lines)


def data_dir(config: Config) -> str:
    """Where built datasets are looked for."""
    return config.data.data_dir or default_data_dir()


def new_name(config: Config) -> str:
    """A name that no job has: family, variant, the date and time (UTC), four random hex digits."""
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{config.model.family}-{config.model.variant}-{when}-{secrets.token_hex(2)}"


def _checked_records(dataset: Dataset, config: Config) -> dict[str, Records]:
    records = selected(dataset, config)  # refuses a training split of one class
    try:
        make_order(records["train"], config.data, config.optimiser.global_batch_size, config.job.seed)
    except ValueError as error:
        raise Refused(str(error)) from None
    for split, count in shared_groups(records).items():
        if count:
            print(f"warning: {count} groups are in both train and {split}: figures will look too good", flush=True)
    for split, part in records.items():
        if len(np.unique(part.labels)) < len(LABELS):
            raise Refused(
                f"the {split} split must hold both real and fake images. Received: {len(part)} images, "
                f"all {LABELS[part.labels[0]]}. Build the dataset again from a source with more of both."
            )
    return records

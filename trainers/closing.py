"""The end of a job: from its predictions to the report card, the artifacts of its run and the registered model."""

import dataclasses
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfds_builders.records.schema import LABELS
from trainers import metrics, starting_weights, tracking
from trainers.calibration import expected_calibration_error
from trainers.card import Card, calibration_of, card_of
from trainers.card_files import CARD, FIGURES, PAGE, write_card
from trainers.card_pictures import AUGMENTED, WORST, Part, augmented, most_wrong_images
from trainers.decision import Decision, decide_for
from trainers.dossier import audit_notes, write_dossier
from trainers.history import History, best_epoch, losses, median_speed, metrics_of
from trainers.job_result import JobResult
from trainers.jobs import CONFIG, HISTORY, MODEL, PREDICTIONS, Job
from trainers.logged_models import link_metrics
from trainers.origin import notes_of, origin_from
from trainers.reader import open_reader
from trainers.registry import register, version_of
from trainers.run_logger import RunLogger

NUM_COMPARED_IMAGES = 32  # on which the registered model must agree with the trained one


def close(job: Job, run_id: str, logger: RunLogger, train_secs: float) -> JobResult:
    """Metrics, figures, artifacts, the registered model; ends the MLflow run.

    Args:
      job: one that has trained.
      run_id: of MLflow.
      logger: of that run.
      train_secs: what training took.
    """
    folder, started = job.folder.path, time.monotonic()
    history: History = json.loads((folder / HISTORY).read_text())
    scored = pq.read_table(folder / PREDICTIONS)  # by the network
    decision = decide_for(job.config.model, metrics.of_split(scored, "validation"))
    predictions = decision.applied(scored)  # as the registered model will report them
    pq.write_table(predictions, folder / PREDICTIONS)
    errors = [_calibration_error(table) for table in (scored, predictions)]
    calibration = calibration_of(decision.temperature, decision.base_rate, errors)
    card = _write_card(job, run_id, metrics.of_split(predictions, "test"), decision, calibration, history)
    best = best_epoch(losses(history)) if history else 0
    _log(job, run_id, logger, card, history, best)
    result = JobResult(
        name=job.folder.name,
        directory=str(folder),
        dataset=job.dataset.title,
        fingerprint=job.dataset.fingerprint,
        run_id=run_id,
        metrics=card["summary"],
        images={split: len(part) for split, part in job.records.items()},
        epochs=len(history),
        best_epoch=best,
        images_per_second=median_speed(history),
        seconds={"train": train_secs, "report": time.monotonic() - started},
    )
    if job.config.job.register:
        result = _register(job, result, metrics.of_split(scored, "test"), decision)
    link_metrics(tracking.client_of(), run_id)
    logger.finish("FINISHED")
    return result


def _calibration_error(predictions: pa.Table) -> float | None:
    validation = metrics.of_split(predictions, "validation")
    return expected_calibration_error(validation["label"].to_numpy(), validation["p_fake"].to_numpy())


def _write_card(job: Job, run_id: str, test: pa.Table, decision: Decision, calibration: str, history: History) -> Card:
    dataset, name = job.dataset, job.folder.name
    first_run_id = starting_weights.tags_of(job.config).get(starting_weights.RUN_TAG)
    origin = origin_from(dataset, job.records, job.config, first_run_id, job.config.data.data_dir)
    notes = [*notes_of(origin, [origin.test]), *audit_notes(dataset)]
    card = card_of(test, decision.threshold, unsure=decision.unsure, notes=notes)
    card["calibration"] = calibration
    card["facts"] = {"job": name, "MLflow run": run_id, "trained and tested on": dataset.title}
    pictures = {
        WORST: most_wrong_images(test, [Part(dataset, job.records["test"])], decision.threshold),
        AUGMENTED: augmented(job.config, job.records["train"]),
    }
    write_card(job.folder.path, test, card, f"{name} on {dataset.title}, test", history, pictures)
    return card


def _log(job: Job, run_id: str, logger: RunLogger, card: Card, history: History, best: int) -> None:
    """Puts into the run what it still lacks of the training, and what was made of it."""
    lacked = logger.ensure_complete({entry["epoch"]: metrics_of(entry) for entry in history})
    if lacked:
        print(f"{lacked} values of metrics that MLflow lacked were logged at the end", flush=True)
    logger.ensure_complete({best: metrics.flatten(card["summary"], "test/")})
    folder = job.folder.path
    logger.figures(folder / FIGURES)
    for file in (PREDICTIONS, HISTORY, CONFIG, CARD, PAGE):
        logger.artifact(folder / file)
    tags = tracking.client_of().get_run(run_id).data.tags
    for part in write_dossier(folder, job.dataset, job.config, job.family.registered_name(job.config), card, tags):
        logger.artifact(folder / part, str(part.parent) if part.parent.name else None)


def _register(job: Job, result: JobResult, test: pa.Table, decision: Decision) -> JobResult:
    """`test` as scored by the network, before its temperature."""
    started, records, model = time.monotonic(), job.records["test"], job.config.model
    rows = np.arange(min(len(records), NUM_COMPARED_IMAGES))
    name = job.family.registered_name(job.config)
    version = version_of(result.run_id, name) or register(
        result.run_id,
        job.folder.path / MODEL,
        images=list(open_reader(records).images(rows)),
        registered_name=name,
        image_size=model.image_size,
        decision=decision,
        label_names=LABELS,
        tags={
            "variant": model.variant,
            "dataset": result.dataset,
            "fingerprint": result.fingerprint,
            "test_auc": result.metrics["auc"],
            "threshold": decision.threshold,
        },
        expected=test["p_fake"].to_numpy()[rows],
        aspect=model.aspect,
        epoch=result.best_epoch,
    )
    aliases = tracking.client_of().get_model_version(name, str(version)).aliases
    return dataclasses.replace(
        result,
        model_name=name,
        model_version=version,
        alias=aliases[0] if aliases else None,
        seconds=result.seconds | {"register": time.monotonic() - started},
    )

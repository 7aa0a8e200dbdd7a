"""One training job, seen from the driver: checks, Ray Train, then what trainers/closing.py makes of it.

    result = job.run(config)

A job has a name, one folder (trainers/jobs.py) and one MLflow run. Running it again resumes it, or, when it has
finished, gives its result.
"""

import dataclasses
import secrets
import shutil
import time
from collections.abc import Mapping

import numpy as np

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import LABELS
from trainers import ensemble, starting_weights, tracking
from trainers.compiled import check_compiled
from trainers.config import Config, flatten, to_dict
from trainers.dataset import Dataset, Records
from trainers.engine import RayWorkers, ThisProcess
from trainers.home import pixels_dir, ray_dir
from trainers.job_result import JobResult
from trainers.jobs import HISTORY, Job, JobFolder
from trainers.mixture import find_all, load_all, pinned, resolve
from trainers.pixel_cache import check_room
from trainers.policies import make_order
from trainers.provenance import environment_tags
from trainers.run_logger import RunLogger, ending_badly
from trainers.selection import selected, shared_groups
from trainers.storage import default_data_dir
from trainers.strategy import describe
from trainers.worker import Task


def run(config: Config, *, parent: str = "", here: bool = False) -> JobResult:
    """Runs the job that `config` describes, resumes it, or finds that it has finished.

    Args:
      config: of the job.
      parent: the MLflow run that the job's is a child of, if any.
      here: train in this process rather than in Ray Train's workers.

    Raises:
      Refused: bad input, or something that the user must change; one sentence.
    """
    folder = JobFolder(config.job.name or new_name(config))
    config, dataset = with_dataset(config, folder)
    records = _checked_records(dataset, config)
    uri = tracking.tracking_uri()
    tracking.ensure_reachable(uri)
    job = Job(starting_weights.pinned(config, uri), dataset, records, folder)
    engine = ThisProcess() if here else RayWorkers()
    if not (folder.path / HISTORY).exists():
        job.family.check(job.config.model)
        if not here:  # where a process that builds a model cannot be given its devices any more
            check_compiled(job.family, job.config)
        check_room(records, config.data, config.model.image_size)
    with folder.locked():
        finished = folder.begin(job.config, dataset.fingerprint)
        if finished:
            print(f"job {folder.name} had finished already: {folder.path}", flush=True)
            return dataclasses.replace(JobResult(**finished), is_reused=True)
        run_id, secs = _train(job, uri, engine, {tracking.PARENT_TAG: parent} if parent else {})
        result = _closed(job, run_id, uri, secs)
        folder.finish(dataclasses.asdict(result))
        shutil.rmtree(ray_dir() / folder.name, ignore_errors=True)  # checkpoints of a finished job
        (folder.path / starting_weights.FILE).unlink(missing_ok=True)
        return JobResult(**folder.result())  # as a later call will read it


def _train(job: Job, uri: str, engine: RayWorkers | ThisProcess, further_tags: Mapping[str, str]) -> tuple[str, float]:
    """Trains, or goes on; returns the id of the MLflow run, and the seconds that it took."""
    config, dataset, folder = job.config, job.dataset, job.folder
    title, started = dataset.title, time.monotonic()
    with engine:
        resources = engine.resources(config)
        print(f"job {folder.name} on {title}: {describe(resources, config.optimiser.global_batch_size)}", flush=True)
        tags = {
            "realshard.dataset": title,
            "realshard.fingerprint": dataset.fingerprint,
            "realshard.family": job.family.name,
            **environment_tags(resources, engine.job_id),
            **starting_weights.tags_of(config),
            **further_tags,
        }
        experiment = tracking.experiment(config.job.experiment)
        reopen = (folder.path / HISTORY).exists()  # its run may have finished, and the job been ended before its result
        # By its name: MLflow may have made the run, and we not yet know its id.
        with ending_badly(lambda status: tracking.end_run(experiment, folder.name, status), _again(job)):
            run_id = tracking.open_run(experiment, folder.name, flatten(config), tags, reopen=reopen)
            sources = tuple(str(source) for source in dataset.sources)
            for split, part in job.records.items():
                profile = {"records": len(part), "fake": int(part.labels.sum())}
                tracking.log_dataset(
                    run_id, f"{title}/{split}", dataset.fingerprint, split, sources=sources, profile=profile
                )
            told = to_dict(starting_weights.fetched(config, folder.path))
            task = Task(told, sources, dataset.fingerprint, resources, run_id, uri, str(pixels_dir()))
            ensemble.train(task, folder, engine.train)
    return run_id, time.monotonic() - started


def _closed(job: Job, run_id: str, uri: str, secs: float) -> JobResult:
    from trainers.closing import close  # a second of imports, which checks and training do without

    logger = RunLogger(run_id, uri)
    with ending_badly(logger.finish, _again(job)):
        return close(job, run_id, logger, secs)


def _again(job: Job) -> str:
    return f"the same command with --name {job.folder.name}"


def with_dataset(config: Config, folder: JobFolder) -> tuple[Config, Dataset]:
    """The config with the versions of its dataset, and the dataset: the newest, or those that the job of this folder
    began with.

    Raises:
      Refused: it is not built.
    """
    data = resolve(config.data)
    data = dataclasses.replace(data, dataset=folder.dataset(data.dataset))
    dataset = load_all(find_all(data.dataset, data_dir(config)))
    return dataclasses.replace(config, data=pinned(data, dataset)), dataset


def data_dir(config: Config) -> str:
    """Where built datasets are looked for."""
    return config.data.data_dir or default_data_dir()


def new_name(config: Config) -> str:
    """A name that no job has: family, variant, the date and time (UTC), eight random hex digits."""
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{config.model.family}-{config.model.variant}-{when}-{secrets.token_hex(4)}"


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

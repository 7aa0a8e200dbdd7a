"""One run a job, in MLflow. The only module that imports it (verdict.py, which MLflow itself executes, excepted).

    run_id = open_run(experiment("ai_vs_human"), "job-1", config, tags)
    read_artifact(run_id, "history.json")

What is written while a job runs is run_logger.py's, models are registry.py's, the store's address is store.py's.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.home import one_at_a_time
from trainers.source_code import source_tags
from trainers.store import database_file, ensure_reachable, tracking_uri, without_password

JOB_TAG = "realshard.job"
RESUMED_TAG = "realshard.resumed_with"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own: its pages show a run under the one that this names
_BATCH_PARAMS = 100  # MLflow's limit for one call
_DIGEST_CHARACTERS = 36  # MLflow's limit


def mlflow_module() -> Any:
    """MLflow, imported at first use (1 s), without telemetry and chatter."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    import mlflow.system_metrics.system_metrics_monitor

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow


def client_of(uri: str | None = None) -> Any:
    """MLflow's client of the store at `uri`, by default `tracking_uri()`."""
    return mlflow_module().MlflowClient(tracking_uri=uri or tracking_uri())


def experiment(name: str) -> str:
    """The id of the experiment `name`, made if there is none.

    An embedded database keeps its artifacts in `mlflow/` beside it, by absolute path, so that they are found from
    whatever directory a job or the UI runs in. A server decides itself.

    Raises:
      Refused: the store does not answer or refuses; the experiment was deleted.
    """
    uri = tracking_uri()
    ensure_reachable(uri)
    client = client_of(uri)
    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            return _create_experiment(client, name, uri)
    except mlflow_module().exceptions.MlflowException as error:
        raise Refused(f"MLflow at {without_password(uri)} refuses: {error.message}") from None
    if found.lifecycle_stage == "deleted":
        raise Refused(f"the experiment {name!r} was deleted in MLflow: restore it there, or choose another name")
    return found.experiment_id


def _create_experiment(client: Any, name: str, uri: str) -> str:
    file = database_file(uri)
    location = (file.parent / "mlflow").as_uri() if file else None
    try:
        return client.create_experiment(name, artifact_location=location)
    except mlflow_module().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name).experiment_id  # another job was quicker


def _find_run(client: Any, job_name: str, experiment_ids: list[str]) -> Any | None:
    runs = client.search_runs(
        experiment_ids, f"tags.`{JOB_TAG}` = '{job_name}'", order_by=["attributes.start_time DESC"], max_results=1
    )
    return runs[0] if runs else None


def open_run(
    experiment_id: str, job_name: str, config: Mapping[str, Any], tags: Mapping[str, Any], *, reopen: bool = False
) -> str:
    """The id of the one run of the job `job_name`: an unfinished one is gone on with, else a new one is made.

    Args:
      experiment_id: from `experiment`.
      job_name: names the run; a job has one, however often it is restarted.
      config: the resolved configuration, flat; becomes the run's params. A run gone on with keeps the params it began
        with, as it does the tags, and what differs now is kept in the tag RESUMED_TAG: {param or tag: value}.
      tags: further tags, such as the dataset's fingerprint. Those of `source_tags` are added.
      reopen: go on with a finished one too: the parent of runs that are found again, a job without its result.

    Raises:
      Refused: the job has finished.
    """
    client = client_of()
    entities = mlflow_module().entities
    params = {key: str(value) for key, value in config.items()}
    all_tags = {JOB_TAG: job_name, "mlflow.source.name": "realshard", **source_tags(), **tags}
    all_tags = {key: str(value) for key, value in all_tags.items()}
    run = _find_run(client, job_name, [experiment_id])
    if run is None:
        run = client.create_run(experiment_id, run_name=job_name, tags=all_tags)
    elif run.info.status == "FINISHED" and not reopen:
        raise Refused(f"the job {job_name!r} has finished, as run {run.info.run_id}: choose another name")
    else:
        client.update_run(run.info.run_id, status="RUNNING")
        changed = {key: value for key, value in params.items() if run.data.params.get(key, value) != value}
        ours = {key: value for key, value in all_tags.items() if key.startswith("realshard.")}
        changed |= {key: value for key, value in ours.items() if run.data.tags.get(key) != value}
        if changed:
            client.set_tag(run.info.run_id, RESUMED_TAG, json.dumps(changed, sort_keys=True))
    new = [entities.Param(key, value) for key, value in params.items() if key not in run.data.params]
    for start in range(0, len(new), _BATCH_PARAMS):
        client.log_batch(run.info.run_id, params=new[start : start + _BATCH_PARAMS])
    return run.info.run_id


def end_run(experiment_id: str, job_name: str, status: str) -> None:
    """Ends the run of the job `job_name` as FAILED or KILLED, if it has one that is said to go on."""
    client = client_of()
    run = _find_run(client, job_name, [experiment_id])
    if run and run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, status)


def log_dataset(
    run_id: str, name: str, fingerprint: str, context: str, *, sources: Sequence[str], profile: Mapping
) -> None:
    """Names a dataset as an input of the run. `dataset_sources` gives the sources back.

    Args:
      run_id: of the run.
      name: of the dataset and version, such as "ai_vs_human:1.0.0".
      fingerprint: of the built dataset, 64 hex digits; MLflow's digest begins with 12 of them. The others are of all
        else, since MLflow keeps one entry for a name and digest, that of the first run.
      context: what it was used for: train, validation, test.
      sources: where it lies; several directories are one mixture.
      profile: counts and the like, as JSON can hold them.
    """
    entities = mlflow_module().entities
    source = json.dumps({"uri": sources[0] if len(sources) == 1 else list(sources)})
    told = json.dumps({"fingerprint": fingerprint, **profile})
    rest = hashlib.sha256(f"{source}\n{told}".encode()).hexdigest()
    digest = (fingerprint[:12] + rest)[:_DIGEST_CHARACTERS]
    dataset = entities.Dataset(name=name, digest=digest, source_type="local", source=source, profile=told)
    # MLflow looks for the dataset and then inserts it: of two jobs that do so at once, one would fail.
    with one_at_a_time("datasets"):
        client_of().log_inputs(
            run_id, [entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", context)])]
        )


def dataset_sources(dataset: Any) -> list[str]:
    """Where a dataset that `log_dataset` named lies; `dataset` is MLflow's entity."""
    uri = json.loads(dataset.source)["uri"]
    return [uri] if isinstance(uri, str) else uri


def read_artifact(run_id: str, name: str) -> bytes | None:
    """The content of a file among the run's artifacts, by its '/'-separated path; None if there is none."""
    client = client_of()
    if name not in {file.path for file in client.list_artifacts(run_id, name.rpartition("/")[0] or None)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_bytes()

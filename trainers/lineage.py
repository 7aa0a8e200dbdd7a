"""Where a registered model came from: version -> run -> code and config -> dataset -> source.

    python -m trainers.lineage models:/realshard-resnet50@champion
    python -m trainers.lineage runs:/RUN_ID                           # a run that registered nothing, too

Everything is read from MLflow: it works where neither the dataset nor this machine's files are there any more.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.dossier import AUDIT, BUILDS
from trainers.registry import resolve
from trainers.run_cards import BY_OTHER_MEANS, sources_of
from trainers.store import ensure_reachable, tracking_uri
from trainers.tracking import RESUMED_TAG, client_of, dataset_sources, mlflow_module, read_artifact

UNKNOWN = "unknown"
RUNS = "runs:/"


def lineage_of(uri: str) -> dict[str, Any]:
    """The chain, fit for JSON.

    Args:
      uri: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID.

    Returns:
      model (None for a run that registered none), run (resumed_with: what was otherwise when it was gone on with), code
      (of the run's first start; version_commit, version_files: of what registered the version), training, datasets (a
      list: name, fingerprint, split, records, fake, sources: the directories that it lay in), builds (what the
      datasets' build.json say, by name; empty for a run that stored none), audits (what was found in them, by name: a
      list of severity, code, sentence; None for one that was not audited). What a run did not record is "unknown".

    Raises:
      Refused: no such model or run, or a store that does not answer.
    """
    store = tracking_uri()
    ensure_reachable(store)
    client = client_of(store)
    run, version = _run_of(client, uri) if uri.startswith(RUNS) else _version_of(client, store, uri)
    tags, params = run.data.tags, run.data.params
    version_tags = version.tags if version else {}

    def tag(key: str) -> str:
        return tags.get(f"realshard.{key}", UNKNOWN)

    datasets = []
    for entry in run.inputs.dataset_inputs:
        profile = json.loads(entry.dataset.profile or "{}")
        context = next((t.value for t in entry.tags if t.key == "mlflow.data.context"), UNKNOWN)
        facts = {key: profile.get(key, UNKNOWN) for key in ("fingerprint", "records", "fake")}
        sources = dataset_sources(entry.dataset)
        datasets.append({"name": entry.dataset.name, "split": context, **facts, "sources": sources})
    builds = json.loads(read_artifact(run.info.run_id, BUILDS) or "{}")
    return {
        "model": version
        and {
            "name": version.name,
            "version": int(version.version),
            "aliases": sorted(version.aliases),
            "tags": dict(version.tags),
        },
        "run": {
            "id": run.info.run_id,
            "job": tag("job"),
            "status": run.info.status,
            "ray_job": tag("ray_job_id"),
            "resumed_with": json.loads(tags.get(RESUMED_TAG, "{}")),
        },
        "code": {
            "commit": tag("source_commit"),
            "dirty": tag("source_dirty"),
            "files": tag("source_hash"),
            "python": tag("python"),
            "packages": tag("packages"),
            "version_commit": version_tags.get("realshard.source_commit", UNKNOWN),
            "version_files": version_tags.get("realshard.source_hash", UNKNOWN),
        },
        "training": {
            "seed": params.get("seed", UNKNOWN),
            "machine": tag("machine"),
            "devices": tag("devices"),
            "weights": params.get("weights", UNKNOWN),
            "params": dict(params),
        },
        "datasets": sorted(datasets, key=lambda row: ("train", "validation", "test", row["split"]).index(row["split"])),
        "builds": builds,
        "audits": {name: _audit(run.info.run_id, name) for name in builds},
    }


def _version_of(client: Any, store: str, model_uri: str) -> tuple[Any, Any]:
    name, number = resolve(store, model_uri)
    version = client.get_model_version(name, str(number))
    return client.get_run(version.run_id), version


def _run_of(client: Any, run_uri: str) -> tuple[Any, Any | None]:
    """The run, and the newest version that it registered, if any."""
    run_id = run_uri.removeprefix(RUNS)
    try:
        run = client.get_run(run_id)
    except mlflow_module().exceptions.MlflowException:
        raise Refused(
            f"there is no run {run_id!r}: its page in MLflow (make ui) and its job's end say its id"
        ) from None
    versions = client.search_model_versions(f"run_id='{run.info.run_id}'")
    if not versions:
        return run, None
    newest = max(versions, key=lambda version: int(version.version))
    return run, client.get_model_version(newest.name, newest.version)  # with its aliases


def _audit(run_id: str, dataset: str) -> list[dict[str, str]] | None:
    told = read_artifact(run_id, f"dataset/{dataset}.{AUDIT}")
    if told is None:
        return None
    return [{key: found[key] for key in ("severity", "code", "sentence")} for found in json.loads(told)["findings"]]


def describe(chain: dict[str, Any]) -> str:
    """The chain as lines for the terminal."""
    model, run, code, training = (chain[key] for key in ("model", "run", "code", "training"))
    aliases = f" ({', '.join(model['aliases'])})" if model and model["aliases"] else ""
    dirty = {"true": ", with changes that were not committed", "false": ""}.get(code["dirty"], ", cleanness unknown")
    changed, by = run["resumed_with"], (code["version_commit"], code["version_files"])
    is_by_another = code["version_files"] != UNKNOWN and by != (code["commit"], code["files"])
    lines = [
        f"model     {model['name']} version {model['version']}{aliases}" if model else "model     none is registered",
        f"run       {run['id']}, job {run['job']}, {run['status']}, Ray job {run['ray_job']}",
        f"code      commit {code['commit']}{dirty}; files {code['files'][:12]}; Python {code['python']}",
        f"          {code['packages']}",
        *([f"          registered by commit {by[0]}; files {by[1][:12]}"] if is_by_another else []),
        f"training  seed {training['seed']}, {training['devices']}, on {training['machine']}",
    ]
    if training["weights"].startswith("models:/"):
        lines.append(f"          begun with {training['weights']}")
    lines += [f"          resumed with {key.removeprefix('realshard.')} {value}" for key, value in changed.items()]
    lines += [
        f"data      {row['split']}: {row['records']} records, {row['fake']} fake, of {row['name']}"
        for row in chain["datasets"]
    ]
    sources = dict.fromkeys(source for row in chain["datasets"] for source in row["sources"])
    lines += [f"          read from {source}" for source in sources]
    for name, build in chain["builds"].items():
        lines += _describe_build(name, build) + _describe_audit(chain["audits"][name])
    if not chain["builds"]:
        lines += [
            f"          fingerprint {mark}" for mark in dict.fromkeys(row["fingerprint"] for row in chain["datasets"])
        ]
        lines.append("dataset   its build.json was not stored with the run")
    return "\n".join(lines)


def _describe_build(name: str, build: dict[str, Any]) -> list[str]:
    if "fingerprint" not in build:
        return [f"dataset   {name} {BY_OTHER_MEANS}"]
    found, written, excluded, quarantined, validation = (
        build.get(key, UNKNOWN) for key in ("found", "written", "excluded", "quarantined", "validation")
    )
    lines = [
        f"dataset   {name}, fingerprint {build['fingerprint']}",
        f"          found {found} = written {written} + excluded {excluded} + quarantined {quarantined}, checked to "
        f"the depth {validation}",
    ]
    return lines + [f"source    {line}" for line in sources_of(build)]


def _describe_audit(findings: list[dict[str, str]] | None) -> list[str]:
    if not findings:
        return [f"audit     {'it was not audited' if findings is None else 'nothing was found'}"]
    return [f"audit     {found['severity']}: {found['code']}. {found['sentence']}" for found in findings]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m trainers.lineage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON, the whole config included")
    options = parser.parse_args(arguments)
    chain = lineage_of(options.model)
    print(json.dumps(chain, indent=1, sort_keys=True) if options.json else describe(chain))
    return 0


if __name__ == "__main__":
    sys.exit(main())

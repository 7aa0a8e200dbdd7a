"""What a run keeps of where its model came from, beside figures and predictions: builds, audits, two cards.

dataset/builds.json       {dataset: what its build.json says}
dataset/<name>.audit.json where the dataset was audited
dataset_card.md, model_card.md
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.config import Config, to_dict
from trainers.dataset import Dataset
from trainers.run_cards import dataset_card, model_card
from trainers.storage import Location, filesystem

BUILDS = "dataset/builds.json"
AUDIT = "audit.json"  # what `python -m tfds_builders.audit` leaves beside the shards


def write_dossier(
    directory: Path, dataset: Dataset, config: Config, model: str, card: Mapping[str, Any], tags: Mapping[str, str]
) -> list[Path]:
    """Writes the files into `directory`; returns them, relative to it.

    Args:
      directory: of the job.
      dataset: one, or a mixture.
      config: resolved.
      model: the registered model's name.
      card: the report card of the test split.
      tags: of the run.
    """
    builds = dataset.build.get("datasets") or {dataset.name: dataset.build}
    sources = dict(zip(builds, dataset.sources, strict=True))
    written = [Path(BUILDS)]
    (directory / BUILDS).parent.mkdir(exist_ok=True)
    (directory / BUILDS).write_text(json.dumps(builds, indent=1) + "\n")
    parts = []
    for name, build in builds.items():
        audit = _audit(sources[name])
        if audit is not None:
            written.append(Path("dataset", f"{name}.{AUDIT}"))
            (directory / written[-1]).write_text(json.dumps(audit, indent=1, sort_keys=True) + "\n")
        title = f"{name}:{build.get('version', 'unknown version')}"
        parts.append(dataset_card(title, build, audit))
    for file, text in (
        ("dataset_card.md", "\n".join(parts)),
        ("model_card.md", model_card(model, dataset.title, to_dict(config), card, tags)),
    ):
        (directory / file).write_text(text)
        written.append(Path(file))
    return written


def audit_notes(dataset: Dataset) -> list[str]:
    """What the audit found in a dataset, or in each of a mixture: a sentence each, for the report card."""
    titles = dataset.title.split("+")
    return [_audit_note(title, _audit(source)) for title, source in zip(titles, dataset.sources, strict=True)]


def _audit_note(title: str, audit: dict[str, Any] | None) -> str:
    if audit is None:
        return f"Audit: {title} was not audited (`python -m tfds_builders.audit`)."
    told = []
    for found in audit["findings"]:  # the most severe first
        sentence = f" ({found['sentence'].removesuffix('.')})" if found["severity"] == "high" else ""
        told += [f"{found['severity']}: {found['code']}{sentence}"] if found["severity"] != "info" else []
    return f"Audit of {title}: {'; '.join(told) or 'nothing was found'}."


def _audit(source: Location) -> dict[str, Any] | None:
    files, root = filesystem(source)
    try:
        return json.loads(files.cat_file(f"{root}/{AUDIT}"))
    except (OSError, ValueError):  # not audited, or not on this machine
        return None

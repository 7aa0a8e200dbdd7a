"""The test set that the gate looks at: what two versions predicted on it, whose it is, and that neither was made of it.

tested = judged(version, dataset="")          # the run's own test set; or a dataset's, evaluated with --log
tested.predictions, tested.fingerprints
check_same(tested, tested_of_other)
doubt = doubt_apart(version, tested)
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from trainers import metrics
from trainers.card_files import CARD
from trainers.dataset import Dataset
from trainers.jobs import PREDICTIONS
from trainers.mixture import load_unchanged
from trainers.origin import identities, origin_of, overlap
from trainers.tracking import read_artifact

FINGERPRINT_DIGITS = 16  # that a card tells
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judged:
    """What a version predicted on a test set.

    Attributes:
      predictions: id, label, category, group, p_fake.
      fingerprints: of the datasets, their first 16 digits.
      records: the identities of the test records (id, group, sha256); None where the datasets are not there any more.
      titles: NAME:VERSION of the datasets, for people.
    """

    predictions: pa.Table
    fingerprints: tuple[str, ...]
    records: pa.Table | None
    titles: str


def told_of(dataset: Dataset) -> dict[str, str]:
    """What a card keeps of a dataset that it is of, so that the dataset is found again."""
    return {"title": dataset.title, "fingerprint": dataset.fingerprint, "directory": str(dataset.directory)}


def judged(version: Any, dataset: str = "", data_dir: str = "") -> Judged:
    """The test predictions of a model version, MLflow's entity.

    Args:
      dataset: "" for the test set of its own run, else one that it was evaluated on with --log, NAME or NAME:VERSION;
        several as "a+b".
      data_dir: where the datasets are looked for if they are not where they were; "": the default folder.

    Raises:
      Refused: its run has no such predictions.
    """
    terms = dataset.split("+")
    folder = f"cards/{'+'.join(term.partition(':')[0] for term in terms)}-test/" if dataset else ""
    content, card = (read_artifact(version.run_id, folder + name) for name in (PREDICTIONS, CARD))
    members = json.loads(card or "{}").get("datasets", [])
    titles = [member["title"] for member in members]
    is_of_these = len(terms) == len(titles) and all(
        title == term or title.partition(":")[0] == term for term, title in zip(terms, titles, strict=True)
    )
    if content is None or (dataset and not is_of_these):
        lacks = f"{folder}{PREDICTIONS if content is None else CARD}"
        raise Refused(
            f"{version.name} version {version.version} cannot be judged: its run {version.run_id} has no {lacks}"
            f"{f' of {dataset}' if dataset else ''}. Make it: python -m trainers.evaluate --model "
            f"models:/{version.name}/{version.version} --dataset {dataset.replace('+', ',') or 'D'} --log, and then "
            f"promote with --dataset {dataset or 'D'}."
        )
    predictions = metrics.of_split(pq.read_table(pa.BufferReader(content)), "test")
    if dataset:
        fingerprints = tuple(member["fingerprint"][:FINGERPRINT_DIGITS] for member in members)
        return Judged(predictions, fingerprints, _records_of(members, data_dir), "+".join(titles))
    origin = origin_of(version.run_id, data_dir)
    fingerprint = version.tags.get("fingerprint", _UNKNOWN)[:FINGERPRINT_DIGITS]
    title = version.tags.get("dataset", f"version {version.version}")
    return Judged(predictions, (fingerprint,), origin.test if origin else None, title)


def _records_of(members: list[dict[str, str]], data_dir: str) -> pa.Table | None:
    tables = []
    for member in members:
        dataset = load_unchanged([member["directory"]], [member["title"]], member["fingerprint"], data_dir)
        if dataset is None:
            return None
        tables.append(identities(dataset, dataset.select("test").ids()))
    return pa.concat_tables(tables)


def check_same(champion: Judged, challenger: Judged) -> None:
    """The two were tested on one build of the data, or on builds whose test records are the same pictures.

    Raises:
      Refused: they were not, or it is not known.
    """
    builds = {champion.fingerprints, challenger.fingerprints}
    if len(builds) == 1 and (_UNKNOWN,) not in builds:
        return
    pictures = [
        each.records.select(["id", "sha256"]).sort_by("id") if each.records is not None else None
        for each in (champion, challenger)
    ]
    because = ""
    if pictures[0] is None or pictures[1] is None:
        because = (
            "their data are neither where they were nor under --data-dir, so it is not known whether the pictures are "
            "the same"
        )
    elif pictures[0]["sha256"].null_count or not pictures[0].equals(pictures[1]):
        because = "the pictures are not the same"
    if because:
        told = " and ".join("+".join(each.fingerprints) for each in (champion, challenger))
        raise Refused(
            f"The two were tested on different builds of the data (fingerprints {told}), and {because}. Evaluate both "
            "on one dataset, `python -m trainers.evaluate --dataset D --log`, and promote with --dataset D."
        )


def doubt_apart(version: Any, tested: Judged, data_dir: str = "") -> str:
    """Why it cannot be told whether the version was made from records of this test set, or from their groups; "": it
    was not.

    Raises:
      Refused: it was.
    """
    if tested.records is None:
        return f"the test images, of {tested.titles}, are neither where they were nor under --data-dir as they were"
    origin = origin_of(version.run_id, data_dir)
    if origin is None:
        return (
            f"what version {version.version} was made from is not named by its run, or is neither where it was nor "
            "under --data-dir as it was"
        )
    found = overlap(tested.records, pa.concat_tables([origin.train, origin.validation]))
    if len(found):
        raise Refused(
            f"{version.name} version {version.version} cannot be judged on this test set: {len(found)} of its "
            f"{len(tested.records)} images share their content or group with training or validation images of the "
            f"model, {found['id'][0].as_py()!r} for example. Evaluate both versions on another dataset, `python -m "
            "trainers.evaluate --dataset D --log`, and promote with --dataset D."
        )
    return ""

"""The test set that the gate looks at: what two versions predicted on it, whose it is, and that neither was made of it.

tested = judged(version, dataset="")          # the run's own test set; or a dataset's, evaluated with --log
tested.predictions, tested.fingerprints
check_same(tested, tested_of_other)
check_apart(version, tested)
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from trainers import metrics
from trainers.card_files import CARD
from trainers.dataset import find, load
from trainers.origin import identities, origin_of, overlap
from trainers.storage import default_data_dir
from trainers.tracking import read_artifact
from trainers.worker import PREDICTIONS

FINGERPRINT_DIGITS = 16  # that a card tells
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judged:
    """What a version predicted on a test set.

    Attributes:
      predictions: id, label, category, group, p_fake.
      fingerprints: of the datasets, their first 16 digits.
      records: the identities of the test records (id, group, sha256); None where the datasets are not there any more.
    """

    predictions: pa.Table
    fingerprints: tuple[str, ...]
    records: pa.Table | None


def judged(version: Any, dataset: str = "") -> Judged:
    """The test predictions of a model version, MLflow's entity.

    Args:
      dataset: "" for the test set of its own run, else one that it was evaluated on with --log; several as "a+b".

    Raises:
      Refused: its run has no such predictions.
    """
    folder = f"cards/{dataset}-test/" if dataset else ""
    content, card = (read_artifact(version.run_id, folder + name) for name in (PREDICTIONS, CARD))
    if content is None or (dataset and card is None):
        raise Refused(
            f"{version.name} version {version.version} cannot be judged: its run {version.run_id} has no "
            f"{folder}{PREDICTIONS if content is None else CARD}. Make it: python -m trainers.evaluate --model "
            f"models:/{version.name}/{version.version} --dataset {dataset.replace('+', ',') or 'D'} --log, and then "
            f"promote with --dataset {dataset or 'D'}."
        )
    predictions = metrics.of_split(pq.read_table(pa.BufferReader(content)), "test")
    if dataset:
        told = json.loads(card or b"{}")["facts"]["evaluated on"]
        fingerprints = tuple(re.findall(rf"\b[0-9a-f]{{{FINGERPRINT_DIGITS}}}\b", told))
        return Judged(predictions, fingerprints, _records_of(dataset.split("+"), fingerprints))
    origin = origin_of(version.run_id)
    fingerprint = version.tags.get("fingerprint", _UNKNOWN)[:FINGERPRINT_DIGITS]
    return Judged(predictions, (fingerprint,), origin.test if origin else None)


def _records_of(names: list[str], fingerprints: tuple[str, ...]) -> pa.Table | None:
    try:
        datasets = [load(find(name, default_data_dir())) for name in names]
    except Refused:
        return None
    if tuple(dataset.fingerprint[:FINGERPRINT_DIGITS] for dataset in datasets) != fingerprints:
        return None  # built again since
    return pa.concat_tables([identities(dataset, dataset.select("test").ids()) for dataset in datasets])


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
        because = "their data are not there any more, so it is not known whether the pictures are the same"
    elif pictures[0]["sha256"].null_count or not pictures[0].equals(pictures[1]):
        because = "the pictures are not the same"
    if because:
        told = " and ".join("+".join(each.fingerprints) for each in (champion, challenger))
        raise Refused(
            f"The two were tested on different builds of the data (fingerprints {told}), and {because}. Evaluate both "
            "on one dataset, `python -m trainers.evaluate --dataset D --log`, and promote with --dataset D."
        )


def check_apart(version: Any, tested: Judged) -> bool:
    """Whether it is known that the version was not made from records of this test set, nor from their groups.

    Raises:
      Refused: it was.
    """
    origin = origin_of(version.run_id)
    if origin is None or tested.records is None:
        return False
    found = overlap(tested.records, pa.concat_tables([origin.train, origin.validation]))
    if len(found):
        raise Refused(
            f"{version.name} version {version.version} cannot be judged on this test set: {len(found)} of its "
            f"{len(tested.records)} images share their content or group with training or validation images of the "
            f"model, {found['id'][0].as_py()!r} for example. Evaluate both versions on another dataset, `python -m "
            "trainers.evaluate --dataset D --log`, and promote with --dataset D."
        )
    return True

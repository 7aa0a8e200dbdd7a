"""What a registered model was made from: the records that trained it and those that chose its checkpoint.

    origin = origin_of(run_id)
    origin.train.column_names      # id, group, sha256

Read from the model's MLflow run and from the datasets it names, which must still be there, or where they were moved to.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfds_builders.records.schema import MANIFEST
from trainers import tracking
from trainers.config import Config, from_dict
from trainers.dataset import DATASET_INFO, Dataset, Records, with_column
from trainers.indexing import index_shards
from trainers.mixture import load_unchanged
from trainers.selection import selected
from trainers.starting_weights import RUN_TAG
from trainers.storage import Location, filesystem


@dataclass(frozen=True)
class Origin:
    """The origin of a model.

    Attributes:
      dataset: what it was trained on; several datasets are one mixture.
      records: those that took part as train, validation and test.
      config: of the job; None for a model that no job made.
      train, validation: the identities (columns id, group, sha256) of these records; of a model that was trained
        further, with those of the one that it began with.
      test: the identities of the test records.
      trained_on: names and versions of the datasets, for people.
      unknown: weights that it, or the one it began with, began with, of whose data nothing is known; "": none.
    """

    dataset: Dataset
    records: dict[str, Records]
    config: Config | None
    train: pa.Table
    validation: pa.Table
    test: pa.Table
    trained_on: str
    unknown: str


def origin_of(run_id: str, data_dir: str = "") -> Origin | None:
    """The origin of the model that this run made; None if the run does not name it, or its data are not there any more
    as they were.

    Args:
      data_dir: where they are looked for by name and version if they are not where the run says; "": the default
        folder.
    """
    run = tracking.client_of().get_run(run_id)
    if not run.inputs.dataset_inputs:
        return None
    entry = run.inputs.dataset_inputs[0].dataset  # each names the whole dataset, for another split
    names = entry.name.partition("/")[0].split("+")  # TITLE/SPLIT
    fingerprint = json.loads(entry.profile or "{}").get("fingerprint")
    dataset = load_unchanged(tracking.dataset_sources(entry), names, fingerprint, data_dir)
    if dataset is None:
        return None
    told = tracking.read_artifact(run_id, "config.json")
    config = from_dict(json.loads(told)["config"]) if told else None
    return origin_from(dataset, selected(dataset, config or Config()), config, run.data.tags.get(RUN_TAG), data_dir)


def origin_from(
    dataset: Dataset,
    records: dict[str, Records],
    config: Config | None,
    first_run_id: str | None,
    data_dir: str = "",
) -> Origin:
    """The origin of a model of which all is at hand.

    Args:
      first_run_id: the run of the registered model that it began with, if it did.
      data_dir: where that one's data are looked for, as of `origin_of`.
    """
    known = _identities(dataset)
    parts = {split: [_of_ids(known, part.ids())] for split, part in records.items()}
    weights = config.model.weights if config else "none"
    unknown = "" if weights in ("none", "imagenet") else weights
    before = unknown and f"unknown data ({unknown})"
    first = origin_of(first_run_id, data_dir) if first_run_id else None
    if first is not None:
        parts["train"].append(first.train)
        parts["validation"].append(first.validation)
        before, unknown = first.trained_on, first.unknown
    trained_on = f"{dataset.title} after {before}" if before else dataset.title
    tables = {split: pa.concat_tables(tables) for split, tables in parts.items()}
    return Origin(dataset, records, config, **tables, trained_on=trained_on, unknown=unknown)


def notes_of(origin: Origin | None, tested: Sequence[pa.Table]) -> list[str]:
    """What a reader of figures must know first: which of the tested images made the model.

    Args:
      tested: the `identities` of the tested records, of each dataset.
    """
    if origin is None:
        return ["What this model was trained on is not known here: it may have been on images below."]
    notes = []
    if origin.unknown:
        notes.append(
            f"What the weights that this model began with ({origin.unknown}) were trained on is not known here: it may "
            "have been on images below."
        )
    number = sum(len(table) for table in tested)

    def count(used: pa.Table, by_group: bool) -> int:
        return sum(len(overlap(table, used, by_group)) for table in tested)

    trained, chosen = count(origin.train, by_group=False), count(origin.validation, by_group=False)
    if trained:
        notes.append(f"Trained on this set: {trained:,} of {number:,} images below trained this model.")
    if chosen:
        notes.append(f"Selected on this set: {chosen:,} of {number:,} images below chose this model's checkpoint.")
    if related := count(origin.train, by_group=True) - trained:
        notes.append(
            f"Related to the training part: {related:,} further images below are, by the names of their groups "
            "(photographs, persons, videos), of those that trained this model."
        )
    return notes


def identities(dataset: Dataset, ids: Sequence[str]) -> pa.Table:
    """The columns id, group and sha256 of the records with these ids."""
    return _of_ids(_identities(dataset), ids)


def _of_ids(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))


def _identities(dataset: Dataset) -> pa.Table:
    tables = []
    for source in dataset.sources:
        table = _manifest(source)
        if len(dataset.sources) > 1:  # ids of a mixture begin with the dataset's name
            name = str(source).rstrip("/").split("/")[-2]
            table = with_column(table, "id", pc.binary_join_element_wise(name, table["id"], "/"))
        tables.append(table)
    return pa.concat_tables(tables)


def _manifest(source: Location) -> pa.Table:
    files, root = filesystem(source)
    if files.isfile(f"{root}/{MANIFEST}"):
        with files.open(f"{root}/{MANIFEST}") as file:
            return pq.read_table(file, columns=["id", "group", "sha256"])
    info = json.loads(files.cat_file(f"{root}/{DATASET_INFO}"))
    return index_shards(source, info)[0].select(["id", "group", "sha256"])


def overlap(test: pa.Table, used: pa.Table, by_group: bool = True) -> pa.Table:
    """The rows of `test` whose content, or unless told otherwise whose group, is in `used`.

    Args:
      test, used: columns id, group, sha256. A group "" is nobody's.
    """
    is_used = pc.is_in(test["sha256"], value_set=pc.drop_null(pc.unique(used["sha256"])))
    if by_group:
        groups = pc.unique(used["group"])
        is_used = pc.or_(is_used, pc.is_in(test["group"], value_set=groups.filter(pc.not_equal(groups, ""))))
    return test.filter(is_used)

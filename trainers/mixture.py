"""Several built datasets as one.

directories = find_all("ai_vs_human,faces", data_dir)
dataset = load_all(directories)
train = dataset.select("train")                       # all training parts, one after the other
order = mixed_order(train.table["dataset"], {"faces": 3, "ai_vs_human": 1}, 32, seed=0)
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import SCHEME_PREFIX
from trainers.checks import dataset_weights
from trainers.data_config import DataConfig
from trainers.dataset import MEMBER, Dataset, find, load, with_column
from trainers.storage import Location, default_data_dir

# Published mixtures by name: the datasets, and the split scheme that says which part of each was taken.
PUBLISHED = {"merged_faces": ("deepfake_and_real,deepfake_faces", "merged")}


def resolve(data: DataConfig) -> DataConfig:
    """`data` with the name of a published mixture replaced by what it stands for."""
    dataset, scheme = parts_of(data.dataset, data.split_scheme)
    return dataclasses.replace(data, dataset=dataset, split_scheme=scheme)


def pinned(data: DataConfig, dataset: Dataset) -> DataConfig:
    """`data` with the versions that its dataset was found in: NAME:VERSION, whatever is built later."""
    terms = []
    for term, version in zip(data.dataset.split(","), dataset.version.split("+"), strict=True):
        name, sign, weight = term.strip().partition("=")
        terms.append(f"{name.partition(':')[0]}:{version}{sign}{weight}")
    return dataclasses.replace(data, dataset=",".join(terms))


def parts_of(expression: str, scheme: str) -> tuple[str, str]:
    """--dataset and --split-scheme with the name of a published mixture replaced by what it stands for."""
    dataset, published = PUBLISHED.get(expression, (expression, ""))
    return dataset, scheme or published


def find_all(expression: str, data_dir: str | Path) -> list[Location]:
    """The directories of the datasets that `--dataset` names.

    Raises:
      Refused: one is not built under `data_dir`.
    """
    return [find(name, data_dir) for name in dataset_weights(expression)]


def load_all(directories: Sequence[Location | str]) -> Dataset:
    """The dataset in one directory, or several as one.

    Raises:
      Refused: as `load` and `concatenate`.
    """
    datasets = [load(directory) for directory in directories]
    return datasets[0] if len(datasets) == 1 else concatenate(datasets)


def load_unchanged(
    directories: Sequence[Location | str], names: Sequence[str], fingerprint: str | None, data_dir: str | Path
) -> Dataset | None:
    """The dataset of this fingerprint, from where it lay, or from where it was moved to; None if it is in neither.

    Args:
      directories: where it lay; several are a mixture.
      names: NAME:VERSION of each, by which it is looked for under `data_dir`; "": under the default folder.
    """
    for locate_all in (lambda: directories, lambda: [find(name, data_dir or default_data_dir()) for name in names]):
        try:
            dataset = load_all(locate_all())
        except Refused:
            continue
        if dataset.fingerprint == fingerprint:
            return dataset
    return None


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """One dataset out of several, split by split in the given order; ids begin with the dataset's name.

    The column "dataset" says where a record comes from. A split scheme that a dataset lacks leaves its records out.

    Raises:
      Refused: no dataset, the same one twice, or a remote one.
    """
    names = [dataset.name for dataset in datasets]
    if not names or len(set(names)) < len(names):
        raise Refused(f"A mixture needs datasets of different names. Received: {names}. Name each once.")
    folders = [dataset.directory for dataset in datasets if isinstance(dataset.directory, Path)]
    if len(folders) < len(datasets):
        raise Refused(f"A mixture needs local datasets. Received: {[str(d.directory) for d in datasets]}. Copy them.")
    directory = Path(os.path.commonpath(folders))
    tables = [
        _prefixed(dataset, folder.relative_to(directory).as_posix())
        for dataset, folder in zip(datasets, folders, strict=True)
    ]
    table = pa.concat_tables(tables, promote_options="default")
    for column in table.column_names:
        if column.startswith(SCHEME_PREFIX):
            table = with_column(table, column, pc.fill_null(table[column], ""))
    identity = "\n".join(f"{dataset.name} {dataset.fingerprint}" for dataset in datasets)
    return Dataset(
        directory=directory,
        name="+".join(names),
        version="+".join(dataset.version for dataset in datasets),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        table=table,
        build={"datasets": {dataset.name: dataset.build for dataset in datasets}},
        sources=tuple(folders),
    )


def named_apart(predictions: pa.Table) -> pa.Table:
    """Predictions on several datasets (column "dataset") with its dataset's name before each group's and video's, so
    that equal names in two of them are not one group."""
    for column in ("group", "video"):
        bare = predictions[column]
        names = pc.binary_join_element_wise(predictions[MEMBER], bare, "/")
        named = pc.if_else(pc.equal(bare, ""), "", names)  # "" is in no group
        predictions = with_column(predictions, column, named)
    return predictions


def ids_apart(predictions: pa.Table) -> pa.ChunkedArray:
    """The ids of predictions with their dataset's name before each where there are several datasets: of a job on a
    mixture they have it already."""
    ids = predictions["id"]
    if MEMBER not in predictions.column_names or pc.count_distinct(predictions[MEMBER]).as_py() < 2:
        return ids
    pairs = list(zip(predictions[MEMBER].to_pylist(), ids.to_pylist(), strict=True))
    if all(id.startswith(f"{dataset}/") for dataset, id in pairs):
        return ids
    return pa.chunked_array([[f"{dataset}/{id}" for dataset, id in pairs]], pa.string())


def _prefixed(dataset: Dataset, folder: str) -> pa.Table:
    table = dataset.table
    for column, prefix in (("id", dataset.name), ("shard", folder)):
        if prefix != ".":
            values = pc.binary_join_element_wise(prefix, table[column], "/")
            table = with_column(table, column, values)
    return table.append_column(MEMBER, pa.repeat(dataset.name, table.num_rows))

"""Which records a job takes: train, validation and test, as its options say.

records = selected(dataset, config)
shared_groups(records)["test"]            # 0, unless parts of a split are taken that share groups
"""

import itertools
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.errors import Refused
from trainers.checks import selection
from trainers.config import Config
from trainers.dataset import Dataset, Records, with_column
from trainers.order import permutation


def selected(dataset: Dataset, config: Config) -> dict[str, Records]:
    """The records that take part, for train, validation and test: the test split whole, the others by --only and
    --exclude.

    Raises:
      Refused: no such split or value, nothing left, or an image would be in two of the three.
    """
    data = config.data
    only, exclude, scheme = selection(data.only), selection(data.exclude), data.split_scheme or None
    records = {
        "train": dataset.select(data.train_split, only, exclude, scheme),
        "validation": dataset.select(data.validation_split, only, exclude, scheme),
        "test": dataset.select(data.test_split, scheme=scheme),
    }
    for one, other in itertools.combinations(records, 2):
        both = pc.is_in(records[one].table["id"], value_set=records[other].table["id"].combine_chunks())
        if count := pc.sum(both).as_py():
            raise Refused(
                f"--{one}-split and --{other}-split must have no image in common. Received: {count} that are in both. "
                "Divide the splits, for example train[:90%] and train[90%:]."
            )
    return records


def shared_groups(records: dict[str, Records]) -> dict[str, int]:
    """How many groups of training images have images in the validation and in the test split too: a leak, such as
    parts of a split can make. Images without a group do not count."""
    groups = {split: set(pc.unique(part.table["group"]).to_pylist()) - {""} for split, part in records.items()}
    return {split: len(groups["train"] & groups[split]) for split in ("validation", "test")}


def with_shuffled_labels(records: Records, seed: int) -> Records:
    """The same records with their labels shuffled among them: nothing that can be learnt, in the same proportions."""
    labels = pa.array(records.labels[permutation(len(records), seed, epoch=0)], pa.int8())
    return replace(records, table=with_column(records.table, "label", labels))

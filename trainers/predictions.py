"""The table of predictions: what a model said of the records of a dataset, one row each, in the manifest's order.

table = predictions(records, p_fake, split="test")    # written as predictions.parquet, read by metrics and cards
"""

import numpy as np
import pyarrow as pa

from trainers.dataset import MEMBER, Records, with_column
from trainers.mixture import named_apart

_COLUMNS = ("id", "split", "label", "category", "group", "video", "generator")


def predictions(records: Records, p_fake: np.ndarray, *, split: str = "", dataset: str = "") -> pa.Table:
    """The table of `records`.

    Args:
      p_fake: [n], float64 in the table.
      split: what the records were used as (of `--test-split train[90%:]` the manifest says "train"); "": as written.
      dataset: their dataset's name; "": a mixture's records know theirs, and groups and videos are kept apart by it.

    Returns:
      The manifest's columns id, split, label, category, group, video, generator; dataset, if it is named or the records
      are a mixture's; p_fake.
    """
    table = records.table.select(list(_COLUMNS))
    if split:
        table = with_column(table, "split", pa.repeat(split, len(records)))
    if dataset:
        table = table.append_column(MEMBER, pa.repeat(dataset, len(records)))
    elif MEMBER in records.table.column_names:
        table = named_apart(table.append_column(MEMBER, records.table[MEMBER]))
    return table.append_column("p_fake", pa.array(p_fake, pa.float64()))

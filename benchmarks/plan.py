"""How long it takes to plan the published 692,824 records, without reading any image: names, splits, order, shards.

    python benchmarks/plan.py

Names and sizes are made up in memory in the published layout (342,056 real, 350,768 fake in 20 categories); they are
listed, split (80/10/10 and the published 80/20), ordered and cut into shards as a build would. The last line is JSON.
"""

import json
import resource
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tensorflow_datasets.core.utils.shard_utils import ShardConfig

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import CATEGORIES, Builder
from tfds_builders.sharding.manifest import Record, list_records
from tfds_builders.sharding.plan import plan_shards, write_plan
from tfds_builders.sharding.scan import FACTS, SCAN_SCHEMA
from tfds_builders.sharding.sources import Entry

NUM_REAL, NUM_FAKE = 342_056, 350_768


class Names:
    """A source of names and sizes alone."""

    def entries(self) -> Iterator[Entry]:
        """Yields the published number of files of each class, spread over the categories."""
        for folder, count in (("0_real", NUM_REAL), ("1_fake", NUM_FAKE)):
            for number in range(count):
                id = f"{CATEGORIES[number % len(CATEGORIES)]}/{folder}/{number // len(CATEGORIES):05d}.png"
                yield Entry(id, "", id.encode(), 100_000 + number % 7919, -1, 0, zipfile.ZIP_STORED, number)

    def ids(self) -> Iterator[str]:
        """Yields the names alone."""
        return (entry.id for entry in self.entries())


def main() -> None:
    """Plans and prints seconds and peak memory by stage."""
    builder = Builder(data_dir=tempfile.mkdtemp())
    stages = {}
    start = time.perf_counter()

    def note(stage: str) -> None:
        stages[stage] = time.perf_counter() - start - sum(stages.values())

    listing = list_records(record for record in builder.records(Names()) if isinstance(record, Record))
    note("list")
    table = listing.table.sort_by("id")
    for name in FACTS:  # what the scan of headers would add
        field = SCAN_SCHEMA.field(name)
        value = {"width": 256, "height": 256, "mode": "RGB", "orientation": 1, "flags": [], "source_format": "PNG"}[
            name
        ]
        table = table.append_column(field, pa.array([value] * table.num_rows, field.type))
    note("sort")
    columns = dict(builder.assign_splits(table))
    note("split")
    with tempfile.TemporaryDirectory() as folder:
        planned = plan_shards(builder.name, table, columns["split"], ShardConfig())
        shards = write_plan(Path(folder) / "plan.arrow", planned, table.schema)
    note("order and cut")
    for stage, seconds in stages.items():
        print(f"{stage:16}{seconds:8.2f} s")
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    published = columns["scheme_published"]
    sizes = {name: int((published == name).sum()) for name in np.unique(published)}
    print(f"{table.num_rows:,} records in {len(shards)} shards; published scheme {sizes}")
    result = {"records": table.num_rows, "seconds": round(sum(stages.values()), 2), "peak_bytes": peak_bytes}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

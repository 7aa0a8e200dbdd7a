"""The account of a build: manifest, ledgers and build.json, and that found = written + excluded + quarantined."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, EXCLUDED, LABELS, LEDGER_SCHEMA, MANIFEST, QUARANTINE
from tfds_builders.sharding.manifest import Fingerprint, Listing
from tfds_builders.sharding.plan import Shard
from tfds_builders.sharding.staging import write_atomically
from tfds_builders.sharding.writer import Done, read_tables

if TYPE_CHECKING:
    from tfds_builders.sharding.build import Options

_COUNTED = ("found", "written", "excluded", "quarantined", *LABELS)


def account(
    listing: Listing,
    shards: list[Shard],
    done: dict[str, Done],
    options: "Options",
    folder: Path,
    num_found: int,
    archives: list[dict[str, Any]],
) -> dict:
    """Writes manifest, ledgers and build.json, and checks that nothing was lost."""
    ledger = pa.concat_tables([pq.read_table(folder / "scan.ledger"), *read_tables(folder, shards, ".ledger")])
    ledger = ledger.sort_by("id")
    pq.write_table(ledger, folder / QUARANTINE)
    excluded = pa.concat_tables([listing.excluded, pq.read_table(folder / "left_out.ledger")]).sort_by("id")
    pq.write_table(excluded, folder / EXCLUDED)
    check_budget(ledger.num_rows, num_found, options, folder / QUARANTINE)

    fingerprint = Fingerprint(options.validation)
    splits: dict[str, dict[str, int]] = {}
    writer = None
    for table in read_tables(folder, shards, ".manifest"):
        writer = writer or pq.ParquetWriter(folder / MANIFEST, table.schema)
        writer.write_table(table)
        fingerprint.update(table)
        for split, label, count in count_rows(table, ("split", "label")):
            counts = splits.setdefault(split, dict.fromkeys(_COUNTED, 0))
            counts["written"] += count
            counts[LABELS[label]] += count
    assert writer is not None  # there is at least one shard: both classes were found
    writer.close()
    for name, table in (("quarantined", ledger), ("excluded", excluded)):
        for split, count in count_rows(table, ("split",)):
            counts = splits.setdefault(split, dict.fromkeys(_COUNTED, 0))
            counts[name] += count
    for counts in splits.values():
        counts["found"] = counts["written"] + counts["excluded"] + counts["quarantined"]
    total = {name: sum(counts[name] for counts in splits.values()) for name in ("written", "excluded", "quarantined")}
    if sum(total.values()) != num_found:
        raise RuntimeError(f"files were lost: found {num_found}, but {total}")
    summary = {
        "dataset": options.name,
        "version": options.version,
        "fingerprint": fingerprint.hexdigest(),
        "validation": options.validation,
        "made_with": dict(options.made_with),
        "archives": archives,
        "found": num_found,
        **total,
        "splits": {name: splits[name] for name in sorted(splits) if name},
        "before_splitting": splits.get("", {}),  # refused or excluded before a split was drawn
        "shards": len(shards),
    }
    write_atomically(folder / BUILD, (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def count_rows(table: pa.Table, by: tuple[str, ...]) -> list[tuple]:
    """How many rows have each combination of values: (*values, count)."""
    counted = table.group_by(list(by)).aggregate([([], "count_all")])
    return list(zip(*(counted[name].to_pylist() for name in (*by, "count_all")), strict=True))


def check_budget(num_quarantined: int, num_found: int, options: "Options", ledger: Path) -> None:
    """Refuses a build with too many bad files: something is wrong with the download.

    Raises:
      Refused: they are more than `options.max_quarantined` allows.
    """
    if num_quarantined > options.max_quarantined * num_found:
        raise Refused(
            f"At most {options.max_quarantined:.2%} of the files may be bad; {num_quarantined} of {num_found} are. "
            f"See {ledger} for each one's reason; set REALSHARD_MAX_QUARANTINED (a share, 0 to 1) to accept more."
        )


def ledger_of_left_out(rows: pa.Table) -> pa.Table:
    """Rows of LEDGER_SCHEMA for records that the written split leaves out."""
    rule, detail = "not_in_split", "the builder's split leaves it out"
    return pa.Table.from_pylist(
        [
            {
                "id": row["id"],
                "split": "",
                "label": row["label"],
                "reason": rule,
                "detail": detail,
                "bytes": row["size"],
            }
            for row in rows.select(["id", "label", "size"]).to_pylist()
        ],
        LEDGER_SCHEMA,
    )

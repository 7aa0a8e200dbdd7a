"""One build, from listing to a whole dataset folder: list -> scan -> split -> plan -> write -> account.

A pure function of (source bytes, builder version, options): the same files come out whatever the number of workers and
however often the build was killed and started again.
"""

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tensorflow_datasets.core.utils.shard_utils import ShardConfig
from tqdm import tqdm

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, EXCLUDED, LABELS, MANIFEST, QUARANTINE
from tfds_builders.sharding.account import account, check_budget, count_rows, ledger_of_left_out
from tfds_builders.sharding.manifest import Excluded, Listing, Record, list_records
from tfds_builders.sharding.plan import Shard, plan_shards, write_plan
from tfds_builders.sharding.provenance import hash_archives, hash_content
from tfds_builders.sharding.scan import begin_scan, ledger_of_repeats, scan_headers
from tfds_builders.sharding.sources import SourceLost
from tfds_builders.sharding.staging import Staging, size_and_crc, write_atomically
from tfds_builders.sharding.unpacked import refuse_copies
from tfds_builders.sharding.workers import RayWorkers, ThisProcess, Workers
from tfds_builders.sharding.writer import Done, create_progress, finished, write_shard

# Below both, starting Ray costs more than the build.
_TINY_FILES = 1000
_TINY_BYTES = 16 << 20
_MAX_BEGUN = 16  # batches scanned ahead of the listing's end, whose results wait in memory: 65,536 files

_PLAN_FILES = ("plan.arrow", "scan.ledger", "left_out.ledger")
_STAGING_FORMAT = 4  # of the files in the staging folder: a build that another version began is begun anew

# (columns of the scan) -> {"split": names, "scheme_<x>": names}, object [n] each; "" leaves a row out.
AssignSplits = Callable[[pa.Table], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Options:
    """What decides a build besides the source's bytes."""

    name: str
    version: str
    validation: str  # header | checksum | decode
    max_quarantined: float  # share of the files found above which the build fails
    shard_config: ShardConfig
    start_anew: bool = False  # drop what an unfinished build left
    made_with: Mapping[str, str | int] = field(default_factory=dict)  # settings of the builder, told in build.json
    archives: Sequence[dict[str, Any]] = ()  # of the built dataset that this one is made from, told there too


@dataclass(frozen=True)
class WrittenSplit:
    """What TFDS wants to know of a split."""

    name: str
    shard_lengths: list[int]
    num_bytes: int


def build(
    records: Iterable[Record | Excluded], assign_splits: AssignSplits, options: Options, version_dir: Path, target: Path
) -> tuple[list[WrittenSplit], Staging]:
    """Builds a dataset into `target`; the staging folder is the caller's to drop once `target` is in its place.

    Args:
      records: every file of the source, as the builder describes it.
      assign_splits: the builder's splits and schemes, a pure function of the scan.
      options: see Options.
      version_dir: where the dataset will be in the end.
      target: TFDS's incomplete folder, which it renames to `version_dir`.

    Raises:
      Refused: nothing found, one class only, too many bad files, a full disk, another build of the same version, a
        source that cannot be read any more.
    """
    # An unfinished build may have scanned already.
    head_start = _HeadStart(is_wanted=not Staging.is_there(version_dir))
    try:
        return _build(records, assign_splits, options, version_dir, target, head_start)
    except SourceLost as error:
        raise Refused(
            f"The source must stay as it is while it is read; {error}. See that its disk is there, or take the file "
            "away if it alone is broken, and run the same command again: it goes on where it was."
        ) from None
    finally:
        head_start.workers.close()


class _HeadStart:
    """Chooses the workers when the first records are known, and lets them scan while the listing goes on."""

    def __init__(self, is_wanted: bool):
        self.workers: Workers = ThisProcess()
        self.begun: list[Any] = []
        self._is_first, self._is_wanted = True, is_wanted

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes the next batch of the listing; the first is all of a tiny source."""
        if self._is_first and (batch.num_rows >= _TINY_FILES or pc.sum(batch["size"]).as_py() >= _TINY_BYTES):
            self.workers = RayWorkers()
        self._is_first = False
        task = begin_scan(batch, self.workers) if self._is_wanted and len(self.begun) < _MAX_BEGUN else None
        self._is_wanted = task is not None
        if self._is_wanted:
            self.begun.append(task)


def _build(
    records: Iterable[Record | Excluded],
    assign_splits: AssignSplits,
    options: Options,
    version_dir: Path,
    target: Path,
    head_start: _HeadStart,
) -> tuple[list[WrittenSplit], Staging]:
    say(f"listing the source of {options.name}")
    listing = list_records(records, head_start.add)
    _say_excluded(listing.excluded)
    _check_classes(listing.table, "the source", options.name)
    num_zipped, num_plain = refuse_copies(listing.table)
    if num_zipped and num_plain:
        say(f"of the files, {num_zipped} are in zips and {num_plain} beside them: each is taken for another one")
    key = _key(listing, options)
    staging = Staging.open(version_dir, key, target, options.start_anew)
    if staging.num_dropped is not None:
        say(
            f"an unfinished build from other files, or with other options, was here: it is dropped, and with it its "
            f"{staging.num_dropped} finished shards"
        )
    workers = head_start.workers
    try:
        shards, num_found = _plan(listing, assign_splits, options, staging.path, head_start)
        done = _write(shards, options, staging.path, workers)
        archives = [*options.archives, *hash_archives(listing.table, workers)]
        summary = account(listing, shards, done, options, staging.path, num_found, archives)
        staging.hand_over([shard.name for shard in shards] + [MANIFEST, QUARANTINE, EXCLUDED, BUILD], target)
    except OSError as error:
        staging.close()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = "disk" if error.errno == errno.ENOSPC else "quota on the disk"
        raise Refused(
            f"The {what} of {staging.path} is full. Make room and run the same command again: it goes on where it was."
        ) from None
    except BaseException:
        staging.close()
        raise
    say(
        f"found {summary['found']} = written {summary['written']} + excluded {summary['excluded']} + quarantined "
        f"{summary['quarantined']}; fingerprint {summary['fingerprint'][:16]}"
    )
    return _written_splits(shards, done), staging


def _say_excluded(excluded: pa.Table) -> None:
    """What is left out from the start, and what was perhaps not meant to be."""
    if excluded.num_rows:
        rules = ", ".join(f"{count} {rule}" for rule, count in sorted(count_rows(excluded, ("reason",))))
        say(f"excluded are {rules}; {EXCLUDED} will name each")
    archives = [id for id in excluded["id"].to_pylist() if id.lower().endswith(".zip")]
    if archives:
        say(
            f"zips are read directly in --manual_dir only, and {len(archives)} in folders below it are excluded, "
            f"{archives[0]} for one: move or unpack them if they hold images"
        )


def _say_groups(given: pa.ChunkedArray, found: pa.ChunkedArray) -> None:
    """Groups that were taken from the file names (`scan.with_photograph_groups`)."""
    names = set(pc.unique(found).to_pylist()) - {""}
    if names and set(pc.unique(given).to_pylist()) == {""}:
        say(f"all file names have the form <photograph>__*: {len(names)} groups, each kept on one side of a split")


def _key(listing: Listing, options: Options) -> str:
    """Changes with everything that decides the bytes of the shards."""
    config = options.shard_config
    decided = [
        _STAGING_FORMAT,
        options.name,
        options.version,
        options.validation,
        config.num_shards,
        config.min_shard_size,
    ]
    return hashlib.sha256(json.dumps([listing.key, *decided, config.max_shard_size]).encode()).hexdigest()


def _plan(
    listing: Listing, assign_splits: AssignSplits, options: Options, folder: Path, head_start: _HeadStart
) -> tuple[list[Shard], int]:
    """Scans and plans, or finds the stored plan of the same listing.

    Returns:
      The shards, and how many files and frames of videos were found.
    """
    stored = folder / "plan.json"
    plan = _read_plan(stored)
    if plan and plan["files"] == _planned_files(folder):
        say("nothing of the source has changed: using the stored plan")
        return [Shard(*shard) for shard in plan["shards"]], plan["records"] + listing.excluded.num_rows
    if stored.exists():
        say("the stored plan is damaged, as by a power cut: planning again")
        shutil.rmtree(folder / "frames", ignore_errors=True)
    with _bar("scanning", listing.table.num_rows, "file") as bar:
        scan = scan_headers(listing.table, head_start.workers, bar.update, folder / "frames", head_start.begun)
    head_start.begun.clear()  # Ray keeps a result for as long as somebody could ask for it
    _say_groups(listing.table["group"], scan.table["group"])
    num_records = listing.table.num_rows + scan.num_added  # good or bad; videos as frames
    num_found = num_records + listing.excluded.num_rows
    for hash_of in (lambda repeat: None, hash_content):  # half the source may be repeats: hashed if they are allowed
        ledger = pa.concat_tables([scan.quarantined, ledger_of_repeats(scan.repeats, hash_of)]).sort_by("id")
        pq.write_table(ledger, folder / "scan.ledger")
        check_budget(ledger.num_rows, num_found, options, folder / "scan.ledger")
    _check_classes(scan.table, "what passed the scan", options.name)
    columns = dict(assign_splits(scan.table))
    split = columns.pop("split")
    table = scan.table
    for name, values in sorted(columns.items()):
        table = table.append_column(name, pa.array(values, pa.string()))
    left_out = table.filter(pa.array(split == ""))
    pq.write_table(ledger_of_left_out(left_out), folder / "left_out.ledger")
    shards = write_plan(
        folder / "plan.arrow", plan_shards(options.name, table, split, options.shard_config), table.schema
    )
    files = _planned_files(folder)
    if not plan or plan["files"].get("plan.arrow") != files["plan.arrow"]:
        for mark in folder.glob("*.done"):  # of shards of another plan
            mark.unlink()
    write_atomically(stored, json.dumps({"shards": shards, "records": num_records, "files": files}).encode())
    return shards, num_found


def _read_plan(stored: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(stored.read_text()))
    except (OSError, ValueError):
        return {}


def _planned_files(folder: Path) -> dict[str, list[int]]:
    """What the plan stands on, to be compared: size and checksum of its files, number and bytes of the frames."""
    frames = [path.stat().st_size for path in folder.glob("frames/*.png")]
    files = {name: size_and_crc(folder / name) for name in _PLAN_FILES if (folder / name).exists()}
    return files | {"frames": [len(frames), sum(frames)]}


def _write(shards: list[Shard], options: Options, folder: Path, workers: Workers) -> dict[str, Done]:
    """Writes every shard that is not finished yet; returns the marks of all, by shard name."""
    done: dict[str, Done] = {}
    for shard in shards:
        mark = finished(folder, shard)
        if mark:
            done[shard.name] = mark
    if done:
        say(f"going on with an unfinished build: {len(done)} of {len(shards)} shards are there")
    missing = [shard for shard in shards if shard.name not in done]
    progress = create_progress(folder, len(shards))
    with _bar("writing", sum(shard.num_planned for shard in missing), "image") as bar:

        def show() -> None:
            images, num_bytes, quarantined = progress.sum(axis=0).tolist()
            elapsed = max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{num_bytes / 1e6 / elapsed:.0f} MB/s, quarantined {quarantined}", refresh=False)
            bar.update(images + quarantined - bar.n)

        arguments = ((str(folder), shard, options.validation) for shard in missing)
        for shard, mark in workers.map(_write_named, arguments, poll=show):
            done[shard] = mark
        show()
    return done


def _write_named(folder: str, shard: Shard, validation: str) -> tuple[str, Done]:
    return shard.name, write_shard(folder, shard, validation)


def _written_splits(shards: list[Shard], done: dict[str, Done]) -> list[WrittenSplit]:
    splits: dict[str, WrittenSplit] = {}
    for shard in shards:
        mark = done[shard.name]
        before = splits.get(shard.split, WrittenSplit(shard.split, [], 0))
        splits[shard.split] = WrittenSplit(
            shard.split, [*before.shard_lengths, mark.num_records], before.num_bytes + mark.num_bytes
        )
    empty = [split.name for split in splits.values() if not sum(split.shard_lengths)]
    if empty:
        raise Refused(f"Every split needs at least one good image; all of {', '.join(empty)} were quarantined.")
    return list(splits.values())


def _check_classes(table: pa.Table, where: str, name: str) -> None:
    if not table.num_rows:
        raise Refused(f"{name} needs images of both classes; {where} holds none. Check --manual_dir.")
    found = [LABELS[label] for label in pc.unique(table["label"]).to_pylist() if label >= 0] or ["unlabelled"]
    if len(found) < len(LABELS):
        raise Refused(
            f"{name} needs images of both classes, {' and '.join(LABELS)}; in {where} there are only {found[0]} ones. "
            "Check --manual_dir and the names of the class folders."
        )


def _bar(what: str, total: int, unit: str) -> tqdm:
    return tqdm(total=total, desc=what, unit=f" {unit}s", smoothing=0.1, mininterval=0.5, file=sys.stderr)


def say(sentence: str) -> None:
    """One line to the person who runs the build."""
    print(f"realshard: {sentence}", file=sys.stderr, flush=True)

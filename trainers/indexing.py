"""The index of a TFDS directory that another builder wrote: one sequential scan of its shards, in place of a manifest.

    table, fingerprint = index_shards(location, info)   # info: the content of dataset_info.json

With it such a dataset is shuffled, subset and resumed like any other. What a scan cannot know is said in a warning.
The index is kept as <home>/indexes/<key>.arrow, under a key that changes with the dataset's files: the first process
on a machine scans, a job's workers, restarts and further jobs find what it found.
"""

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.records.framing import (
    FOOTER_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    CorruptRecord,
    payload_bytes,
    payload_of,
)
from tfds_builders.records.header import inspect
from tfds_builders.records.schema import LABELS, MANIFEST, MANIFEST_SCHEMA
from trainers.home import home
from trainers.storage import Location, filesystem, sizes

VERSION = 1  # to be raised whenever the same shards would give another index
FEATURES, LABEL_NAMES = "features.json", "label.labels.txt"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's own
_FURTHER_FEATURES = ("category", "group", "video", "generator")  # used where they are bytes, like "id"


def index_shards(location: Location, info: Mapping[str, Any]) -> tuple[pa.Table, str]:
    """Reads every record of a TFDS directory, unless that has been done and nothing changed since.

    Args:
      location: the directory, or its URL; holds features.json.
      info: what its dataset_info.json says.

    Returns:
      The columns of a manifest, one row a record, in stored order; and a fingerprint, 64 hex digits over splits, ids,
      labels and contents.

    Raises:
      Refused: no image or label, other classes than real and fake, not TFRecord, or a record that is damaged or of no
        known class.
    """
    labels = _labels(location)
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise Refused(f"{location} must be written as tfrecord. Received: {info['fileFormat']}. Build it as such.")
    logging.getLogger(__name__).warning(
        "%s has no %s: its shards are scanned once. Groups, categories and generators are known only where they are "
        "features; without groups, leaks between splits are not seen and intervals count each image for itself.",
        location,
        MANIFEST,
    )
    key = _key(location, info, labels)
    if not key:
        return _scan(location, info, labels)
    file = home() / "indexes" / f"{key}.arrow"
    index = _kept(file)
    if not index:
        index = _scan(location, info, labels)
        _keep(file, *index)
    return index


def _key(location: Location, info: Mapping[str, Any], labels: list[int]) -> str:
    """32 hex digits that change with the dataset's files; "" if nobody knows when they were changed."""
    files, root = filesystem(location)
    names = [FEATURES, *(shard for _, shard in _shards(info))]
    try:
        files.modified(f"{root}/{FEATURES}")  # before anything is listed: web servers do neither
        num_bytes = sizes(location, names)
        times = [str(files.modified(f"{root}/{name}")) for name in names]
    except (NotImplementedError, FileNotFoundError):  # the scan says which shard is missing
        return ""
    found = [VERSION, str(MANIFEST_SCHEMA), str(location), info, labels, num_bytes, times]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]


def _kept(file: Path) -> tuple[pa.Table, str] | None:
    try:
        with pa.memory_map(str(file)) as source:  # one copy in memory for all processes of the machine
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid):
        return None
    return table.replace_schema_metadata(), table.schema.metadata[b"fingerprint"].decode()


def _keep(file: Path, table: pa.Table, fingerprint: str) -> None:
    marked = table.replace_schema_metadata({"fingerprint": fingerprint})
    partial = file.with_suffix(f".{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):  # a machine without room or a home for it scans each time
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as sink:
                with pa.ipc.new_file(sink, marked.schema) as writer:
                    writer.write_table(marked)
                os.fsync(sink.fileno())
            partial.rename(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _scan(location: Location, info: Mapping[str, Any], labels: list[int]) -> tuple[pa.Table, str]:
    files, root = filesystem(location)
    rows: dict[str, list] = {name: [] for name in MANIFEST_SCHEMA.names}
    digest = hashlib.sha256()
    for split, shard in _shards(info):
        try:
            with files.open(f"{root}/{shard}", "rb") as file:
                for offset, frame in _frames(file):
                    row = _row(frame, offset, split, len(rows["id"]), labels)
                    digest.update(f"{split}\n{row['id']}\n{row['label']}\n".encode() + frame[-FOOTER_BYTES:])
                    for name, value in (row | {"shard": shard}).items():
                        rows[name].append(value)
        except (CorruptRecord, BadImage, FileNotFoundError) as error:
            raise Refused(f"{location}/{shard} cannot be read: {error}. Build the dataset again.") from None
    if len(set(rows["id"])) < len(rows["id"]):
        raise Refused(f"The feature id of {location} must be unique. Received: an id that comes twice. Build it again.")
    return pa.table(rows, MANIFEST_SCHEMA), digest.hexdigest()


def _labels(location: Location) -> list[int]:
    """Of each class that the dataset knows our label."""
    files, root = filesystem(location)
    features = json.loads(files.cat_file(f"{root}/{FEATURES}")).get("featuresDict", {}).get("features", {})
    classes = features.get("label", {}).get("classLabel", {}).get("numClasses")
    if "image" not in features or classes != "2":
        raise Refused(
            f"{location} must have a feature image and a feature label of 2 classes. Received: "
            f"{', '.join(sorted(features))}, {classes or 'no'} classes. Build it with both."
        )
    if not files.isfile(f"{root}/{LABEL_NAMES}"):
        return list(range(len(LABELS)))
    names = files.cat_file(f"{root}/{LABEL_NAMES}").decode().split()
    if sorted(names) != sorted(LABELS):
        raise Refused(
            f"The classes of {location} must be called {' and '.join(LABELS)}, so that it is clear which is which. "
            f"Received: {', '.join(names)}. Build it with these names."
        )
    return [LABELS.index(name) for name in names]


def _shards(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(split, file name) of each shard."""
    for split in info["splits"]:
        count = len(split["shardLengths"])
        for index in range(count):
            shard = split.get("filepathTemplate", _TEMPLATE).format(
                DATASET=info["name"],
                SPLIT=split["name"],
                FILEFORMAT="tfrecord",
                SHARD_X_OF_Y=f"{index:05}-of-{count:05}",
                SHARD_INDEX=f"{index:05}",
                NUM_SHARDS=f"{count:05}",
            )
            yield split["name"], shard


def _frames(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, frame) of each record of a shard."""
    offset = 0
    while header := file.read(HEADER_BYTES):
        length = payload_bytes(header, offset) + OVERHEAD_BYTES
        frame = header + file.read(length - HEADER_BYTES)
        if len(frame) < length:
            raise CorruptRecord(f"the record at offset {offset} is truncated: {len(frame)} of {length} bytes")
        yield offset, frame
        offset += length


def _row(frame: bytes, offset: int, split: str, number: int, labels: list[int]) -> dict[str, Any]:
    """The manifest's row of one record, but for its shard."""
    from tensorflow_datasets.proto import tf_example_pb2

    payload = payload_of(frame, offset)
    feature = tf_example_pb2.Example.FromString(payload).features.feature

    def text(name: str, default: str) -> str:
        values = list(feature[name].bytes_list.value) if name in feature else []
        return values[0].decode("utf-8", "surrogateescape") if len(values) == 1 else default

    images, numbers = list(feature["image"].bytes_list.value), list(feature["label"].int64_list.value)
    if len(images) != 1 or numbers not in ([0], [1]):  # TFDS writes -1 for a class that is not known
        raise CorruptRecord(
            f"the record at offset {offset} holds {len(images)} image(s) and the labels {numbers}, not one image of a "
            "known class, 0 or 1"
        )
    (image,), (number_of_class,) = images, numbers
    facts = inspect(image)
    return {
        "id": text("id", f"{split}/{number:08}"),
        "split": split,
        "label": labels[number_of_class],
        **{name: text(name, "") for name in _FURTHER_FEATURES},
        "format": facts.format,
        "source_format": facts.format,
        "width": facts.width,
        "height": facts.height,
        "mode": facts.mode,
        "orientation": facts.orientation,
        "flags": list(facts.flags),
        "bytes": len(image),
        "sha256": hashlib.sha256(image).digest(),
        "offset": offset,
        "length": len(frame),
        "image_offset": payload.index(image),
    }

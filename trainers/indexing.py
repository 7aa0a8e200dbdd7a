"""The index of a TFDS directory that another builder wrote: one sequential scan of its shards, in place of a manifest.

    table, fingerprint = index_shards(location, info)   # info: the content of dataset_info.json

With it such a dataset is shuffled, subset and resumed like any other. What a scan cannot know is said in a warning.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa

from tfds_builders.records.errors import Refused
from tfds_builders.records.framing import (
    FOOTER_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    CorruptRecord,
    payload_bytes,
    payload_of,
)
from tfds_builders.records.header import BadImage, inspect
from tfds_builders.records.schema import LABELS, MANIFEST, MANIFEST_SCHEMA
from trainers.storage import Location, filesystem

FEATURES, LABEL_NAMES = "features.json", "label.labels.txt"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's own
_FURTHER_FEATURES = ("category", "group", "video", "generator")  # used where they are bytes, like "id"


def index_shards(location: Location, info: Mapping[str, Any]) -> tuple[pa.Table, str]:
    """Reads every record of a TFDS directory once.

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

"""Built datasets of photograph crops, clean or with planted defects, for the tests of the audit.

records = clean_records()               # disjoint crops, labels at random, split by photograph
directory = write_records(tmp_path, records)
"""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
import sklearn.datasets
from PIL import Image

from tfds_builders.records import example, framing, schema
from tfds_builders.records.header import inspect

SIDE = 72
# Photographs that come with the two packages; drawings, scans of text and flat test patterns are left out.
_SKIMAGE = (
    "astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "retina", "rocket",
)  # fmt: skip
_SKLEARN = ("china.jpg", "flower.jpg")


@dataclasses.dataclass(frozen=True)
class Planned:
    """One record to be written."""

    id: str
    image: bytes
    label: int
    split: str = "train"
    group: str = ""
    video: str = ""
    category: str = ""
    source_format: str = ""
    flags: tuple[str, ...] = ()
    schemes: tuple[tuple[str, str], ...] = ()


@functools.cache
def crops() -> list[tuple[str, np.ndarray]]:
    """(photograph, uint8 [72, 72, 3]): about 400 crops of 15 photographs, which do not overlap.

    Some of the photographs were JPEG files once; made smaller by a quarter, none of their 8x8 grid is left.
    """
    photographs = {name: getattr(skimage.data, name)() for name in _SKIMAGE}
    photographs |= {name: sklearn.datasets.load_sample_image(name) for name in _SKLEARN}
    found = []
    for name, pixels in photographs.items():
        image = Image.fromarray(pixels).convert("RGB")
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
        rgb = np.asarray(image)[: 8 * SIDE, : 8 * SIDE]
        for top in range(0, rgb.shape[0] - SIDE + 1, SIDE):
            for left in range(0, rgb.shape[1] - SIDE + 1, SIDE):
                found.append((name, rgb[top : top + SIDE, left : left + SIDE]))
    return found


def encode(pixels: np.ndarray, image_format: str = "PNG", **options) -> bytes:
    """`pixels`, uint8 [height, width, 3], as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """What remains of the pixels after a JPEG file of that quality."""
    return np.asarray(Image.open(io.BytesIO(encode(pixels, "JPEG", quality=quality))))


def clean_records(seed: int = 0) -> list[Planned]:
    """Every crop as a PNG; its label is a coin toss, its split goes by the photograph."""
    random = np.random.default_rng(seed)
    names = sorted({name for name, _ in crops()})
    shuffled = random.permutation(names)
    splits = {name: "test" if at < 3 else "validation" if at < 6 else "train" for at, name in enumerate(shuffled)}
    labels = random.integers(0, 2, len(crops()))
    return [
        Planned(f"{schema.LABELS[label]}/{name}__{at:05d}.png", encode(pixels), int(label), splits[name], name)
        for at, ((name, pixels), label) in enumerate(zip(crops(), labels, strict=True))
    ]


def write_records(
    root: Path, records: Sequence[Planned], *, quarantine: Sequence[dict] = (), num_shards: int = 2
) -> Path:
    """Writes `<root>/planted/1.0.0` with these records, shard by shard within each split, and returns it."""
    directory = Path(root) / "planted" / "1.0.0"
    directory.mkdir(parents=True)
    rows = []
    for split in dict.fromkeys(record.split for record in records):
        chosen = [record for record in records if record.split == split]
        for shard in range(num_shards):
            name = f"planted-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"
            with (directory / name).open("wb") as file:
                for record in chosen[shard::num_shards]:
                    payload = example.serialise(
                        record.image, record.label, record.id, record.category, record.group, record.video
                    )
                    frame = framing.frame(payload)
                    rows.append(_row(record) | {"shard": name, "offset": file.tell(), "length": len(frame)})
                    rows[-1]["image_offset"] = payload.index(record.image)
                    file.write(frame)
    schema_of_all = schema.MANIFEST_SCHEMA
    for name in dict.fromkeys(name for record in records for name, _ in record.schemes):
        schema_of_all = schema_of_all.append(pa.field(schema.SCHEME_PREFIX + name, pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema_of_all), directory / schema.MANIFEST)
    pq.write_table(pa.Table.from_pylist(list(quarantine), schema.LEDGER_SCHEMA), directory / schema.QUARANTINE)
    pq.write_table(schema.LEDGER_SCHEMA.empty_table(), directory / schema.EXCLUDED)
    fingerprint = hashlib.sha256(b"".join(row["sha256"] for row in rows)).hexdigest()
    build = {"dataset": "planted", "version": "1.0.0", "fingerprint": fingerprint, "written": len(rows)}
    (directory / schema.BUILD).write_text(json.dumps(build))
    return directory


def _row(record: Planned) -> dict:
    facts = inspect(record.image)
    return {
        "id": record.id,
        "split": record.split,
        "label": record.label,
        "category": record.category,
        "group": record.group,
        "video": record.video,
        "generator": "",
        "format": facts.format,
        "source_format": record.source_format or facts.format,
        "width": facts.width,
        "height": facts.height,
        "mode": facts.mode,
        "orientation": facts.orientation,
        "flags": [*facts.flags, *record.flags],
        "bytes": len(record.image),
        "sha256": hashlib.sha256(record.image).digest(),
        **{schema.SCHEME_PREFIX + name: value for name, value in record.schemes},
    }

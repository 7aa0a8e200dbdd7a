"""Small built datasets for tests: real shards, real images, real manifest, in the layout that the builders write.

directory = write_dataset(tmp_path, 12)                      # 12 training records
directory = write_dataset(tmp_path, {"train": 40, "test": 9}, image_format="JPEG", size=(48, 64))
"""

import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tfds_builders.records import example, framing, schema
from tfds_builders.records.header import inspect

CATEGORIES = ("animals", "objects", "people")
GENERATORS = ("pixelshuffle", "splice")


def picture(label: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: smooth for label 0; with a chequered trace of up-sampling, easily learnt, for 1."""
    height, width = size
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = random.uniform(0.02, 0.2, (3, 2))
    phases = random.uniform(0, 6.3, 3)
    pixels = np.stack([np.sin(a * y + b * x + c) for (a, b), c in zip(waves, phases, strict=True)], axis=-1)
    pixels = 127.5 + 80 * pixels + random.normal(0, 4, pixels.shape)
    if label:
        pixels += np.where((y + x) % 2, 24, -24)[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, image_format: str) -> bytes:
    """`pixels` as a JPEG (quality 95, no chroma subsampling), PNG or BMP file."""
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if image_format == "JPEG" else {}
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def write_dataset(
    root: Path,
    num_examples: int | Mapping[str, int],
    *,
    size: tuple[int, int] = (32, 32),
    image_format: str = "PNG",
    images: Sequence[bytes] | None = None,
    num_shards: int = 2,
    name: str = "toy",
    version: str = "1.0.0",
    seed: int = 0,
) -> Path:
    """Writes `<root>/<name>/<version>` and returns it. Labels alternate, beginning with 0.

    Args:
      num_examples: per split, or of the split "train" alone.
      size: height, width of every image, unless `images` are given: JPEG, PNG or BMP files, used in turn.
      num_shards: of every split; with fewer records than shards some are empty.
    """
    splits = {"train": num_examples} if isinstance(num_examples, int) else dict(num_examples)
    directory = Path(root) / name / version
    directory.mkdir(parents=True)
    rows: list[dict] = []
    infos = []
    for split, count in splits.items():
        bounds = [round(count * shard / num_shards) for shard in range(num_shards + 1)]
        for shard in range(num_shards):
            file_name = f"{name}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"
            with (directory / file_name).open("wb") as file:
                for index in range(bounds[shard], bounds[shard + 1]):
                    image = images[index % len(images)] if images else _image(split, index, size, image_format, seed)
                    row = _row(split, index, image)
                    payload = example.serialise(
                        image, row["label"], row["id"], row["category"], row["group"], row["video"]
                    )
                    frame = framing.frame(payload)
                    row |= {"shard": file_name, "offset": file.tell(), "length": len(frame)}
                    row["image_offset"] = payload.index(image)
                    rows.append(row)
                    file.write(frame)
        lengths = [str(b - a) for a, b in itertools.pairwise(bounds)]
        infos.append({"name": split, "shardLengths": lengths, "numBytes": "0"})
    pq.write_table(pa.Table.from_pylist(rows, schema.MANIFEST_SCHEMA), directory / schema.MANIFEST)
    info = {"name": name, "version": version, "fileFormat": "tfrecord", "splits": infos}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    fingerprint = hashlib.sha256(b"".join(row["sha256"] for row in rows)).hexdigest()
    build = {"dataset": name, "version": version, "fingerprint": fingerprint, "written": len(rows)}
    (directory / schema.BUILD).write_text(json.dumps(build))
    return directory


def _image(split: str, index: int, size: tuple[int, int], image_format: str, seed: int) -> bytes:
    part = ("train", "validation", "test").index(split)
    return encode(picture(index % 2, size, seed=(seed * 3 + part) * 100_000 + index), image_format)


def _row(split: str, index: int, image: bytes) -> dict:
    label = index % 2
    facts = inspect(image)
    return {
        "id": f"{split}/{schema.LABELS[label]}/{index:05d}.{facts.format.lower()}",
        "split": split,
        "label": label,
        "category": CATEGORIES[index % len(CATEGORIES)],
        "group": f"{split}-{index // 4}",
        "video": "",
        "generator": GENERATORS[index // 2 % len(GENERATORS)] if label else "",
        "format": facts.format,
        "source_format": facts.format,
        "width": facts.width,
        "height": facts.height,
        "mode": facts.mode,
        "orientation": facts.orientation,
        "flags": list(facts.flags),
        "bytes": len(image),
        "sha256": hashlib.sha256(image).digest(),
    }

"""Tiny sources in the layouts of DATASETS, and how to build them in a test without starting a command line.

manual_dir = deepfake_faces(tmp_path / "manual")
built = build(DeepfakeFaces, manual_dir, tmp_path)
"""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders.records import example
from tfds_builders.records.schema import MANIFEST

LABELS = ("real", "fake")


def image(name: str, size: tuple[int, int] = (16, 12)) -> bytes:
    """An image file that its name decides: the format by the suffix (JPEG, or PNG for any other), the pixels all."""
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG" if name.endswith(".jpg") else "PNG")
    return file.getvalue()


def video(
    seed: int, num_frames: int = 20, size: tuple[int, int] = (32, 48), container: str = "mp4", codec: str = "libx264"
) -> bytes:
    """An H.264 mp4 file; a bright bar moves through noise, so that every frame is another."""
    import av

    height, width = size
    noise = np.random.default_rng(seed).integers(0, 128, (height, width, 3), np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 8
        for number in range(num_frames):
            pixels = noise.copy()
            pixels[:, number % width] = 255
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Writes `files` below `root`, which is returned."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(root: Path, target: Path) -> Path:
    """Packs all below `root` into one zip in the folder `target`, which is returned."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
    return target


def as_csv(rows: list[dict[str, str]]) -> bytes:
    """A CSV file with the first row's columns."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def deepfake_and_real(root: Path) -> Path:
    """`Dataset/{Train,Validation,Test}/{Fake,Real}/*.jpg`, 40 + 12 + 8 images; the same names in all folders."""
    sizes = {"Train": 20, "Validation": 6, "Test": 4}
    names = [
        f"Dataset/{split}/{label}/{label.lower()}_{number}.jpg"
        for split, size in sizes.items()
        for label in ("Real", "Fake")
        for number in range(size)
    ]
    return write(root, {name: image(name) for name in names})


def dfdc_videos(num_originals: int = 12, fakes_of_each: int = 3) -> dict[str, dict[str, str]]:
    """DFDC's metadata: video -> label, split, original. One real video and some fakes for each original."""
    videos: dict[str, dict[str, str]] = {}
    for number in range(num_originals):
        real = f"real{number:02d}.mp4"
        videos[real] = {"label": "REAL", "split": "train", "original": ""}
        for fake in range(fakes_of_each):
            videos[f"fake{number:02d}x{fake}.mp4"] = {"label": "FAKE", "split": "train", "original": real}
    return videos


def deepfake_faces(root: Path) -> Path:
    """`metadata.csv` and `faces_224/<video>.jpg`, 12 real and 36 fake."""
    videos = dfdc_videos()
    rows = [
        {"videoname": name, "original_width": "129", "original_height": "129", **_without(row, "split")}
        for name, row in videos.items()
    ]
    faces = {f"faces_224/{name.removesuffix('.mp4')}.jpg": image(f"{name}.jpg") for name in videos}
    return write(root, {"metadata.csv": as_csv(rows), **faces})


def _without(row: dict[str, str], column: str) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != column}


def dfdc_parts(root: Path) -> Path:
    """`DeepFakeNN/<video>.jpg` with `metadata/<N>.json`, four originals and their fakes in each of five parts."""
    files: dict[str, bytes] = {}
    for part in (0, 7, 46, 47, 49):
        videos = {f"p{part}{name}": row for name, row in dfdc_videos(4).items()}
        for row in videos.values():
            row["original"] = row["original"] and f"p{part}{row['original']}"
        files[f"metadata/{part}.json"] = json.dumps(videos).encode()
        for name in videos:
            files[f"DeepFake{part:02d}/DeepFake{part:02d}/{name.removesuffix('.mp4')}.jpg"] = image(f"{name}.jpg")
    return write(root, files)


def dfdc_frames(root: Path) -> Path:
    """`<video>/<frame>.png` with metadata.json, two frames of each video."""
    videos = dfdc_videos()
    frames = {
        f"{name.removesuffix('.mp4')}/{frame}.png": image(f"{name}{frame}") for name in videos for frame in (0, 10)
    }
    return write(root, {"metadata.json": json.dumps(videos).encode(), **frames})


def celeb_df(root: Path) -> Path:
    """`Celeb-real/idN_NNNN.mp4` and `Celeb-synthesis/idN_idM_NNNN.mp4`: 10 people, 10 real and 20 fake videos."""
    files = {}
    for person in range(10):
        files[f"Celeb-real/id{person}_0000.mp4"] = video(person)
        for other in (1, 3):
            source = (person + other) % 10
            files[f"Celeb-synthesis/id{person}_id{source}_0000.mp4"] = video(100 * (person + 1) + source)
    return write(root, files)


def categories(root: Path) -> Path:
    """`<category>/<class>/**`, 20 images of each of two categories, one of which is called like a split."""
    names = [
        f"{category}/{label}/{number // 5}/{number}.{suffix}"
        for category in ("train", "two words")
        for label, suffix in (("real", "jpg"), ("fake", "png"))
        for number in range(20)
    ]
    return write(root, {name: image(name) for name in names})


def build(builder_class: type, manual_dir: Path, data_dir: Path, **options) -> Path:
    """Builds as `tfds build` does, and returns the dataset's folder."""
    builder = builder_class(data_dir=str(data_dir))
    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir), **options)
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def stock(builder_class: type) -> type:
    """The same builder, written by TFDS's own one-process writer."""
    members = {"name": builder_class.name, "_generate_splits": tfds.core.GeneratorBasedBuilder._generate_splits}
    return type("StockBuilder", (builder_class,), members, skip_registration=True)


def records(built: Path, split: str) -> Iterator[dict]:
    """The records of a split, in order, as TensorFlow reads them."""
    shards = sorted(map(str, built.glob(f"*-{split}.tfrecord-*")))
    return (example.parse(record.numpy()) for record in tf.data.TFRecordDataset(shards))


def manifest(built: Path) -> list[dict]:
    """The manifest's rows."""
    return pq.read_table(built / MANIFEST).to_pylist()


def outcomes(built: Path, ledger: str) -> dict[str, str]:
    """The reason of every row of a ledger, by id."""
    return {row["id"]: row["reason"] for row in pq.read_table(built / ledger).to_pylist()}

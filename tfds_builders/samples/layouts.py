"""Where each source keeps its images, and what it says of them in files beside.

A layout has two parts: `make` makes one image, in any process; `write` puts all of them into a folder, in order.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tfds_builders.samples.images import Sample, make_sample
from tfds_builders.samples.photographs import SCENES
from tfds_builders.samples.videos import make_video, write_celeb_df

_JPEG_QUALITIES = (85, 100)
# Photographs take turns: of five, three are for training. So each split has at least three of them.
_SPLITS = ("Train", "Train", "Train", "Validation", "Test")
_TRAINING_PARTS = (0, 1, 2)
_OTHER_PARTS = (47, 48)  # the published recipe trains on parts 0 to 46


class Layout(NamedTuple):
    """How a source's corpus is made.

    Attributes:
      make: make(index, num_images, seed, size) -> what `write` takes. Depends on its arguments alone.
      write: write(folder, made in order of index).
    """

    make: Callable[..., Any]
    write: Callable[[Path, Iterator[Any]], None]


def make_jpeg(index: int, num_images: int, seed: int, size: int) -> tuple[Sample, bytes]:
    """A sample, and its pixels as a JPEG file of random quality."""
    sample = make_sample(index, num_images, seed, size)
    low, high = _JPEG_QUALITIES
    quality = int(np.random.default_rng([seed, index, 1]).integers(low, high + 1))
    file = io.BytesIO()
    with Image.open(io.BytesIO(sample.png)) as image:
        image.save(file, "JPEG", quality=quality)
    return sample, file.getvalue()


def write_ai_vs_human(out: Path, samples: Iterator[Sample]) -> None:
    """`<category>/<0_real or 1_fake>/<photograph>__<number>.png`, and generators.csv (path, generator) of the fakes."""
    rows = []
    for sample in samples:
        name = f"{sample.photograph.scene}__{sample.number // 2:06d}.png"
        path = f"{sample.photograph.category}/{('0_real', '1_fake')[sample.label]}/{name}"
        _write(out / path, sample.png)
        if sample.generator:
            rows.append((path, sample.generator))
    _write_csv(out / "generators.csv", ("path", "generator"), rows)


def write_deepfake_and_real(out: Path, samples: Iterator[tuple[Sample, bytes]]) -> None:
    """`Dataset/{Train,Validation,Test}/{Fake,Real}/<photograph>__<number>.jpg`; a photograph is in one split."""
    for sample, jpeg in samples:
        folder = f"Dataset/{_split_of(sample.photograph.scene)}/{('Real', 'Fake')[sample.label]}"
        _write(out / folder / f"{_stem(sample)}.jpg", jpeg)


def write_deepfake_faces(out: Path, samples: Iterator[tuple[Sample, bytes]]) -> None:
    """`faces_224/<video>.jpg` and metadata.csv (videoname, original_width, original_height, label, original).

    DFDC names an original for fakes only. Here the other real "videos" name the photograph's first as well, so that
    all crops of one photograph share a group. The folder has this name whatever the size.
    """
    originals: dict[str, str] = {}
    rows = []
    for sample, jpeg in samples:
        _write(out / "faces_224" / f"{_stem(sample)}.jpg", jpeg)
        size = _size_of(jpeg)
        rows.append((f"{_stem(sample)}.mp4", *size, ("REAL", "FAKE")[sample.label], _original(sample, originals)))
    columns = ("videoname", "original_width", "original_height", "label", "original")
    _write_csv(out / "metadata.csv", columns, rows)


def write_dfdc_faces(out: Path, samples: Iterator[tuple[Sample, bytes]]) -> None:
    """`DeepFakeNN/<video>.jpg` and `metadata/<N>.json`, video -> label, split, original (as in `deepfake_faces`).

    A photograph is in one part.
    """
    originals: dict[str, str] = {}
    parts: dict[int, dict[str, dict[str, str]]] = {}
    for sample, jpeg in samples:
        part = _part_of(sample.photograph.scene)
        _write(out / f"DeepFake{part:02d}" / f"{_stem(sample)}.jpg", jpeg)
        parts.setdefault(part, {})[f"{_stem(sample)}.mp4"] = {
            "label": ("REAL", "FAKE")[sample.label],
            "split": "train",  # as in DFDC, whose metadata came with the training part only
            "original": _original(sample, originals),
        }
    for part, videos in parts.items():
        _write(out / "metadata" / f"{part}.json", json.dumps(videos, indent=1).encode())


def write_real_fake_folder(out: Path, samples: Iterator[tuple[Sample, bytes]]) -> None:
    """`images/<photograph>__<number>.jpg` or `.png` in turns, and images.csv that tells everything of them."""
    rows = []
    for sample, jpeg in samples:
        scene, category, *_ = sample.photograph
        # Turns of two, since labels take turns of one: the format tells nothing of the class.
        suffix, data = (("png", sample.png), ("jpg", jpeg))[sample.number // 2 % 2]
        path = f"images/{_stem(sample)}.{suffix}"
        _write(out / path, data)
        rows.append((path, ("real", "fake")[sample.label], scene, category, sample.generator))
    _write_csv(out / "images.csv", ("path", "label", "group", "category", "generator"), rows)


LAYOUTS: dict[str, Layout] = {
    "ai_vs_human": Layout(make_sample, write_ai_vs_human),
    "celeb_df": Layout(make_video, write_celeb_df),
    "deepfake_and_real": Layout(make_jpeg, write_deepfake_and_real),
    "deepfake_faces": Layout(make_jpeg, write_deepfake_faces),
    "dfdc_faces": Layout(make_jpeg, write_dfdc_faces),
    "real_fake_folder": Layout(make_jpeg, write_real_fake_folder),
}


def _stem(sample: Sample) -> str:
    """A name that no other sample of either class has."""
    return f"{sample.photograph.scene}__{sample.number:06d}"


def _original(sample: Sample, originals: dict[str, str]) -> str:
    """The first real "video" of the sample's photograph, "" for that one itself; `originals` remembers them."""
    first = originals.setdefault(sample.photograph.scene, f"{_stem(sample)}.mp4")
    return "" if first == f"{_stem(sample)}.mp4" else first


def _split_of(scene: str) -> str:
    return _SPLITS[SCENES.index(scene) % len(_SPLITS)]


def _part_of(scene: str) -> int:
    parts = _TRAINING_PARTS if _split_of(scene) == "Train" else _OTHER_PARTS
    return parts[SCENES.index(scene) // len(_SPLITS) % len(parts)]


def _size_of(jpeg: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.size


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])

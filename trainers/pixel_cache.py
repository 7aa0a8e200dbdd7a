"""Decoded and resized pixels, made once: for images that decode too slowly to feed a device.

    cache = open_cache(records, fingerprint, image_size=224, directory=home() / "pixels", max_bytes=...)
    training_batches(records, order, image_size=224, seed=0, pixels=cache)     # cache may be None: decode each time

A cache on disk is one file of raw pixels, one record after the other, mapped into memory by all processes that use it;
the operating system keeps as much of it in memory as there is room for. One in memory belongs to its process alone.
Every row has a crc32c that is checked whenever it is read.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np

from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import RESIZE
from trainers.data_config import DataConfig
from trainers.dataset import Records
from trainers.home import locked

VERSION = 1  # to be raised whenever the same record would give other pixels
PIXELS, CHECKSUMS, INFO = "pixels.u8", "checksums.npy", "info.json"


@dataclasses.dataclass(frozen=True, eq=False)
class PixelCache:
    """The pixels of some records.

    Attributes:
      records: whose pixels; row r is theirs too.
      pixels: uint8 [n, image_size, image_size, 3], RGB.
      checksums: uint32 [n], crc32c of each row's bytes.
      file: where `pixels` are mapped from; None: in memory.
      aspect: how images became squares.
    """

    records: Records
    pixels: np.ndarray
    checksums: np.ndarray
    file: Path | None
    aspect: str = RESIZE

    def check(self, records: Records, image_size: int, aspect: str = RESIZE) -> None:
        """ValueError unless these are the pixels of `records` at `image_size`, made squares in that way."""
        held = self.records
        same = len(held) == len(records) and all(
            np.array_equal(ours, theirs)
            for ours, theirs in ((held.shards, records.shards), (held.offsets, records.offsets))
        )
        if not same or self.pixels.shape[1] != image_size:
            raise ValueError(
                f"The pixel cache is of {'the same' if same else 'other'} records at {self.pixels.shape[1]} pixels a "
                f"side; {image_size} are asked for. Open one for these records and this size."
            )
        if self.aspect != aspect:
            raise ValueError(f"The pixel cache holds images of the aspect {self.aspect!r}; {aspect!r} is asked for.")

    def images(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [k, image_size, image_size, 3]: a copy of the pixels of `rows` (int64 [k]).

        Raises:
          ValueError: a checksum does not hold; the message names file, row and id. The cache will be made again by
            the next `open_cache`.
        """
        images = np.empty((len(rows), *self.pixels.shape[1:]), np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            data = self.pixels[row].tobytes()  # the checksum's library takes bytes alone
            if google_crc32c.value(data) != self.checksums[row]:
                if self.file:
                    _disown(self.file.parent)
                id = self.records.ids(np.array([row]))[0]
                raise ValueError(
                    f"{self.file or 'the pixel cache in memory'}, row {row}, id {id!r}: damaged pixels, the checksum "
                    "does not hold. When the job goes on they are made again."
                )
            image.reshape(-1)[...] = np.frombuffer(data, np.uint8)
        return images


def open_cache(
    records: Records,
    fingerprint: str,
    *,
    image_size: int,
    directory: Path | None,
    max_bytes: int,
    aspect: str = RESIZE,
) -> PixelCache:
    """The pixels of `records`, from an earlier run or made now.

    Of several processes that ask for one cache on disk at the same time, one makes it and the others wait.

    Args:
      records: all that will be read.
      fingerprint: of their dataset.
      image_size: side, pixels.
      directory: where caches on disk are kept, each in a folder named after what it holds; None: in memory.
      max_bytes: of all caches on disk together; others are removed until this one has room.
      aspect: how images become squares; not "random_crop".

    Raises:
      OSError: the disk is full.
      tf.errors.OpError: a damaged record.
    """
    shape = (len(records), image_size, image_size, 3)
    if directory is None:
        pixels = np.empty(shape, np.uint8)
        return PixelCache(records, pixels, _fill(pixels, records, aspect), None, aspect)
    folder = directory / cache_key(records, fingerprint, image_size, aspect)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not _is_whole(folder, shape):
            _make_room(folder, max_bytes - num_bytes(records, image_size))
            _make(folder, shape, records, aspect)
        os.utime(folder / INFO, ns=(time.time_ns(),) * 2)  # the last use; the file system's own clock is coarse
        pixels = np.memmap(folder / PIXELS, np.uint8, "r", shape=shape)
        return PixelCache(records, pixels, np.load(folder / CHECKSUMS), folder / PIXELS, aspect)


def num_bytes(records: Records, image_size: int) -> int:
    """What the pixels of `records` take."""
    return len(records) * image_size * image_size * 3


def check_room(parts: Mapping[str, Records], data: DataConfig, image_size: int) -> int:
    """What --pixel-cache may take, in bytes.

    Args:
      parts: train and validation, perhaps more.

    Raises:
      Refused: they do not fit.
    """
    most = int(data.pixel_cache_gib * 2**30)
    needed = sum(num_bytes(parts[split], image_size) for split in ("train", "validation"))
    if data.pixel_cache != "none" and needed > most:
        raise Refused(
            f"--pixel-cache {data.pixel_cache} must have room for all training and validation images. Received: "
            f"{data.pixel_cache_gib:g} GiB, {needed / 2**30:.3g} are needed. Raise --pixel-cache-gib, or leave "
            "--pixel-cache out."
        )
    return most


def cache_key(records: Records, fingerprint: str, image_size: int, aspect: str = RESIZE) -> str:
    """32 hex digits that change with the dataset, the records that are selected, their order, the size and aspect."""
    digest = hashlib.sha256(f"pixels {VERSION} {fingerprint} {image_size} {aspect} {records.shard_names}".encode())
    for column in (records.shards, records.offsets):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()[:32]


def _is_whole(folder: Path, shape: tuple[int, ...]) -> bool:
    # They come with the folder's one rename. A mapped file that is too short would kill the process (SIGBUS).
    has_all = all((folder / name).is_file() for name in (INFO, CHECKSUMS, PIXELS))
    return has_all and (folder / PIXELS).stat().st_size == np.prod(shape, dtype=np.int64)


def _disown(folder: Path) -> None:
    """Whoever opens this cache next makes it again; those who have it mapped keep it."""
    with contextlib.suppress(BlockingIOError), locked(folder.with_suffix(".lock"), fcntl.LOCK_NB):
        (folder / INFO).unlink(missing_ok=True)


def _make_room(folder: Path, num_bytes: int) -> None:
    """Removes the caches beside `folder` that were not used for longest, until the others fit into `num_bytes`.

    One that is being made or opened stays; one that is mapped stays readable for those who mapped it.
    """
    others = []  # (last use, bytes, folder)
    for pixels in folder.parent.glob(f"*/{PIXELS}"):
        other, info = pixels.parent, pixels.with_name(INFO)
        with contextlib.suppress(FileNotFoundError):  # another job makes room as well
            if other.stem != folder.name:
                others.append((info.stat().st_mtime_ns if info.exists() else 0, pixels.stat().st_size, other))
    left = sum(size for _, size, _ in others)
    for _, size, other in sorted(others):
        if left <= num_bytes:
            break
        with contextlib.suppress(BlockingIOError), locked(other.with_suffix(".lock"), fcntl.LOCK_NB):
            shutil.rmtree(other, ignore_errors=True)
            left -= size


def _make(folder: Path, shape: tuple[int, ...], records: Records, aspect: str) -> None:
    unfinished = folder.with_suffix(".unfinished")
    for leftover in (unfinished, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir()
    try:
        with (unfinished / PIXELS).open("wb") as file:  # a full disk is found now, not by a signal while mapped
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape, dtype=np.int64)))
        pixels = np.memmap(unfinished / PIXELS, np.uint8, "r+", shape=shape)
        np.save(unfinished / CHECKSUMS, _fill(pixels, records, aspect))
        pixels.flush()
        (unfinished / INFO).write_text(json.dumps({"version": VERSION, "shape": shape}))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(folder)


def _fill(pixels: np.ndarray, records: Records, aspect: str) -> np.ndarray:
    """Decodes all records into `pixels`; returns their checksums, uint32 [n]."""
    from trainers.inputs import BatchIterator, evaluation_batches

    checksums = np.zeros(len(records), np.uint32)
    dataset = evaluation_batches(records, image_size=pixels.shape[1], batch_size=64, aspect=aspect)
    with BatchIterator(dataset) as batches:
        for batch in batches:
            is_real = batch["mask"].numpy() == 1
            rows, images = batch["row"].numpy()[is_real], batch["image"].numpy()[is_real]
            pixels[rows] = images
            checksums[rows] = [google_crc32c.value(image.tobytes()) for image in images]
    return checksums

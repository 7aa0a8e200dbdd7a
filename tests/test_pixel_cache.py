"""Decoded pixels, made once."""

import fcntl
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from odd_images import ODD
from small_dataset import write_dataset

from tfds_builders.records.header import inspect
from tfds_builders.records.pixels import load_pixels
from trainers import pixel_cache
from trainers.config import AugmentConfig
from trainers.dataset import load
from trainers.inputs import BatchIterator, evaluation_batches, training_batches
from trainers.order import Order
from trainers.pixel_cache import cache_key, open_cache
from trainers.reader import RecordReader, naming_damage

SIZE = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load(write_dataset(tmp_path_factory.mktemp("data"), 70, num_shards=3))


@pytest.fixture
def records(dataset):
    return dataset.select("train")


def open_at(directory, records, max_bytes=2**30):
    return open_cache(records, "print", image_size=SIZE, directory=directory, max_bytes=max_bytes)


def batches_of(dataset):
    with BatchIterator(dataset) as batches:
        return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_the_cache_holds_the_pixels_of_the_images(tmp_path, records, place):
    cache = open_at(tmp_path / "cache" if place == "disk" else None, records)
    rows = np.array([69, 0, 33, 33])
    for image, data in zip(cache.images(rows), RecordReader(records).images(rows), strict=True):
        assert np.array_equal(image, load_pixels(data, SIZE))
    assert (cache.file is not None) == (tmp_path / "cache").exists() == (place == "disk")


def test_odd_images_are_cached_as_they_are_read(tmp_path):
    """Turned by EXIF, CMYK, BMP, palettes, 16 bits: whatever a dataset may hold as it was found."""
    odd = [make() for make in ODD.values()]
    files = [file for file in odd if inspect(file.data).format in ("JPEG", "PNG", "BMP") and "huge" not in file.name]
    assert {flag for file in files for flag in file.flags} >= {"cmyk", "palette", "sixteen_bit"}
    assert any(inspect(file.data).orientation > 4 for file in files)
    records = load(write_dataset(tmp_path, len(files), images=[file.data for file in files])).select("train")
    cache = open_at(tmp_path / "cache", records)
    rows = np.arange(len(files))
    for file, cached, image in zip(files, cache.images(rows), RecordReader(records).images(rows), strict=True):
        assert np.array_equal(cached, load_pixels(file.data, SIZE)), file.name
        assert np.array_equal(cached, load_pixels(image, SIZE)), file.name
    decoded, kept = (
        batches_of(evaluation_batches(records, image_size=SIZE, batch_size=8, pixels=pixels))
        for pixels in (None, cache)
    )
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(decoded, kept, strict=True))


@pytest.mark.parametrize("augment", [None, AugmentConfig()])
def test_batches_are_the_same_with_and_without(tmp_path, records, augment):
    cache = open_at(tmp_path, records)
    options = {"image_size": SIZE, "num_workers": 2, "worker": 1}
    order = Order(len(records), 6, 0)
    for make in (
        lambda **more: training_batches(records, order, seed=0, augment=augment, num_steps=30, **options, **more),
        lambda **more: evaluation_batches(records, batch_size=8, **options, **more),
    ):
        for cached, decoded in zip(batches_of(make(pixels=cache)), batches_of(make()), strict=True):
            assert all(np.array_equal(cached[name], value) for name, value in decoded.items())


def test_it_is_made_once(tmp_path, records):
    first = open_at(tmp_path, records)
    made = first.file.stat()
    again = open_at(tmp_path, records)
    assert (again.file.stat().st_ino, again.file.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert np.array_equal(first.images(np.arange(70)), again.images(np.arange(70)))


def test_caches_not_used_for_longest_make_room(tmp_path, dataset):
    parts = [dataset.select(split) for split in ("train[:20]", "train[20:40]", "train[40:60]")]
    max_bytes = 2 * 20 * SIZE * SIZE * 3  # two of the three
    first, second = (open_at(tmp_path, part, max_bytes) for part in parts[:2])
    pixels = second.images(np.arange(20))
    open_at(tmp_path, parts[0], max_bytes)  # used again
    third = open_at(tmp_path, parts[2], max_bytes)
    assert first.file.exists()
    assert third.file.exists()
    assert not second.file.exists()
    assert np.array_equal(second.images(np.arange(20)), pixels)  # whoever has it open keeps it


def test_what_a_killed_or_a_cleaning_process_left_makes_room_first(tmp_path, dataset):
    parts = [dataset.select(split) for split in ("train[:20]", "train[20:40]", "train[40:60]", "train[50:]")]
    max_bytes = 2 * 20 * SIZE * SIZE * 3  # two of the four
    unfinished, used, disowned = (open_at(tmp_path, part).file.parent for part in parts[:3])
    unfinished.rename(unfinished.with_suffix(".unfinished"))
    (disowned / pixel_cache.INFO).unlink()
    fourth = open_at(tmp_path, parts[3], max_bytes)
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {used, fourth.file.parent}


@pytest.mark.parametrize("name", [pixel_cache.PIXELS, pixel_cache.INFO])
def test_half_a_cache_is_in_nobodys_way(tmp_path, dataset, name):
    parts = [dataset.select(split) for split in ("train[:20]", "train[20:40]")]
    max_bytes = 20 * SIZE * SIZE * 3
    (open_at(tmp_path, parts[0], max_bytes).file.parent / name).unlink()
    assert open_at(tmp_path, parts[1], max_bytes).file.exists()


def test_another_job_may_make_room_at_the_same_time(tmp_path, dataset, monkeypatch):
    parts = [dataset.select(split) for split in ("train[:20]", "train[20:40]")]
    max_bytes = 20 * SIZE * SIZE * 3
    first = open_at(tmp_path, parts[0], max_bytes)
    flock = fcntl.flock

    def late(file, flags):
        if flags & fcntl.LOCK_NB:  # the other one was quicker
            shutil.rmtree(first.file.parent)
        flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    assert open_at(tmp_path, parts[1], max_bytes).file.exists()
    assert not first.file.exists()


def test_the_key_is_that_of_dataset_selection_and_size(dataset, records):
    animals = dataset.select("train", only={"category": {"animals"}})
    keys = {
        cache_key(records, "a", 24),
        cache_key(records, "b", 24),
        cache_key(records, "a", 25),
        cache_key(animals, "a", 24),
        cache_key(records, "a", 24, "centre_crop"),
    }
    assert len(keys) == 5
    assert cache_key(dataset.select("train"), "a", 24) in keys


def damage(cache, row):
    with cache.file.open("r+b") as file:
        file.seek(row * SIZE * SIZE * 3 + 100)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def test_a_flipped_bit_is_named_and_the_pixels_are_made_again(tmp_path, records):
    cache = open_at(tmp_path, records)
    whole = cache.images(np.arange(70))
    damage(cache, 41)
    assert len(cache.images(np.array([40, 42]))) == 2
    with pytest.raises(ValueError, match=r"pixels\.u8, row 41, id 'train/fake/00041\.png': damaged pixels"):
        cache.images(np.array([40, 41]))
    again = open_at(tmp_path, records)
    assert np.array_equal(again.images(np.arange(70)), whole)
    damage(again, 41)
    with (
        pytest.raises(tf.errors.OpError, match=r"row 41, id 'train/fake/00041\.png'"),
        naming_damage(records, lambda: np.arange(70)),  # no record is damaged: the job may go on
    ):
        batches_of(evaluation_batches(records, image_size=SIZE, batch_size=8, pixels=again))
    assert np.array_equal(open_at(tmp_path, records).images(np.arange(70)), whole)


@pytest.mark.parametrize("damage", ["short", "unfinished", pixel_cache.PIXELS, pixel_cache.CHECKSUMS, pixel_cache.INFO])
def test_what_is_not_whole_is_made_again(tmp_path, records, damage):
    first = open_at(tmp_path, records)
    whole, folder = first.images(np.arange(70)), first.file.parent
    if damage == "short":
        with first.file.open("r+b") as file:
            file.truncate(1000)
    elif damage == "unfinished":
        folder.rename(folder.with_suffix(".unfinished"))  # as a killed process leaves it
    else:
        (folder / damage).unlink()
    assert np.array_equal(open_at(tmp_path, records).images(np.arange(70)), whole)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_a_damaged_record_leaves_no_cache(tmp_path):
    records = load(write_dataset(tmp_path, 6, num_shards=1)).select("train")
    shard = records.directory / records.shard_names[0]
    data = bytearray(shard.read_bytes())
    data[records.offsets[3] + 50] ^= 1
    shard.write_bytes(data)
    with pytest.raises(tf.errors.OpError, match=r"train/fake/00003\.png"):
        open_at(tmp_path / "cache", records)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_of_other_records_or_size_is_refused(tmp_path, dataset, records):
    cache = open_at(tmp_path, records)
    with pytest.raises(ValueError, match="the same records at 24 pixels a side; 25 are asked for"):
        evaluation_batches(records, image_size=25, batch_size=8, pixels=cache)
    for other in (
        dataset.select("train[:10]"),
        dataset.select("train[1:]+train[:1]", exclude={"id": {records.ids()[3]}}),
    ):
        with pytest.raises(ValueError, match="other records at 24"):
            evaluation_batches(other, image_size=SIZE, batch_size=8, pixels=cache)
    with pytest.raises(ValueError, match="'resize'; 'centre_crop' is asked for"):
        evaluation_batches(records, image_size=SIZE, batch_size=8, pixels=cache, aspect="centre_crop")


def test_of_two_that_ask_at_once_one_makes_it(tmp_path, dataset, monkeypatch):
    made, allocate = [], os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda *file: made.append(file) or allocate(*file))

    def ask(_):
        return open_at(tmp_path, dataset.select("train")).images(np.arange(70))

    with ThreadPoolExecutor(2) as pool:  # the lock belongs to the open file, not to the process
        first, second = pool.map(ask, range(2))
    assert len(made) == 1
    assert np.array_equal(first, second)

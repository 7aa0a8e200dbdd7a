"""From records to batches."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_dataset import encode, picture, write_dataset

from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.pixels import load_pixels
from trainers.config import AugmentConfig, DataConfig
from trainers.dataset import load
from trainers.inputs import BatchIterator, evaluation_batches, training_batches
from trainers.order import Order
from trainers.policies import make_order

SIZE = 32


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load(write_dataset(tmp_path_factory.mktemp("data"), 13, num_shards=3)).select("train")


def elements(dataset):
    with BatchIterator(dataset) as batches:
        return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def train(records, batch_size=6, seed=0, **options):
    order = Order(len(records), batch_size, seed)
    return elements(training_batches(records, order, image_size=SIZE, seed=seed, **options))


def test_a_training_batch_holds_the_images_of_its_rows(records):
    order = Order(len(records), 6, seed=0)
    for step, batch in enumerate(train(records, num_steps=5)):
        rows, positions = order.batch(step)
        assert batch["row"].tolist() == rows.tolist()
        assert batch["position"].tolist() == positions.tolist()
        assert batch["label"].tolist() == records.labels[rows].tolist()
        assert batch["label"].dtype == np.float32
        assert batch["image"].dtype == np.uint8
        for row, image in zip(rows, batch["image"], strict=True):
            assert np.array_equal(image, picture(row % 2, (SIZE, SIZE), seed=int(row)))


@pytest.mark.parametrize(("num_workers", "replicas"), [(2, 1), (1, 3), (3, 2), (6, 1)])
def test_workers_and_replicas_share_the_global_batch(records, num_workers, replicas):
    whole = train(records, augment=AugmentConfig(), num_steps=4)
    parts = [
        train(records, augment=AugmentConfig(), num_steps=4, worker=w, num_workers=num_workers, replicas=replicas)
        for w in range(num_workers)
    ]
    assert {len(elements) for elements in parts} == {4 * replicas}
    for step, batch in enumerate(whole):
        replica_parts = [part for worker in parts for part in worker[step * replicas : (step + 1) * replicas]]
        for name, value in joined(replica_parts).items():
            assert np.array_equal(value, batch[name]), name


def test_beginning_at_a_step_is_the_same_as_arriving_there(records):
    whole = train(records, augment=AugmentConfig(), num_steps=8)
    rest = train(records, augment=AugmentConfig(), first_step=5, num_steps=3)
    for later, batch in zip(whole[5:], rest, strict=True):
        assert all(np.array_equal(later[name], value) for name, value in batch.items())


def test_augmentation_differs_from_epoch_to_epoch(records):
    batches = joined(train(records, batch_size=13, augment=AugmentConfig(), num_steps=2))
    shown = [batches["image"][batches["row"] == 4][epoch] for epoch in range(2)]
    assert not np.array_equal(*shown)


def test_training_goes_on_until_it_is_stopped(records):
    dataset = training_batches(records, Order(13, 6, 0), image_size=SIZE, seed=0, first_step=10**12)
    with BatchIterator(dataset) as batches:
        positions = np.concatenate([next(batches)["position"] for _ in range(30)])
    assert positions.tolist() == list(range(6 * 10**12, 6 * 10**12 + 180))
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_mirrored_replicas_get_their_rows(records, two_devices):
    strategy = tf.distribute.MirroredStrategy(two_devices)
    order = Order(13, 6, seed=0)
    dataset = strategy.distribute_datasets_from_function(
        lambda _: training_batches(records, order, image_size=SIZE, seed=0, replicas=2)
    )
    with BatchIterator(dataset) as batches:
        for step in range(4):
            parts = strategy.experimental_local_results(next(batches)["row"])
            assert np.stack(parts).tolist() == order.batch(step)[0].reshape(2, 3).tolist()


@pytest.mark.parametrize("num_examples", range(1, 14))
def test_evaluation_counts_each_record_exactly_once(tmp_path, num_examples):
    records = load(write_dataset(tmp_path, {"test": num_examples}, size=(8, 8))).select("test")
    for num_workers in (1, 2, 3):
        for replicas in (1, 2):
            workers = [
                elements(
                    evaluation_batches(
                        records, image_size=8, batch_size=2, worker=worker, num_workers=num_workers, replicas=replicas
                    )
                )
                for worker in range(num_workers)
            ]
            assert len({len(parts) for parts in workers}) == 1
            assert len(workers[0]) % replicas == 0
            seen = joined([part for parts in workers for part in parts])
            counted = seen["mask"] == 1
            assert sorted(seen["row"][counted]) == list(range(num_examples))
            assert set(seen["mask"][~counted]) <= {0.0}
            assert seen["label"].tolist() == records.labels[seen["row"]].tolist()


def test_training_evaluation_and_prediction_see_the_same_pixels(tmp_path):
    images = [
        encode(picture(index % 2, size, index), image_format)
        for index, (size, image_format) in enumerate(
            [((50, 40), "JPEG"), ((20, 24), "PNG"), ((200, 90), "JPEG"), ((SIZE, SIZE), "JPEG"), ((47, 48), "BMP")]
        )
    ]
    records = load(write_dataset(tmp_path, len(images), images=images)).select("train")
    trained = joined(train(records, batch_size=5, num_steps=1))
    evaluated = joined(elements(evaluation_batches(records, image_size=SIZE, batch_size=5)))
    for row, data in enumerate(images):
        expected = load_pixels(data, SIZE)
        assert np.array_equal(trained["image"][trained["row"] == row][0], expected)
        assert np.array_equal(evaluated["image"][row], expected)


def place_of(window, pixels):
    """The one (top, left) at which `pixels` hold `window`."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, window.shape)[:, :, 0]
    (place,) = np.argwhere((windows == window).all(axis=(2, 3, 4))).tolist()
    return place


def test_a_random_crop_is_a_window_of_the_images_own_pixels_and_evaluation_sees_the_middle_one(tmp_path):
    pixels = picture(0, (3 * SIZE, 3 * SIZE), seed=1)
    data = encode(pixels, "PNG")
    records = load(write_dataset(tmp_path, 2, images=[data])).select("train")
    batches = joined(train(records, batch_size=2, num_steps=30, aspect="random_crop"))
    places = np.array([place_of(image, pixels) for image in batches["image"]])
    for along in places.T:
        assert along.min() < 0.2 * 2 * SIZE < 0.8 * 2 * SIZE < along.max()
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.5  # down and to the right are drawn apart
    later = joined(train(records, batch_size=2, first_step=20, num_steps=10, aspect="random_crop"))
    assert np.array_equal(later["image"], batches["image"][40:])
    (evaluated,) = elements(evaluation_batches(records, image_size=SIZE, batch_size=2, aspect="random_crop"))
    middle = pixels[SIZE : 2 * SIZE, SIZE : 2 * SIZE]
    assert np.array_equal(evaluated["image"][0], middle)
    assert np.array_equal(load_pixels(data, SIZE, "random_crop"), middle)


@pytest.mark.parametrize(("height", "width"), [(20, 3 * SIZE), (5, 7), (1, SIZE), (SIZE, SIZE), (SIZE - 1, SIZE + 1)])
def test_a_random_crop_mirrors_where_a_side_is_too_short(tmp_path, height, width):
    pixels = picture(0, (height, width), seed=1)
    data = encode(pixels, "PNG")
    records = load(write_dataset(tmp_path, 2, images=[data])).select("train")
    around = [(SIZE, SIZE) if side < SIZE else (0, 0) for side in (height, width)]
    mirrored = np.pad(pixels, [*around, (0, 0)], "reflect")  # again and again if need be
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (SIZE, SIZE, 3))[:, :, 0]
    for image in joined(train(records, batch_size=2, num_steps=4, aspect="random_crop"))["image"]:
        tops, lefts = np.nonzero((windows == image).all(axis=(2, 3, 4)))
        assert any(  # what is shorter is in it as a whole
            (height >= SIZE or top <= SIZE <= top + SIZE - height)
            and (width >= SIZE or left <= SIZE <= left + SIZE - width)
            for top, left in zip(tops, lefts, strict=True)
        )
    top, left = ((length - SIZE + 1) // 2 + one for length, (one, _) in zip((height, width), around, strict=True))
    assert np.array_equal(load_pixels(data, SIZE, "random_crop"), mirrored[top : top + SIZE, left : left + SIZE])


def test_a_centre_crop_is_the_resized_middle_square(tmp_path):
    pixels = picture(0, (2 * SIZE, 4 * SIZE), seed=1)
    data = encode(pixels, "PNG")
    records = load(write_dataset(tmp_path, 2, images=[data])).select("train")
    middle = load_pixels(encode(pixels[:, SIZE : 3 * SIZE], "PNG"), SIZE)
    trained = joined(train(records, batch_size=2, num_steps=1, aspect="centre_crop"))
    (evaluated,) = elements(evaluation_batches(records, image_size=SIZE, batch_size=2, aspect="centre_crop"))
    for seen in (trained["image"][0], evaluated["image"][0], load_pixels(data, SIZE, "centre_crop")):
        assert np.array_equal(seen, middle)


@pytest.mark.parametrize("order_class", ["plain", "balanced", "blocked"])
def test_every_order_gives_the_same_batches_to_any_workers_and_from_any_step(records, order_class):
    order = make_order(records, DataConfig(order=order_class), 6, seed=4)

    def batches(**options):
        dataset = training_batches(records, order, image_size=SIZE, seed=4, augment=AugmentConfig(), **options)
        return elements(dataset)

    whole = batches(num_steps=6)
    workers = [batches(first_step=2, num_steps=4, worker=worker, num_workers=3) for worker in range(3)]
    for step in range(4):
        parts = joined([worker[step] for worker in workers])
        assert all(np.array_equal(value, whole[2 + step][name]) for name, value in parts.items())


def test_odd_images_are_read_upright_and_in_colour(tmp_path):
    pixels = picture(0, (SIZE, SIZE), seed=1)
    rotated, cmyk, palette = io.BytesIO(), io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(rotated, "JPEG", exif=exif)
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    Image.fromarray(pixels).quantize(16).save(palette, "PNG")
    images = [file.getvalue() for file in (rotated, cmyk, palette)] + [encode(pixels, "BMP")]
    records = load(write_dataset(tmp_path, 4, images=images)).select("train")
    assert records.is_plain.tolist() == [False, False, True, False]
    shown = joined(elements(evaluation_batches(records, image_size=SIZE, batch_size=4)))["image"]
    for image, data in zip(shown, images, strict=True):
        assert np.array_equal(image, decode_rgb(data))
    assert np.abs(shown[0].astype(int) - np.rot90(pixels, -1)).mean() < 10  # upright, but for the JPEG's loss


def damaged(tmp_path, change):
    directory = write_dataset(tmp_path, 6, num_shards=1)
    records = load(directory).select("train")
    shard = directory / records.shard_names[0]
    data = bytearray(shard.read_bytes())
    change(data, int(records.offsets[4]), int(records.lengths[4]))
    shard.write_bytes(data)
    return records


@pytest.mark.parametrize(("place", "check"), [(0, "damaged length"), (60, "damaged content"), (-1, "damaged content")])
def test_a_flipped_bit_is_named_by_shard_offset_and_id(tmp_path, place, check):
    def flip(data, offset, length):
        data[offset + place % length] ^= 1

    records = damaged(tmp_path, flip)
    with pytest.raises(tf.errors.OpError) as caught:
        elements(evaluation_batches(records, image_size=SIZE, batch_size=2))
    message = str(caught.value)
    assert f"toy-train.tfrecord-00000-of-00001, offset {records.offsets[4]}, id 'train/real/00004.png'" in message
    assert check in message


def test_a_shard_cut_short_after_loading_is_named(tmp_path):
    def cut(data, offset, length):
        del data[offset + length - 3 :]

    records = damaged(tmp_path, cut)
    with pytest.raises(tf.errors.OpError, match=r"offset \d+, id 'train/real/00004.png'"):
        elements(evaluation_batches(records, image_size=SIZE, batch_size=2))


def test_an_order_for_other_records_is_refused(records):
    with pytest.raises(ValueError, match="for 12 examples, there are 13"):
        training_batches(records, Order(12, 6, 0), image_size=SIZE, seed=0)


def test_replicas_that_do_not_divide_the_batch_are_refused(records):
    with pytest.raises(ValueError, match="global batch 6, 4 parts"):
        training_batches(records, Order(13, 6, 0), image_size=SIZE, seed=0, num_workers=2, replicas=2)


_SCRIPT = """
import hashlib, sys
import tensorflow as tf
from trainers.config import AugmentConfig, DataConfig
from trainers.dataset import load
from trainers.inputs import BatchIterator, training_batches
from trainers.order import Order
from trainers.policies import make_order

tf.config.experimental.enable_op_determinism()
records = load(sys.argv[1]).select("train")
dataset = training_batches(
    records, Order(len(records), 6, 0), image_size=32, seed=0, augment=AugmentConfig(), num_threads=2
)
digest = hashlib.sha256()
with BatchIterator(dataset) as batches:
    for _ in range(20):
        digest.update(next(batches)["image"].numpy().tobytes())
print(digest.hexdigest())
"""


def test_another_process_with_deterministic_operations_sees_the_same_and_ends(records):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", _SCRIPT, str(records.directory)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    here = hashlib.sha256()
    for batch in train(records, augment=AugmentConfig(), num_steps=20):
        here.update(batch["image"].tobytes())
    assert result.stdout.strip() == here.hexdigest()

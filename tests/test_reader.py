"""Reading encoded images, from local shards and through fsspec."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from fsspec.implementations.local import LocalFileSystem
from small_dataset import encode, picture, write_dataset

from tfds_builders.records.errors import Refused
from tfds_builders.records.framing import CorruptRecord
from trainers.dataset import find, load
from trainers.inputs import BatchIterator, evaluation_batches, training_batches
from trainers.mixture import concatenate
from trainers.order import Order
from trainers.policies import BlockedOrder
from trainers.reader import BlockReader, RecordReader, find_damage, naming_damage, open_reader

REQUESTS: list[tuple[str, int, int]] = []
FAILURES: list[Exception] = []  # of the next requests


class CountingFileSystem(LocalFileSystem):
    """Local files under the protocol "counting", that notes each range that is asked for."""

    protocol = "counting"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("counting://") if isinstance(path, str) else path)

    def cat_file(self, path, start=None, end=None, **options):
        if start is not None:
            REQUESTS.append((os.path.basename(path), start, end))
            if FAILURES:
                raise FAILURES.pop(0)
        return super().cat_file(path, start, end, **options)


@pytest.fixture(scope="module", autouse=True)
def counting():
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def no_requests(monkeypatch):
    REQUESTS.clear()
    FAILURES.clear()
    monkeypatch.setattr("trainers.reader.RETRY_PAUSES_SECS", (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": 100, "test": 3}, size=(16, 16), num_shards=3)


def remote(directory):
    return load(f"counting://{directory}").select("train")


def expected(row):
    return encode(picture(row % 2, (16, 16), seed=int(row)), "PNG")


@pytest.mark.parametrize("kind", ["local", "remote", "remote blocks"])
def test_any_row_is_read(directory, kind):
    records = load(directory).select("train") if kind == "local" else remote(directory)
    reader = open_reader(records, block_size=8 if kind == "remote blocks" else 1)
    assert isinstance(reader, RecordReader if kind == "local" else BlockReader)
    rows = np.array([99, 0, 50, 50, 33, 34])
    assert reader.images(rows).tolist() == [expected(row) for row in rows]


def test_threads_share_a_reader(directory):
    for records in (load(directory).select("train"), remote(directory)):
        reader = open_reader(records, block_size=8, window_size=16)
        chunks = np.array_split(np.random.default_rng(0).permutation(100), 20)
        with ThreadPoolExecutor(8) as pool:
            for rows, images in zip(chunks, pool.map(reader.images, chunks), strict=True):
                assert images.tolist() == [expected(row) for row in rows]


def test_a_block_is_one_request_or_one_in_each_shard(directory):
    reader = BlockReader(remote(directory), block_size=10, num_kept=5)
    reader.images(np.array([10, 19, 15]))
    assert len(REQUESTS) == 1
    reader.images(np.array([12, 31]))  # the first shard ends with row 32: the block of rows 30..39 is in two
    assert [name[-14:] for name, _, _ in REQUESTS] == ["00000-of-00003", "00000-of-00003", "00001-of-00003"]


@pytest.mark.parametrize(
    ("selection", "num_requests", "most"),
    [
        ({"only": {"category": {"animals"}}}, 34, 1.0),  # every third record: the gaps are twice what is wanted
        ({"exclude": {"category": {"animals"}}}, 7 + 2, 1.5),  # two of three: the gaps are half of it
        ({"only": {"id": {"train/real/00004.png", "train/fake/00031.png"}}}, 2, 1.0),
    ],
)
def test_little_is_fetched_that_is_not_wanted(directory, selection, num_requests, most):
    records = load(f"counting://{directory}").select("train", **selection)
    near = load(directory).select("train", **selection)
    rows = np.arange(len(records))
    images = BlockReader(records, block_size=10, num_kept=99).images(rows[::-1])
    assert images.tolist() == RecordReader(near).images(rows[::-1]).tolist()
    assert len(REQUESTS) == num_requests
    assert sum(end - begin for _, begin, end in REQUESTS) <= most * records.lengths.sum()


def test_blocks_not_used_for_longest_are_forgotten(directory):
    reader = BlockReader(remote(directory), block_size=1, num_kept=2)
    for row in (0, 1, 0, 2, 0):
        reader.images(np.array([row]))
    assert len(REQUESTS) == 3
    reader.images(np.array([1]))
    assert len(REQUESTS) == 4


def test_a_blocked_order_asks_for_each_block_once_an_epoch(directory):
    records = remote(directory)
    order = BlockedOrder(100, 10, seed=0, block_size=20, window_size=40)
    shown = []
    with BatchIterator(training_batches(records, order, image_size=16, seed=0, num_steps=10)) as batches:
        for batch in batches:
            shown.extend(batch["row"].numpy().tolist())
    assert sorted(shown) == list(range(100))
    assert len(REQUESTS) == 5 + 2  # five blocks, two of which reach into a second shard


def test_evaluation_reads_neighbours_together(directory):
    with BatchIterator(evaluation_batches(remote(directory), image_size=16, batch_size=25)) as batches:
        assert sum(batch["mask"].numpy().sum() for batch in batches) == 100
    assert len(REQUESTS) == 4 + 2


def test_the_same_batches_from_near_and_far(directory):
    near, far = (
        [batch["image"].numpy() for batch in training_batches(r, Order(100, 8, 0), image_size=12, seed=0, num_steps=5)]
        for r in (load(directory).select("train"), remote(directory))
    )
    assert np.array_equal(near, far)


def test_remote_damage_is_named(tmp_path):
    directory = write_dataset(tmp_path, 6, num_shards=1)
    records = remote(directory)
    shard = directory / records.shard_names[0]
    data = bytearray(shard.read_bytes())
    data[records.offsets[4] + 60] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"counting://.*-00000-of-00001, offset {records.offsets[4]}, id 'train/real/00004"
    ):
        open_reader(records, block_size=6).images(np.arange(6))
    shard.write_bytes(data[:-5])
    with pytest.raises(Refused, match=r"which has \d+ bytes"):
        load(f"counting://{directory}")
    shard.unlink()
    with pytest.raises(Refused, match="which is missing"):
        load(f"counting://{directory}")


def test_what_could_not_be_read_is_asked_for_again(directory):
    FAILURES[:] = [ConnectionResetError("reset by peer"), TimeoutError()]
    rows = np.array([10, 31, 40])  # a block, and one that reaches into a second shard
    images = BlockReader(remote(directory), block_size=10, num_kept=5).images(rows)
    assert images.tolist() == [expected(row) for row in rows]
    assert not FAILURES
    assert len(REQUESTS) == 4 + 2  # only those that had failed


class ServerSaysNo(Exception):
    """As file systems have of their own, which are no OSError."""


def test_a_url_that_stays_unreadable_is_named_with_the_cause(directory):
    records = remote(directory)
    reader = BlockReader(records, block_size=10, num_kept=5)
    named = rf"counting://.*-00001-of-00003, offset {records.offsets[50]}, id 'train/real/00050.png'.*ServerSaysNo: 503"
    FAILURES[:] = [ServerSaysNo("503")] * 4
    with pytest.raises(OSError, match=named):
        reader.images(np.array([55]))
    assert reader.images(np.array([55])).tolist() == [expected(55)]  # nothing wrong was kept
    FAILURES[:] = [ServerSaysNo("503")] * 99
    named = r"counting://.*id 'train/real/00000.png': cannot be read: ServerSaysNo: 503"
    with pytest.raises(OSError, match=named), naming_damage(records, lambda: np.arange(100)):
        list(evaluation_batches(records, image_size=16, batch_size=10))


def test_the_image_that_cannot_be_decoded_is_found(tmp_path):
    image = encode(picture(0, (64, 64), seed=0), "JPEG")
    images = [image, image[:-200], image, image]  # of half a JPEG the record's checksum holds, the picture does not
    records = load(write_dataset(tmp_path, 4, images=images)).select("train")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(evaluation_batches(records, image_size=16, batch_size=2))
    assert "00001" not in str(caught.value)
    damage = find_damage(records, np.array([0, 1, 2]))
    assert isinstance(damage, CorruptRecord)
    assert "offset" in str(damage)
    assert "id 'train/fake/00001.jpeg': the image is damaged" in str(damage)
    assert find_damage(records, np.array([0, 2, 3])) is None


def test_the_record_that_cannot_be_read_is_found(directory, tmp_path):
    records = load(shutil.copytree(directory, tmp_path / "copy")).select("train")
    shard = records.directory / records.shard_names[0]
    data = bytearray(shard.read_bytes())
    data[records.offsets[7] + 60] ^= 1
    shard.write_bytes(data)
    assert "id 'train/fake/00007.png': the record at offset" in str(find_damage(records, np.arange(100)))


def test_datasets_are_found_at_urls(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        write_dataset(tmp_path, 2, version=version)
    assert find("toy", f"counting://{tmp_path}/") == f"counting://{tmp_path}/toy/1.10.0"
    with pytest.raises(Refused, match="'other' is not built in counting://"):
        find("other", f"counting://{tmp_path}")


def test_unknown_protocols_are_refused():
    with pytest.raises(Refused, match=r"nonsense://bucket/data cannot be read: .*nonsense"):
        load("nonsense://bucket/data")


def test_a_mixture_of_remote_datasets_is_refused(directory):
    with pytest.raises(Refused, match="A mixture needs local datasets"):
        concatenate([load(f"counting://{directory}")])

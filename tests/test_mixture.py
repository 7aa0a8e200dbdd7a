"""Several built datasets as one."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import picture, write_dataset

from tfds_builders.records.errors import Refused
from trainers.dataset import load
from trainers.inputs import BatchIterator, training_batches
from trainers.mixture import concatenate
from trainers.policies import mixed_order


@pytest.fixture
def datasets(tmp_path):
    cats = write_dataset(tmp_path, {"train": 6, "test": 3}, name="cats", seed=1)
    faces = write_dataset(tmp_path / "elsewhere", {"train": 4, "validation": 2}, name="faces", seed=2)
    manifest = pq.read_table(faces / "manifest.parquet")
    scheme = pa.array(["test"] * manifest.num_rows)
    pq.write_table(manifest.append_column("scheme_all_test", scheme), faces / "manifest.parquet")
    return [load(cats), load(faces)]


def test_splits_are_concatenated(datasets):
    cats, faces = datasets
    both = concatenate(datasets)
    assert both.name == "cats+faces"
    expected = [f"cats/{id}" for id in cats.select("train").ids()]
    expected += [f"faces/{id}" for id in faces.select("train").ids()]
    assert both.select("train").ids() == expected
    assert len(both.select("validation")) == 2
    assert len(both.select("test")) == 3
    assert both.select("train", only={"dataset": {"faces"}}).ids() == expected[6:]
    assert len(both.select("test", scheme="all_test")) == 6


def test_the_fingerprint_is_that_of_all_parts(datasets):
    cats, faces = datasets
    prints = {concatenate(parts).fingerprint for parts in ([cats, faces], [faces, cats], [cats], [faces])}
    assert len(prints) == 4
    assert all(len(fingerprint) == 64 for fingerprint in prints)


def test_images_come_from_their_own_shards_by_weight(datasets):
    records = concatenate(datasets).select("train")
    order = mixed_order(records.table["dataset"], {"cats": 1, "faces": 3}, 8, seed=0)
    with BatchIterator(training_batches(records, order, image_size=32, seed=0, num_steps=3)) as batches:
        for batch in batches:
            rows = batch["row"].numpy()
            assert (rows >= 6).sum() == 6
            for row, image in zip(rows.tolist(), batch["image"].numpy(), strict=True):
                index, seed = (row, 1) if row < 6 else (row - 6, 2)
                assert np.array_equal(image, picture(index % 2, (32, 32), seed=seed * 300_000 + index))


def test_one_dataset_twice_is_refused(datasets):
    with pytest.raises(Refused, match="different names"):
        concatenate([datasets[0], datasets[0]])
    with pytest.raises(Refused, match="different names"):
        concatenate([])

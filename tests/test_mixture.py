"""Several built datasets as one."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import picture, write_dataset

from tfds_builders.records.errors import Refused
from trainers.card import card_of
from trainers.config import DataConfig
from trainers.dataset import load
from trainers.inputs import BatchIterator, training_batches
from trainers.mixture import (
    concatenate,
    find_all,
    ids_apart,
    load_all,
    load_unchanged,
    named_apart,
    pinned,
    resolve,
)
from trainers.order import Order
from trainers.policies import BlockedOrder, make_order, mixed_order
from trainers.predictions import predictions


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


def test_a_part_of_a_split_is_that_part_of_each_dataset(datasets):
    cats, faces = datasets
    part = concatenate(datasets).select("train[50%:]")
    expected = [f"cats/{id}" for id in cats.select("train[50%:]").ids()]
    assert part.ids() == expected + [f"faces/{id}" for id in faces.select("train[50%:]").ids()]


def test_directories_are_found_and_loaded_by_name(datasets, tmp_path):
    write_dataset(tmp_path, {"train": 4}, name="dogs")
    directories = find_all("cats,dogs", tmp_path)
    assert directories == [tmp_path / "cats" / "1.0.0", tmp_path / "dogs" / "1.0.0"]
    both = load_all(directories)
    assert (both.title, both.sources) == ("cats:1.0.0+dogs:1.0.0", tuple(directories))
    one = load_all(find_all("cats", tmp_path))
    assert (one.title, one.fingerprint) == ("cats:1.0.0", datasets[0].fingerprint)
    with pytest.raises(Refused, match="'birds' is not built"):
        find_all("cats,birds", tmp_path)


def test_the_published_mixture_is_known_by_its_name():
    data = resolve(DataConfig(dataset="merged_faces"))
    assert (data.dataset, data.split_scheme) == ("deepfake_and_real,deepfake_faces", "merged")
    assert resolve(DataConfig(dataset="merged_faces", split_scheme="balanced")).split_scheme == "balanced"
    for data in (DataConfig(dataset="cats"), DataConfig(dataset="cats", split_scheme="balanced")):
        assert resolve(data) == data


def test_a_dataset_is_found_where_it_lay_or_was_moved_to_if_it_is_the_same(datasets, tmp_path):
    (cats, _), here, elsewhere = datasets, tmp_path / "cats" / "1.0.0", tmp_path / "moved"
    assert load_unchanged([here], ["cats:1.0.0"], cats.fingerprint, "").directory == here
    assert load_unchanged([here], ["cats:1.0.0"], "another", tmp_path) is None
    (tmp_path / "cats").rename(elsewhere)
    assert load_unchanged([here], ["cats:1.0.0"], cats.fingerprint, tmp_path) is None
    elsewhere.mkdir(exist_ok=True)
    write_dataset(tmp_path / "other", {"train": 6, "test": 3}, name="cats", seed=1)
    found = load_unchanged([here], ["cats:1.0.0"], cats.fingerprint, tmp_path / "other")
    assert found.directory == tmp_path / "other" / "cats" / "1.0.0"


def test_names_of_predictions_on_several_datasets_are_kept_apart():
    def table(datasets, ids):
        return pa.table({"dataset": datasets, "id": ids, "group": ["g", ""], "video": ["", "v"]})

    two = named_apart(table(["cats", "faces"], ["1", "1"]))
    assert two.select(["group", "video"]).to_pydict() == {"group": ["cats/g", ""], "video": ["", "faces/v"]}
    assert ids_apart(two).to_pylist() == ["cats/1", "faces/1"]
    assert ids_apart(table(["cats", "cats"], ["1", "2"])).to_pylist() == ["1", "2"]


def test_versions_are_taken_and_kept_with_the_weights(datasets, tmp_path):
    write_dataset(tmp_path, {"train": 4}, name="cats", version="2.0.0")
    write_dataset(tmp_path, {"train": 4}, name="dogs")
    mixture = DataConfig(dataset="cats:1.0.0=1, dogs=0.5")
    both = load_all(find_all(mixture.dataset, tmp_path))
    assert both.title == "cats:1.0.0+dogs:1.0.0"
    assert pinned(mixture, both).dataset == "cats:1.0.0=1,dogs:1.0.0=0.5"
    assert pinned(DataConfig(dataset="cats"), load_all(find_all("cats", tmp_path))).dataset == "cats:2.0.0"


@pytest.mark.parametrize(
    ("expression", "order", "from_faces", "fakes", "quotas"),
    [
        ("cats=1,faces=3", "plain", 18, None, (1, 3)),
        ("cats:1.0.0=1,faces:1.0.0=3", "plain", 18, None, (1, 3)),
        ("cats=1,faces=3", "balanced", 18, 12, (1, 1, 3, 3)),
        ("cats,faces", "balanced", None, 12, (1, 1)),
    ],
)
def test_the_order_is_what_the_flags_say(datasets, expression, order, from_faces, fakes, quotas):
    records = concatenate(datasets).select("train")
    made = make_order(records, DataConfig(dataset=expression, order=order), 24, seed=0)
    rows, _ = made.batch(2)
    assert made.quotas == quotas
    if from_faces:
        assert (rows >= 6).sum() == from_faces
    if fakes:
        assert records.labels[rows].sum() == fakes


def test_orders_without_weights(datasets):
    records = datasets[0].select("train")
    assert make_order(records, DataConfig(), 4, seed=9) == Order(6, 4, 9)
    assert make_order(records, DataConfig(order="blocked"), 4, seed=9) == BlockedOrder(6, 4, 9)


def test_a_weighted_dataset_that_gives_nothing_is_refused(datasets):
    records = concatenate(datasets).select("train", only={"dataset": {"cats"}})
    with pytest.raises(ValueError, match="none be empty"):
        make_order(records, DataConfig(dataset="cats=1,faces=3"), 4, seed=0)


def test_a_jobs_card_keeps_equal_groups_of_two_datasets_apart(datasets):
    def of(dataset):
        records = dataset.select("train")
        return predictions(records, np.linspace(0, 1, len(records)), split="test")

    alone = [card_of(of(dataset))["summary"]["groups"] for dataset in datasets]
    assert of(datasets[0])["group"].to_pylist() == ["train-0"] * 4 + ["train-1"] * 2
    both = of(concatenate(datasets))
    assert both["group"].to_pylist() == ["cats/train-0"] * 4 + ["cats/train-1"] * 2 + ["faces/train-0"] * 4
    card = card_of(both)
    assert (card["summary"]["groups"], alone) == (3, [2, 1])
    assert set(card["by"]["dataset"]) == {"cats", "faces"}
    assert set(both["video"].to_pylist()) == {""}


def test_one_dataset_twice_is_refused(datasets):
    with pytest.raises(Refused, match="different names"):
        concatenate([datasets[0], datasets[0]])
    with pytest.raises(Refused, match="different names"):
        concatenate([])

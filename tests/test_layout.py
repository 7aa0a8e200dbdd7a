"""What folders mean: classes, splits, categories, and folders that only wrap."""

import pytest

from tfds_builders.records.schema import LABELS
from tfds_builders.sharding.layout import FolderLayout, label_of, split_of

CASES = [
    # (layout found, {file: (label, split, category), or None for no class folder})
    ("<class>/", {"real/a/b.png": "real", "Fake/c.png": "fake", "d.png": None}),
    ("<class>/", {"The Set/v 2/REAL/a.png": "real", "The Set/v 2/FAKE/b.png": "fake", "The Set/c.png": None}),
    ("<category>/<class>/", {"car/0_real/a.png": "real,,car", "cat/1_fake/a.png": "fake,,cat"}),
    # Only one of the folders is called like a split, so it is what the pictures show.
    ("<category>/<class>/", {"train/real/a.png": "real,,train", "boat/fake/a.png": "fake,,boat"}),
    ("<split>/<class>/", {"Dataset/Train/Real/a.jpg": "real,train,", "Dataset/Val/Fake/a.jpg": "fake,validation,"}),
    ("<split>/<class>/", {"train/real/a": "real,train,", "test/fake/a": "fake,test,", "more/real/a": "real,,"}),
    ("<split>/<class>/", {"real/train/a.png": "real,train,", "fake/test/a.png": "fake,test,"}),
    (
        "<split>/<category>/<class>/",
        {"train/cat/real/a.png": "real,train,cat", "valid/dog/fake/a.png": "fake,validation,dog"},
    ),
    # All images are in it, so `train` wraps.
    ("<class>/", {"train/real/a.png": "real", "train/fake/a.png": "fake"}),
    ("<category>/<class>/", {"cat/nature/a.png": "real,,cat", "dog/ai/a.png": "fake,,dog"}),
    # Categories may name their classes differently.
    (
        "<category>/<class>/",
        {"car/0_real/a.png": "real,,car", "car/1_fake/a.png": "fake,,car", "cat/Real/a.png": "real,,cat"}
        | {"cat/Fake/a.png": "fake,,cat"},
    ),
    # With real and fake, `nature` is a subject.
    ("<category>/<class>/", {"nature/real/a.png": "real,,nature", "city/fake/a.png": "fake,,city"}),
    ("<class>/", {"fake/nature/a.png": "fake", "real/ai/a.png": "real"}),
    ("<class>/", {"real/a.png": "real", "fake/b.png": "fake", "fake/real/c.png": "?"}),
    # Of both classes in one path, the outer one wraps.
    ("<class>/", {"fake/real/a.png": "real", "fake/fake/a.png": "fake"}),
    ("<class>/", {}),
]


@pytest.mark.parametrize(("name", "files"), CASES)
def test_folders_are_read_as_meant(name, files):
    layout = FolderLayout(iter(files))
    assert str(layout) == name
    for file, expected in files.items():
        place = layout.place(file)
        if expected is None:
            assert place is None
            continue
        label, split, category = (*expected.split(","), "", "")[:3]
        assert place is not None
        assert (place.split, place.category) == (split, category)
        assert place.label == (-1 if label == "?" else LABELS.index(label))


@pytest.mark.parametrize(
    ("value", "label"),
    [("REAL", 0), (" fake ", 1), ("0", 0), ("1", 1), ("1_fake", 1), ("", None), ("2", None), ("cat", None)],
)
def test_labels_of_columns(value, label):
    assert label_of(value) == label


@pytest.mark.parametrize(
    ("value", "split"),
    [("Train", "train"), ("VAL", "validation"), ("Valid ", "validation"), ("testing", "test"), ("dev", None)],
)
def test_splits_by_any_usual_name(value, split):
    assert split_of(value) == split

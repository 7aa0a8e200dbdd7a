"""Split expressions mean what they mean to TFDS."""

import pytest
from tensorflow_datasets.core import naming, splits

from trainers.subsplit import Part, parse


@pytest.mark.parametrize("num_records", [6, 7, 24, 692_824])
@pytest.mark.parametrize(
    "expression",
    [
        "train",
        "train[:10%]",
        "train[10%:50%]",
        "train[5:]",
        "train[:-3]",
        "train[-30%:]",
        "train[:-20%]",
        "train[33%:]",
    ],
)
def test_slices_are_those_of_tfds(expression, num_records, tmp_path):
    files = naming.ShardedFileTemplate(data_dir=tmp_path, dataset_name="toy", split="train", filetype_suffix="tfrecord")
    info = splits.SplitInfo(name="train", shard_lengths=[num_records], num_bytes=0, filename_template=files)
    theirs = splits.SplitDict([info])[expression].num_examples
    (part,) = parse(expression)
    start, stop = part.bounds(num_records)
    assert 0 <= start <= stop <= num_records
    assert stop - start == theirs


@pytest.mark.parametrize(("expression", "bounds"), [("a[5:]", (2, 2)), ("a[:-3]", (0, 0)), ("a[2:1]", (2, 2))])
def test_slices_past_the_ends_are_empty(expression, bounds):
    (part,) = parse(expression)
    assert part.bounds(2) == bounds


def test_parts_are_joined_by_plus():
    assert parse("train[:10%] + validation") == [Part("train", "", "10%"), Part("validation")]


@pytest.mark.parametrize(
    "expression", ["", "train[", "train[3]", "train[a:b]", "train[:5.5%]", "+", "train[1:2][3:4]", "train[-30%:-1]"]
)
def test_other_texts_are_refused(expression):
    with pytest.raises(ValueError, match="A split is written"):
        parse(expression)

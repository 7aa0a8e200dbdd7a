"""Records are what protobuf's deterministic serialisation would make of them, and frames what TensorFlow reads."""

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from tfds_builders.records import example, framing

_texts = st.text(max_size=300)  # longer than 127: lengths of two bytes


@given(
    st.binary(max_size=70_000),
    st.integers(0, 1),
    st.fixed_dictionaries(dict.fromkeys(("id", "category", "group", "video"), _texts)),
)
def test_a_record_equals_protobufs(image, label, texts):
    expected = tf_example_pb2.Example()
    feature = expected.features.feature
    feature["image"].bytes_list.value.append(image)
    feature["label"].int64_list.value.append(label)
    for name, value in texts.items():
        feature[name].bytes_list.value.append(value.encode())
    payload = example.serialise(image, label, **texts)
    assert payload == expected.SerializeToString(deterministic=True)
    assert example.parse(payload) == {"image": image, "label": label} | {
        name: value.encode() for name, value in texts.items()
    }


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_pieces_are_framed_as_the_whole(pieces):
    payload = b"".join(pieces)
    header, footer = framing.ends(*pieces)
    assert header + payload + footer == framing.frame(payload)
    assert framing.payload_of(framing.frame(payload)) == payload


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda frame: frame[:11], "is truncated: 11 of 21 bytes"),
        (lambda frame: frame[:20], "is truncated: 20 of 21 bytes"),
        (lambda frame: b"\x04" + frame[1:], "has a damaged length"),
        (lambda frame: frame[:8] + b"\0" + frame[9:], "has a damaged length"),
        (lambda frame: frame[:12] + b"x" + frame[13:], "has damaged content"),
        (lambda frame: frame[:-1] + bytes((frame[-1] ^ 1,)), "has damaged content"),
        (lambda frame: framing.frame(b"abcd") + b"x", "is 4 bytes long, the manifest says 5"),
    ],
)
def test_a_damaged_frame_is_refused_with_its_offset(damage, says, tmp_path):
    frame, file = framing.frame(b"abcde"), tmp_path / "x.tfrecord"
    file.write_bytes(frame + frame)
    with file.open("rb") as opened:
        assert framing.read_payload(opened.fileno(), len(frame), len(frame)) == b"abcde"
    damaged = damage(frame)
    file.write_bytes(frame + damaged)
    with file.open("rb") as opened, pytest.raises(framing.CorruptRecord, match=f"at offset 21 {says}"):
        framing.read_payload(opened.fileno(), len(frame), len(frame))
    if len(damaged) == len(frame):
        with pytest.raises(framing.CorruptRecord, match=f"at offset 7 {says}"):
            framing.payload_of(damaged, 7)


@pytest.mark.parametrize("length", [0, 11, 15])
def test_what_is_shorter_than_a_frame_is_refused(length):
    with pytest.raises(framing.CorruptRecord, match=f"at offset 0 is truncated: {length} bytes"):
        framing.payload_of(framing.frame(b"")[:length])
    if length < 12:
        with pytest.raises(framing.CorruptRecord, match=f"at offset 0 is truncated: {length} bytes"):
            framing.payload_bytes(framing.frame(b"")[:length])


def test_tensorflow_reads_the_frames(tmp_path):
    payloads = [b"", b"a", bytes(range(256)) * 300]
    (tmp_path / "x.tfrecord").write_bytes(b"".join(map(framing.frame, payloads)))
    assert list(tf.data.TFRecordDataset(str(tmp_path / "x.tfrecord")).as_numpy_iterator()) == payloads

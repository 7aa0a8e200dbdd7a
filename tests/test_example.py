"""Records are what protobuf's deterministic serialisation would make of them, and frames what TensorFlow reads."""

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


def test_tensorflow_reads_the_frames(tmp_path):
    payloads = [b"", b"a", bytes(range(256)) * 300]
    (tmp_path / "x.tfrecord").write_bytes(b"".join(map(framing.frame, payloads)))
    assert list(tf.data.TFRecordDataset(str(tmp_path / "x.tfrecord")).as_numpy_iterator()) == payloads

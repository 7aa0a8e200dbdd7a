"""One record as a tf.train.Example, byte for byte the same on every machine.

Only the protobuf classes are imported (87 MB resident), never TensorFlow (714 MB): writers run by the dozen.
"""

from tensorflow_datasets.proto import tf_example_pb2

BYTES_FEATURES = ("image", "id", "category", "group", "video")


def serialise(image: bytes, label: int, id: str, category: str, group: str, video: str) -> bytes:
    """The Example of one record, with features image, label, id, category, group, video (the shared schema).

    Serialisation is deterministic (map entries sorted by key), unlike TFDS's own, so shards are reproducible.
    """
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(image)
    feature["label"].int64_list.value.append(label)
    for name, value in (("id", id), ("category", category), ("group", group), ("video", video)):
        feature[name].bytes_list.value.append(value.encode("utf-8", "surrogateescape"))
    return example.SerializeToString(deterministic=True)


def parse(payload: bytes) -> dict[str, bytes | int]:
    """The record's features: `label` as int, all others as bytes. The inverse of `serialise`."""
    feature = tf_example_pb2.Example.FromString(payload).features.feature
    record: dict[str, bytes | int] = {name: feature[name].bytes_list.value[0] for name in BYTES_FEATURES}
    record["label"] = feature["label"].int64_list.value[0]
    return record

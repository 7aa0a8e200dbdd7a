"""One record as a tf.train.Example, byte for byte the same on every machine.

The wire format is written by hand, around the image: protobuf's classes would copy each image three times
(docs/benchmarks.md). TensorFlow (714 MB resident) is never imported: writers run by the dozen.
Source: tensorflow/core/example/{example,feature}.proto and protobuf's encoding document.
"""

from functools import lru_cache

from tensorflow_datasets.proto import tf_example_pb2

BYTES_FEATURES = ("image", "id", "category", "group", "video")

# Tags of the fields: (number << 3) | 2, all of them length-delimited.
_FIRST, _SECOND, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"


def surround(image_length: int, label: int, id: str, category: str, group: str, video: str) -> tuple[bytes, bytes]:
    """What stands before and after the image in its record: `before + image + after` is the Example.

    Args:
      image_length: bytes of the image.
      label: 0 or 1.
      id, category, group, video: texts of the shared schema.

    Returns:
      The two parts. Map entries are sorted by key, as in protobuf's deterministic serialisation; TFDS's own is not.
    """
    image_list = _FIRST + _varint(image_length)
    image_feature = _FIRST + _varint(len(image_list) + image_length) + image_list
    image_entry = _key("image") + _SECOND + _varint(len(image_feature) + image_length) + image_feature
    before = b"".join(
        (
            _text("category", category),
            _text("group", group),
            _entry("id", _bytes_feature(id)),
            _FIRST,
            _varint(len(image_entry) + image_length),
            image_entry,
        )
    )
    after = _label(label) + _text("video", video)
    return _FIRST + _varint(len(before) + image_length + len(after)) + before, after


def serialise(image: bytes, label: int, id: str, category: str, group: str, video: str) -> bytes:
    """The Example of one record, with features image, label, id, category, group, video (the shared schema)."""
    before, after = surround(len(image), label, id, category, group, video)
    return before + image + after


def parse(payload: bytes) -> dict[str, bytes | int]:
    """The record's features: `label` as int, all others as bytes. The inverse of `serialise`."""
    feature = tf_example_pb2.Example.FromString(payload).features.feature
    record: dict[str, bytes | int] = {name: feature[name].bytes_list.value[0] for name in BYTES_FEATURES}
    record["label"] = feature["label"].int64_list.value[0]
    return record


@lru_cache(maxsize=1024)  # categories, groups and videos repeat
def _text(name: str, value: str) -> bytes:
    return _entry(name, _bytes_feature(value))


@lru_cache
def _label(value: int) -> bytes:
    packed = _FIRST + _delimited(_varint(value))
    return _entry("label", _INT64_LIST + _delimited(packed))


@lru_cache
def _key(name: str) -> bytes:
    return _FIRST + _delimited(name.encode())


def _bytes_feature(value: str) -> bytes:
    return _FIRST + _delimited(_FIRST + _delimited(value.encode("utf-8", "surrogateescape")))


def _entry(name: str, feature: bytes) -> bytes:
    return _FIRST + _delimited(_key(name) + _SECOND + _delimited(feature))


def _delimited(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, least significant first, the top bit set on all but the last."""
    if number < len(_SHORT):
        return _SHORT[number]
    return _FOLLOWED[number & 0x7F] + _varint(number >> 7)


_FOLLOWED = [bytes((bits | 0x80,)) for bits in range(0x80)]
_SHORT = [bytes((bits,)) for bits in range(0x80)]
_SHORT += [_FOLLOWED[number & 0x7F] + _SHORT[number >> 7] for number in range(0x80, 0x4000)]  # of one or two bytes

"""Reads the encoded images of records by their offsets: random access into TFRecord shards.

reader = RecordReader(records)
reader.images(np.array([7, 3]))   # the bytes of rows 7 and 3
"""

import functools
import os

import numpy as np

from tfds_builders.records.framing import CorruptRecord, read_payload
from trainers.dataset import Records

_MAX_OPEN_SHARDS = 256  # a quarter of the usual limit of a process


class RecordReader:
    """Random access to the encoded images of some records; may be used by several threads at once."""

    def __init__(self, records: Records):
        self._records = records
        # Made here, once, before threads share them.
        self._shards, self._offsets, self._lengths = records.shards, records.offsets, records.lengths
        self._starts, self._sizes = records.image_offsets, records.image_bytes
        self._is_plain = records.is_plain
        self._open = functools.lru_cache(_MAX_OPEN_SHARDS)(self._open_shard)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """The encoded images of `rows` (int64 [k]) as an object array [k] of bytes, fit for `decode_uint8`.

        Raises:
          ValueError: a damaged or unreadable record; the message names shard, offset and id.
        """
        images = np.empty(len(rows), object)
        for index, row in enumerate(rows):
            try:
                images[index] = self._image(row)
            except (ValueError, OSError) as error:
                raise ValueError(f"{self._where(row)}: {error}") from None
        return images

    def _image(self, row: int) -> bytes:
        shard = self._open(self._shards[row])
        payload = read_payload(shard.descriptor, int(self._offsets[row]), int(self._lengths[row]))
        start, size = self._starts[row], self._sizes[row]
        if start + size > len(payload):
            raise CorruptRecord(f"the image ends after the record, at {start + size} of {len(payload)} bytes")
        image = payload[start : start + size]
        if self._is_plain[row]:
            return image
        from tfds_builders.records.decode import plain_bytes  # with Pillow: only where odd images are

        return plain_bytes(image)

    def _where(self, row: int) -> str:
        records = self._records
        name = records.shard_names[records.shards[row]]
        return f"{records.directory / name}, offset {records.offsets[row]}, id {records.ids(np.array([row]))[0]!r}"

    def _open_shard(self, shard: int) -> "_Shard":
        return _Shard(self._records.directory / self._records.shard_names[shard])


class _Shard:
    """An open file that closes itself when the last thread that reads from it lets go."""

    def __init__(self, path: os.PathLike):
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if self.descriptor >= 0:
            os.close(self.descriptor)

"""Reads the encoded images of records by their offsets: random access into TFRecord shards.

    reader = open_reader(records)
    reader.images(np.array([7, 3]))   # the bytes of rows 7 and 3

Local shards are read one record at a time. From a URL blocks of neighbouring records are fetched, so that an order
which keeps neighbours together (`trainers.policies.BlockedOrder`) needs few requests.
"""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from tfds_builders.records.facts import BadImage
from tfds_builders.records.framing import CorruptRecord, payload_of, read_payload
from trainers.dataset import Records
from trainers.storage import filesystem, is_remote, join

_MAX_OPEN_SHARDS = 256  # a quarter of the usual limit of a process
# Before a read from a URL that failed is tried again. A network that is away for longer ends the process: Ray Train
# starts its workers again from the newest checkpoint.
RETRY_PAUSES_SECS = (0.5, 2.0, 8.0)
_ADVICE = "Restore the shard from a copy, or build the dataset again."


class Reader(Protocol):
    """Random access to the encoded images of some records; may be used by several threads at once."""

    def images(self, rows: np.ndarray) -> np.ndarray:
        """The encoded images of `rows` (int64 [k]) as an object array [k] of bytes, fit for `decode_uint8`.

        Raises:
          ValueError: a damaged or unreadable record; the message names shard, offset and id.
          OSError: a URL cannot be read, tried again and again; named in the same way.
        """


def open_reader(records: Records, block_size: int = 1, window_size: int = 1) -> Reader:
    """The reader that fits where the records lie.

    Args:
      block_size: neighbouring records that are fetched together from a URL.
      window_size: records over which those of one block may be spread: so many are kept.
    """
    if is_remote(records.directory):
        return BlockReader(records, block_size, num_kept=2 * -(-window_size // block_size) + 2)
    return RecordReader(records)


def find_damage(records: Records, rows: np.ndarray) -> CorruptRecord | None:
    """Why the images of `rows` (int64 [k]) cannot be read or decoded: the first damaged record, or None.

    An image that TensorFlow cannot decode fails without a name, inside a batch. Batches come in order, so the rows of
    the steps that failed hold it: raise what this returns instead.

    Raises:
      OSError: a URL cannot be read, which is no damage; names the record.
    """
    import tensorflow as tf

    from tfds_builders.records.pixels import decode_uint8

    reader = open_reader(records)
    for row in rows:
        try:
            (image,) = reader.images(np.array([row]))
            decode_uint8(image)
        except ValueError as error:
            return CorruptRecord(f"{error}. {_ADVICE}")
        except tf.errors.InvalidArgumentError:
            return CorruptRecord(
                f"{_where(records, row)}: the image is damaged: it cannot be decoded to the end. {_ADVICE}"
            )
    return None


@contextlib.contextmanager
def naming_damage(records: Records, rows_of: Callable[[], np.ndarray]) -> Iterator[None]:
    """Where the block fails because a record is damaged, the error names it.

    Args:
      records: what the block reads.
      rows_of: gives int64 [k], the rows among which the damage must be.

    Raises:
      CorruptRecord: instead of TensorFlow's error, if one of them is damaged.
    """
    import tensorflow as tf

    # What reading (unknown to TensorFlow) and decoding fail with. Others, such as want of memory or a lost worker, are
    # about no record, and reading hundreds of thousands again would only keep the user waiting for them.
    errors = tf.errors
    try:
        yield
    except (errors.InvalidArgumentError, errors.DataLossError, errors.UnknownError):
        damage = find_damage(records, rows_of())
        if damage is None:
            raise
        raise damage from None


class RecordReader:
    """Reads local shards, one record after the other."""

    def __init__(self, records: Records):
        self._images = _Images(records)
        self._records = records
        # Made here, once, before threads share them.
        self._shards, self._offsets, self._lengths = records.shards, records.offsets, records.lengths
        self._open = functools.lru_cache(_MAX_OPEN_SHARDS)(self._open_shard)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """See `Reader`."""
        return self._images.of(rows, self._payload)

    def _payload(self, row: int) -> bytes:
        shard = self._open(self._shards[row])
        return read_payload(shard.descriptor, int(self._offsets[row]), int(self._lengths[row]))

    def _open_shard(self, shard: int) -> "_Shard":
        return _Shard(join(self._records.directory, self._records.shard_names[shard]))


class BlockReader:
    """Reads shards through fsspec, `block_size` neighbouring records together; keeps the blocks read last.

    A block whose records follow one another is one request. Of a selection of records, what lies between them is
    fetched where it is little and then forgotten: never more than is wanted. The requests of one call are made
    together, concurrently where the file system can.
    """

    def __init__(self, records: Records, block_size: int, num_kept: int):
        self._images, self._records = _Images(records), records
        self._files, root = filesystem(records.directory)
        self._paths = [f"{root}/{name}" for name in records.shard_names]
        self._block_size, self._num_kept = block_size, num_kept
        self._shards, self._offsets, self._lengths = records.shards, records.offsets, records.lengths
        self._blocks: dict[int, dict[int, bytes]] = {}  # block -> row -> its frame
        self._lock = threading.Lock()

    def images(self, rows: np.ndarray) -> np.ndarray:
        """See `Reader`."""
        blocks = self._fetched(np.unique(rows // self._block_size).tolist())

        def payload(row: int) -> bytes:
            return payload_of(blocks[row // self._block_size][row], int(self._offsets[row]))

        return self._images.of(rows, payload)

    def _fetched(self, wanted: list[int]) -> dict[int, dict[int, bytes]]:
        with self._lock:  # a second thread that wants the same blocks waits for them
            pieces = [piece for block in wanted if block not in self._blocks for piece in self._pieces(block)]
            if pieces:
                for piece, content in zip(pieces, self._contents(pieces), strict=True):
                    starts = self._offsets[piece] - self._offsets[piece[0]]
                    ends = starts + self._lengths[piece]
                    frames = {row: content[i:j] for row, i, j in zip(piece, starts, ends, strict=True)}
                    self._blocks.setdefault(piece[0] // self._block_size, {}).update(frames)
            result = {block: self._blocks.pop(block) for block in wanted}
            self._blocks.update(result)  # to the end: used last
            for block in list(self._blocks)[: max(0, len(self._blocks) - self._num_kept)]:
                del self._blocks[block]
            return result

    def _contents(self, pieces: list[list[int]]) -> list[bytes]:
        """The bytes of each piece. Those that cannot be read are asked for again, and again."""
        found: list[Any] = [None] * len(pieces)
        left = list(range(len(pieces)))
        for pause in (0.0, *RETRY_PAUSES_SECS):
            time.sleep(pause)
            firsts, lasts = zip(*((pieces[index][0], pieces[index][-1]) for index in left), strict=True)
            begins = [int(self._offsets[row]) for row in firsts]
            ends = [int(self._offsets[row] + self._lengths[row]) for row in lasts]
            # Each file system has errors of its own, which stand in the place of what was asked for.
            contents = self._files.cat_ranges(
                [self._paths[self._shards[row]] for row in firsts], begins, ends, on_error="return"
            )
            for index, content in zip(left, contents, strict=True):
                found[index] = content
            left = [index for index in left if isinstance(found[index], BaseException)]
            if not left:
                return found
        cause = found[left[0]]
        where = _where(self._records, pieces[left[0]][0])
        raise OSError(f"{where}: cannot be read: {type(cause).__name__}: {cause}") from cause

    def _pieces(self, block: int) -> list[list[int]]:
        """The rows of a block by the request that fetches them: of one shard each, by offset.

        What lies between the rows of a piece is never more than they are themselves.
        """
        rows = np.arange(block * self._block_size, min((block + 1) * self._block_size, len(self._offsets)))
        rows = rows[np.lexsort((self._offsets[rows], self._shards[rows]))]
        columns = (self._shards[rows], self._offsets[rows], self._lengths[rows])
        pieces: list[list[int]] = []
        shard = end = wanted = between = 0
        for row, its_shard, begin, length in zip(rows.tolist(), *(column.tolist() for column in columns), strict=True):
            between += begin - end
            if not pieces or its_shard != shard or between > wanted:
                pieces.append([])
                wanted = between = 0
            pieces[-1].append(row)
            shard, end, wanted = its_shard, begin + length, wanted + length
        return pieces


class _Images:
    """Cuts the images out of the records' payloads, and names the record that is damaged."""

    def __init__(self, records: Records):
        self._records = records
        self._starts, self._sizes, self._is_plain = records.image_offsets, records.image_bytes, records.is_plain

    def of(self, rows: np.ndarray, payload_of_row: Callable[[int], bytes]) -> np.ndarray:
        """See `Reader.images`; `payload_of_row`: row -> the record's payload."""
        images = np.empty(len(rows), object)
        for index, row in enumerate(rows):
            try:
                images[index] = self._cut(row, payload_of_row(row))
            except (BadImage, ValueError, OSError) as error:
                raise ValueError(f"{_where(self._records, row)}: {error}") from None
        return images

    def _cut(self, row: int, payload: bytes) -> bytes:
        start, size = self._starts[row], self._sizes[row]
        if start + size > len(payload):
            raise CorruptRecord(f"the image ends after the record, at {start + size} of {len(payload)} bytes")
        image = payload[start : start + size]
        if self._is_plain[row]:
            return image
        from tfds_builders.records.decode import plain_bytes  # with Pillow: only where odd images are

        return plain_bytes(image)


def _where(records: Records, row: int) -> str:
    shard = join(records.directory, records.shard_names[records.shards[row]])
    return f"{shard}, offset {records.offsets[row]}, id {records.ids(np.array([row]))[0]!r}"


class _Shard:
    """An open file that closes itself when the last thread that reads from it lets go."""

    def __init__(self, path: os.PathLike | str):
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if self.descriptor >= 0:
            os.close(self.descriptor)

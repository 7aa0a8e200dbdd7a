"""Writes a large file in sequence, past the page cache, while the caller prepares the bytes that follow.

A shard is written once and read much later. Pages that the kernel would have to find, fill and write back for it cost
more than half of what making the records does (docs/benchmarks.md), and push the images still to be read out of memory.
"""

import errno
import fcntl
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BUFFER_BYTES = 4 << 20
_NUM_BUFFERS = 3  # one is filled, one written, one waits
_BLOCK_BYTES = 4096  # what O_DIRECT wants sizes and offsets to be multiples of, on every common file system

_O_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it

_spare: list[mmap.mmap] = []  # a process's buffers between two files: their first use is what costs


class ShardFile:
    """A new file, open for writing; a context manager.

    Raises:
      OSError: from `write` or at the end, when an earlier part could not be written (a full disk).
    """

    def __init__(self, path: Path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._fd = os.open(path, flags | _O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # a file system in memory or on a network may not know O_DIRECT
            self._fd = os.open(path, flags, 0o666)
        self._buffer, self._filled = _take_buffer(), 0
        self._writer = ThreadPoolExecutor(1)
        self._pending: deque[tuple[Future, mmap.mmap]] = deque()

    def write(self, *pieces: bytes) -> None:
        """Appends the pieces, of any length."""
        filled = self._filled
        if filled + sum(map(len, pieces)) < _BUFFER_BYTES:
            for piece in pieces:
                start, filled = filled, filled + len(piece)
                self._buffer[start:filled] = piece
            self._filled = filled
        else:
            for piece in pieces:
                self._write_over(memoryview(piece))

    def _write_over(self, rest: memoryview) -> None:
        """Appends what may fill more buffers than one."""
        while len(rest) >= (room := _BUFFER_BYTES - self._filled):
            self._buffer[self._filled :] = rest[:room]
            rest = rest[room:]
            full, self._buffer, self._filled = (
                self._buffer,
                _take_buffer(),
                0,
            )  # before anything fails: it is in one place
            self._pending.append((self._writer.submit(_write_all, self._fd, full), full))
            if len(self._pending) == _NUM_BUFFERS - 1:
                self._wait()
        self._buffer[self._filled : self._filled + len(rest)] = rest
        self._filled += len(rest)

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            while self._pending and not failed:
                self._wait()
            if not failed:
                with memoryview(self._buffer) as view:
                    whole = self._filled - self._filled % _BLOCK_BYTES
                    _write_all(self._fd, view[:whole])
                    # The end is no whole block: it goes through the page cache.
                    flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
                    fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~_O_DIRECT)
                    _write_all(self._fd, view[whole : self._filled])
        finally:
            self._writer.shutdown()
            os.close(self._fd)
            _spare.extend(buffer for _, buffer in self._pending)
            _spare.append(self._buffer)

    def _wait(self) -> None:
        future, buffer = self._pending.popleft()
        _spare.append(buffer)
        future.result()


def _take_buffer() -> mmap.mmap:
    return _spare.pop() if _spare else mmap.mmap(-1, _BUFFER_BYTES)  # aligned to pages, as O_DIRECT wants it


def _write_all(fd: int, buffer: mmap.mmap | memoryview) -> None:
    rest = memoryview(buffer)
    while rest:
        rest = rest[os.write(fd, rest) :]

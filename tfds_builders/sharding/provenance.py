"""Bytes by their hash: the archives that a build was made from, told in build.json, and the files it could not use."""

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.facts import BadImage
from tfds_builders.sharding.sources import (
    ERRORS_OF_A_FILE,
    SLICE,
    ZIP_LOCAL_HEADER_BYTES,
    Entry,
    local_header_bytes,
    lost,
)
from tfds_builders.sharding.workers import Workers

_PIECE_BYTES = 1 << 20


def hash_archives(listing: pa.Table, workers: Workers) -> list[dict[str, Any]]:
    """The zip archives that hold files of the listing: name, bytes, and sha256 of the whole archive, by name.

    A folder of plain files has none: its identity is the listing's key and the dataset's fingerprint.

    Raises:
      OSError: an archive cannot be read any more.
    """
    zipped = listing.filter(pc.and_(pc.not_equal(listing["container"], ""), pc.not_equal(listing["method"], SLICE)))
    return sorted(
        workers.map(hash_archive, ((path,) for path in pc.unique(zipped["container"]).to_pylist())),
        key=lambda found: found["name"],
    )


def hash_archive(path: str) -> dict[str, Any]:
    """One archive's name, bytes and sha256 (64 hexadecimal digits)."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": Path(path).name, "bytes": Path(path).stat().st_size, "sha256": digest}


def hash_content(entry: Entry) -> bytes | None:
    """The sha256 of a file that is quarantined, whatever its size and its problem; None where it cannot be read.

    Raises:
      SourceLost: the source is away, see there.
    """
    path = entry.container or entry.path
    if not path:
        return None
    digest = hashlib.sha256()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would have us wait for its writer
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            for piece in _pieces_of_member(fd, entry) if _is_member(entry) else _pieces(fd, entry):
                digest.update(piece)
        finally:
            os.close(fd)
    except OSError as error:
        if entry.problem or error.errno in ERRORS_OF_A_FILE:
            return None
        raise lost(path, error) from error
    except (BadImage, zlib.error):
        return None
    return digest.digest()


def _is_member(entry: Entry) -> bool:
    return bool(entry.container) and entry.method != SLICE


def _pieces(fd: int, entry: Entry) -> Iterator[bytes]:
    """What the file holds now: all of it, or the part of the shard."""
    position = max(entry.offset, 0)
    end = position + entry.size if entry.method == SLICE else None
    while piece := os.pread(fd, _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - position), position):
        yield piece
        position += len(piece)


def _pieces_of_member(fd: int, entry: Entry) -> Iterator[bytes]:
    """The content of a zip's member, if it can be inflated and is no longer than the archive's directory says."""
    if entry.problem.startswith("encrypted") or entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadImage("unreadable", "the member cannot be unpacked")
    position = entry.offset + local_header_bytes(os.pread(fd, ZIP_LOCAL_HEADER_BYTES, entry.offset))
    end = position + entry.packed
    inflate = None if entry.method == zipfile.ZIP_STORED else zlib.decompressobj(-zlib.MAX_WBITS)
    num_bytes = 0
    while num_bytes <= entry.size:
        packed = inflate.unconsumed_tail if inflate else b""
        if not packed:
            packed = os.pread(fd, min(_PIECE_BYTES, end - position), position)
            position += len(packed)
        piece = inflate.decompress(packed, _PIECE_BYTES) if inflate else packed
        num_bytes += len(piece)
        yield piece
        if not packed and not piece:
            break
    if num_bytes != entry.size:
        raise BadImage("damaged_zip", "the member is not as long as the archive's directory says")

"""Files written past the page cache hold what was written, and say when the disk is full."""

import errno
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfds_builders.sharding import shard_file
from tfds_builders.sharding.shard_file import ShardFile

BUFFER = shard_file._BUFFER_BYTES
EDGES = [0, 1, 4095, 4096, 4097, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 4096]
NOISE = os.urandom(max(EDGES))


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.sampled_from(EDGES), min_size=1, max_size=4))
def test_the_file_holds_what_was_written_whatever_the_sizes(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("shard") / "file"
    parts = [NOISE[:size] for size in sizes]
    with ShardFile(path) as file:
        for part in parts:
            file.write(part)
    assert path.read_bytes() == b"".join(parts)


def test_a_file_system_in_memory_will_do(tmp_path):
    memory = Path("/dev/shm")
    path = memory / f"realshard-test-{os.getpid()}-{tmp_path.name}"
    data = os.urandom(BUFFER + 5)
    try:
        with ShardFile(path) as file:
            file.write(data)
        assert path.read_bytes() == data
    finally:
        path.unlink(missing_ok=True)


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"there")
    with pytest.raises(FileExistsError):
        ShardFile(path)
    assert path.read_bytes() == b"there"


def _write(path: Path, num_bytes: int, error: type[Exception] | None = None) -> None:
    with ShardFile(path) as file:
        file.write(bytes(num_bytes))
        if error:
            raise error


@pytest.mark.parametrize(("num_bytes", "limit"), [(100, 50), (6 * BUFFER, BUFFER + 4096)])
def test_what_cannot_be_written_is_reported(num_bytes, limit, tmp_path):
    """A limit to the size of files stands for a full disk, which tests/test_kills.py has."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            _write(tmp_path / "file", num_bytes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_the_caller_comes_out_as_it_is(tmp_path):
    with pytest.raises(KeyError):
        _write(tmp_path / "file", 2 * BUFFER, KeyError)


def test_what_could_not_be_written_leaves_no_buffer_to_two_files(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(shard_file, "_spare", [])
    with monkeypatch.context() as broken:
        broken.setattr(shard_file, "_write_all", fail)
        with pytest.raises(OSError, match="no space left"):
            _write(tmp_path / "first", 6 * BUFFER)
    assert shard_file._spare
    assert len({id(buffer) for buffer in shard_file._spare}) == len(shard_file._spare)

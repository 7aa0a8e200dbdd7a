"""The lock on a build, and what is swept when it is taken."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tfds_builders.records.errors import Refused
from tfds_builders.sharding.staging import Staging


def _open(root: Path, start_anew: bool = False) -> Staging:
    return Staging.open(root / "1.0.0", "key" * 10, root / "incomplete.mine_1.0.0", start_anew)


def test_a_second_build_of_a_version_has_to_wait(tmp_path):
    first = _open(tmp_path)
    with pytest.raises(Refused, match="another one is doing so"):
        _open(tmp_path)
    first.close()
    _open(tmp_path).close()


def test_a_file_system_without_locks_is_said_so(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Refused, match=r"gives none: No locks available\. Choose another --data_dir"):
        _open(tmp_path)
    assert not list(tmp_path.glob("*.staging"))


def test_files_are_copied_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    staging = _open(tmp_path)
    (staging.path / "shard").write_bytes(b"done")
    (tmp_path / "target").mkdir()
    staging.hand_over(["shard"], tmp_path / "target")
    assert (tmp_path / "target" / "shard").read_bytes() == (staging.path / "shard").read_bytes() == b"done"
    staging.drop()
    assert not staging.path.exists()


def test_what_others_left_is_swept(tmp_path):
    for name in (".1.0.0.other.staging", "incomplete.other_1.0.0", "incomplete.mine_1.0.0", ".2.0.0.other.staging"):
        (tmp_path / name).mkdir()
    (tmp_path / ".1.0.0.other.staging" / "shard.done").write_bytes(b"")
    staging = _open(tmp_path)
    assert staging.num_dropped == 1
    (staging.path / "shard").write_bytes(b"done")
    staging.close()
    left = {".1.0.0.lock", staging.path.name, "incomplete.mine_1.0.0", ".2.0.0.other.staging"}
    assert {path.name for path in tmp_path.iterdir()} == left
    again = _open(tmp_path)
    assert again.num_dropped is None
    assert (again.path / "shard").exists()
    again.close()
    anew = _open(tmp_path, start_anew=True)
    assert not (anew.path / "shard").exists()
    anew.close()

"""Folders and zips seen the same way, and what must not be read."""

import errno
import hashlib
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.sharding.provenance import hash_content
from tfds_builders.sharding.sources import Source, SourceLost, absent, read, read_ahead


def _files(root: Path) -> dict[str, bytes]:
    return {entry.id: read(entry) for entry in Source(root).entries()}


@pytest.fixture
def content() -> dict[str, bytes]:
    return {"b/two words.png": os.urandom(5000), "a/x.jpg": b"x" * 70_000, "a/empty.png": b"", "top.csv": b"1,2"}


def test_folder_and_zip_hold_the_same_files(tmp_path, content):
    folder, zipped = tmp_path / "folder", tmp_path / "zipped"
    zipped.mkdir()
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(zipped / "archive.zip", "w") as archive:
        for number, (name, data) in enumerate(content.items()):
            archive.writestr(name, data, compress_type=(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
    assert _files(folder) == _files(zipped) == content


def test_a_prefix_of_a_member_can_be_read(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    for entry in Source(tmp_path).entries():
        assert read(entry, limit=100) == content[entry.id][:100]


def test_reading_ahead_changes_neither_the_order_nor_what_fails(tmp_path, content):
    for number in range(40):
        (tmp_path / f"{number:02}").write_bytes(bytes([number]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    entries = list(Source(tmp_path).entries())
    (tmp_path / "20").unlink()
    for limit in (None, 10):
        assert [entry for entry, _ in read_ahead(entries, limit)] == entries
    for entry, fd in read_ahead(entries):
        assert (fd < 0) == (entry.id == "20")
        if fd >= 0:
            assert read(entry, fd=fd) == read(entry)
            assert read(entry, 10, fd) == read(entry, 10)  # the descriptor has no place of its own
    assert list(read_ahead([])) == []
    with pytest.raises(SourceLost, match="20 cannot be read: No such file"):
        read(next(entry for entry in entries if entry.id == "20"))


def test_what_a_system_says_of_a_file_and_what_it_does_not(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x" * 100)
    (entry,) = Source(tmp_path).entries()

    def fail(code):
        def raising(*_):
            raise OSError(code, os.strerror(code))

        return raising

    for code in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM, errno.ENOENT):
        for name in ("open", "pread"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail(code))
                with pytest.raises(SourceLost, match="cannot be read"):
                    read(entry)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail(errno.EACCES))
        with pytest.raises(BadImage, match="Permission denied") as caught:
            read(entry)
    assert caught.value.code == "unreadable"
    (tmp_path / "a.png").write_bytes(b"x" * 99)
    assert read(entry, limit=50) == b"x" * 50
    with pytest.raises(SourceLost, match="shorter"):
        read(entry)


def test_an_archive_that_becomes_shorter_is_not_taken_for_a_bad_member(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    entries = list(Source(tmp_path).entries())
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:20])
    for entry in entries:
        with pytest.raises(SourceLost, match=r"a\.zip has become shorter"):
            read(entry)


def test_several_zips_are_parts_with_names_of_their_own(tmp_path):
    for part in ("part_1", "part_2"):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            archive.writestr("same.png", part)
    assert _files(tmp_path) == {"part_1/same.png": b"part_1", "part_2/same.png": b"part_2"}


def test_listing_is_in_order_of_name(tmp_path):
    for name in ("c", "a", "b"):
        (tmp_path / name).write_bytes(b"")
    assert [entry.id for entry in Source(tmp_path).entries()] == ["a", "b", "c"]


def test_names_that_are_not_utf8_are_escaped_and_read(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), "wb") as file:
        file.write(b"data")
    assert _files(tmp_path) == {"caf\\xe9.png": b"data"}


def test_links_that_lead_nowhere_or_back_are_reported_once(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "back").symlink_to(tmp_path)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    (tmp_path / "file.png").write_bytes(b"data")
    problems = {entry.id: entry.problem.partition(":")[0] for entry in Source(tmp_path).entries()}
    assert problems == {"folder/back": "symlink_loop", "nowhere.png": "unreadable", "file.png": ""}
    assert list(Source(tmp_path).ids()) == [entry.id for entry in Source(tmp_path).entries()]


def test_members_that_leave_the_archive_are_not_read(tmp_path):
    names = {"../out.png": "unsafe_path", "/abs.png": "unsafe_path", "a/../../b.png": "unsafe_path", "fine.png": ""}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"data")
    entries = {entry.id: entry for entry in Source(tmp_path).entries()}
    assert {id: entry.problem.partition(":")[0] for id, entry in entries.items()} == names
    with pytest.raises(BadImage, match="outside itself"):
        read(entries["../out.png"])


def test_damage_in_an_archive_is_found(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", b"0123456789" * 10)
    data = bytearray(path.read_bytes())
    data[data.index(b"0123456789") + 5] ^= 1
    path.write_bytes(data)
    (entry,) = Source(tmp_path).entries()
    with pytest.raises(BadImage) as caught:
        read(entry)
    assert caught.value.code == "bad_checksum"


@pytest.mark.parametrize("damage", ["text", "cut", "link"])
def test_an_archive_that_cannot_be_opened_ends_the_listing(damage, tmp_path, content):
    for name in ("p1.zip", "p2.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in content.items():
                archive.writestr(member, data)
    second = tmp_path / "p2.zip"
    if damage == "link":
        second.unlink()
        second.symlink_to(tmp_path / "away.zip")
        with pytest.raises(SourceLost, match=r"p2\.zip cannot be read: No such file"):
            list(Source(tmp_path).ids())
        return
    second.write_bytes(b"no archive" if damage == "text" else second.read_bytes()[:-30])
    with pytest.raises(Refused, match=r"p2\.zip is damaged \(File is not a zip file\): download it again, or take"):
        list(Source(tmp_path).entries())


def test_an_archive_that_may_not_be_read_ends_the_listing(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(b"")

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(Refused, match=r"a\.zip cannot be opened \(Permission denied\): let it be read"):
        list(Source(tmp_path).entries())


def test_what_macos_leaves_beside_an_archive_is_none(tmp_path, content):
    (tmp_path / "._a.zip").write_bytes(b"attributes")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    assert _files(tmp_path) == content | {"._a.zip": b"attributes"}  # the only archive: no name before its members


def test_bad_files_are_hashed_whatever_is_wrong_with_them(tmp_path, content):
    (tmp_path / "text.png").write_bytes(b"no image")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../out.png", b"outside" * 1000)
        archive.writestr("stored.png", b"stored", zipfile.ZIP_STORED)
        archive.writestr("lzma.png", b"x" * 100, zipfile.ZIP_LZMA)
    hashed = {entry.id: hash_content(entry) for entry in Source(tmp_path).entries()}
    assert hashed == {
        "text.png": hashlib.sha256(b"no image").digest(),
        "pipe.png": None,
        "nowhere.png": None,
        "../out.png": hashlib.sha256(b"outside" * 1000).digest(),
        "stored.png": hashlib.sha256(b"stored").digest(),
        "lzma.png": None,
    }
    assert hash_content(absent("a.png", "it is not there")) is None


def test_members_that_are_not_as_long_as_announced_have_no_hash(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"x" * 5_000_000)
    (entry,) = Source(tmp_path).entries()
    assert hash_content(entry) == hashlib.sha256(b"x" * 5_000_000).digest()
    for changed in ({"size": 100}, {"size": 6_000_000}, {"packed": entry.packed - 50}, {"offset": 1}):
        assert hash_content(entry._replace(**changed)) is None


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_bad_file_is_hashed_piece_by_piece(packed, tmp_path):
    num_bytes = 48 << 20
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(num_bytes)
    if packed:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "large.png", "large.png")
        (tmp_path / "large.png").unlink()
    (entry,) = Source(tmp_path).entries()
    tracemalloc.start()
    try:
        digest = hash_content(entry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert digest == hashlib.sha256(bytes(num_bytes)).digest()
    assert peak < 8 << 20


def test_a_folder_that_cannot_be_listed_ends_the_listing(tmp_path, monkeypatch):
    (tmp_path / "real" / "secret").mkdir(parents=True)
    (tmp_path / "real" / "a.png").write_bytes(b"data")
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(code):
        def listing(path):  # as root, no folder is refused: the system's answer is given here
            if os.path.basename(path) in closed:
                raise OSError(code, os.strerror(code))
            return scandir(path)

        return listing

    monkeypatch.setattr(os, "scandir", refuse(errno.EACCES))
    closed = {b"lost+found"}  # of the file system's own, nobody's data
    problems = {entry.id: entry.problem.partition(":")[0] for entry in Source(tmp_path).entries()}
    assert problems == {"lost+found": "unreadable", "real/a.png": ""}
    closed = {b"secret"}
    with pytest.raises(Refused, match=r"real/secret cannot be listed \(Permission denied\): let it be read, or take"):
        list(Source(tmp_path).entries())
    monkeypatch.setattr(os, "scandir", refuse(errno.EIO))
    with pytest.raises(SourceLost, match="secret cannot be read: Input/output error"):
        list(Source(tmp_path).entries())


def test_an_archive_whose_names_cannot_be_decoded_ends_the_listing(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bäh.png", b"data")  # flagged as UTF-8
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    with pytest.raises(Refused, match=r"a\.zip is damaged \('utf-8' codec can't decode"):
        list(Source(tmp_path).entries())


def test_archives_of_windows_programs_have_folders_too(tmp_path):
    names = ["real\\", "real\\a b.png", "fake\\sub\\c.png", "..\\out.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"" if name.endswith("\\") else name.encode())
    entries = {entry.id: entry for entry in Source(tmp_path).entries()}
    assert {id: entry.problem.partition(":")[0] for id, entry in entries.items()} == {
        "real/a b.png": "",
        "fake/sub/c.png": "",
        "../out.png": "unsafe_path",
    }
    assert read(entries["fake/sub/c.png"]) == names[2].encode()


def test_a_backslash_is_a_letter_where_the_archive_has_slashes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("real/a\\b.png", b"data")
    assert _files(tmp_path) == {"real/a\\b.png": b"data"}

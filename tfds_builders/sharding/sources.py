"""Files inside folders and zip archives, seen the same way: a name, a size, and how to read the bytes.

    for entry in Source(manual_dir).entries():
        data = read(entry)

A zip is read in place: its members are read by offset and never extracted to disk. Listing sorts by name, so what comes
out does not depend on the order in which a file system returns things.
"""

import errno
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage

ZIP_LOCAL_HEADER_BYTES = 30
_ZIP_ENCRYPTED_FLAG = 0x1
_DEFLATE_SLACK_BYTES = 1024  # what incompressible data and the code tables add to a beginning
SLICE = -1  # method of an entry that is `size` bytes of the container, from `offset` on: an image in a shard
_FILES_AHEAD = 16  # a disk that takes 2 ms a request then feeds 8,000 files/s to each worker
_ZIP_EXTRA_SLACK_BYTES = 512  # a local header's extra field is rarely longer; read again when it is
# What a system says of one file. All else (a disk that fails, a share that is away, too many open files) is no fault of
# the file, and may be over in a minute.
ERRORS_OF_A_FILE = {
    errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO, errno.ENODEV,
}  # fmt: skip
# In lower case; folders too, which nobody but the system may list.
_SYSTEM_FILES = {
    ".ds_store", "thumbs.db", "desktop.ini", "lost+found", ".trashes", ".spotlight-v100", ".fseventsd", "$recycle.bin",
    "system volume information",
}  # fmt: skip


_UNLISTED = "Every folder of the source must be readable; {} cannot be listed ({}): let it be read, or take it away."
_UNOPENED = "Every zip in --manual_dir must be whole; {} {} ({}): {}, or take it away."


class SourceLost(Exception):
    """The source is not, or not any more, as it was listed: nothing can be concluded about the file being read."""


class Entry(NamedTuple):
    """One file of a source."""

    id: str  # '/'-separated path in the source, valid UTF-8 (other bytes escaped as \\xNN)
    container: str  # path of the zip (or of the shard: SLICE) that holds it; "" for a plain file
    path: bytes  # of a plain file, as the file system spells it; of a member, its raw name
    size: int  # bytes, uncompressed
    offset: int  # of a member's local header in the zip; -1 for a plain file
    packed: int  # bytes stored in the zip; the size for a plain file
    method: int  # zipfile.ZIP_STORED or ZIP_DEFLATED, or SLICE; 0 for a plain file
    stamp: int  # changes when the content may have: mtime in ns of a plain file, the member's crc32
    problem: str = ""  # why it must not be read: "reason: sentence"; "" for most


class Source:
    """Everything below one folder; zip archives directly in it stand for their members.

    With one zip the members' own paths are the ids, so that a zip and the folder made by unpacking it give equal
    datasets; with several, each one's name without `.zip` is put before them.

    Listing raises:
      Refused: an archive that cannot be opened, or a folder that cannot be listed: how much is lost is not known.
      SourceLost: the system cannot read at all.
    """

    def __init__(self, root: Path):
        self.root = root
        self._archives = sorted(path for path in root.iterdir() if _is_archive(path))

    def entries(self) -> Iterator[Entry]:
        """Yields every file, each folder's in order of name."""
        return self._entries(with_sizes=True)

    def ids(self) -> Iterator[str]:
        """Yields the ids of `entries`, in its order; sizes, which take most of the time there, are not asked for."""
        return (entry.id for entry in self._entries(with_sizes=False))

    def _entries(self, with_sizes: bool) -> Iterator[Entry]:
        for archive in self._archives:
            prefix = "" if len(self._archives) == 1 else f"{archive.stem}/"
            yield from _list_zip(archive, prefix)
        top = os.fsencode(self.root)
        skip = {os.fsencode(path.name) for path in self._archives}
        yield from _list_folder(top, b"", {_identity(os.stat(top))}, skip, with_sizes)


def absent(id: str, sentence: str) -> Entry:
    """Stands for a file that is named somewhere and is not there: it goes to the ledger as `missing_file`."""
    return Entry(id, "", b"", 0, -1, 0, zipfile.ZIP_STORED, 0, f"missing_file: {sentence}")


def is_system_file(id: str) -> bool:
    """Files that operating systems leave in folders, which nobody means as data."""
    name = id.rpartition("/")[2].lower()
    return name in _SYSTEM_FILES or name.startswith("._") or id.startswith("__MACOSX/") or "/__MACOSX/" in id


def _is_archive(path: Path) -> bool:
    """A link that leads nowhere is one too: it cannot be opened."""
    return path.suffix.lower() == ".zip" and not path.is_dir() and not is_system_file(path.name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _list_folder(
    top: bytes, below: bytes, open_folders: set[tuple[int, int]], skip: set[bytes], with_sizes: bool
) -> Iterator[Entry]:
    folder = os.path.join(top, below)
    try:
        with os.scandir(folder) as listing:
            items = sorted(listing, key=lambda item: item.name)
    except OSError as error:
        if error.errno not in ERRORS_OF_A_FILE:
            raise lost(folder, error) from error
        unlisted = _plain(folder, below, 0, 0, f"unreadable: the folder cannot be listed: {error.strerror}")
        if not is_system_file(unlisted.id):
            raise Refused(_UNLISTED.format(unlisted.id or os.fsdecode(top), error.strerror)) from None
        yield unlisted
        return
    for item in items:
        if item.name in skip:
            continue
        name = below + b"/" + item.name if below else item.name
        if not with_sizes and item.is_file(follow_symlinks=False):  # known from the listing of the folder
            yield _plain(item.path, name, 0, 0)
            continue
        try:
            status = item.stat()
        except OSError as error:
            if error.errno not in {errno.ENOENT, *ERRORS_OF_A_FILE}:
                raise lost(item.path, error) from error
            if item.is_dir(follow_symlinks=False):
                raise Refused(_UNLISTED.format(name.decode("utf-8", "backslashreplace"), error.strerror)) from None
            yield _plain(item.path, name, 0, 0, f"unreadable: {error.strerror}")  # a link to nowhere, or to itself
            continue
        if stat.S_ISREG(status.st_mode):
            yield _plain(item.path, name, status.st_size, status.st_mtime_ns)
        elif not stat.S_ISDIR(status.st_mode):
            yield _plain(item.path, name, 0, 0, "unreadable: a pipe, socket or device, no file")
        elif _identity(status) in open_folders:
            yield _plain(item.path, name, 0, 0, "symlink_loop: the link leads back to a folder that it lies in")
        else:
            yield from _list_folder(top, name, open_folders | {_identity(status)}, set(), with_sizes)


def _plain(path: bytes, name: bytes, size: int, stamp: int, problem: str = "") -> Entry:
    id = name.decode("utf-8", "backslashreplace")
    return Entry(id, "", path, size, -1, size, zipfile.ZIP_STORED, stamp, problem)


def _list_zip(archive: Path, prefix: str) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = sorted(opened.infolist(), key=lambda member: member.filename)
        num_bytes = archive.stat().st_size
    except OSError as error:
        if error.errno not in ERRORS_OF_A_FILE:
            raise lost(str(archive), error) from error
        raise Refused(_UNOPENED.format(archive.name, "cannot be opened", error.strerror, "let it be read")) from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:  # names that are no UTF-8, ...
        raise Refused(_UNOPENED.format(archive.name, "is damaged", error, "download it again")) from None
    # Some programs on Windows write `\\` between folders, against the format's specification.
    has_backslashes = not any("/" in member.filename for member in members)
    for member in members:
        name = member.filename.replace("\\", "/") if has_backslashes else member.filename
        if name.endswith("/"):
            continue
        yield Entry(
            prefix + name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
            str(archive),
            member.filename.encode("utf-8", "surrogateescape"),
            member.file_size,
            member.header_offset,
            member.compress_size,
            member.compress_type,
            member.CRC,
            _member_problem(member, num_bytes),
        )


def _member_problem(member: zipfile.ZipInfo, archive_bytes: int) -> str:
    name = member.orig_filename
    if name.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return f"unsafe_path: the archive names a file outside itself: {name!r}"
    if member.flag_bits & _ZIP_ENCRYPTED_FLAG:
        return "encrypted: the member of the archive is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"unreadable: compression method {member.compress_type} of the archive is not supported"
    if member.header_offset + ZIP_LOCAL_HEADER_BYTES + member.compress_size > archive_bytes:
        return "damaged_zip: the archive ends before the member does"
    return ""


def read_ahead(entries: Iterable[Entry], limit: int | None = None) -> Iterator[tuple[Entry, int]]:
    """The entries in their order, to be `read` one by one while the kernel fetches the next ones from the disk.

    Yields:
      Each entry and an open descriptor for `read`, closed when the next one is asked for; -1 where there is none.
    """
    fetching: deque[tuple[Entry, int]] = deque()
    try:
        for entry in entries:
            fetching.append((entry, _fetch(entry, limit)))
            if len(fetching) > _FILES_AHEAD:
                yield fetching[0]
                _close(fetching.popleft()[1])
        while fetching:
            yield fetching[0]
            _close(fetching.popleft()[1])
    finally:
        for _, fd in fetching:
            _close(fd)


def _fetch(entry: Entry, limit: int | None) -> int:
    if entry.problem:
        return -1
    try:
        fd = os.open(entry.container or entry.path, os.O_RDONLY)
    except OSError:  # `read` will say so
        return -1
    if hasattr(os, "posix_fadvise"):  # not on macOS
        num_bytes = entry.packed if limit is None else min(limit, entry.packed)
        os.posix_fadvise(fd, max(entry.offset, 0), num_bytes, os.POSIX_FADV_WILLNEED)
    return fd


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def read(entry: Entry, limit: int | None = None, fd: int = -1) -> bytes:
    """The content of `entry`, or its first `limit` bytes.

    Args:
      entry: which file.
      limit: how many bytes are wanted; all of them by default.
      fd: a descriptor from `read_ahead`; the file is opened where there is none.

    Raises:
      BadImage: unreadable file, or a member whose archive is damaged (`unreadable`, `damaged_zip`, `bad_checksum`), or
        the entry's own `problem`.
      SourceLost: the file is gone or shorter than it was when it was listed, or the system cannot read at all.
    """
    if entry.problem:
        reason, _, sentence = entry.problem.partition(": ")
        raise BadImage(reason, sentence)
    try:
        opened = fd if fd >= 0 else os.open(entry.container or entry.path, os.O_RDONLY)
        try:
            if entry.container and entry.method != SLICE:
                return _read_member(opened, entry, limit)
            wanted = entry.size if limit is None else min(limit, entry.size)
            data = _read_all(opened, max(entry.offset, 0), wanted)
        finally:
            if fd < 0:
                os.close(opened)
    except OSError as error:
        if error.errno not in ERRORS_OF_A_FILE:
            raise lost(entry.container or entry.path, error) from error
        raise BadImage("unreadable", f"the file cannot be read: {error.strerror}") from error
    if len(data) < wanted and entry.method == SLICE:  # its size was not listed but read from a manifest
        raise BadImage("truncated", f"{entry.container} ends before the image does")
    if len(data) < wanted:
        raise _shorter(entry)
    return data


def lost(path: str | bytes, error: OSError) -> SourceLost:
    """What to raise for an error that is none of ERRORS_OF_A_FILE."""
    return SourceLost(f"{os.fsdecode(path)} cannot be read: {error.strerror}")


def _shorter(entry: Entry) -> SourceLost:
    return SourceLost(f"{os.fsdecode(entry.container or entry.path)} has become shorter since it was listed")


def _read_all(fd: int, offset: int, size: int) -> bytes:
    """Reads `size` bytes; fewer only where the file has become shorter."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def local_header_bytes(block: bytes) -> int:
    """The length of the local header of a zip's member, which `block` begins with: its content comes next.

    Raises:
      BadImage: there is no such header (`damaged_zip`).
    """
    if len(block) < ZIP_LOCAL_HEADER_BYTES or block[:4] != b"PK\x03\x04":
        raise BadImage("damaged_zip", "the archive has no member where its directory says")
    name_length, extra_length = struct.unpack_from("<HH", block, 26)
    return int(ZIP_LOCAL_HEADER_BYTES + name_length + extra_length)


def _read_member(fd: int, entry: Entry, limit: int | None) -> bytes:
    packed = entry.packed if limit is None else min(entry.packed, limit + _DEFLATE_SLACK_BYTES)
    guess = ZIP_LOCAL_HEADER_BYTES + len(entry.path) + _ZIP_EXTRA_SLACK_BYTES + packed
    block = _read_all(fd, entry.offset, guess)
    if len(block) < ZIP_LOCAL_HEADER_BYTES + packed:
        raise _shorter(entry)
    start = local_header_bytes(block)
    if start + packed > len(block):
        block = _read_all(fd, entry.offset, start + packed)
    stored = block[start : start + packed]
    if entry.method == zipfile.ZIP_STORED:
        data = stored
    else:
        try:
            # At most what the directory announces, plus a byte that would give a lie away.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, limit or entry.size + 1)
        except zlib.error as error:
            raise BadImage("damaged_zip", f"the member of the archive cannot be inflated: {error}") from error
    if limit is not None:
        # A member that inflates to less than expected of its beginning is read whole.
        return data[:limit] if len(data) >= min(limit, entry.size) else _read_member(fd, entry, None)[:limit]
    if len(data) != entry.size or zlib.crc32(data) != entry.stamp:
        raise BadImage("bad_checksum", "the member of the archive is not what its checksum says")
    return data

"""A zip left beside what was unpacked from it, or downloaded twice: copies of every image, on both sides of a split."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.sharding.manifest import entries_of
from tfds_builders.sharding.sources import SLICE, Entry, read

_COMPARED = 100  # files, spread evenly over all whose path and size agree


def refuse_copies(listing: pa.Table) -> tuple[int, int]:
    """Looks for zips that hold the same, and for members of zips that are plain files as well, be it in another folder.

    Of two paths one must be the other's end, and the sizes equal; as that happens by chance in a large set, contents
    are compared until two are equal.

    Args:
      listing: LISTING_SCHEMA.

    Returns:
      How many files are members of zips, and how many are plain.

    Raises:
      Refused: there are such.
      SourceLost: a file of the source cannot be read any more.
    """
    is_member = pc.and_(pc.not_equal(listing["container"], ""), pc.not_equal(listing["method"], SLICE))
    is_plain = pc.not_equal(listing["path"], b"")  # neither a part of a shard nor a file that is missing
    is_plain = pc.and_(is_plain, pc.equal(listing["container"], ""))
    _refuse_equal_zips(listing.select(["container", "size", "stamp"]).filter(is_member))
    num_members, num_plain = pc.sum(is_member).as_py() or 0, pc.sum(is_plain).as_py() or 0
    if not num_members or not num_plain:
        return num_members, num_plain
    alike = list(_alike(listing.filter(is_member), listing.filter(is_plain)))
    for plain, members in alike[:: -(-len(alike) // _COMPARED) or 1]:
        crc = _crc32(plain)
        for member in members:
            if crc == member.stamp:
                raise Refused(
                    f"Every image must be in --manual_dir once; {len(alike)} files of its zips lie there unpacked "
                    f"too, {plain.id} for one. Take away either the zip {Path(member.container).name} or what was "
                    "unpacked from it."
                )
    return num_members, num_plain


def _refuse_equal_zips(members: pa.Table) -> None:
    """Two downloads of one zip, as `set.zip` and `set (1).zip`: the same count and the same sums of bytes and crc32."""
    sums = members.group_by("container").aggregate([([], "count_all"), ("size", "sum"), ("stamp", "sum")])
    first: dict[tuple, str] = {}
    for row in sums.sort_by("container").to_pylist():
        name = Path(row.pop("container")).name
        before = first.setdefault(tuple(row.values()), name)
        if before != name:
            raise Refused(
                f"Every image must be in --manual_dir once; the zips {before} and {name} hold the same files. "
                "Take away one of them."
            )


def _alike(members: pa.Table, plain: pa.Table) -> Iterator[tuple[Entry, list[Entry]]]:
    """Plain files, each with the members of its size such that one of both paths is the other's end, if any."""
    by_name: dict[tuple[str, int], list[tuple[str, Entry]]] = {}
    for member in entries_of(members.filter(pc.not_equal(members["size"], 0))):
        path = "/" + member.path.decode("utf-8", "backslashreplace").replace("\\", "/")
        by_name.setdefault((path.rpartition("/")[2], member.size), []).append((path, member))
    for entry in entries_of(plain):
        path = "/" + entry.id.replace("\\", "/")
        named_alike = by_name.get((path.rpartition("/")[2], entry.size), ())
        found = [member for other, member in named_alike if path.endswith(other) or other.endswith(path)]
        if found:
            yield entry, found


def _crc32(entry: Entry) -> int | None:
    """Of the file's content; None where it cannot be read."""
    try:
        return zlib.crc32(read(entry))
    except BadImage:
        return None

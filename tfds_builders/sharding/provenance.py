"""Where a build's bytes came from: the archives of the source, by their content's hash; told in build.json."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tfds_builders.sharding.sources import SLICE
from tfds_builders.sharding.workers import Workers


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

"""A built dataset once more, with all its images cropped, resampled and encoded alike."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from tfds_builders.records.errors import Refused
from tfds_builders.records.framing import HEADER_BYTES
from tfds_builders.records.schema import BUILD, MANIFEST, SCHEME_PREFIX
from tfds_builders.sharding.builder import ShardedBuilder
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.settings import whole_number
from tfds_builders.sharding.sources import SLICE, Entry, Source

DEFAULT_SIDE = 224  # pixels: what the published networks take
MIN_SIDE, MAX_SIDE = 8, 65_500  # one block of a JPEG, and the most that it can hold
_COLUMNS = (
    "id", "split", "label", "category", "group", "video", "generator", "bytes", "sha256", "shard", "offset",
    "image_offset",
)  # fmt: skip


class Builder(ShardedBuilder):
    """DatasetBuilder for harmonised."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version: central square, Lanczos, JPEG of quality 90."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Nothing is downloaded. Point --manual_dir at a dataset that was built here: the folder that holds "
        f"{MANIFEST}, such as <data_dir>/ai_vs_human/1.1.0."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.shared_info()

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Every record of the built dataset, as bytes inside its shards."""
        side = _side()
        self._built = _find_built(source.root)
        for batch in pq.ParquetFile(self._built / MANIFEST).iter_batches(columns=list(_COLUMNS)):
            for row in batch.to_pylist():
                entry = Entry(
                    id=row["id"],
                    container=str(self._built / row["shard"]),
                    path=b"",
                    size=row["bytes"],
                    offset=row["offset"] + HEADER_BYTES + row["image_offset"],
                    packed=row["bytes"],
                    method=SLICE,
                    stamp=int.from_bytes(row["sha256"][:8], signed=True),
                )
                said = {name: row[name] for name in ("label", "category", "group", "video", "generator", "split")}
                yield Record(entry, **said, side=side)

    def made_with(self, manual_dir: Path) -> Mapping[str, str | int]:
        """The dataset that it was made from, and the size of the images."""
        build = _account_of(manual_dir)
        return {name: build[name] for name in ("dataset", "version", "fingerprint")} | {"side": _side()}

    def archives(self, manual_dir: Path) -> list[dict[str, Any]]:
        """Those of the dataset that it was made from."""
        return _account_of(manual_dir).get("archives", [])

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """Splits and schemes as they were."""
        schemes = [name for name in pq.read_schema(self._built / MANIFEST).names if name.startswith(SCHEME_PREFIX)]
        manifest = pq.read_table(self._built / MANIFEST, columns=["id", "split", *schemes])
        kept = manifest.take(pc.index_in(scan["id"], manifest["id"]).combine_chunks())
        return {name: np.array(kept[name].to_pylist(), dtype=object) for name in ("split", *schemes)}


def _account_of(folder: Path) -> dict[str, Any]:
    return json.loads((_find_built(folder) / BUILD).read_text())


def _find_built(folder: Path) -> Path:
    """The folder of the built dataset: `folder`, or the only one below it."""
    found = [path.parent for pattern in ("", "*/", "*/*/") for path in folder.glob(pattern + MANIFEST)]
    if len(found) != 1:
        raise Refused(
            f"harmonised needs one built dataset in --manual_dir; {folder} holds {len(found)}"
            f"{': ' + ', '.join(map(str, found)) if found else ''}. {Builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    return found[0].resolve()


def _side() -> int:
    return whole_number("REALSHARD_HARMONISED_SIDE", DEFAULT_SIDE, MIN_SIDE, MAX_SIDE, "a side in pixels")

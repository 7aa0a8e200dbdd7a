"""The base class that lets plain `tfds build` drive the engine.

A builder says two things of its source, and nothing else:

    records(source)       what each file is: label, category, group, given split; or the rule that leaves it out
    assign_splits(scan)   who is in which split, and further split schemes

The stock methods of TFDS stay in place: `GeneratorBasedBuilder._generate_splits` of the same builder is the reference
that the engine is tested and measured against.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds

from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import LABELS, SPLITS
from tfds_builders.sharding import settings
from tfds_builders.sharding.build import Options, build, say
from tfds_builders.sharding.harmonise import harmonise
from tfds_builders.sharding.manifest import Excluded, Record, entries_of, list_records
from tfds_builders.sharding.scan import scan_headers
from tfds_builders.sharding.sources import Source, read
from tfds_builders.sharding.splits import FRACTIONS, grouped, leaking_groups, stratified
from tfds_builders.sharding.staging import Staging
from tfds_builders.sharding.workers import ThisProcess

_REUSE = tfds.download.GenerateMode.REUSE_DATASET_IF_EXISTS


class ShardedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A dataset of real and fake images in the shared schema, built in parallel, resumably, with nothing lost."""

    SPLIT_SEED = 42

    def records(self, source: Source) -> Iterator[Record | Excluded]:
        """Describes every file of the source. Implemented by each builder."""
        raise NotImplementedError

    def assign_splits(self, scan: pa.Table) -> Mapping[str, np.ndarray]:
        """The written split and further schemes, from the scan's columns (rows sorted by id).

        Here: 80/10/10, by group where there are groups, else stratified by label. Builders override it.

        Returns:
          {"split": object [n], "scheme_<name>": object [n], ...}; "" leaves a row out.
        """
        return {"split": draw_splits(scan, FRACTIONS, self.SPLIT_SEED)}

    def made_with(self, manual_dir: Path) -> Mapping[str, str | int]:
        """Settings of this builder's own that decided the dataset, to be told in build.json."""
        return {}

    def archives(self, manual_dir: Path) -> list[dict[str, Any]]:
        """name, bytes and sha256 of the archives behind a source that is a built dataset; its own are hashed anyway."""
        return []

    def shared_info(self) -> tfds.core.DatasetInfo:
        """The DatasetInfo that all builders share; texts come from README.md, CITATIONS.bib and TAGS.txt."""
        return self.dataset_info_from_configs(
            features=shared_features(),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        """Stock TFDS's way through the same files, one process: the reference."""
        listing = list_records(self.records(Source(self._manual_dir(dl_manager))))
        self._frames = tempfile.TemporaryDirectory()  # removed with the builder
        scan = scan_headers(listing.table, ThisProcess(), lambda count: None, Path(self._frames.name))
        split = self.assign_splits(scan.table)["split"]
        return {
            name: self._generate_examples(scan.table.filter(pa.array(split == name)))
            for name in SPLITS
            if (split == name).any()
        }

    def _generate_examples(self, scan: pa.Table) -> Iterator[tuple[str, dict]]:
        said = scan.select(["label", "category", "group", "video"]).to_pylist()
        for entry, side, row in zip(entries_of(scan), scan["side"].to_pylist(), said, strict=True):
            data = read(entry)
            yield entry.id, {"image": harmonise(data, side) if side else data, "id": entry.id, **row}

    def _generate_splits(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> list[tfds.core.SplitInfo]:
        self._refuse_unsupported(download_config)
        manual_dir = self._manual_dir(dl_manager)
        options = Options(
            name=self.name,
            version=str(self.version),
            validation=settings.validation(),
            max_quarantined=settings.max_quarantined(),
            shard_config=download_config.get_shard_config(),
            start_anew=download_config.download_mode.overwrite_dataset,
            made_with=self.made_with(manual_dir),
            archives=self.archives(manual_dir),
        )
        # While TFDS builds, self.data_path is its incomplete folder and self.info's the final one.
        written, self._staging = build(
            self.records(Source(manual_dir)),
            self.assign_splits,
            options,
            version_dir=Path(self.info.data_dir).absolute(),  # workers have a working directory of their own
            target=Path(self.data_path).absolute(),
        )
        return [
            tfds.core.SplitInfo(
                name=split.name,
                shard_lengths=split.shard_lengths,
                num_bytes=split.num_bytes,
                filename_template=self._get_filename_template(split_name=split.name),
            )
            for split in written
        ]

    _staging: Staging | None = None

    def download_and_prepare(
        self, *, download_config: tfds.download.DownloadConfig | None = None, **options: Any
    ) -> None:
        """As TFDS's, which leaves a version that is built as it is without a word, whatever the source is by now."""
        is_kept = download_config is not None and download_config.download_mode == _REUSE and self.data_path.exists()
        if is_kept:  # tfds.load, which only reads, says nothing of a config
            say(
                f"{self.name} {self.version} is built already, in {self.data_path}, and stays as it is: the source was "
                "not looked at; if it is another one by now, say --overwrite, which deletes what is built first, or "
                "another --data_dir"
            )
        super().download_and_prepare(download_config=download_config, **options)

    def _post_download_and_prepare_hook(self) -> None:
        if self._staging is not None:
            self._staging.drop()
            self._staging = None

    def _manual_dir(self, dl_manager: tfds.download.DownloadManager) -> Path:
        try:
            return Path(dl_manager.manual_dir).absolute()
        except AssertionError:  # TFDS's way of saying that it is not there, or empty
            raise Refused(
                f"{self.name} needs its source in --manual_dir, a folder that exists and is not empty; received "
                f"{dl_manager._manual_dir}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS.strip()}"
            ) from None
        except OSError as error:
            raise Refused(
                f"--manual_dir must be a folder that can be listed; {dl_manager._manual_dir} cannot: {error.strerror}."
            ) from None

    def _refuse_unsupported(self, config: tfds.download.DownloadConfig) -> None:
        """Options of `tfds build` that would be silently without effect here, or fail at the very end."""
        if "://" in str(self.data_dir_root):
            raise Refused(
                "--data_dir must be a folder, since shards are written where they will be; received "
                f"{self.data_dir_root}. Build into a local folder and copy the dataset there."
            )
        if self.info.file_format != tfds.core.FileFormat.TFRECORD:
            raise Refused(
                f"--file_format must be tfrecord, since records are read by their offset; received "
                f"{self.info.file_format.value}."
            )
        if config.max_examples_per_split is not None:
            raise Refused(
                "--max_examples_per_split is not supported, since found = written + excluded + quarantined must hold; "
                "point --manual_dir at a smaller source."
            )
        if config.nondeterministic_order:
            raise Refused("--nondeterministic_order is not supported: a build always writes the same bytes.")


def shared_features() -> tfds.features.FeaturesDict:
    """The features of every dataset: see records.schema."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), doc="the source's own encoded bytes"),
            "label": tfds.features.ClassLabel(names=list(LABELS)),
            "id": tfds.features.Text(doc="path in the source"),
            "category": tfds.features.Text(),
            "group": tfds.features.Text(doc="what must stay on one side of a split"),
            "video": tfds.features.Text(doc="frames whose scores are averaged; empty for stills"),
        }
    )


def draw_splits(scan: pa.Table, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Split names, object [n]: by group where there are groups, else stratified by label.

    Where some records have a group and others none, each of those others is a group of its own.

    Raises:
      Refused: too few images or groups to fill every split.
    """
    labels = scan["label"].to_numpy().astype(np.int64)
    has_group = pc.not_equal(scan["group"], "")
    try:
        if not pc.any(has_group).as_py():
            return stratified(labels, fractions, seed)
        return grouped(pc.if_else(has_group, scan["group"], scan["id"]), labels, fractions, seed)
    except ValueError as error:
        raise Refused(f"{scan.num_rows} images cannot be split into {', '.join(fractions)}: {error}.") from None


def given_splits(scan: pa.Table, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """The splits that the source gives, object [n], completed where one is missing; drawn where it gives none.

    What was given as test stays as it is, and what was held out stays held out:

    - no test: the given validation images are halved into validation and test;
    - no validation: it is drawn from the given training images, as large a part as `fractions` say;
    - no train, or one name only: there is nothing to complete, and all images are split by `fractions`.

    Raises:
      Refused: too few images or groups to draw what is missing.
    """
    split = np.array(scan["given_split"].to_pylist(), dtype=object)
    given = [name for name in fractions if (split == name).any()]
    if "train" not in given or len(given) < 2:
        say(f"splits are drawn; the source gives {' and '.join(given) or 'none'}")
        return draw_splits(scan, fractions, seed)
    if "test" not in given:
        _draw_within(scan, split, "validation", {"validation": 0.5, "test": 0.5}, seed)
        say("the source gives no test split: half of its validation images, of whole groups, become one")
    elif "validation" not in given:
        share = fractions["validation"] / (1 - fractions["test"])
        _draw_within(scan, split, "train", {"train": 1 - share, "validation": share}, seed)
        say(f"the source gives no validation split: {share:.3g} of its training images become one")
    leaking = leaking_groups(scan["group"], split)
    if leaking:
        say(f"{len(leaking)} groups are in more than one of the given splits, {leaking[0]} for one: kept as given")
    return split


def _draw_within(scan: pa.Table, split: np.ndarray, name: str, fractions: Mapping[str, float], seed: int) -> None:
    """Draws splits among the rows of split `name` alone, in place."""
    rows = np.flatnonzero(split == name)
    split[rows] = draw_splits(scan.take(pa.array(rows)), fractions, seed)

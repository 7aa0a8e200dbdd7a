"""The engine through the ai_vs_human builder: equal to stock TFDS, equal for any workers, resumable, nothing lost."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from bad_images import BAD
from etils import epath
from odd_images import ODD
from PIL import Image

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import CATEGORIES, Builder
from tfds_builders.records import example, framing
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, EXCLUDED, LABELS, MANIFEST, QUARANTINE
from tfds_builders.sharding import build as engine
from tfds_builders.sharding import manifest, scan, writer
from tfds_builders.sharding.workers import ThisProcess


class StockBuilder(Builder, skip_registration=True):
    """The same builder, written by TFDS's own one-process writer."""

    name = "ai_vs_human"
    _generate_splits = tfds.core.GeneratorBasedBuilder._generate_splits


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """120 images in the published layout, the same names in every category, and a few files that are not images."""
    root = tmp_path_factory.mktemp("source")
    random = np.random.default_rng(0)
    for category in ("car", "cat"):
        for folder in ("0_real", "1_fake"):
            (root / category / folder).mkdir(parents=True)
            for number in range(30):
                pixels = random.integers(0, 256, (24, 20, 3), np.uint8)
                suffix = ("png", "jpg")[number % 2]
                Image.fromarray(pixels).save(root / category / folder / f"{number:05d}.{suffix}")
    (root / "car" / "0_real" / ".DS_Store").write_bytes(b"x")
    (root / "loose.png").write_bytes(b"x")
    (root / "README.txt").write_text("about")
    return root


def _build(source: Path, data_dir: Path, builder_class=Builder, **options) -> Path:
    builder = builder_class(data_dir=str(data_dir))
    config = tfds.download.DownloadConfig(manual_dir=str(source), **options)
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    return _build(source, tmp_path_factory.mktemp("built"), num_shards=3)


def _shards(folder: Path, split: str) -> list[str]:
    return sorted(map(str, folder.glob(f"*-{split}.tfrecord-*")))


def test_records_equal_stock_tfds_in_order(source, built, tmp_path):
    stock = _build(source, tmp_path, StockBuilder, num_shards=3)
    for split in ("train", "validation", "test"):
        ours, theirs = (
            [example.parse(record.numpy()) for record in tf.data.TFRecordDataset(_shards(folder, split))]
            for folder in (built, stock)
        )
        assert ours == theirs
        assert len(ours) > 0
    ours_info, stock_info = (json.loads((folder / "dataset_info.json").read_text()) for folder in (built, stock))
    assert ours_info["splits"] == stock_info["splits"]


def test_tfds_reads_the_result_unchanged(built):
    builder = tfds.builder_from_directory(built)
    assert builder.info.features["label"].names == ["real", "fake"]
    whole = builder.as_dataset(split="train")
    assert whole.cardinality() == builder.info.splits["train"].num_examples == 96
    assert builder.as_dataset(split="train[25%:75%]").cardinality() == 48
    assert [ds.cardinality() for ds in builder.as_dataset(split=tfds.even_splits("train", 3))] == [32, 32, 32]
    (record,) = builder.as_dataset(split="test[:1]")
    assert record["image"].shape == (24, 20, 3)
    raw = builder.as_dataset(split="test[:1]", decoders={"image": tfds.decode.SkipDecoding()})
    (record,) = raw
    assert record["image"].dtype == tf.string


def test_manifest_leads_to_every_record(source, built):
    manifest = pq.read_table(built / MANIFEST)
    assert manifest.num_rows == 120
    for row in manifest.to_pylist():
        with open(built / row["shard"], "rb") as shard:
            payload = framing.read_payload(shard.fileno(), row["offset"], row["length"])
        image = payload[row["image_offset"] : row["image_offset"] + row["bytes"]]
        assert image == (source / row["id"]).read_bytes() == example.parse(payload)["image"]
        assert hashlib.sha256(image).digest() == row["sha256"]
        assert row["label"] == int("1_fake" in row["id"])
        assert row["category"] == row["id"].partition("/")[0]
        assert (row["width"], row["height"], row["mode"]) == (20, 24, "RGB")
    assert set(manifest["scheme_published"].to_pylist()) == {"train", "test"}


def test_a_scheme_tests_on_objects_that_are_not_trained_on(built):
    for row in pq.read_table(built / MANIFEST).to_pylist():  # of the two categories, the last one is left out
        kept = "" if row["split"] == "test" else row["split"]
        assert row["scheme_leave_categories_out"] == ("test" if row["category"] == "cat" else kept)


def test_nothing_is_lost(built):
    summary = json.loads((built / BUILD).read_text())
    assert (summary["found"], summary["written"], summary["excluded"], summary["quarantined"]) == (123, 120, 3, 0)
    excluded = pq.read_table(built / EXCLUDED).to_pylist()
    assert {row["id"]: row["reason"] for row in excluded} == {
        "car/0_real/.DS_Store": "system_file",
        "loose.png": "outside_layout",
        "README.txt": "not_data",
    }
    for counts in summary["splits"].values():
        assert counts["found"] == counts["written"] == counts["real"] + counts["fake"]


def test_what_is_no_data_is_accounted_for_too(good_files, tmp_path, capfd):
    others = ["parts/part2.zip", "parts/part3.ZIP", "clip.avif", "notes.txt", "car/list.csv"]
    manual = _corpus(tmp_path / "manual", good_files | dict.fromkeys(others, b"x"))
    built = _build(manual, tmp_path / "data")
    excluded = pq.read_table(built / EXCLUDED).to_pylist()
    assert {row["id"]: row["reason"] for row in excluded} == dict.fromkeys(others, "not_data")
    assert json.loads((built / BUILD).read_text())["found"] == sum(path.is_file() for path in manual.rglob("*"))
    said = capfd.readouterr().err
    assert "excluded are 5 not_data" in said
    assert "2 in folders below it are excluded, parts/part2.zip for one" in said


def test_ray_tasks_write_the_same_bytes(source, built, tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(engine, "_TINY_FILES", 0)
    assert _digests(_build(source, tmp_path, num_shards=3)) == _digests(built)


@pytest.mark.parametrize("is_tiny", [True, False])
@pytest.mark.parametrize("max_begun", [0, 2, 100])
def test_scanning_while_the_listing_goes_on_changes_nothing(
    source, built, tmp_path, ray_session, monkeypatch, is_tiny, max_begun
):
    asked = []

    def scan_headers(listing, workers, advance, frames_dir, begun):
        asked.append(len(begun))
        return scan.scan_headers(listing, workers, advance, frames_dir, begun)

    for module in (manifest, scan):
        monkeypatch.setattr(module, "CHUNK_RECORDS", 25)
    monkeypatch.setattr(engine, "_MAX_BEGUN", max_begun)
    monkeypatch.setattr(engine, "_TINY_FILES", 1000 if is_tiny else 0)
    monkeypatch.setattr(engine, "scan_headers", scan_headers)
    assert _digests(_build(source, tmp_path, num_shards=3)) == _digests(built)
    assert asked == [min(max_begun, 5)]


def test_a_listing_that_fails_ends_the_ray_it_started(source, tmp_path, monkeypatch):
    def records(self, source):
        yield from (record for record, _ in zip(all_records(self, source), range(60), strict=False))
        raise Refused("a folder cannot be listed")

    all_records = Builder.records
    monkeypatch.setattr(Builder, "records", records)
    monkeypatch.setattr(manifest, "CHUNK_RECORDS", 25)
    closed = []
    monkeypatch.setattr(engine, "_TINY_FILES", 0)
    monkeypatch.setattr(engine, "RayWorkers", lambda: _Closing(closed))
    with pytest.raises(Refused, match="cannot be listed"):
        _build(source, tmp_path)
    assert closed == [1]


class _Closing(ThisProcess):
    """Workers that note how many tasks were begun when they are closed."""

    def __init__(self, closed: list[int]):
        self._begun, self._closed = 0, closed

    def begin(self, function, *args):
        self._begun += 1
        return super().begin(function, *args)

    def close(self):
        self._closed.append(self._begun)


def test_ray_tasks_find_what_was_named_from_here(source, built, tmp_path, ray_session, monkeypatch):
    """Their working directory is that of whoever started Ray."""
    monkeypatch.setattr(engine, "_TINY_FILES", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manual").symlink_to(source)
    assert _digests(_build(Path("manual"), Path("data"), num_shards=3)) == _digests(built)


def test_a_zip_gives_the_same_records(source, built, tmp_path):
    (tmp_path / "manual").mkdir()
    with zipfile.ZipFile(tmp_path / "manual" / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in source.rglob("*"):
            archive.write(path, path.relative_to(source))
    other = _build(tmp_path / "manual", tmp_path, num_shards=3)
    assert {**_digests(other), BUILD: ""} == {**_digests(built), BUILD: ""}
    zipped, plain = (json.loads((folder / BUILD).read_text()) for folder in (other, built))
    data = (tmp_path / "manual" / "archive.zip").read_bytes()
    assert zipped["archives"] == [
        {"name": "archive.zip", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    ]
    assert {**zipped, "archives": []} == plain


def test_the_fingerprint_changes_with_content_and_not_with_shards(source, built, tmp_path):
    fingerprint = json.loads((built / BUILD).read_text())["fingerprint"]
    other = _build(source, tmp_path / "a", num_shards=1)
    assert json.loads((other / BUILD).read_text())["fingerprint"] == fingerprint
    changed = tmp_path / "manual"
    shutil.copytree(source, changed)
    shutil.copyfile(changed / "car/0_real/00003.jpg", changed / "car/0_real/00001.jpg")
    other = _build(changed, tmp_path / "b", num_shards=1)
    assert json.loads((other / BUILD).read_text())["fingerprint"] != fingerprint


def _build_and_die(source: Path, data_dir: Path) -> None:
    """Ends the process without any clean-up after the second shard, like SIGKILL."""
    write = writer.write_shard
    calls = []

    def write_and_die(*args):
        if len(calls) == 2:
            os._exit(9)
        calls.append(args)
        return write(*args)

    engine.write_shard = write_and_die
    _build(source, data_dir, num_shards=3)


def test_a_killed_build_goes_on_where_it_was(source, built, tmp_path, monkeypatch, capfd):
    process = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(source, tmp_path))
    process.start()
    process.join(300)
    assert process.exitcode == 9
    name_dir = tmp_path / "ai_vs_human"
    (staging,) = name_dir.glob(f".{Builder.VERSION}.*.staging")
    assert len(list(staging.glob("*.done"))) == 2
    assert list(name_dir.glob("incomplete.*"))  # what TFDS leaves
    # A power cut: one finished shard lost its end, and there is half a temporary file.
    first = min(staging.glob("*.done")).with_suffix("")
    first.write_bytes(first.read_bytes()[:-100])
    (staging / f".{first.name}.0.tmp").write_bytes(b"half")
    written = []
    write = writer.write_shard
    monkeypatch.setattr(engine, "write_shard", lambda *args: written.append(args[1].name) or write(*args))
    assert _digests(_build(source, tmp_path, num_shards=3)) == _digests(built)
    assert len(written) == 8
    assert "1 of 9 shards are there" in capfd.readouterr().err
    assert [path.name for path in name_dir.iterdir() if path.is_dir()] == [str(Builder.VERSION)]


def _interrupt_after_two_shards(source: Path, data_dir: Path, monkeypatch) -> list:
    """Returns the calls of write_shard, the one that was interrupted and all that follow included."""
    write = writer.write_shard
    calls = []

    def write_two(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(engine, "write_shard", write_two)
    with pytest.raises(KeyboardInterrupt):
        _build(source, data_dir, num_shards=3)
    return calls


def test_files_that_are_left_out_do_not_begin_a_build_anew(source, built, tmp_path, monkeypatch, capfd):
    """The dataset itself may lie in --manual_dir, and an operating system leaves its files there."""
    manual = shutil.copytree(source, tmp_path / "manual")
    _interrupt_after_two_shards(manual, manual / "datasets", monkeypatch)
    for folder in ("car/0_real", "cat"):  # the first of all and one later
        (manual / folder / "._new").write_bytes(b"x")
    other = _build(manual, manual / "datasets", num_shards=3)
    said = capfd.readouterr().err
    assert "2 of 9 shards are there" in said
    assert "dropped" not in said
    accounts = {BUILD: "", EXCLUDED: ""}
    assert {**_digests(other), **accounts} == {**_digests(built), **accounts}
    excluded = pq.read_table(other / EXCLUDED)["id"].to_pylist()
    assert {"car/0_real/._new", "cat/._new", "loose.png"} <= set(excluded)
    summary = json.loads((other / BUILD).read_text())
    assert (summary["excluded"], summary["found"]) == (len(excluded), 120 + len(excluded))


def test_finished_shards_of_another_source_are_dropped_and_it_is_said(source, built, tmp_path, monkeypatch, capfd):
    manual = shutil.copytree(source, tmp_path / "manual")
    extra = shutil.copyfile(manual / "car/0_real/00001.jpg", manual / "car/0_real/extra.jpg")
    _interrupt_after_two_shards(manual, tmp_path, monkeypatch)
    extra.unlink()
    assert _digests(_build(manual, tmp_path, num_shards=3)) == _digests(built)
    assert "it is dropped, and with it its 2 finished shards" in capfd.readouterr().err


def test_that_another_source_is_not_built_over_a_dataset_is_said(source, tmp_path, capfd):
    whole, first = _build(source, tmp_path), f"realshard: ai_vs_human {Builder.VERSION} is built already, in "
    before = _digests(whole)
    assert first not in capfd.readouterr().err
    smaller = shutil.copytree(source, tmp_path / "manual", ignore=shutil.ignore_patterns("*9.*"))
    assert _digests(_build(smaller, tmp_path)) == before
    assert f"{first}{whole}, and stays as it is: the source was not looked at" in capfd.readouterr().err
    Builder(data_dir=str(tmp_path)).download_and_prepare()  # as tfds.load does before it reads
    anew = _build(smaller, tmp_path, download_mode=tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS)  # --overwrite
    assert _digests(anew) != before
    assert first not in capfd.readouterr().err


@pytest.mark.parametrize("shortened", [False, True])
def test_a_source_that_goes_away_while_a_shard_is_written_is_no_bad_file(
    shortened, source, built, tmp_path, monkeypatch
):
    manual = tmp_path / "manual"
    shutil.copytree(source, manual)
    write = writer.write_shard
    calls = []

    def write_without_source(*args):
        calls.append(args)
        if len(calls) != 2:
            return write(*args)
        if shortened:
            for path in manual.rglob("*.jpg"):
                os.truncate(path, 100)
        else:
            manual.rename(tmp_path / "away")
        return write(*args)

    monkeypatch.setattr(engine, "write_shard", write_without_source)
    with pytest.raises(Refused, match=r"must stay as it is .* run the same command again"):
        _build(manual, tmp_path, num_shards=3)
    assert len(calls) == 2
    if shortened:
        shutil.copytree(source, manual, dirs_exist_ok=True)  # with the same times of change
    else:
        (tmp_path / "away").rename(manual)
    assert _digests(_build(manual, tmp_path, num_shards=3)) == _digests(built)
    assert len(calls) == 2 + 8  # the first shard was not written again


@pytest.mark.parametrize(
    ("damaged", "num_redone"),
    [("plan.arrow", 7), ("scan.ledger", 7), ("left_out.ledger", 7), ("plan.json", 9), ("nothing", 7)],
)
@pytest.mark.parametrize("length", [0, 100])
def test_a_plan_that_a_power_cut_damaged_is_made_again(
    damaged, num_redone, length, source, built, tmp_path, monkeypatch, capfd
):
    calls = _interrupt_after_two_shards(source, tmp_path, monkeypatch)
    (staging,) = (tmp_path / "ai_vs_human").glob(".*.staging")
    if damaged != "nothing":
        os.truncate(staging / damaged, length)
    assert _digests(_build(source, tmp_path, num_shards=3)) == _digests(built)
    assert len(calls) == 3 + num_redone  # a plan that comes out the same keeps the finished shards
    assert ("planning again" in capfd.readouterr().err) == (damaged != "nothing")


@pytest.mark.parametrize(("code", "what"), [(errno.ENOSPC, "The disk"), (errno.EDQUOT, "The quota on the disk")])
def test_a_disk_that_is_full_at_the_very_end_is_one_sentence(code, what, source, built, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        patch.setattr(shutil, "copyfile", refuse)
        with pytest.raises(Refused, match=rf"^{what} of .* is full\. Make room and run the same command again"):
            _build(source, tmp_path, num_shards=3)
    assert _digests(_build(source, tmp_path, num_shards=3)) == _digests(built)


def _corpus(root: Path, names: dict[str, bytes]) -> Path:
    for name, data in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def _png(seed: int) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def good_files() -> dict[str, bytes]:
    return {f"car/{label}/{number}.png": _png(number) for label in ("real", "fake") for number in range(30)}


def test_bad_files_are_quarantined_and_leave_a_gap(good_files, tmp_path, monkeypatch):
    damaged = bytearray(_png(99))
    damaged[-20] ^= 0xFF  # content only: the header is fine, so the file is planned for a split
    bad = {"car/real/empty.png": b"", "car/fake/page.jpg": b"<html>no</html>", "car/real/damaged.png": bytes(damaged)}
    manual = _corpus(tmp_path / "manual", good_files | bad)
    with pytest.raises(Refused, match=r"2 of 63 are\. See .*ledger"):
        _build(manual, tmp_path / "data")
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.05")
    built = _build(manual, tmp_path / "data")
    summary = json.loads((built / BUILD).read_text())
    assert (summary["found"], summary["written"], summary["quarantined"]) == (63, 60, 3)
    ledger = pq.read_table(built / QUARANTINE).to_pylist()
    assert all(row["sha256"] == hashlib.sha256(bad[row["id"]]).digest() for row in ledger)
    assert {row["id"]: row["reason"] for row in ledger} == {
        "car/real/empty.png": "zero_bytes",
        "car/fake/page.jpg": "not_an_image",
        "car/real/damaged.png": "bad_checksum",
    }
    info = tfds.builder_from_directory(built).info
    assert sum(split.num_examples for split in info.splits.values()) == 60


def test_every_bad_kind_is_quarantined_with_its_reason_and_no_odd_one(good_files, tmp_path, monkeypatch):
    """Sixty files of as many bad kinds among good and odd ones, in one build that decodes everything."""
    bad = {f"car/{LABELS[number % 2]}/bad_{BAD[kind]().name}": BAD[kind]() for number, kind in enumerate(BAD)}
    odd = {f"cat/{LABELS[number % 2]}/{ODD[kind]().name}": ODD[kind]().data for number, kind in enumerate(ODD)}
    assert len(bad) >= 40
    assert len({file.code for file in bad.values()}) >= 8  # reasons; the kinds are finer
    manual = _corpus(tmp_path / "manual", good_files | odd | {name: file.data for name, file in bad.items()})
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "0.9")
    monkeypatch.setenv("REALSHARD_VALIDATION", "decode")
    built = _build(manual, tmp_path / "data")
    reasons = {row["id"]: row["reason"] for row in pq.read_table(built / QUARANTINE).to_pylist()}
    assert reasons == {name: file.code for name, file in bad.items()}
    assert set(pq.read_table(built / MANIFEST)["id"].to_pylist()) == set(good_files) | set(odd)
    summary = json.loads((built / BUILD).read_text())
    assert summary["found"] == summary["written"] + summary["excluded"] + summary["quarantined"]
    assert summary["found"] == len(good_files) + len(odd) + len(bad)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"notes.txt": b"x"}, "images of both classes; the source holds none"),
        ({f"cat/real/{number}.png": _png(number) for number in range(5)}, "there are only real ones"),
        ({"cat/real/a.png": _png(0), "cat/fake/b.png": _png(1)}, "cannot be split into train, validation, test"),
    ],
)
def test_sources_that_cannot_be_split_are_refused_in_a_sentence(names, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        _build(_corpus(tmp_path / "manual", names), tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.json"))


def test_a_missing_manual_dir_says_what_to_put_there(tmp_path):
    with pytest.raises(Refused, match="Shirshak Acharya"):
        _build(tmp_path / "missing", tmp_path / "data")


def test_a_manual_dir_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"x")
    with pytest.raises(Refused, match=r"must be a folder that can be listed; .*set\.zip cannot: Not a directory"):
        _build(tmp_path / "set.zip", tmp_path / "data")


@pytest.mark.parametrize("option", [{"max_examples_per_split": 3}, {"nondeterministic_order": True}])
def test_options_without_effect_are_refused(option, source, tmp_path):
    with pytest.raises(Refused, match="not supported"):
        _build(source, tmp_path, **option)


def test_a_data_dir_that_is_no_folder_is_refused(source, tmp_path, monkeypatch):
    builder = Builder(data_dir=str(tmp_path))  # a bucket's would be asked for what it holds
    monkeypatch.setattr(Builder, "data_dir_root", epath.Path("gs://bucket/data"))
    config = tfds.download.DownloadConfig(manual_dir=str(source))
    with pytest.raises(Refused, match=r"^--data_dir must be a folder, .* received gs://bucket/data\. Build into"):
        builder.download_and_prepare(download_dir=str(tmp_path), download_config=config)


def test_other_settings_are_checked(source, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_VALIDATION", "thorough")
    with pytest.raises(Refused, match="header, checksum, decode"):
        _build(source, tmp_path)


@pytest.mark.parametrize("prefixes", [["set"], ["car", "cat"], list("abcdefgh")])
def test_a_few_prefixes_are_no_photographs(prefixes, tmp_path, capfd):
    stems = [f"{prefix}__{number}" for prefix in prefixes for number in range(60 // len(prefixes))]
    names = [f"{label}/{stem}.png" for label in LABELS for stem in stems]
    files = {name: _png(zlib.crc32(name.encode())) for name in names}
    built = _build(_corpus(tmp_path / "manual", files), tmp_path / "data")
    assert set(pq.read_table(built / MANIFEST)["group"].to_pylist()) == {""}
    assert "<photograph>" not in capfd.readouterr().err


@pytest.mark.parametrize("spelt", [str.lower, str.title])
def test_categories_are_no_photographs_however_many_they_are(spelt, tmp_path, capfd):
    stems = [f"{spelt(category)}__{number}" for category in CATEGORIES for number in (0, 1)]
    names = [f"{label}/{stem}.png" for label in LABELS for stem in stems]
    files = {name: _png(zlib.crc32(name.encode())) for name in names}
    built = _build(_corpus(tmp_path / "manual", files), tmp_path / "data")
    manifest = pq.read_table(built / MANIFEST)
    assert set(manifest["group"].to_pylist()) == {""}
    assert set(manifest["category"].to_pylist()) == set(CATEGORIES)
    assert "<photograph>" not in capfd.readouterr().err


def test_photograph_prefixes_become_groups(tmp_path, capfd):
    names = {
        f"car/{label}/{photograph}__{number}.png": _png(zlib.crc32(f"{label} {photograph} {number}".encode()))
        for label in ("real", "fake")
        for photograph in "abcdefghijkl"
        for number in range(3)
    }
    built = _build(_corpus(tmp_path / "manual", names), tmp_path / "data")
    manifest = pq.read_table(built / MANIFEST).to_pandas()
    assert "<photograph>__*: 12 groups" in capfd.readouterr().err
    assert (manifest["group"] == manifest["id"].str.extract(r"([a-l])__")[0]).all()
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    assert (manifest.groupby("split")["group"].nunique() >= 3).all()

"""What holds for every builder: equal to stock TFDS, the same from a zip, nothing lost, no group on two sides."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tensorflow_datasets as tfds
import tiny_sources as sources

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import Builder as AiVsHuman
from tfds_builders.celeb_df.celeb_df_dataset_builder import Builder as CelebDf
from tfds_builders.deepfake_and_real.deepfake_and_real_dataset_builder import Builder as DeepfakeAndReal
from tfds_builders.deepfake_faces.deepfake_faces_dataset_builder import Builder as DeepfakeFaces
from tfds_builders.dfdc_faces.dfdc_faces_dataset_builder import Builder as DfdcFaces
from tfds_builders.harmonised.harmonised_dataset_builder import Builder as Harmonised
from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder as RealFakeFolder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, EXCLUDED, SPLITS
from tfds_builders.sharding import build as engine
from tfds_builders.sharding.sources import Source

MACOSX = "__MACOSX"
ALL = (AiVsHuman, DeepfakeAndReal, DeepfakeFaces, DfdcFaces, CelebDf, RealFakeFolder, Harmonised)


class Case(NamedTuple):
    """A builder and a source for it."""

    builder: type
    make_source: Callable[[Path], Path]
    found: int  # images
    has_groups: bool
    layout: str = ""  # as it is told


def _built_categories(root: Path) -> Path:
    return sources.build(RealFakeFolder, sources.categories(root / "manual"), root)


CASES = {
    "ai_vs_human": Case(AiVsHuman, sources.categories, 80, False, "<category>/<class>/"),
    "deepfake_and_real": Case(DeepfakeAndReal, sources.deepfake_and_real, 60, False, "<split>/<class>/"),
    "deepfake_faces": Case(DeepfakeFaces, sources.deepfake_faces, 48, True, "<video>.* (48 files)"),
    "dfdc_faces, parts": Case(DfdcFaces, sources.dfdc_parts, 80, True, "<video>.* (80 files)"),
    "dfdc_faces, frames": Case(DfdcFaces, sources.dfdc_frames, 96, True, "<video>/<frame>.* (96 files)"),
    "celeb_df": Case(CelebDf, sources.celeb_df, 90, True, "<class>/<video>.mp4 (30 files)"),
    "real_fake_folder": Case(RealFakeFolder, sources.categories, 80, False, "<category>/<class>/"),
    "harmonised": Case(Harmonised, _built_categories, 80, False),
}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def few_frames():
    """Three frames of each video, for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_FRAMES", "3")
        patch.setenv("REALSHARD_HARMONISED_SIDE", "16")
        yield


@pytest.fixture(scope="module")
def source(case, tmp_path_factory) -> Path:
    return case.make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def built(case, source, few_frames, tmp_path_factory) -> Path:
    return sources.build(case.builder, source, tmp_path_factory.mktemp("built"), num_shards=2)


def test_records_equal_stock_tfds_in_order(case, source, built, tmp_path):
    theirs = sources.build(sources.stock(case.builder), source, tmp_path, num_shards=2)
    for split in SPLITS:
        ours = list(sources.records(built, split))
        assert ours == list(sources.records(theirs, split))
        assert ours
    ours_info, their_info = (json.loads((folder / "dataset_info.json").read_text()) for folder in (built, theirs))
    assert ours_info["splits"] == their_info["splits"]


def test_nothing_is_lost(case, built):
    summary = json.loads((built / BUILD).read_text())
    assert summary["written"] == case.found
    assert summary["found"] == summary["written"] + summary["excluded"]
    assert set(sources.outcomes(built, EXCLUDED).values()) <= {"not_data"}  # metadata.csv and the like
    assert sum(split["real"] + split["fake"] for split in summary["splits"].values()) == case.found
    assert all(split["real"] and split["fake"] for split in summary["splits"].values())


def test_no_group_is_on_two_sides(case, built):
    sides: dict[str, set[str]] = {}
    for row in sources.manifest(built):
        assert bool(row["group"]) == case.has_groups
        sides.setdefault(row["group"], set()).add(row["split"])
    if case.has_groups:
        assert {len(splits) for splits in sides.values()} == {1}


def test_tfds_reads_the_result(case, built):
    builder = tfds.builder_from_directory(built)
    labels = {int(record["label"]) for split in SPLITS for record in builder.as_dataset(split=split)}
    assert labels == {0, 1}


def test_a_zip_gives_the_same_dataset(case, source, built, few_frames, tmp_path):
    if case.builder is Harmonised:
        pytest.skip("its source is a built dataset")
    other = sources.build(case.builder, sources.zipped(source, tmp_path / "manual"), tmp_path, num_shards=2)
    assert {**_content(other), BUILD: b""} == {**_content(built), BUILD: b""}
    zipped, plain = (json.loads((folder / BUILD).read_text()) for folder in (other, built))
    assert zipped["archives"]  # what build.json says more
    assert {**zipped, "archives": []} == plain


def test_folders_around_the_source_change_only_the_ids(case, source, built, few_frames, tmp_path):
    if case.builder is Harmonised:
        pytest.skip("its source is a built dataset")
    (tmp_path / "manual" / "download").mkdir(parents=True)
    (tmp_path / "manual" / "download" / "The Set").symlink_to(source)
    other = sources.build(case.builder, tmp_path / "manual", tmp_path, num_shards=2)
    said = ("label", "category", "split", "sha256")
    assert sorted(tuple(row[name] for name in said) for row in sources.manifest(other)) == sorted(
        tuple(row[name] for name in said) for row in sources.manifest(built)
    )


def test_what_macos_leaves_changes_nothing(case, source, built, few_frames, tmp_path, capfd):
    """An AppleDouble file beside every file, as on a disk of another system, and in __MACOSX, as in a zip."""
    if case.builder is Harmonised:
        pytest.skip("its source is a built dataset")
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    shutil.copytree(source, tmp_path / "manual")
    places = [tmp_path / "manual" / above / name.parent / f"._{name.name}" for name in names for above in ("", MACOSX)]
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\5\x16\7attributes")
    other = sources.build(case.builder, tmp_path / "manual", tmp_path, num_shards=2)
    ledgers = {BUILD: b"", EXCLUDED: b""}
    assert {**_content(other), **ledgers} == {**_content(built), **ledgers}
    assert Counter(sources.outcomes(other, EXCLUDED).values())["system_file"] == len(places)
    assert f"the source is laid out as {case.layout}" in capfd.readouterr().err


def test_the_layout_that_was_found_is_said(case, source, capfd):
    if case.builder is Harmonised:
        pytest.skip("its source is a built dataset")
    for _ in case.builder(data_dir=str(source)).records(Source(source)):
        pass
    assert f"the source is laid out as {case.layout}" in capfd.readouterr().err


def test_ray_tasks_write_the_same_bytes(case, source, built, few_frames, tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(engine, "_TINY_FILES", 0)
    other = sources.build(case.builder, source, tmp_path, num_shards=2)
    assert _content(other) == _content(built)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("builder", ALL, ids=lambda builder: builder.name)
def test_every_builder_has_what_tfds_expects(builder, tmp_path):
    folder = Path(__file__).resolve().parents[1] / "tfds_builders" / builder.name
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "README.md", "CITATIONS.bib", "TAGS.txt", "__init__.py", f"{builder.name}_dataset_builder.py",
    }  # fmt: skip
    info = builder(data_dir=str(tmp_path)).info
    assert info.description.startswith(f"# {builder.name}")
    assert str(builder.VERSION) in builder.RELEASE_NOTES
    assert info.features["label"].names == ["real", "fake"]


@pytest.mark.parametrize(
    ("builder", "commands"),
    [
        (AiVsHuman, ["Shirshak Acharya"]),
        (DeepfakeAndReal, ["kaggle datasets download manjilkarki/deepfake-and-real-images"]),
        (DeepfakeFaces, ["kaggle datasets download dagnelies/deepfake-faces"]),
        (DfdcFaces, ["kaggle datasets download phunghieu/deepfake-detection-faces-part-0-0"]),
        (CelebDf, [f"kaggle datasets download hariomhsingh/{name}" for name in ("celeb-real", "celebsynthesis")]),
        (RealFakeFolder, ["<class>/"]),
        (Harmonised, ["manifest.parquet"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_without_a_source_the_message_says_what_to_do(builder, commands, tmp_path):
    for manual_dir in (tmp_path / "missing", sources.write(tmp_path / "other", {"notes.txt": b"x"})):
        with pytest.raises(Refused) as refused:
            sources.build(builder, manual_dir, tmp_path)
        assert "--manual_dir" in str(refused.value)
        if manual_dir.name == "missing":
            assert all(command in str(refused.value) for command in commands)

"""Sample corpora in every source's layout: what the builders read from them is what was put in."""

import csv
import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest
import tiny_sources as sources
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfds_builders.celeb_df.celeb_df_dataset_builder import Builder as CelebDf
from tfds_builders.deepfake_and_real.deepfake_and_real_dataset_builder import Builder as DeepfakeAndReal
from tfds_builders.deepfake_faces.deepfake_faces_dataset_builder import Builder as DeepfakeFaces
from tfds_builders.dfdc_faces.dfdc_faces_dataset_builder import Builder as DfdcFaces
from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder as RealFakeFolder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import SPLITS
from tfds_builders.samples.corpus import write_corpus
from tfds_builders.samples.layouts import LAYOUTS
from tfds_builders.samples.photographs import PHOTOGRAPHS
from tfds_builders.samples.videos import make_video

BUILDERS = {
    "celeb_df": CelebDf,
    "deepfake_and_real": DeepfakeAndReal,
    "deepfake_faces": DeepfakeFaces,
    "dfdc_faces": DfdcFaces,
    "real_fake_folder": RealFakeFolder,
}
JPEG_LAYOUTS = ("deepfake_and_real", "deepfake_faces", "dfdc_faces")
SCENES = {photograph.scene for photograph in PHOTOGRAPHS}
NUM_IMAGES = 144
NUM_FRAMES = 2  # taken of each video


@pytest.fixture(scope="module", params=BUILDERS)
def layout(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """layout -> its folder, made when first asked for."""
    made: dict[str, Path] = {}

    def corpus(layout: str) -> Path:
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("corpora") / layout
            assert write_corpus(layout, made[layout], NUM_IMAGES, seed=3, size=32, processes=2)
        return made[layout]

    return corpus


@pytest.fixture(scope="module")
def rows(layout, corpora, tmp_path_factory) -> list[dict]:
    """The manifest of the dataset that the layout's builder makes of its corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_FRAMES", str(NUM_FRAMES))
        built = sources.build(BUILDERS[layout], corpora(layout), tmp_path_factory.mktemp("built"), num_shards=1)
    assert not sources.outcomes(built, "quarantine.parquet")
    return sources.manifest(built)


def test_every_source_has_its_layout():
    assert set(LAYOUTS) == {"ai_vs_human", *BUILDERS}


def test_all_images_are_found_and_half_of_them_are_fake(layout, rows):
    assert len(rows) == NUM_IMAGES * (NUM_FRAMES if layout == "celeb_df" else 1)
    assert sum(row["label"] for row in rows) == len(rows) // 2


def test_no_photograph_is_in_two_splits(layout, rows):
    # An identity of celeb_df is a photograph; all others have its name in that of the file.
    scenes = [row["group"] if layout == "celeb_df" else _scene(row["id"]) for row in rows]
    sides: dict[str, set[str]] = {}
    for scene, row in zip(scenes, rows, strict=True):
        sides.setdefault(scene, set()).add(row["split"])
    assert len(sides) == len(SCENES)
    assert {len(splits) for splits in sides.values()} == {1}
    for split in SPLITS:
        assert sum(splits == {split} for splits in sides.values()) >= 3


def test_both_classes_are_in_every_split(rows):
    assert {(row["split"], row["label"]) for row in rows} == {(split, label) for split in SPLITS for label in (0, 1)}


def test_the_same_seed_gives_the_same_bytes_with_one_process(layout, corpora, tmp_path):
    write_corpus(layout, tmp_path / "again", NUM_IMAGES, seed=3, size=32, processes=1)
    assert _digests(tmp_path / "again") == _digests(corpora(layout))


@pytest.mark.parametrize("name", JPEG_LAYOUTS)
def test_images_are_jpeg_of_the_size_asked_for(name, corpora):
    files = list(corpora(name).rglob("*.jpg"))
    assert len(files) == NUM_IMAGES
    for path in files:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (32, 32))


def test_a_fake_face_names_a_real_one_of_its_photograph(corpora):
    with open(corpora("deepfake_faces") / "metadata.csv", newline="") as file:
        faces = {row["videoname"]: row for row in csv.DictReader(file)}
    metadata = (corpora("dfdc_faces") / "metadata").glob("*.json")
    for videos in (faces, *(json.loads(path.read_text()) for path in metadata)):
        for name, row in videos.items():
            assert row["original"] or row["label"] == "REAL"
            if row["original"]:
                assert videos[row["original"]]["label"] == "REAL"
                assert _scene(row["original"]) == _scene(name)


def test_parts_of_both_sides_of_the_published_split_exist(corpora):
    parts = {int(path.stem) for path in (corpora("dfdc_faces") / "metadata").iterdir()}
    assert min(parts) <= 46 < max(parts)


def test_the_list_tells_category_and_generator_and_formats_take_turns(corpora):
    root = corpora("real_fake_folder")
    with open(root / "images.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert {row["path"] for row in listed} == {f"images/{path.name}" for path in (root / "images").iterdir()}
    assert all(bool(row["generator"]) == (row["label"] == "fake") for row in listed)
    formats = [(row["path"].rpartition(".")[2], row["label"]) for row in listed]
    assert {formats.count(pair) for pair in set(formats)} == {NUM_IMAGES // 4}


def test_the_length_of_a_jpeg_tells_nothing_of_the_class(tmp_path):
    write_corpus("deepfake_and_real", tmp_path, 400, seed=0, size=64, processes=2)
    files = sorted(tmp_path.rglob("*.jpg"))
    lengths = np.log([[path.stat().st_size] for path in files])
    labels = np.array([path.parent.name == "Fake" for path in files])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = {"groups": [_scene(path.name) for path in files], "cv": GroupKFold(5)}
    scores = cross_val_predict(model, lengths, labels, **folds, method="predict_proba")[:, 1]
    assert roc_auc_score(labels, scores) < 0.6


def test_videos_move_and_are_h264(corpora):
    for path in sorted(corpora("celeb_df").rglob("*.mp4"))[::24]:
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
        assert len(frames) == 16
        assert frames[0].shape == (32, 32, 3)
        assert np.abs(frames[-1] - frames[0]).mean() > np.abs(frames[1] - frames[0]).mean()


def test_a_fake_video_bears_the_name_of_another_scene():
    for index in (1, 37, 99):
        sample = make_video(index, 100, 5, 32)
        assert sample.source in SCENES - {sample.scene}
    assert make_video(0, 100, 5, 32).source == ""


def test_an_interrupted_corpus_is_finished_only_with_the_same_numbers(corpora, tmp_path):
    whole = corpora("real_fake_folder")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "astronaut__000000.png").write_bytes(b"cut off")
    (tmp_path / "unfinished").write_text((whole / "samples.json").read_text())
    with pytest.raises(Refused, match="holds something else"):
        write_corpus("real_fake_folder", tmp_path, NUM_IMAGES, seed=4, size=32, processes=1)
    assert write_corpus("real_fake_folder", tmp_path, NUM_IMAGES, seed=3, size=32, processes=1)
    assert _digests(tmp_path) == _digests(whole)


@pytest.mark.parametrize(
    ("seed", "size", "processes", "sentence"),
    [(-1, 32, 1, "--seed"), (0, 66, 1, "--size"), (0, 32, 0, "--processes")],
)
def test_numbers_out_of_range_are_refused(seed, size, processes, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        write_corpus("celeb_df", tmp_path / "out", NUM_IMAGES, seed=seed, size=size, processes=processes)
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match="must be a folder"):
        write_corpus("celeb_df", tmp_path / "file", NUM_IMAGES, seed=0, size=32, processes=1)


def _scene(name: str) -> str:
    return name.rpartition("/")[2].partition("__")[0]


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}

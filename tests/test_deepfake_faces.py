"""DFDC's faces: groups from the originals, parts, balanced schemes, and metadata that does not fit the files."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_sources as sources

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import Builder as AiVsHuman
from tfds_builders.celeb_df.celeb_df_dataset_builder import Builder as CelebDf
from tfds_builders.deepfake_and_real.deepfake_and_real_dataset_builder import Builder as DeepfakeAndReal
from tfds_builders.deepfake_faces.deepfake_faces_dataset_builder import Builder as DeepfakeFaces
from tfds_builders.dfdc_faces.dfdc_faces_dataset_builder import Builder as DfdcFaces
from tfds_builders.real_fake_folder.real_fake_folder_dataset_builder import Builder as RealFakeFolder
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import BUILD, EXCLUDED, QUARANTINE, SPLITS


@pytest.fixture
def any_number_bad(monkeypatch):
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "1")


def _counts(rows: list[dict], column: str) -> Counter:
    return Counter((row[column], row["label"]) for row in rows if row[column])


def test_a_fake_is_in_the_group_of_its_original(tmp_path):
    rows = sources.manifest(sources.build(DeepfakeFaces, sources.deepfake_faces(tmp_path / "manual"), tmp_path))
    for row in rows:
        assert row["video"] == Path(row["id"]).stem
        assert row["group"] == ("real" + row["video"][4:6])
        assert row["label"] == row["video"].startswith("fake")


def test_the_balanced_scheme_has_as_many_real_as_fake(tmp_path):
    rows = sources.manifest(sources.build(DeepfakeFaces, sources.deepfake_faces(tmp_path / "manual"), tmp_path))
    assert all(row["scheme_balanced"] in ("", row["split"]) for row in rows)
    counts = _counts(rows, "scheme_balanced")
    assert sum(counts.values()) == 24
    assert all(counts[split, 0] == counts[split, 1] == _counts(rows, "split")[split, 0] > 0 for split in SPLITS)


def test_the_published_balanced_subset_has_16000_of_each():
    """At the published size, without images: 16,293 real videos and 79,341 fakes made from them."""
    num_real, num_fake = 16_293, 79_341
    names = [f"v{number:06d}" for number in range(num_real + num_fake)]
    groups = names[:num_real] + [names[number % num_real] for number in range(num_fake)]
    scan = pa.table(
        {
            "id": [f"faces_224/{name}.jpg" for name in names],
            "label": pa.array([0] * num_real + [1] * num_fake, pa.int8()),
            "group": groups,
        }
    )
    columns = DeepfakeFaces.assign_splits(DeepfakeFaces, scan)
    labels = scan["label"].to_numpy()
    chosen = columns["scheme_balanced"] != ""
    assert (chosen & (labels == 0)).sum() == (chosen & (labels == 1)).sum() == 16_000
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        assert (columns["split"] == split).mean() == pytest.approx(share, abs=0.005)
    sides = {}
    for group, split in zip(groups, columns["split"], strict=True):
        assert sides.setdefault(group, split) == split


def test_metadata_and_files_that_do_not_fit(tmp_path, any_number_bad):
    manual = sources.deepfake_faces(tmp_path / "manual")
    rows = (manual / "metadata.csv").read_text().splitlines()
    rows += [rows[1].replace("REAL", "FAKE")]  # of real00
    rows[2] = rows[2].replace("FAKE", "MAYBE")  # of fake00x0
    rows += ["gone.mp4,1,1,FAKE,real01.mp4"]
    (manual / "metadata.csv").write_text("\n".join(rows))
    sources.write(manual, {"faces_224/extra.jpg": sources.image("extra.jpg"), "faces_224/Thumbs.db": b"x"})
    (manual / "faces_224" / "real05.jpg").write_bytes(b"")
    built = sources.build(DeepfakeFaces, manual, tmp_path)
    assert sources.outcomes(built, QUARANTINE) == {
        "faces_224/real00.jpg": "contradicting_labels",
        "faces_224/fake00x0.jpg": "unknown_label",
        "faces_224/gone.jpg": "missing_file",
        "faces_224/real05.jpg": "zero_bytes",
    }
    assert sources.outcomes(built, EXCLUDED) == {
        "faces_224/extra.jpg": "not_in_metadata",
        "faces_224/Thumbs.db": "system_file",
        "metadata.csv": "not_data",
    }
    summary = json.loads((built / BUILD).read_text())
    assert summary["found"] == 52 == summary["written"] + 4 + 3


def test_a_download_that_lacks_faces_is_refused(tmp_path):
    manual = sources.deepfake_faces(tmp_path / "manual")
    (manual / "faces_224" / "real00.jpg").unlink()
    with pytest.raises(Refused, match=r"1 of 49 are\."):
        sources.build(DeepfakeFaces, manual, tmp_path)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"faces_224/a.jpg": b"x"}, "none was found"),
        ({"metadata.csv": b"videoname\na.mp4\n", "faces_224/a.jpg": b"x"}, "only unlabelled ones"),
        ({"metadata.csv": b"colour,label\nred,REAL\n", "faces_224/a.jpg": b"x"}, "columns for the video's name"),
    ],
)
def test_metadata_that_is_missing_or_says_nothing_is_refused(files, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        sources.build(DeepfakeFaces, sources.write(tmp_path / "manual", files), tmp_path)


def test_json_that_is_none_is_refused(tmp_path):
    manual = sources.write(tmp_path / "manual", {"metadata.json": b"{", "a.jpg": b"x"})
    with pytest.raises(Refused, match=r"metadata\.json cannot be read"):
        sources.build(DfdcFaces, manual, tmp_path)


def test_parts_up_to_46_train_and_the_others_are_halved(tmp_path, capfd):
    manual = sources.dfdc_parts(tmp_path / "manual")
    rows = sources.manifest(sources.build(DfdcFaces, manual, tmp_path))
    for row in rows:
        part = int(row["id"].removeprefix("DeepFake")[:2])
        assert (row["split"] == "train") == (part <= 46)
        assert row["scheme_published"] in ("", "train" if part <= 46 else "validation")
    held_out = Counter(row["split"] for row in rows if row["split"] != "train")
    assert held_out == {"validation": 16, "test": 16}
    for scheme in ("scheme_published", "scheme_balanced"):
        counts = _counts(rows, scheme)
        assert all(counts[split, 0] == counts[split, 1] > 0 for split, _ in counts)
    assert "no test split" in capfd.readouterr().err


def test_a_group_in_parts_of_both_sides_is_for_training(tmp_path):
    manual = sources.dfdc_parts(tmp_path / "manual")
    videos = json.loads((manual / "metadata" / "49.json").read_text())
    videos["p49fake00x0.mp4"]["original"] = "p0real00.mp4"
    (manual / "metadata" / "49.json").write_text(json.dumps(videos))
    rows = {row["video"]: row for row in sources.manifest(sources.build(DfdcFaces, manual, tmp_path))}
    assert rows["p49fake00x0"]["split"] == rows["p0real00"]["split"] == "train"
    assert rows["p49fake00x1"]["split"] != "train"


def test_without_parts_on_both_sides_groups_are_drawn(tmp_path):
    manual = sources.dfdc_parts(tmp_path / "manual")
    for part in ("47", "49"):
        shutil.rmtree(manual / f"DeepFake{part}")
    rows = sources.manifest(sources.build(DfdcFaces, manual, tmp_path))
    assert "scheme_published" not in rows[0]
    assert {row["split"] for row in rows} == set(SPLITS)


def test_videos_of_parts_that_are_not_here_are_excluded(tmp_path, capfd):
    manual = sources.dfdc_frames(tmp_path / "manual")
    shutil.rmtree(manual / "fake03x1")
    built = sources.build(DfdcFaces, manual, tmp_path)
    assert sources.outcomes(built, EXCLUDED) == {"fake03x1": "no_face", "metadata.json": "not_data"}
    assert "names 1 videos without a face here, of 48" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["deepfake-detection-faces-part-{}-0", "deepfake-detection-faces-part-{}_0"])
def test_several_zips_are_parts_and_names_may_end_in_mp4(name, tmp_path):
    """Two parts as Kaggle delivers them, with a CSV beside them; folders named like the videos, suffix and all."""
    videos = sources.dfdc_videos(16)
    (tmp_path / "manual").mkdir()
    for part, names in ((name.format(3), list(videos)[:32]), (name.format(48), list(videos)[32:])):
        frames = {f"{name}/frame {frame}.png": f"{name}{frame}" for name in names for frame in (0, 1)}
        unpacked = sources.write(tmp_path / part, {path: sources.image(seed) for path, seed in frames.items()})
        archive = sources.zipped(unpacked, tmp_path / f"zip {part}") / "archive.zip"
        archive.rename(tmp_path / "manual" / f"{part}.zip")
    rows = [{"filename": name, **row} for name, row in videos.items()]
    sources.write(tmp_path / "manual", {"metadata.csv": sources.as_csv(rows)})
    manifest = sources.manifest(sources.build(DfdcFaces, tmp_path / "manual", tmp_path))
    assert len(manifest) == 128
    assert all((row["split"] == "train") == row["id"].startswith(name.format(3)) for row in manifest)
    assert {row["video"] for row in manifest} == {name.removesuffix(".mp4") for name in videos}


def test_splits_of_the_metadata_are_used(tmp_path):
    manual = sources.dfdc_frames(tmp_path / "manual")
    videos = json.loads((manual / "metadata.json").read_text())
    for name, row in videos.items():
        row["split"] = {"0": "train", "1": "test"}[name[4]] if name[4:6] != "09" else "validation"
    (manual / "metadata.json").write_text(json.dumps(videos))
    for row in sources.manifest(sources.build(DfdcFaces, manual, tmp_path)):
        assert row["split"] == videos[f"{row['video']}.mp4"]["split"]


def test_deepfake_and_real_keeps_its_own_splits(tmp_path):
    rows = sources.manifest(sources.build(DeepfakeAndReal, sources.deepfake_and_real(tmp_path / "manual"), tmp_path))
    assert all(row["id"].split("/")[1].lower() == row["split"] for row in rows)
    assert Counter(row["split"] for row in rows) == {"train": 40, "validation": 12, "test": 8}
    assert all(row["label"] == ("/Fake/" in row["id"]) for row in rows)


def test_deepfake_and_real_is_never_split_anew(tmp_path):
    manual = sources.deepfake_and_real(tmp_path / "manual")
    shutil.rmtree(manual / "Dataset" / "Test")
    with pytest.raises(Refused, match="without images there: test"):
        sources.build(DeepfakeAndReal, manual, tmp_path)


def test_what_lies_outside_the_splits_is_excluded(tmp_path):
    manual = sources.deepfake_and_real(tmp_path / "manual")
    sources.write(manual, {"Dataset/More/Real/a.jpg": sources.image("a.jpg"), "Dataset/b.jpg": sources.image("b.jpg")})
    built = sources.build(DeepfakeAndReal, manual, tmp_path)
    assert sources.outcomes(built, EXCLUDED) == {
        "Dataset/More/Real/a.jpg": "outside_splits",
        "Dataset/b.jpg": "outside_layout",
    }


@pytest.mark.parametrize("builder", [DeepfakeAndReal, DeepfakeFaces, DfdcFaces, CelebDf, RealFakeFolder, AiVsHuman])
@pytest.mark.parametrize("beside", [True, False])
def test_a_damaged_archive_ends_the_build(builder, beside, tmp_path, any_number_bad):
    manual = sources.categories(tmp_path / "manual") if beside else tmp_path / "manual"
    sources.write(manual, {"part 2.zip": b"PK\x03\x04 and then nothing"})
    with pytest.raises(Refused, match=r"part 2\.zip is damaged \(File is not a zip file\): download it again"):
        sources.build(builder, manual, tmp_path)


def test_order_of_the_source_does_not_matter():
    """The split is a function of names: rows in another order fall on the same sides."""
    scan = pa.table(
        {
            "id": [f"faces_224/{number}.jpg" for number in range(200)],
            "label": pa.array([int(number % 5 > 0) for number in range(200)], pa.int8()),
            "group": [f"g{number // 5}" for number in range(200)],
        }
    )
    order = np.random.default_rng(0).permutation(200)
    one, other = (DeepfakeFaces.assign_splits(DeepfakeFaces, table) for table in (scan, scan.take(pa.array(order))))
    for name in one:
        assert (one[name][order] == other[name]).all()


def test_the_published_mixture_is_one_scheme_of_both(tmp_path):
    faces = sources.manifest(sources.build(DeepfakeFaces, sources.deepfake_faces(tmp_path / "faces"), tmp_path))
    assert all(row["scheme_merged"] == row["scheme_balanced"] for row in faces)
    other = sources.manifest(sources.build(DeepfakeAndReal, sources.deepfake_and_real(tmp_path / "other"), tmp_path))
    assert all(row["scheme_merged"] == row["split"] for row in other)

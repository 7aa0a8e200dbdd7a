"""Videos: which frames are taken, that they are lossless, what becomes of bad ones; identities on one side."""

import hashlib
import io
import json
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_sources as sources
from PIL import Image

from tfds_builders.celeb_df.celeb_df_dataset_builder import Builder
from tfds_builders.records.errors import Refused
from tfds_builders.records.frames import RANDOM_FRAME, choose_frames
from tfds_builders.records.schema import BUILD, EXCLUDED, QUARANTINE
from tfds_builders.sharding import build as engine
from tfds_builders.sharding.sources import Source, read
from tfds_builders.sharding.video import frames_of


@pytest.mark.parametrize(
    ("num_frames", "wanted", "expected"),
    [
        (20, 1, [10]),
        (20, 2, [5, 15]),
        (300, 3, [50, 150, 250]),
        (7, 3, [1, 3, 5]),
        (3, 3, [0, 1, 2]),
        (2, 10, [0, 1]),
        (1, RANDOM_FRAME, [0]),
    ],
)
def test_frames_lie_in_the_middle_of_equal_parts(num_frames, wanted, expected):
    assert choose_frames(num_frames, wanted, "a.mp4") == expected


def test_a_random_frame_is_drawn_by_the_name():
    drawn = {name: choose_frames(100, RANDOM_FRAME, name)[0] for name in map(str, range(200))}
    assert drawn == {name: choose_frames(100, RANDOM_FRAME, name)[0] for name in drawn}
    assert min(drawn.values()) < 10
    assert max(drawn.values()) > 89
    assert len(set(drawn.values())) > 60


def _decoded(data: bytes) -> list[np.ndarray]:
    """Every frame, uint8 [height, width, 3], decoded in order."""
    import av

    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("wanted", [3, 100, RANDOM_FRAME])
def test_frames_are_lossless(wanted, tmp_path):
    data = sources.video(seed=1)
    (entry,) = Source(sources.write(tmp_path / "manual", {"a b.mp4": data})).entries()
    expected = _decoded(data)
    frames = frames_of(entry, wanted, tmp_path / "frames")
    assert len(frames) == min(abs(wanted), 20)
    for frame in frames:
        name, _, number = frame.id.rpartition("#")
        assert name == "a b.mp4"
        png = read(frame)
        assert len(png) == frame.size
        assert (np.asarray(Image.open(io.BytesIO(png))) == expected[int(number)]).all()


def test_a_turned_video_comes_out_upright(tmp_path):
    """As telephones save it: pixels lie on their side, and the container says so."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    (entry,) = Source(sources.write(tmp_path / "manual", {"a.mp4": file.getvalue()})).entries()
    (frame,) = frames_of(entry, 1, tmp_path / "frames")
    assert Image.open(io.BytesIO(read(frame))).size == (32, 64)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return sources.celeb_df(tmp_path_factory.mktemp("celeb"))


@pytest.fixture(scope="module")
def rows(source, tmp_path_factory) -> list[dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_FRAMES", "2")
        return sources.manifest(sources.build(Builder, source, tmp_path_factory.mktemp("built")))


def test_a_frame_knows_its_video(rows):
    assert Counter(row["video"] for row in rows) == dict.fromkeys({row["video"] for row in rows}, 2)
    for row in rows:
        assert row["id"] in (f"{row['video']}#5", f"{row['video']}#15")
        assert row["flags"] == ["video_frame"]
        assert (row["format"], row["source_format"], row["width"], row["height"]) == ("PNG", "VIDEO", 48, 32)
        assert row["label"] == ("synthesis" in row["id"])
    assert len({row["sha256"] for row in rows}) == len(rows) == 60


def test_the_hash_is_that_of_the_stored_frame(source, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_FRAMES", "1")
    built = sources.build(Builder, source, tmp_path)
    hashes = {row["id"]: row["sha256"] for row in sources.manifest(built)}
    for record in sources.records(built, "train"):
        assert hashlib.sha256(record["image"]).digest() == hashes[record["id"].decode()]


def test_no_target_is_on_two_sides(rows):
    side = {}
    for row in rows:
        assert row["group"] == Path(row["video"]).name.split("_")[0]
        assert side.setdefault(row["group"], row["split"]) == row["split"]
    assert Counter(side.values()) == {"train": 4, "validation": 3, "test": 3}


def test_the_identity_scheme_keeps_sources_on_their_side_too(rows):
    side = {row["group"]: row["split"] for row in rows}
    left_out = 0
    for row in rows:
        identities = {part for part in Path(row["video"]).stem.split("_") if part.startswith("id")}
        is_clean = {side[identity] for identity in identities} == {row["split"]}
        assert row["scheme_identities"] == (row["split"] if is_clean else "")
        left_out += not is_clean
    assert 0 < left_out < 40


def test_another_choice_of_frames_is_another_dataset(source, tmp_path, monkeypatch):
    summaries = []
    for frames in ("1", "random", "2"):
        monkeypatch.setenv("REALSHARD_FRAMES", frames)
        built = sources.build(Builder, source, tmp_path / frames)
        summaries.append(json.loads((built / BUILD).read_text()))
    assert [summary["written"] for summary in summaries] == [30, 30, 60]
    assert [summary["made_with"]["frames"] for summary in summaries] == [1, -1, 2]
    assert len({summary["fingerprint"] for summary in summaries}) == 3


@pytest.mark.parametrize("frames", ["0", "-1", "many", "1.5", ""])
def test_other_choices_are_refused(frames, source, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_FRAMES", frames)
    with pytest.raises(Refused, match="REALSHARD_FRAMES must be"):
        sources.build(Builder, source, tmp_path)


def _audio_only() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def test_bad_videos_and_bad_names(source, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_FRAMES", "4")
    monkeypatch.setenv("REALSHARD_MAX_QUARANTINED", "1")
    whole = sources.video(seed=7, num_frames=40, size=(96, 96))
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)  # the index, at the end, stays whole
    manual = tmp_path / "manual"
    (manual / "Celeb-real").mkdir(parents=True)
    (manual / "celeb").symlink_to(source)
    sources.write(
        manual,
        {
            "Celeb-real/id0_0001.mp4": b"",
            "Celeb-real/id1_0001.mp4": b"no video" * 99,
            "Celeb-real/id2_0001.mp4": whole[: len(whole) // 2],
            "Celeb-real/id3_0001.mp4": _audio_only(),
            "Celeb-real/id4_0001.mp4": bytes(damaged),
            "Celeb-real/id5_id6_0001.mp4": whole,
            "Celeb-real/interview.mp4": whole,
            "Celeb-real/id0 copy.mp4": whole,
            "more/interview.mp4": whole,
            "YouTube-real/00170.mp4": whole,
            "Celeb-real/._id0_0003.mp4": b"attributes",
            "YouTube-real/._00170.mp4": b"attributes",
            "__MACOSX/Celeb-real/._id0_0000.mp4": b"attributes",
            "Celeb-real/still.png": sources.image("still.png"),
            "List_of_testing_videos.txt": b"1 Celeb-real/id0_0000.mp4",
        },
    )
    built = sources.build(Builder, manual, tmp_path)
    bad = sources.outcomes(built, QUARANTINE)
    frames_of_damaged = {id: reason for id, reason in bad.items() if "id4_0001" in id}
    assert set(frames_of_damaged.values()) == {"undecodable"}
    assert {id: reason for id, reason in bad.items() if "id4_0001" not in id} == {
        "Celeb-real/id0_0001.mp4": "zero_bytes",
        "Celeb-real/id1_0001.mp4": "undecodable",
        "Celeb-real/id2_0001.mp4": "undecodable",
        "Celeb-real/id3_0001.mp4": "no_frames",
        "Celeb-real/id5_id6_0001.mp4": "contradicting_labels",
    }
    assert sources.outcomes(built, EXCLUDED) == {
        "more/interview.mp4": "outside_layout",
        "Celeb-real/interview.mp4": "outside_layout",
        "Celeb-real/id0 copy.mp4": "outside_layout",
        "Celeb-real/._id0_0003.mp4": "system_file",
        "YouTube-real/._00170.mp4": "system_file",
        "__MACOSX/Celeb-real/._id0_0000.mp4": "system_file",
        "Celeb-real/still.png": "outside_layout",
        "List_of_testing_videos.txt": "not_data",
    }
    rows = sources.manifest(built)
    # What comes before the damage is good.
    good = {row["id"] for row in rows if "id4_0001" in row["id"]}
    assert good | set(frames_of_damaged) == {f"Celeb-real/id4_0001.mp4#{number}" for number in (5, 15, 25, 35)}
    assert good
    assert frames_of_damaged
    youtube = [row for row in rows if "YouTube" in row["id"]]
    assert [(row["label"], row["group"]) for row in youtube] == [(0, "YouTube-real/00170.mp4")] * 4
    summary = json.loads((built / BUILD).read_text())
    assert summary["found"] == summary["written"] + summary["quarantined"] + summary["excluded"]
    assert summary["written"] == 30 * 4 + 4 + len(good)


def test_frames_of_an_earlier_run_are_used_again(tmp_path, monkeypatch):
    """A build that was killed while scanning does not decode the same videos once more."""
    (entry,) = Source(sources.write(tmp_path / "manual", {"a.mp4": sources.video(seed=3)})).entries()
    first = frames_of(entry, 3, tmp_path / "frames")
    path = Path(first[1].path.decode())
    content = path.read_bytes()
    path.unlink()
    assert frames_of(entry, 3, tmp_path / "frames") == first
    assert path.read_bytes() == content
    monkeypatch.setattr("tfds_builders.sharding.video.decode_frames", None)
    assert frames_of(entry, 3, tmp_path / "frames") == first


def test_identities_are_split_whatever_the_order():
    names = [f"Celeb-real/id{person}_{clip:04d}.mp4" for person in range(20) for clip in range(3)]
    scan = pa.table(
        {
            "id": [f"{name}#1" for name in names],
            "video": names,
            "group": [Path(name).name.split("_")[0] for name in names],
            "label": pa.array([index % 2 for index in range(len(names))], pa.int8()),
        }
    )
    split = Builder.assign_splits(Builder, scan)["split"]
    backwards = Builder.assign_splits(Builder, scan.take(pa.array(range(len(names) - 1, -1, -1))))["split"]
    assert (split == backwards[::-1]).all()


def test_frames_that_a_power_cut_emptied_are_taken_again(source, tmp_path, monkeypatch):
    monkeypatch.setenv("REALSHARD_FRAMES", "2")
    whole = sources.build(Builder, source, tmp_path / "whole")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_shard", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sources.build(Builder, source, tmp_path)
    (frames,) = (tmp_path / "celeb_df").glob(".*.staging/frames")
    os.truncate(min(frames.iterdir()), 0)
    built = sources.build(Builder, source, tmp_path)
    assert [row["sha256"] for row in sources.manifest(built)] == [row["sha256"] for row in sources.manifest(whole)]

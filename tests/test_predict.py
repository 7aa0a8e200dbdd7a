"""The command that gives verdicts on files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_model
from small_model import FORMATS, NAME, image_bytes

from tfds_builders.records.errors import Refused
from tfds_builders.records.frames import count_frames, decode_frames
from tfds_builders.samples.videos import make_video
from trainers import predict

MODEL = ["--model", f"models:/{NAME}@champion"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the tiny model as champion."""
    root = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(root / "home"))
        small_model.register(small_model.new_run("job"), small_model.save_model(root / "model.keras"))
        yield root / "home"


@pytest.fixture
def folder(tmp_path):
    """Images of every format and several sizes, one of them in a folder below, and a note that is none."""
    (tmp_path / "below").mkdir()
    for number, image_format in enumerate(FORMATS):
        parent = tmp_path / "below" if image_format == "GIF" else tmp_path
        data = image_bytes(image_format, height=9 + 100 * number, width=300 - 40 * number, seed=number)
        (parent / f"{number}.{image_format}").write_bytes(data)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def answers_of(capsys, *arguments: str) -> tuple[int, list[dict]]:
    code = predict.main([*MODEL, "--json", *arguments])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_format_and_size_in_a_folder_gets_a_verdict(home, folder, capsys):
    code, answers = answers_of(capsys, str(folder))
    assert code == 0
    names = [f"{number}.{image_format}" for number, image_format in enumerate(FORMATS)]
    expected = sorted(f"{folder}/{'below/' if name.endswith('GIF') else ''}{name}" for name in names)
    assert [answer["file"] for answer in answers] == expected
    assert all(answer["error"] is None and answer["label"] in ("real", "fake") for answer in answers)
    assert all((answer["p_fake"] >= 0.5) == (answer["label"] == "fake") for answer in answers)
    assert len({answer["p_fake"] for answer in answers}) == len(answers)
    assert {(answer["model"], answer["version"]) for answer in answers} == {(NAME, 1)}


def test_what_is_passed_over_in_a_folder_is_said(folder, capsys):
    for name in ("photo.HEIC", ".DS_Store", "1.jfif"):
        (folder / name).write_bytes(b"")
    found = predict.find_files([folder])
    assert len(found) == len(FORMATS) + 1
    assert "1.jfif" in {file.name for file in found}
    said = capsys.readouterr().err
    assert f"2 files in {folder} are passed over" in said
    assert f"{folder}/notes.txt, {folder}/photo.HEIC. Name a file" in said


def test_a_bad_file_has_its_line_and_the_others_are_scored(home, folder, capsys):
    good, alone = folder / "0.JPEG", answers_of(capsys, str(folder / "0.JPEG"))[1][0]
    (folder / "page.jpg").write_text("<html>gone</html>")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.jpg").write_bytes(good.read_bytes()[:250])
    files = [folder / "page.jpg", good, folder / "empty.png", folder / "missing.png", folder / "half.jpg", good]
    code, answers = answers_of(capsys, *map(str, files))
    assert code == 1
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    assert [answer["p_fake"] for answer in answers] == [None, alone["p_fake"], None, None, None, alone["p_fake"]]
    reasons = [answer["error"] for answer in answers]
    assert reasons[1] is None
    assert "HTML" in reasons[0]
    assert "empty" in reasons[2]
    assert "no such file" in reasons[3]
    assert reasons[4]


def test_only_bad_files_end_with_reasons_too(home, folder, capsys):
    code, answers = answers_of(capsys, str(folder / "notes.txt"), str(folder / "nowhere"))
    assert code == 1
    assert [answer["label"] for answer in answers] == [None, None]


def test_a_folder_without_images_is_an_error(home, tmp_path, capsys):
    code, (answer,) = answers_of(capsys, str(tmp_path))
    assert code == 1
    assert "holds no images" in answer["error"]


def test_more_files_than_a_batch_keep_their_order(home, tmp_path, capsys):
    for number in range(40):
        data = b"broken" if number % 9 == 4 else image_bytes("PNG", seed=number)
        (tmp_path / f"{number:02}.png").write_bytes(data)
    code, answers = answers_of(capsys, str(tmp_path))
    assert code == 1
    assert [answer["file"][-6:] for answer in answers] == [f"{number:02}.png" for number in range(40)]
    assert [number for number, answer in enumerate(answers) if answer["error"]] == [4, 13, 22, 31]
    ordered = [answers_of(capsys, answers[number]["file"])[1][0]["p_fake"] for number in (0, 12, 39)]
    assert ordered == pytest.approx([answers[number]["p_fake"] for number in (0, 12, 39)], abs=1e-6)


def test_the_table_names_file_label_score_and_version(home, folder, capsys):
    assert predict.main([*MODEL, str(folder / "1.PNG"), str(folder / "notes.txt")]) == 1
    heading, good, bad = capsys.readouterr().out.splitlines()
    assert heading.split() == ["file", "label", "P(fake)", "model"]
    file, label, score, *model = good.split()
    assert (file, model) == (str(folder / "1.PNG"), [NAME, "v1"])
    assert label == ("fake" if float(score) >= 0.5 else "real")
    assert bad.startswith(str(folder / "notes.txt"))
    assert "unreadable: " in bad
    assert good.index(label) == heading.index("label")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of 16 frames."""
    file = tmp_path_factory.mktemp("clips") / "clip.mp4"
    file.write_bytes(make_video(0, 2, seed=0, size=64).mp4)
    return file


def test_a_video_gets_the_mean_of_its_frames(home, clip, tmp_path, capsys):
    data = clip.read_bytes()
    assert count_frames(data) == 16
    pictures = dict(decode_frames(data, set(range(16))))
    for number, png in pictures.items():
        (tmp_path / f"{number:02}.png").write_bytes(png)
    _, stills = answers_of(capsys, str(tmp_path))
    scores = [answer["p_fake"] for answer in stills]
    for wanted, numbers in ((16, range(16)), (4, (2, 6, 10, 14))):
        code, (answer,) = answers_of(capsys, "--frames", str(wanted), str(clip))
        assert (code, answer["frames"]) == (0, wanted)
        assert answer["p_fake"] == pytest.approx(sum(scores[number] for number in numbers) / wanted, abs=1e-6)
        assert answer["label"] == ("fake" if answer["p_fake"] >= 0.5 else "real")


def test_videos_and_images_keep_their_order_and_a_bad_video_its_reason(home, folder, clip, capsys):
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "0-clip.MOV").write_bytes(clip.read_bytes())
    code, answers = answers_of(capsys, str(folder))
    assert code == 1
    assert [answer["file"] for answer in answers] == sorted(answer["file"] for answer in answers)
    by_name = {Path(answer["file"]).name: answer for answer in answers}
    assert "cannot be decoded" in by_name["broken.mp4"]["error"]
    assert by_name["0-clip.MOV"]["frames"] == 16
    assert [name for name, answer in by_name.items() if answer["error"]] == ["broken.mp4"]


def test_no_frames_at_all_are_refused(home, clip):
    with pytest.raises(Refused, match="--frames must be at least 1"):
        predict.main([*MODEL, "--frames", "0", str(clip)])


def test_a_name_that_is_no_utf8_is_printed_with_its_bytes(home, tmp_path, capsys):
    Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.png")).write_bytes(image_bytes("PNG"))
    assert predict.main([*MODEL, str(tmp_path)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/caf\\xe9.png  ")
    assert line.endswith(f"{NAME} v1")
    assert heading.index("label") == len(f"{tmp_path}/caf\\xe9.png") + 2
    code, (answer,) = answers_of(capsys, str(tmp_path))
    assert (code, os.fsencode(answer["file"])) == (0, os.fsencode(tmp_path) + b"/caf\xe9.png")


def test_an_unknown_model_is_refused_before_anything_is_read(home, capsys):
    with pytest.raises(Refused, match="there is no model models:/nobody@champion"):
        predict.main(["--model", "models:/nobody@champion", "photo.jpg"])
    assert capsys.readouterr().out == ""


def test_the_command_prints_nothing_but_the_answers(home, folder):
    (folder / "bad.png").write_bytes(b"\x89PNG")
    command = [sys.executable, "-m", "trainers.predict", *MODEL, "bad.png", "0.JPEG"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("bad.png")
    assert lines[2].startswith("0.JPEG")

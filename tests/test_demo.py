"""The demo with smaller numbers: the same code, every stage for real."""

import json
import math

import pytest

from tfds_builders.records.errors import Refused
from trainers import demo

KEYS = {
    "images_found",
    "images_written",
    "images_excluded",
    "images_quarantined",
    "shards",
    "train_images",
    "val_images",
    "test_images",
    "test_auc",
    "test_accuracy",
    "test_balanced_accuracy",
    "images_per_second",
    "mlflow_run_id",
    "model_name",
    "model_version",
    "alias",
    "seconds",
}
STAGES = ["corpus", "build", "train", "evaluate", "predict"]


def test_a_job_of_another_dataset_or_other_options_has_another_name():
    settings = demo.Settings()
    name = demo.train_command(settings, "a" * 64)[-1]
    assert name == demo.train_command(demo.Settings(), "a" * 64)[-1]
    assert name != demo.train_command(settings, "b" * 64)[-1]
    assert name != demo.train_command(demo.Settings(epochs=settings.epochs + 1), "a" * 64)[-1]


def test_a_command_that_fails_stops_the_demo(capfd):
    with pytest.raises(Refused, match=r"`python -c .* ended with code 3"):
        demo.run_command(["python", "-c", "raise SystemExit(3)"])
    assert "$ python -c" in capfd.readouterr().out


def test_the_callers_options_are_not_the_demos(monkeypatch, capfd):
    monkeypatch.setenv("REALSHARD_EPOCHS", "99")
    program = "import os; print(sorted(name for name in os.environ if name.startswith('REALSHARD_')))"
    demo.run_command(["python", "-c", program])
    assert capfd.readouterr().out.splitlines()[-1] == "['REALSHARD_HOME']"


@pytest.mark.long
def test_the_whole_road_and_the_second_time(tmp_path, realshard_home, capfd):
    settings = demo.Settings(tmp_path / "demo", num_images=240, image_size=32, epochs=1)
    first = demo.Demo(settings).run()
    printed = capfd.readouterr().out
    assert first == json.loads((settings.folder / "summary.json").read_text())
    assert set(first) >= KEYS
    assert first["images_found"] == 240 + 2  # generators.csv and samples.json
    assert first["images_found"] == sum(first[f"images_{kind}"] for kind in ("written", "excluded", "quarantined"))
    # The left-out generator's fakes are neither trained nor validated on, but tested on.
    assert first["train_images"] + first["val_images"] + first["test_images"] < first["images_written"]
    assert first["test_photographs"] >= 3
    assert 0 <= first["left_out_auc"] <= 1
    assert first["file_facts_auc"] < 0.6
    assert math.isfinite(first["images_per_second"])
    assert first["model_name"] == "realshard-resnet50"
    assert (first["model_version"], first["alias"]) == (1, "champion")
    assert (list(first["seconds"]), first["reused"]) == ([*STAGES, "total"], [])
    verdicts = [line.split() for line in printed.splitlines() if line.endswith("realshard-resnet50 v1")]
    assert len(verdicts) == 2
    assert all(verdict[1] in ("real", "fake") for verdict in verdicts)
    assert "test AUC" in demo.table(first)

    second = demo.Demo(settings).run()
    assert second["reused"] == ["corpus", "build", "train"]
    assert {key: second[key] for key in first if key not in ("seconds", "reused")} == {
        key: first[key] for key in first if key not in ("seconds", "reused")
    }
    capfd.readouterr()
    (settings.folder / "corpus.json").unlink()  # as an interrupted run leaves it: made anew, and the same again
    third = demo.Demo(settings).run()
    assert third["reused"] == ["train"]

"""The report card of a registered model, from the command to the page."""

import json
import re
import types
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_model
from small_dataset import write_dataset
from small_model import IMAGE_SIZE, NAME

from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import load_pixels
from tfds_builders.records.schema import MANIFEST
from trainers import evaluate, gate, tracking
from trainers.dataset import load
from trainers.decision import Decision
from trainers.dossier import AUDIT
from trainers.mixture import ids_apart
from trainers.reader import RecordReader
from trainers.registry import load_detector

CHAMPION = f"models:/{NAME}@champion"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A registered model and two datasets under one data_dir: data_dir, directory (of "toy"), keras_file."""
    root = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(root / "home"))
        directory = write_dataset(root / "data", {"train": 40, "validation": 11, "test": 45}, size=(30, 40))
        write_dataset(root / "data", {"train": 8, "test": 10}, name="other", seed=5)
        keras_file = small_model.save_model(root / "model.keras")
        run_id = small_model.new_run("job-evaluated")
        source = {"sources": [str(directory)], "profile": {"records": 40}}
        tracking.log_dataset(run_id, "toy:1.0.0/train", load(directory).fingerprint, "train", **source)
        tags = {"fingerprint": load(directory).fingerprint, "dataset": "toy:1.0.0"}
        small_model.register(run_id, keras_file, tags=tags, decision=Decision(0.4, unsure=(0.3, 0.6), base_rate=0.5))
        yield types.SimpleNamespace(
            data_dir=str(root / "data"), directory=directory, keras_file=keras_file, run_id=run_id
        )


@pytest.fixture(scope="module")
def card(built, tmp_path_factory):
    """The folder that the command left."""
    folder = tmp_path_factory.mktemp("card") / "new"
    arguments = ["--model", CHAMPION, "--dataset", "toy", "--data-dir", built.data_dir, "--out", str(folder), "--log"]
    assert evaluate.main(arguments) == 0
    return folder


def test_the_card_says_what_the_audits_found_or_that_there_were_none(built, tmp_path):
    high = {"severity": "high", "code": "shortcut_encoding", "sentence": "Facts of the file alone give AUC 0.99."}
    low = {"severity": "low", "code": "imbalance", "sentence": "Few are real."}
    info = {"severity": "info", "code": "sample", "sentence": "A sample was decoded."}
    for name, findings in (("bad", [high, low, info]), ("good", [info]), ("unknown", None)):
        directory = write_dataset(tmp_path, {"test": 6}, name=name, seed=len(name))
        if findings is not None:
            (directory / AUDIT).write_text(json.dumps({"findings": findings}))
    found = evaluate.evaluate(CHAMPION, ["bad", "good", "unknown"], str(tmp_path), "test", tmp_path / "out")
    notes = [note for note in found["notes"] if "udit" in note]
    assert notes == [
        "Audit of bad:1.0.0: high: shortcut_encoding (Facts of the file alone give AUC 0.99); low: imbalance.",
        "Audit of good:1.0.0: nothing was found.",
        "Audit: unknown:1.0.0 was not audited (`python -m tfds_builders.audit`).",
    ]
    assert notes[0] in (tmp_path / "out" / "card.html").read_text("utf-8")


def test_every_record_is_scored_once_in_manifest_order(built, card):
    import keras

    predictions = pq.read_table(card / "predictions.parquet")
    records = load(built.directory).select("test")
    assert predictions["id"].to_pylist() == records.ids()
    images = RecordReader(records).images(np.arange(45))
    pixels = np.stack([load_pixels(data, IMAGE_SIZE) for data in images])
    expected = keras.saving.load_model(built.keras_file)(pixels).numpy()[:, 0]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(predictions["p_fake"].to_numpy(), expected, atol=1e-6)


def test_scoring_says_how_far_it_is_where_results_do_not_go(built, monkeypatch, capsys):
    parts = evaluate.select(["toy"], built.data_dir, "test")
    monkeypatch.setattr("trainers.progress.LINE_EVERY_SECS", 0)
    evaluate.predictions_of(load_detector(CHAMPION), parts)
    said = capsys.readouterr()
    assert re.search(rf"^{NAME} v1 on toy: image 32/45 [\d.]+ images/s, 0:00:\d\d left$", said.err, flags=re.MULTILINE)
    assert said.out == ""


def test_the_card_is_of_the_models_own_threshold_and_band(card):
    written = json.loads((card / "card.json").read_text())
    predictions = pq.read_table(card / "predictions.parquet")
    labels, scores = predictions["label"].to_numpy(), predictions["p_fake"].to_numpy()
    assert written["summary"]["threshold"] == 0.4
    assert written["summary"]["accuracy"] == pytest.approx(np.mean((scores >= 0.4) == (labels == 1)))
    assert written["unsure"]["share"] == pytest.approx(np.mean((scores >= 0.3) & (scores < 0.6)))
    assert written["calibration"] == "P(fake) is the network's own: it was not calibrated."
    assert set(written["by"]) == {"category", "generator"}


def test_the_card_says_where_its_dataset_is_so_that_the_gate_finds_it(built, card):
    (dataset,) = json.loads((card / "card.json").read_text())["datasets"]
    assert dataset["title"] == "toy:1.0.0"
    assert load(dataset["directory"]).fingerprint == dataset["fingerprint"] == load(built.directory).fingerprint


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_from_outside(card):
    text = (card / "card.html").read_text("utf-8")
    page = _Page(text)
    assert page.tags.count("svg") >= 8
    assert "img" in page.tags  # this model is often wrong
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert "ROC AUC" in text


def test_figures_are_files_too(card):
    names = {file.stem for file in (card / "figures").glob("*.png")}
    assert names >= {"roc", "det", "precision_recall", "reliability", "confusion_matrix", "scores", "by_category"}


def test_the_models_run_gets_the_card_when_asked(built, card):
    client = tracking.client_of()
    assert {file.path for file in client.list_artifacts(built.run_id, "cards/toy-test")} == {
        f"cards/toy-test/{name}" for name in ("card.html", "card.json", "predictions.parquet")
    }


@pytest.mark.parametrize(("split", "word"), [("validation", "Selected on this set"), ("train[:8]", "Trained on this")])
def test_images_that_made_the_model_are_no_test(built, tmp_path, split, word):
    found = evaluate.evaluate(CHAMPION, ["toy"], built.data_dir, split, tmp_path)
    assert any(word in note for note in found["notes"])
    assert word in (tmp_path / "card.html").read_text("utf-8")


def test_other_images_of_a_photograph_it_was_trained_on_are_told_of(built, tmp_path):
    directory = write_dataset(tmp_path, {"test": 8}, name="related", seed=7)
    table = pq.read_table(directory / MANIFEST)
    groups = pa.array(["train-0", "train-0", *table["group"].to_pylist()[2:]], pa.string())
    pq.write_table(table.set_column(table.column_names.index("group"), "group", groups), directory / MANIFEST)
    found = evaluate.evaluate(CHAMPION, ["related"], str(tmp_path), "test", tmp_path / "out")
    (note,) = [note for note in found["notes"] if "Related" in note]
    assert "Related to the training part: 2 further images" in note
    own = evaluate.evaluate(CHAMPION, ["toy"], built.data_dir, "train[:8]", tmp_path / "own")
    assert "Trained on this set: 8 of 8 images below trained this model." in own["notes"]
    assert not [note for note in own["notes"] if "Related" in note]  # they are the very images


def with_scheme(directory, name: str, first_of_test: int) -> list[str]:
    """Adds a split scheme whose test part is the written one's first records; returns their ids."""
    table = pq.read_table(directory / MANIFEST)
    is_test = [split == "test" for split in table["split"].to_pylist()]
    tested = np.flatnonzero(is_test)[:first_of_test]
    column = np.where(np.isin(np.arange(len(table)), tested), "test", "")
    pq.write_table(table.append_column(f"scheme_{name}", pa.array(column)), directory / MANIFEST)
    return table["id"].take(pa.array(tested)).to_pylist()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A data_dir with the datasets `many` and `more`, of 30 groups each in their test splits."""
    root = tmp_path_factory.mktemp("many")
    for seed, name in ((11, "many"), (12, "more")):
        write_dataset(root, {"test": 120}, name=name, seed=seed)
    return root


@pytest.mark.parametrize("names", ["many", "many,more"])
def test_the_sealed_part_is_what_the_gate_leaves_out_and_no_more(built, many, tmp_path, names):
    arguments = ["--model", CHAMPION, "--dataset", names, "--data-dir", str(many), "--log"]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "all")]) == 0
    assert evaluate.main([*arguments, "--out", str(tmp_path / "sealed"), "--sealed"]) == 0
    whole, part = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("all", "sealed"))
    left_out = gate.sealed(whole["group"], ids_apart(whole))
    assert 0 < left_out.sum() < len(whole) / 2
    expected = whole.filter(pa.array(left_out))
    assert part.drop_columns("p_fake").equals(expected.drop_columns("p_fake"))
    np.testing.assert_allclose(part["p_fake"], expected["p_fake"], atol=1e-6)
    assert gate.judge(whole, whole)["sealed"] == len(part)
    card = json.loads((tmp_path / "sealed" / "card.json").read_text())
    assert f"the sealed fifth of the groups ({len(part)} of {len(whole)} images)" in card["title"]
    folder = f"cards/{names.replace(',', '+')}-test"
    cards = {file.path for file in tracking.client_of().list_artifacts(built.run_id, "cards")}
    assert {folder, f"{folder}-sealed"} <= cards  # where the gate looks there are all


def test_what_cannot_be_sealed_is_refused(built, many, tmp_path):
    with pytest.raises(Refused, match=r"toy, of whose 45 images .* none of fewer than 20 groups"):
        evaluate.evaluate(CHAMPION, ["toy"], built.data_dir, "test", tmp_path, is_sealed=True)
    with pytest.raises(Refused, match=r"Received: --split test\[:50%\]"):
        evaluate.evaluate(CHAMPION, ["many"], str(many), "test[:50%]", tmp_path, is_sealed=True)


def test_the_test_part_of_a_split_scheme(built, tmp_path):
    expected = with_scheme(write_dataset(tmp_path, {"test": 10}, name="divided", seed=8), "published", 6)
    arguments = [
        "--model",
        CHAMPION,
        "--dataset",
        "divided",
        "--data-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert evaluate.main([*arguments, "--split-scheme", "published", "--log"]) == 0
    assert pq.read_table(tmp_path / "out" / "predictions.parquet")["id"].to_pylist() == expected
    title = json.loads((tmp_path / "out" / "card.json").read_text())["title"]
    assert title == f"{NAME} v1 on divided:1.0.0, test of the split scheme published"
    cards = {file.path for file in tracking.client_of().list_artifacts(built.run_id, "cards")}
    assert "cards/divided-test-published" in cards
    assert "cards/divided-test" not in cards  # where the gate looks for the written split's
    with pytest.raises(Refused, match="divided has no split scheme 'identities'"):
        evaluate.main([*arguments, "--split-scheme", "identities"])


def test_a_published_mixture_is_judged_on_its_own_scheme(tmp_path):
    expected = [
        with_scheme(write_dataset(tmp_path, {"test": 8}, name=name), "merged", size)
        for name, size in (("deepfake_and_real", 3), ("deepfake_faces", 5))
    ]
    parts = evaluate.select(["merged_faces"], str(tmp_path), "test")
    assert [part.records.ids() for part in parts] == expected
    assert evaluate.title_of("test", parts) == "test of the split scheme merged"


def test_several_datasets_are_judged_together_and_each_by_itself(built, tmp_path):
    found = evaluate.evaluate(CHAMPION, ["toy", "other"], built.data_dir, "test", tmp_path)
    assert found["summary"]["n"] == 55
    assert {name: part["n"] for name, part in found["by"]["dataset"].items()} == {"other": 10, "toy": 45}
    groups = pq.read_table(tmp_path / "predictions.parquet")["group"].to_pylist()
    assert {"toy/test-0", "other/test-0"} <= set(groups)


@pytest.mark.parametrize(
    ("model", "names", "split", "sentence"),
    [
        ("models:/realshard-none@champion", ["toy"], "test", "there is no model"),
        (CHAMPION, ["nowhere"], "test", "'nowhere' is not built"),
        (CHAMPION, ["toy"], "holdout", "holdout"),
        (CHAMPION, ["other"], "validation", "other has no split 'validation'"),
        (CHAMPION, ["toy", "toy"], "test", "Each dataset must be named once"),
        (CHAMPION, ["toy", "toy:1.0.0"], "test", "Each dataset must be named once"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(built, tmp_path, model, names, split, sentence):
    with pytest.raises(Refused, match=sentence):
        evaluate.evaluate(model, names, built.data_dir, split, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_named(built, tmp_path):
    directory = write_dataset(tmp_path, {"test": 6}, num_shards=1)
    shard = next(directory.glob("*.tfrecord*"))
    data = bytearray(shard.read_bytes())
    data[-200] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(Refused, match=r"00005\.png"):
        evaluate.evaluate(CHAMPION, ["toy"], str(tmp_path), "test", tmp_path / "out")


def test_robustness_is_measured_change_by_change(built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trainers.progress.LINE_EVERY_SECS", 0)
    monkeypatch.setattr("trainers.robustness.BATCH_IMAGES", 16)
    arguments = ["--model", CHAMPION, "--dataset", "toy", "--data-dir", built.data_dir, "--out", str(tmp_path)]
    assert evaluate.main([*arguments, "--robustness", "--robustness-images", "30"]) == 0
    assert "changed and attacked image 16/30" in capsys.readouterr().err
    rows = json.loads((tmp_path / "card.json").read_text())["robustness"]
    assert rows[0]["change"] == "none"
    changes = {row["change"] for row in rows}
    assert {"jpeg", "webp", "blur", "resize", "noise", "crop", "brightness", "screenshot", "fgsm", "pgd"} < changes
    assert {row["n"] for row in rows} == {30}
    auc = {(row["change"], row["strength"]): row["auc"] for row in rows}
    assert auc[("pgd", 4)] <= auc[("fgsm", 4)] < auc[("none", None)]
    assert (tmp_path / "figures" / "robustness.png").exists()
    assert "Robustness, on 30 of the images" in (tmp_path / "card.html").read_text("utf-8")

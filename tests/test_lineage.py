"""A model version says where it came from, back to the archive; cards are made of facts and say what is missing."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_dataset import write_dataset

from tfds_builders.records.errors import Refused
from trainers import lineage, provenance, run_cards, tracking
from trainers.card import calibration_of, card_of
from trainers.config import Config
from trainers.dataset import find, load
from trainers.dossier import write_dossier
from trainers.strategy import Resources

NAME = "realshard-traced"
BUILD = {
    "fingerprint": "ab" * 32, "validation": "checksum", "found": 12, "written": 10, "excluded": 1, "quarantined": 1,
    "splits": {"train": {"found": 12, "written": 10, "real": 4, "fake": 6, "excluded": 1, "quarantined": 1}},
    "made_with": {"frames": 10}, "archives": [{"name": "download.zip", "bytes": 1234, "sha256": "cd" * 32}],
}  # fmt: skip


@pytest.fixture
def run_id(tmp_path, monkeypatch):
    """A run with a version of NAME, tags, and a dataset input per split."""
    monkeypatch.setenv("REALSHARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    tags = provenance.environment_tags(Resources(workers=2, cpus=3, devices=4, gpus=0), "0100")
    run_id = tracking.open_run(tracking.experiment("lineage"), "job-7", {"seed": 5, "epochs": 3}, tags)
    for split, records in (("test", 3), ("train", 7)):
        tracking.log_dataset(
            run_id,
            f"toy:1.0.0/{split}",
            BUILD["fingerprint"],
            split,
            sources=["/x"],
            profile={"records": records, "fake": 2},
        )
    client = tracking.client_of()
    client.create_registered_model(NAME)
    version = client.create_model_version(NAME, f"runs:/{run_id}/model", run_id).version
    client.set_registered_model_alias(NAME, "champion", version)
    return run_id


def test_the_chain_goes_from_the_version_to_the_archive(run_id, tmp_path, capsys):
    (tmp_path / "builds.json").write_text(json.dumps({"toy": BUILD}))
    tracking.client_of().log_artifact(run_id, str(tmp_path / "builds.json"), "dataset")
    assert lineage.main([f"models:/{NAME}@champion"]) == 0
    text = capsys.readouterr().out
    for part in (
        f"{NAME} version 1 (champion)", f"run       {run_id}, job job-7", "Ray job 0100", "commit", "tensorflow 2.",
        "seed 5, 2 x 4 CPU, 3 CPUs each", "train: 7 records, 2 fake", f"fingerprint {'ab' * 32}",
        "found 12 = written 10 + excluded 1 + quarantined 1", f"download.zip, 1234 bytes, sha256 {'cd' * 32}",
        "made with frames 10",
        "          read from /x\n",
    ):  # fmt: skip
        assert part in text
    assert text.index("train: 7") < text.index("test: 3")
    lineage.main([f"models:/{NAME}/1", "--json"])
    chain = json.loads(capsys.readouterr().out)
    assert (chain["builds"], chain["audits"]) == ({"toy": BUILD}, {"toy": None})
    assert "it was not audited" in text


def test_a_run_that_went_on_elsewhere_and_the_code_that_registered_are_told(run_id):
    client = tracking.client_of()
    assert "registered by" not in lineage.describe(lineage.lineage_of(f"models:/{NAME}/1"))
    client.set_tag(run_id, tracking.RESUMED_TAG, json.dumps({"realshard.machine": "another", "workers": "2"}))
    for key, value in (("source_commit", "ab" * 20), ("source_hash", "cd" * 32)):
        client.set_model_version_tag(NAME, "1", f"realshard.{key}", value)
    text = lineage.describe(lineage.lineage_of(f"models:/{NAME}/1"))
    for part in (f"registered by commit {'ab' * 20}", "resumed with machine another", "resumed with workers 2"):
        assert part in text
    for key in ("realshard.source_commit", "realshard.source_hash"):
        client.set_model_version_tag(NAME, "1", key, client.get_run(run_id).data.tags[key])
    assert "registered by" not in lineage.describe(lineage.lineage_of(f"models:/{NAME}/1"))


def test_what_the_audit_found_is_part_of_the_chain(run_id, tmp_path):
    found = {"severity": "high", "code": "group_leak", "sentence": "3 groups leak.", "action": "", "numbers": {}}
    client = tracking.client_of()
    for name, content in (("builds.json", {"toy": BUILD}), ("toy.audit.json", {"findings": [found]})):
        (tmp_path / name).write_text(json.dumps(content))
        client.log_artifact(run_id, str(tmp_path / name), "dataset")
    assert "audit     high: group_leak. 3 groups leak." in lineage.describe(lineage.lineage_of(f"models:/{NAME}/1"))
    (tmp_path / "toy.audit.json").write_text(json.dumps({"findings": []}))
    client.log_artifact(run_id, str(tmp_path / "toy.audit.json"), "dataset")
    assert "audit     nothing was found" in lineage.describe(lineage.lineage_of(f"models:/{NAME}/1"))


def test_a_run_is_asked_by_its_id_whether_it_registered_a_model_or_not(run_id, capsys):
    assert lineage.main([f"runs:/{run_id}"]) == 0
    assert capsys.readouterr().out == lineage.describe(lineage.lineage_of(f"models:/{NAME}/1")) + "\n"
    trial = tracking.open_run(tracking.experiment("lineage"), "trial-3", {}, {})
    sources = ["/data/toy/1.0.0", "/data/cats/2.0.0"]
    tracking.log_dataset(trial, "toy:1.0.0+cats:2.0.0/train", "ab" * 32, "train", sources=sources, profile={})
    text = lineage.describe(lineage.lineage_of(f"runs:/{trial}"))
    for part in ("model     none is registered", f"run       {trial}, job trial-3", "of toy:1.0.0+cats:2.0.0/train"):
        assert part in text
    assert all(f"          read from {source}\n" in text for source in sources)
    assert f"          fingerprint {'ab' * 32}\n" in text
    assert lineage.lineage_of(f"runs:/{trial}")["model"] is None
    with pytest.raises(Refused, match="there is no run 'nobody'"):
        lineage.lineage_of("runs:/nobody")


def test_what_was_not_recorded_is_said_to_be_missing(run_id):
    text = lineage.describe(lineage.lineage_of(f"models:/{NAME}@champion"))
    assert "its build.json was not stored" in text
    with pytest.raises(Refused, match="there is no model"):
        lineage.lineage_of("models:/nobody@champion")


def test_a_submitted_job_goes_by_the_id_that_its_user_knows(monkeypatch):
    metadata = {"metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(metadata))
    tags = provenance.environment_tags(Resources(1, 1, 1, 0), "0100")
    assert tags["realshard.ray_job_id"] == "raysubmit_1"


def test_the_dataset_card_tells_counts_source_and_findings():
    found = {"severity": "high", "code": "group_leak", "sentence": "3 groups leak.", "action": "", "numbers": {}}
    card = run_cards.dataset_card("toy:1.0.0", BUILD, {"findings": [found]})
    for part in (
        "| train | 12 | 10 | 4 | 6 | 1 | 1 |",
        "cd" * 32,
        "high: `group_leak`. 3 groups leak.",
        "made with frames 10",
    ):
        assert part in card
    folder = run_cards.dataset_card("toy:1.0.0", {**BUILD, "archives": []}, None)
    assert "folder of plain files" in folder
    assert "was not audited" in folder


def test_a_dataset_made_from_another_names_that_one_and_its_archives(run_id, tmp_path):
    made_with = {"dataset": "toy", "version": "1.0.0", "fingerprint": BUILD["fingerprint"], "side": 224}
    harmonised = {**BUILD, "fingerprint": "ef" * 32, "made_with": made_with}
    (tmp_path / "builds.json").write_text(json.dumps({"harmonised": harmonised, "cats": {}}))
    tracking.client_of().log_artifact(run_id, str(tmp_path / "builds.json"), "dataset")
    text = lineage.describe(lineage.lineage_of(f"models:/{NAME}/1"))
    for told in (text, run_cards.dataset_card("harmonised:1.0.0", harmonised, None)):
        for part in (
            f"the dataset toy:1.0.0, fingerprint {'ab' * 32}",
            "download.zip, 1234 bytes",
            "made with side 224",
        ):
            assert part in told
        assert "plain files" not in told
        unpacked = "\n".join(run_cards.sources_of({**harmonised, "archives": []}))
        assert "plain files" not in unpacked
    other = run_cards.dataset_card("cats:1.0.0", {}, None)
    assert "built by other means" in text
    assert "built by other means" in other
    assert "plain files" not in other


def test_the_audit_of_a_dataset_at_a_url_is_kept_too(tmp_path):
    built = write_dataset(tmp_path / "data", {"train": 4, "test": 4})
    (tmp_path / "job").mkdir()
    card = report_card(pa.table({"label": [0, 1], "p_fake": [0.1, 0.9], "group": ["", ""]}))

    def audit_of(dataset) -> list[Path]:
        written = write_dossier(tmp_path / "job", dataset, Config(), NAME, card, {})
        return [path for path in written if path.name.endswith("audit.json")]

    far = find("toy", f"file://{tmp_path / 'data'}")
    assert audit_of(load(far)) == []
    (built / "audit.json").write_text(json.dumps({"findings": []}))
    assert audit_of(load(far)) == audit_of(load(built)) == [Path("dataset", "toy.audit.json")]
    assert "The audit found nothing." in (tmp_path / "job" / "dataset_card.md").read_text()


def report_card(table, **options):
    """As `closing` makes it of predictions that lack what the card's tables are of."""
    empty = pa.array([""] * len(table))
    for column in {"id", "category", "generator", "video"} - set(table.column_names):
        table = table.append_column(column, empty)
    return card_of(table, **options) | {"calibration": calibration_of(None, None)}


def test_the_model_card_says_when_it_is_no_detector_and_what_is_undefined(run_id):
    labels = [0, 1] * 10
    table = pa.table({"label": labels, "p_fake": [0.9] * 20, "group": [""] * 20})
    tags = tracking.client_of().get_run(run_id).data.tags
    told = report_card(table, notes=["Trained on this set."])
    card = run_cards.model_card(NAME, "toy:1.0.0", {"job": {"seed": 5}}, told, tags)
    assert "- This is no detector: every image gets the same P(fake), 0.9000." in card
    assert "- Trained on this set." in card
    assert "50% of these images are fake: precision holds at that share. P(fake) is the network's own" in card
    assert "| AUC | 0.5000" in card
    assert "- seed: 5" in card
    assert "- packages: tensorflow" in card
    one_class = table.filter(pc.equal(table["label"], 0))
    assert "| AUC | undefined |" in run_cards.model_card(NAME, "toy:1.0.0", {}, report_card(one_class), {})

"""Aliases move only for a reason that is written down, one at a time, and back."""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_dataset import encode, picture, write_dataset
from test_gate import LABELS, scores, table

from tfds_builders.records.errors import Refused
from trainers import promote, registry, tracking
from trainers.dataset import load
from trainers.judged import told_of

NAME = "realshard-gated"
MADE_OF = "made of"  # where the dataset of `versions` is


@pytest.fixture
def versions(tmp_path, strangers):
    """A registered model with a weak champion, version 1, and a strong challenger, version 2, made from a dataset."""
    made_of = write_dataset(tmp_path / MADE_OF, {"train": 4, "validation": 4, "test": 4}, name="toy")
    for number in ("1", "2"):
        name_data(strangers.get_model_version(NAME, number).run_id, made_of)
    return strangers


def name_data(run_id: str, directory) -> None:
    """The run names what it was trained on."""
    fingerprint = load(directory).fingerprint
    tracking.log_dataset(run_id, "toy:1.0.0/train", fingerprint, "train", sources=[str(directory)], profile={})


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """As `versions`, of runs that do not say what they were made from."""
    monkeypatch.setenv("REALSHARD_HOME", str(tmp_path / "home"))
    client = tracking.client_of()
    client.create_registered_model(NAME)
    for number, (alias, shift) in enumerate((("champion", 1.0), ("challenger", 3.0))):
        add_version(tmp_path, f"job-{number}", alias, shift)
    return client


def add_version(folder, job: str, alias: str, shift: float) -> str:
    client = tracking.client_of()
    run_id = tracking.open_run(tracking.experiment("gate"), job, {}, {})
    test = table(scores(LABELS, shift, seed=len(job)), LABELS)
    file = folder / "predictions.parquet"
    pq.write_table(test.append_column("split", [["test"] * len(LABELS)]), file)
    client.log_artifact(run_id, str(file))
    tags = {"threshold": "0.5", "fingerprint": "f" * 64}
    version = client.create_model_version(NAME, f"runs:/{run_id}/model", run_id, tags=tags).version
    client.set_registered_model_alias(NAME, alias, version)
    if (folder / MADE_OF).exists():
        name_data(run_id, folder / MADE_OF / "toy" / "1.0.0")
    return version


def aliases() -> dict[str, int]:
    return {a: int(v) for a, v in tracking.client_of().get_registered_model(NAME).aliases.items()}


def test_showing_writes_the_decision_and_moves_nothing(versions, capsys):
    assert promote.main([NAME]) == 0
    assert aliases() == {"champion": 1, "challenger": 2}
    assert "may be promoted" in capsys.readouterr().out
    stored = json.loads(versions.get_model_version(NAME, "2").tags[promote.GATE_TAG])
    assert stored["promote"]
    assert stored["champion_version"] == 1
    assert stored["difference_interval"][0] > 0


def test_applying_moves_the_alias_and_rolling_back_returns_it(versions, capsys):
    assert promote.main([NAME, "--apply"]) == 0
    assert aliases() == {"champion": 2}
    assert promote.main([NAME, "--rollback"]) == 0
    assert aliases() == {"champion": 1, "challenger": 2}
    with pytest.raises(Refused, match="version 1 replaced no champion"):
        promote.main([NAME, "--rollback"])
    assert "version 1 is champion again" in capsys.readouterr().out


def test_a_challenger_that_waits_is_left_alone_by_rolling_back(versions, tmp_path):
    assert promote.main([NAME, "--apply"]) == 0
    add_version(tmp_path, "the-next-job", "challenger", 3.5)
    assert promote.main([NAME, "--rollback"]) == 0
    assert aliases() == {"champion": 1, "challenger": 3}
    assert promote.main([NAME, "--apply"]) == 0
    assert aliases() == {"champion": 3}


def test_what_was_rolled_back_is_not_promoted_again_until_its_tag_is_deleted(versions):
    assert promote.main([NAME, "--apply"]) == 0
    assert promote.main([NAME, "--rollback"]) == 0
    with pytest.raises(Refused, match=rf"version 2 was .* rolled back to version 1: .* tag {promote.ROLLED_BACK_TAG}"):
        promote.main([NAME, "--apply"])
    assert aliases() == {"champion": 1, "challenger": 2}
    versions.delete_model_version_tag(NAME, "2", promote.ROLLED_BACK_TAG)
    assert promote.main([NAME, "--apply"]) == 0
    assert aliases() == {"champion": 2}


def test_a_worse_challenger_stays_what_it_is(versions, tmp_path, capsys):
    add_version(tmp_path, "a-worse-job", "challenger", 0.2)
    assert promote.main([NAME, "--apply"]) == 1
    assert aliases() == {"champion": 1, "challenger": 3}
    assert "stays challenger" in capsys.readouterr().out


def test_looks_at_a_test_set_are_counted(versions):
    assert [promote.decide(NAME)["test_set_uses"] for _ in range(3)] == [1, 2, 3]


def log_card(client, folder, number: str, shift: float, *directories) -> None:
    """What `trainers.evaluate --log` leaves in the run of a version, of the test splits of these datasets."""
    datasets = [load(directory) for directory in directories]
    test = table(scores(LABELS, shift, seed=3), LABELS)
    pq.write_table(test.append_column("split", [["test"] * len(LABELS)]), folder / "predictions.parquet")
    (folder / "card.json").write_text(json.dumps({"datasets": [told_of(dataset) for dataset in datasets]}))
    for name in ("predictions.parquet", "card.json"):
        run_id = client.get_model_version(NAME, number).run_id
        client.log_artifact(run_id, str(folder / name), f"cards/{'+'.join(each.name for each in datasets)}-test")


def test_both_can_be_judged_on_other_datasets_whose_uses_are_counted(versions, tmp_path):
    """There the champion is the better one."""
    one, two = (write_dataset(tmp_path, {"test": 8}, name=name, seed=seed) for seed, name in enumerate(("one", "two")))
    for number, shift in (("1", 3.0), ("2", 1.0)):
        log_card(versions, tmp_path, number, shift, one)
        log_card(versions, tmp_path, number, shift, one, two)
    assert promote.decide(NAME)["promote"]
    assert not promote.decide(NAME, dataset="one")["promote"]
    assert promote.decide(NAME, dataset="one+two")["test_set_uses"] == 2
    tags = versions.get_registered_model(NAME).tags
    uses = [int(tags[f"{promote.USES_TAG}.{load(directory).fingerprint[:16]}"]) for directory in (one, two)]
    assert uses == [2, 1]
    with pytest.raises(Refused, match="--dataset third --log"):
        promote.decide(NAME, dataset="third")


def test_versions_evaluated_on_different_builds_are_not_compared(versions, tmp_path):
    log_card(versions, tmp_path, "1", 1.0, write_dataset(tmp_path / "before", {"test": 8}, name="one"))
    log_card(versions, tmp_path, "2", 3.0, write_dataset(tmp_path, {"test": 8}, name="one", seed=1))
    with pytest.raises(Refused, match="built again"):
        promote.decide(NAME, dataset="one")


def test_of_their_own_test_sets_only_the_same_pictures_are_compared(strangers, tmp_path):
    """As of a dataset and of what harmonising it gave: the same names and labels, other pictures."""
    versions = strangers

    def trained_on(number: str, directory) -> None:
        versions.set_model_version_tag(NAME, number, "fingerprint", load(directory).fingerprint)
        name_data(versions.get_model_version(NAME, number).run_id, directory)

    first, again, harmonised = (
        write_dataset(tmp_path / name, {"train": num_train, "validation": 4, "test": 6}, name="toy", seed=seed)
        for name, num_train, seed in (("first", 8, 0), ("again", 12, 0), ("harmonised", 8, 7))
    )
    trained_on("1", first)
    with pytest.raises(Refused, match=r"data are neither where they were.*--dataset D"):
        promote.decide(NAME)
    trained_on("2", harmonised)
    with pytest.raises(Refused, match="the pictures are not the same"):
        promote.decide(NAME)
    assert promote.GATE_TAG not in versions.get_model_version(NAME, "2").tags

    number = add_version(tmp_path, "job-again", "challenger", 3.0)
    trained_on(number, again)
    assert promote.decide(NAME)["promote"]
    uses = [tag for tag in versions.get_registered_model(NAME).tags if tag.startswith(promote.USES_TAG)]
    assert len(uses) == 2  # of either build


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_version_made_from_images_of_the_test_set_is_not_judged_on_it(strangers, tmp_path, number, capsys):
    """Whose data are not in the default folder: runs and cards say where they are."""
    versions, data = strangers, tmp_path / "datasets"
    learnt = [encode(picture(index % 2, (32, 32), seed=index), "PNG") for index in range(8)]
    splits = {"train": 8, "validation": 4, "test": 4}
    toy = write_dataset(data, splits, name="toy", images=learnt)
    same = write_dataset(data, {"test": 8}, name="same", images=learnt)
    other = write_dataset(data, {"test": 8}, name="other", seed=5)
    for each in ("1", "2"):
        log_card(versions, tmp_path, each, 2.0 * int(each), same)
        log_card(versions, tmp_path, each, 2.0 * int(each), other)
    name_data(versions.get_model_version(NAME, number).run_id, toy)
    with pytest.raises(Refused, match=rf"{NAME} version {number} .* 8 of its 8 images share .* 'test/"):
        promote.decide(NAME, dataset="same", apply=True)
    assert aliases() == {"champion": 1, "challenger": 2}
    assert promote.main([NAME, "--dataset", "other:1.0.0"]) == 0
    assert f"what version {3 - int(number)} was made from is not named" in capsys.readouterr().out
    with pytest.raises(Refused, match=r"of other:1\.1\.0.*evaluate .*--dataset other:1\.1\.0 --log"):
        promote.decide(NAME, dataset="other:1.1.0")
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(Refused, match=r"test images, of same:1\.0\.0, are neither.*Say with --data-dir"):
        promote.decide(NAME, dataset="same", apply=True)
    assert "test images, of same:1.0.0, are neither" in promote.describe(promote.decide(NAME, dataset="same"))
    with pytest.raises(Refused, match="8 of its 8 images share"):
        promote.main([NAME, "--dataset", "same", "--data-dir", str(moved), "--apply"])
    assert aliases() == {"champion": 1, "challenger": 2}


def test_what_may_have_been_made_from_test_images_is_shown_but_not_promoted(versions, tmp_path, capsys):
    made_of = tmp_path / MADE_OF
    moved = made_of.rename(tmp_path / "moved")
    with pytest.raises(Refused, match=r"no test image made one of the two.*Say with --data-dir where the data are"):
        promote.main([NAME, "--apply"])
    assert not versions.get_registered_model(NAME).tags  # nobody has looked at the test set
    assert promote.main([NAME]) == 0
    assert "doubt       did a test image make one of the two?" in capsys.readouterr().out
    assert promote.main([NAME, "--apply", "--data-dir", str(moved)]) == 0
    assert "doubt" not in capsys.readouterr().out
    assert aliases() == {"champion": 2}


def _apply(home: str) -> bool:
    os.environ["REALSHARD_HOME"] = home
    try:
        return promote.decide(NAME, apply=True)["applied"]
    except Refused:  # the other one was first: there is no challenger any more
        return False


def test_two_at_a_time_leave_one_champion(versions, tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        applied = pool.map(_apply, [str(tmp_path / "home")] * 2)
    assert sorted(applied) == [False, True]
    assert aliases() == {"champion": 2}


def test_aliases_that_move_while_it_judges_stay_where_they_are(versions, tmp_path, monkeypatch):
    """A job of another home, which knows nothing of the lock, registers version 3."""
    judge = promote.gate.judge

    def judge_slowly(*tables, **options):
        add_version(tmp_path, "job-3", "challenger", 2.0)
        return judge(*tables, **options)

    monkeypatch.setattr(promote.gate, "judge", judge_slowly)
    with pytest.raises(Refused, match=r"moved meanwhile.*decide again"):
        promote.decide(NAME, apply=True)
    assert aliases() == {"champion": 1, "challenger": 3}


def test_a_challenger_that_came_last_keeps_its_alias(versions, tmp_path, monkeypatch):
    client_class = type(versions)
    move = client_class.set_registered_model_alias

    def move_and_be_overtaken(client, name, alias, version):
        move(client, name, alias, version)
        if alias == "champion":
            add_version(tmp_path, "job-3", "challenger", 2.0)

    monkeypatch.setattr(client_class, "set_registered_model_alias", move_and_be_overtaken)
    assert promote.decide(NAME, apply=True)["applied"]
    assert aliases() == {"champion": 2, "challenger": 3}


def test_of_two_first_versions_at_a_time_one_is_champion(realshard_home, monkeypatch):
    """Each would set the alias after both have seen that there is none: they are held up there for each other."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())  # MLflow's own, as `register` sets it
    client = tracking.client_of()
    experiment_id = tracking.experiment("gate")
    both_there, move = threading.Barrier(2), type(client).set_registered_model_alias

    def wait_and_move(*arguments):
        with contextlib.suppress(threading.BrokenBarrierError):
            both_there.wait(1)
        move(*arguments)

    monkeypatch.setattr(type(client), "set_registered_model_alias", wait_and_move)

    def register(job: str) -> int:
        run_id = tracking.open_run(experiment_id, job, {}, {})
        model_id = client.create_logged_model(experiment_id, source_run_id=run_id).model_id
        return registry.add_version(client, model_id, NAME, {"realshard.run_id": run_id})

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(register, ["first", "second"])) == [1, 2]
    assert aliases() == {"champion": 1, "challenger": 2}


def test_what_cannot_be_judged_is_refused_in_a_sentence(versions):
    with pytest.raises(Refused, match=f"no registered model 'nobody'; there is: {NAME}"):
        promote.decide("nobody")
    versions.delete_registered_model_alias(NAME, "challenger")
    with pytest.raises(Refused, match="has no challenger"):
        promote.decide(NAME)
    run_id = tracking.open_run(tracking.experiment("gate"), "without-predictions", {}, {})
    version = versions.create_model_version(NAME, f"runs:/{run_id}/model", run_id).version
    versions.set_registered_model_alias(NAME, "challenger", version)
    with pytest.raises(Refused, match=r"no predictions\.parquet"):
        promote.decide(NAME)


def test_the_figures_are_numbers(versions):
    decision = promote.decide(NAME)
    assert np.isfinite([decision["champion"], decision["challenger"], *decision["difference_interval"]]).all()

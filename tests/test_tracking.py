"""Runs in a real MLflow on SQLite, and servers that do not answer."""

import http.server
import json
import socket
import threading
import time

import pytest

from tfds_builders.records.errors import Refused
from trainers import store, tracking
from trainers.run_logger import RunLogger, ending_badly
from trainers.system_metrics import system_metrics


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One home, and so one database, for the module: making it takes seconds."""
    path = tmp_path_factory.mktemp("tracking") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(path))
        yield path


@pytest.fixture
def experiment_id(home):
    return tracking.experiment("tests")


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracking.client_of().get_metric_history(run_id, key)]


# The store's address


def test_the_store_is_a_database_in_the_home_unless_mlflow_says_otherwise(monkeypatch, realshard_home):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.tracking_uri() == f"sqlite:///{realshard_home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store.tracking_uri() == "http://127.0.0.1:5000"


@pytest.mark.parametrize("uri", ["./mlruns", "/data/mlruns", "file:///data/mlruns", "sqlite:///mlflow.db"])
def test_a_store_that_cannot_serve_a_job_is_refused(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(Refused, match=uri):
        store.tracking_uri()


@pytest.fixture
def server():
    """Starts HTTP servers that answer every request with a status and a text; yields the function that does."""
    servers = []

    def start(status: int, text: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/health" else 404)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.fixture
def silent_port():
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed_port():
    """A port where nobody listens: bound, so that nobody else takes it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize(("status", "text"), [(200, "OK"), (401, "credentials, please")])
def test_a_server_that_answers_is_reachable(server, status, text):
    store.ensure_reachable(server(status, text) + "/")


@pytest.mark.parametrize(
    ("status", "text"), [(404, "no such page"), (500, "down"), (403, "Invalid Host header - possible attack")]
)
def test_a_server_that_is_not_mlflow_is_refused_with_what_it_said(server, status, text):
    with pytest.raises(Refused, match=f"{status} '{text}'"):
        store.ensure_reachable(server(status, text))


def test_a_server_that_never_answers_is_refused(monkeypatch, silent_port):
    monkeypatch.setattr(store, "ANSWER_SECS", 0.2)
    with pytest.raises(Refused, match=f"http://127.0.0.1:{silent_port} does not answer"):
        store.ensure_reachable(f"http://127.0.0.1:{silent_port}")


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql+psycopg2"])
def test_a_port_where_nobody_listens_is_refused(closed_port, scheme):
    with pytest.raises(Refused, match=f"127.0.0.1:{closed_port}(/mlflow)? does not answer") as refused:
        store.ensure_reachable(f"{scheme}://user:secret@127.0.0.1:{closed_port}/mlflow")
    assert "secret" not in str(refused.value)


def test_something_that_does_not_speak_http_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet():
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"220 mail ready\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(Refused, match="does not answer as an MLflow server"):
            store.ensure_reachable(f"http://127.0.0.1:{listening.getsockname()[1]}")


def test_a_home_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(Refused, match=r"cannot be kept at .*/home/mlflow.db"):
        store.ensure_reachable(f"sqlite:///{tmp_path}/home/mlflow.db")


# Experiments and runs


def test_artifacts_lie_under_the_home_wherever_the_job_runs(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tracking.client_of().get_experiment(tracking.experiment("elsewhere"))
    assert found.artifact_location == (home / "mlflow").as_uri()
    run_id = tracking.open_run(found.experiment_id, "job-elsewhere", {}, {})
    (tmp_path / "notes.txt").write_text("seen")
    RunLogger(run_id).artifact(tmp_path / "notes.txt")
    assert [path.read_text() for path in (home / "mlflow").rglob("notes.txt")] == ["seen"]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_experiment_is_made_once(home):
    assert tracking.experiment("once") == tracking.experiment("once")


def test_a_deleted_experiment_is_refused(home):
    tracking.client_of().delete_experiment(tracking.experiment("gone"))
    with pytest.raises(Refused, match="'gone' was deleted"):
        tracking.experiment("gone")


def test_a_run_holds_config_tags_and_inputs(experiment_id):
    config = {f"option_{number}": number for number in range(230)}  # more than MLflow takes in one call
    run_id = tracking.open_run(experiment_id, "job-full", config, {"realshard.fingerprint": "ab" * 32})
    tracking.log_dataset(run_id, "toy:1.0.0", "ab" * 32, "test", sources=["/data/toy/1.0.0"], profile={"images": 9})
    run = tracking.client_of().get_run(run_id)
    assert run.data.params == {key: str(value) for key, value in config.items()}
    assert run.data.tags["realshard.fingerprint"] == "ab" * 32
    assert run.info.run_name == "job-full"
    (dataset_input,) = run.inputs.dataset_inputs
    assert (dataset_input.dataset.name, dataset_input.dataset.digest[:12]) == ("toy:1.0.0", "ab" * 6)
    assert json.loads(dataset_input.dataset.profile) == {"fingerprint": "ab" * 32, "images": 9}
    assert [(tag.key, tag.value) for tag in dataset_input.tags] == [("mlflow.data.context", "test")]


def test_a_run_has_its_own_sources_and_counts_of_data_that_other_runs_had_too(experiment_id):
    told = [("/old/toy/1.0.0", 100), ("/new/toy/1.0.0", 60)]
    runs = [tracking.open_run(experiment_id, f"job-at-{place}", {}, {}) for place, _ in told]
    for run_id, (place, images) in zip(runs, told, strict=True):
        tracking.log_dataset(run_id, "toy:1.0.0", "cd" * 32, "test", sources=[place], profile={"images": images})
    for run_id, (place, images) in zip(runs, told, strict=True):
        (found,) = tracking.client_of().get_run(run_id).inputs.dataset_inputs
        assert tracking.dataset_sources(found.dataset) == [place]
        assert json.loads(found.dataset.profile)["images"] == images


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_an_unfinished_job_goes_on_in_its_run(experiment_id, status):
    name = f"job-{status}"
    run_id = tracking.open_run(experiment_id, name, {"epochs": 3, "workers": 2}, {})
    if status != "RUNNING":
        RunLogger(run_id).finish(status)
    assert tracking.open_run(experiment_id, name, {"epochs": 3, "workers": 1, "seed": 7}, {}) == run_id
    run = tracking.client_of().get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"epochs": "3", "workers": "2", "seed": "7"}
    assert json.loads(run.data.tags[tracking.RESUMED_TAG]) == {"workers": "1"}


def test_a_job_that_goes_on_elsewhere_says_so_and_keeps_where_it_began(experiment_id, monkeypatch):
    begun, gone_on = ({"realshard.machine": machine, "realshard.family": "cnn"} for machine in ("one", "another"))
    run_id = tracking.open_run(experiment_id, "job-moved", {}, begun)
    monkeypatch.setattr(tracking, "source_tags", lambda: {"realshard.source_commit": "ab" * 20})
    tracking.open_run(experiment_id, "job-moved", {}, gone_on)
    tags = tracking.client_of().get_run(run_id).data.tags
    assert tags["realshard.machine"] == "one"
    assert tags["realshard.source_commit"] != "ab" * 20
    expected = {"realshard.machine": "another", "realshard.source_commit": "ab" * 20}
    assert json.loads(tags[tracking.RESUMED_TAG]) == expected


def test_a_finished_job_is_not_gone_on_with(experiment_id):
    run_id = tracking.open_run(experiment_id, "job-done", {"epochs": 1}, {})
    logger = RunLogger(run_id)
    logger.epoch(1, {"test/auc": 0.75})
    logger.finish()
    found = tracking.client_of().get_run(run_id).data
    assert (found.metrics, found.params) == ({"test/auc": 0.75}, {"epochs": "1"})
    with pytest.raises(Refused, match=f"'job-done' has finished, as run {run_id}"):
        tracking.open_run(experiment_id, "job-done", {"epochs": 1}, {})


def test_jobs_of_different_names_have_runs_of_their_own(experiment_id):
    assert tracking.open_run(experiment_id, "job-a", {}, {}) != tracking.open_run(experiment_id, "job-b", {}, {})


def test_a_metric_has_one_value_a_step_also_after_going_on(experiment_id):
    run_id = tracking.open_run(experiment_id, "job-steps", {}, {})
    logger = RunLogger(run_id)
    logger.epoch(1, {"train/loss": 0.5})
    logger.epoch(2, {"train/loss": 0.4, "validation/auc": None})
    logger.epoch(2, {"train/loss": 9.0})
    logger.flush()
    resumed = RunLogger(run_id, store.tracking_uri())  # from the checkpoint after epoch 1
    resumed.epoch(2, {"train/loss": 0.4, "validation/auc": 0.9})
    resumed.epoch(3, {"train/loss": 0.3, "validation/auc": 0.8})
    resumed.flush()
    assert history(run_id, "train/loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert history(run_id, "validation/auc") == [(2, 0.9), (3, 0.8)]


def test_what_did_not_arrive_is_logged_at_the_end_and_nothing_twice(experiment_id):
    run_id = tracking.open_run(experiment_id, "job-incomplete", {}, {})
    worker = RunLogger(run_id)  # it dies after the first epoch
    worker.epoch(0, {"train/loss": 0.5, "validation/auc": 0.7})
    worker.flush()
    epochs = {
        0: {"train/loss": 0.5, "validation/auc": 0.7},
        1: {"train/loss": 0.4, "validation/auc": None},
        2: {"train/loss": 0.3, "validation/auc": 0.8},
    }
    driver = RunLogger(run_id)
    assert driver.ensure_complete(epochs) == 3
    assert driver.ensure_complete(epochs) == 0
    assert history(run_id, "train/loss") == [(0, 0.5), (1, 0.4), (2, 0.3)]
    assert history(run_id, "validation/auc") == [(0, 0.7), (2, 0.8)]


def test_a_run_that_takes_no_metrics_is_not_called_complete(experiment_id):
    run_id = tracking.open_run(experiment_id, "job-full-disk", {}, {})
    tracking.client_of().delete_run(run_id)
    logger = RunLogger(run_id)
    logger.epoch(0, {"train/loss": 0.5})  # goes on without it
    with pytest.raises(Refused, match=r"Missing: 2 of 2 values, such as train/loss of step 0 \(.*active"):
        logger.ensure_complete({0: {"train/loss": 0.5}, 1: {"train/loss": 0.4}})


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_job_that_ends_badly_says_so_in_its_run(experiment_id, error, status):
    run_id = tracking.open_run(experiment_id, f"job-{error.__name__}", {}, {})
    with pytest.raises(error), ending_badly(RunLogger(run_id).finish, "the command"):
        raise error
    assert tracking.client_of().get_run(run_id).info.status == status


@pytest.mark.parametrize("before", ["RUNNING", "FINISHED", "FAILED"])
def test_the_run_of_a_job_that_was_killed_is_ended_and_no_other(experiment_id, before):
    name = f"job-killed-{before}"
    tracking.end_run(experiment_id, name, "KILLED")  # it has none
    run_id = tracking.open_run(experiment_id, name, {}, {})
    client = tracking.client_of()
    client.update_run(run_id, status=before)
    tracking.end_run(experiment_id, name, "KILLED")
    assert client.get_run(run_id).info.status == {"RUNNING": "KILLED"}.get(before, before)


def test_a_server_that_stops_answering_is_one_sentence(monkeypatch, closed_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = RunLogger("0" * 32)
    with (
        pytest.raises(Refused, match="with --name job-7 goes on"),
        ending_badly(logger.finish, "the same command with --name job-7"),
    ):
        logger.ensure_complete({0: {"train/loss": 0.5}})


def test_the_machine_is_watched_and_a_resumed_job_goes_on_counting(experiment_id):
    run_id = tracking.open_run(experiment_id, "job-watched", {}, {})
    key = "system/machine1/cpu_utilization_percentage"
    for attempt in (1, 2):
        seen = len(history(run_id, key))
        with system_metrics(run_id, store.tracking_uri(), every_secs=0.05, machine="machine1"):
            deadline = time.monotonic() + 60
            while len(history(run_id, key)) < seen + 2:
                assert time.monotonic() < deadline, f"no samples in attempt {attempt}"
    steps = [step for step, _ in history(run_id, key)]
    assert steps == list(range(len(steps)))
    assert all(0 <= value <= 100 for _, value in history(run_id, key))
    RunLogger(run_id).ensure_complete({})  # samples are no part of the account


def test_figures_and_tags_reach_the_run(experiment_id, tmp_path):
    run_id = tracking.open_run(experiment_id, "job-figures", {}, {})
    for name in ("roc.png", "confusion.png"):
        (tmp_path / name).write_bytes(b"PNG")
    logger = RunLogger(run_id)
    logger.figures(tmp_path)
    logger.tags({"realshard.best_epoch": 3})
    client = tracking.client_of()
    assert {item.path for item in client.list_artifacts(run_id, "figures")} == {
        "figures/roc.png",
        "figures/confusion.png",
    }
    assert client.get_run(run_id).data.tags["realshard.best_epoch"] == "3"

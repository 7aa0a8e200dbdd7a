"""The Ray head of the repository: started, found by the bare command, ended to the last process; MLflow's pages."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import small_model
from serving import post_files, register_first
from small_dataset import write_dataset

from cluster import head, ui
from cluster.ports import LOOPBACK, is_free, pick_free_port
from tfds_builders.records.errors import Refused
from trainers import tracking
from trainers.source_code import source_tags

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent
RAYS_AGENT_PORT = 52365

# Small enough for a test; given to the head, as a user would, so that the bare command takes them.
SMALL_JOB = {
    "REALSHARD_WEIGHTS": "none",
    "REALSHARD_IMAGE_SIZE": "32",
    "REALSHARD_EPOCHS": "1",
    "REALSHARD_GLOBAL_BATCH_SIZE": "8",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The environment of a user who has built a small ai_vs_human, with a home and a Ray folder of their own."""
    folder = tmp_path_factory.mktemp("cluster")
    write_dataset(folder / "data", {"train": 16, "validation": 8, "test": 8}, name="ai_vs_human")
    ray_folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")  # short: Ray's socket names must fit into 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALSHARD_HOME", str(folder / "home"))
        patch.setenv("TFDS_DATA_DIR", str(folder / "data"))
        patch.setenv("RAY_TMPDIR", ray_folder)
        for name, value in SMALL_JOB.items():
            patch.setenv(name, value)
        yield folder
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.mark.parametrize("files", [("nvidia0", "nvidia1"), ()])
def test_a_head_counts_the_gpus_that_tensorflow_sees(files, tmp_path, monkeypatch, realshard_home):
    """Ray alone counts those that NVIDIA's driver knows, and jobs on them would be refused."""
    for name in files:
        (tmp_path / name).touch()
    begun = []

    def begin(command, **_):
        begun.extend(command)
        raise OSError("not begun here")

    monkeypatch.setattr(head, "DEVICE_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(subprocess, "Popen", begin)
    with pytest.raises(OSError, match="not begun here"):
        head.start(pick_free_port())
    assert [option for option in begun if "gpus" in option] == (["--num-gpus=0"] if files else [])


@pytest.fixture(scope="module")
def running(settings):
    """A head on a free port, beside another Ray, whose agent has the default port of the one that starts jobs."""
    with socket.socket() as agent:
        with contextlib.suppress(OSError):  # there is a real one
            agent.bind((LOOPBACK, RAYS_AGENT_PORT))
        started = head.start(dashboard_port=pick_free_port(), num_cpus=2)
        yield started
        head.stop(started)


def user_environment() -> dict[str, str]:
    """Of a new shell after `source .venv/bin/activate`: it knows neither the head's settings nor our tests'."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REALSHARD_", "TFDS_"))}
    return kept | {"PATH": f"{SCRIPTS}{os.pathsep}{kept['PATH']}", "RAY_TMPDIR": os.environ["RAY_TMPDIR"]}


def shell(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, env=user_environment() | environment, capture_output=True, text=True, timeout=400
    )


def finished_jobs(folder: Path) -> dict[str, set[str]]:
    """{name of a job: its result files}."""
    return {path.name: {file.name for file in path.iterdir()} for path in (folder / "home" / "jobs").glob("*")}


RESULTS = {"model.keras", "history.json", "predictions.parquet", "result.json"}


def test_the_bare_command_trains_on_the_built_dataset(running, settings, tmp_path):
    """Word for word, from any directory: the job starts where the head was started."""
    before = set(finished_jobs(settings))
    run = shell("ray", "job", "submit", "trainers/resnet.py", cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "succeeded" in run.stdout
    [name] = set(finished_jobs(settings)) - before
    assert finished_jobs(settings)[name] >= RESULTS
    config = json.loads((settings / "home" / "jobs" / name / "config.json").read_text())["config"]
    assert (config["model"]["weights"], config["model"]["image_size"]) == ("none", 32)


@pytest.mark.long
def test_a_job_from_a_copy_of_the_working_directory(running, settings):
    before = set(finished_jobs(settings))
    run = shell("ray", "job", "submit", "--working-dir", ".", "--", "python", "trainers/resnet.py", "--epochs", "2")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    [name] = set(finished_jobs(settings)) - before
    assert len(json.loads((settings / "home" / "jobs" / name / "history.json").read_text())) == 2
    result = json.loads((settings / "home" / "jobs" / name / "result.json").read_text())
    tags = tracking.client_of().get_run(result["run_id"]).data.tags
    assert {key: tags[key] for key in source_tags()} == source_tags()  # of a copy without .git: of this checkout
    assert re.fullmatch("[0-9a-f]{40}", tags["realshard.source_commit"]) or not (ROOT / ".git").exists()


@pytest.mark.long
def test_the_plain_script_needs_no_cluster(settings):
    before = set(finished_jobs(settings))
    variables = ("REALSHARD_HOME", "TFDS_DATA_DIR", *SMALL_JOB)
    run = shell("python", "trainers/resnet.py", **{name: os.environ[name] for name in variables})
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    [name] = set(finished_jobs(settings)) - before
    assert finished_jobs(settings)[name] >= RESULTS


def test_a_job_whose_dataset_is_not_built_says_how_to_build_it(running, tmp_path):
    submit = ["ray", "job", "submit", "--", "trainers/resnet.py", "--data-dir", str(tmp_path)]
    run = shell(*submit)
    assert run.returncode != 0
    assert f"tfds build tfds_builders/ai_vs_human --data_dir {tmp_path}" in run.stdout + run.stderr


def test_the_address_of_the_head_can_be_used(running):
    """RAY_ADDRESS as `status` prints it, from a process that is not a job."""
    program = (
        "from tfds_builders.records.ray_address import prepare_ray_address\n"
        "address = prepare_ray_address()\n"
        "import ray\n"
        "ray.init(address)\n"
        "print(ray.cluster_resources()['CPU'])\n"
    )
    run = shell("python", "-c", program, RAY_ADDRESS=running.address)
    assert run.stdout.strip() == "2.0", run.stderr[-3000:]


def test_nothing_of_the_head_listens_beyond_loopback(running):
    listening = listening_of(running.pid)
    assert len(listening) >= 5
    assert set(listening) == {"127.0.0.1"}


def listening_of(pid: int) -> list[str]:
    """The addresses on which a process and all that descend from it listen."""
    ours = {pid} | {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.net_connections("tcp")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]


@pytest.mark.long
def test_serve_run_serves_on_the_head_and_on_loopback_alone(running, tmp_path):
    """The command of docs/serving.md with the variables that it names; on a free port instead of 8000."""
    register_first("realshard-by-command", tmp_path)
    port = pick_free_port()
    there = {"RAY_ADDRESS": running.address, "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    started = shell("serve", "start", "--http-port", str(port), **there)
    assert started.returncode == 0, started.stderr[-3000:]
    there["REALSHARD_SERVED_MODEL"] = "models:/realshard-by-command@champion"
    with subprocess.Popen(
        ["serve", "run", "cluster.serve:app"],
        cwd=ROOT, env=user_environment() | there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as server:  # fmt: skip
        try:
            assert any("is ready at" in line for line in server.stdout)
            status, answer = post_files(f"http://127.0.0.1:{port}", {"a.png": small_model.image_bytes("PNG")})
            assert (status, answer["results"][0]["model"]) == (200, "realshard-by-command")
            assert set(listening_of(running.pid) + listening_of(server.pid)) == {"127.0.0.1"}
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=120)


def test_a_second_head_is_refused(running):
    with pytest.raises(Refused, match=rf"already running \(process {running.pid}, {running.dashboard}"):
        head.start()


def test_status_and_a_busy_port(running, tmp_path):
    status = shell("python", "-m", "cluster.head", "status", REALSHARD_HOME=os.environ["REALSHARD_HOME"])
    assert running.dashboard in status.stdout
    port = running.dashboard.rpartition(":")[2]
    other = shell("python", "-m", "cluster.head", "up", "--dashboard-port", port, REALSHARD_HOME=str(tmp_path))
    assert other.returncode != 0
    assert re.fullmatch(rf".*port {port} of 127.0.0.1, which is busy.*--dashboard-port N`\n", other.stderr)
    assert not (tmp_path / "cluster" / "head.json").exists()


def test_down_ends_every_process_and_no_other(settings):
    """After the other tests of the head: this one takes it down, with a job still running on it."""
    running = head.find_running() or head.start(dashboard_port=pick_free_port())
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    submitted = shell("ray", "job", "submit", "--no-wait", "--", "sleep", "600")
    assert submitted.returncode == 0
    processes = [running.process(), *running.process().children(recursive=True)]
    down = shell("python", "-m", "cluster.head", "down", REALSHARD_HOME=os.environ["REALSHARD_HOME"])
    assert down.returncode == 0
    assert re.match(r"Ray is down: ended \d\d+ processes", down.stdout)
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    assert bystander.poll() is None
    bystander.communicate(b"\n", timeout=60)
    assert head.find_running() is None
    assert is_free(int(running.dashboard.rpartition(":")[2]))
    again = shell("python", "-m", "cluster.head", "down", REALSHARD_HOME=os.environ["REALSHARD_HOME"])
    assert (again.returncode, again.stdout.split(" under ")[0]) == (0, "no Ray head is running")


def test_a_head_of_another_process_with_the_same_id_is_not_ours(realshard_home):
    """A process id is used again some day: the start time must agree as well."""
    stale = head.Head(os.getpid(), 1.0, "mark", "http://127.0.0.1:8265", "127.0.0.1:6379", "/", "/dev/null")
    head.state_file().parent.mkdir()
    head.state_file().write_text(json.dumps(stale.__dict__))
    assert head.find_running() is None
    assert head.stop(stale) == 0


def test_the_ui_refuses_what_it_cannot_serve(realshard_home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Refused, match=rf"MLflow's UI needs port {port} .* busy"):
            ui.server_command(port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5001")
    with pytest.raises(Refused, match=r"open http://127\.0\.0\.1:5001"):
        ui.server_command(pick_free_port())


def test_the_ui_serves_the_embedded_store_on_loopback(realshard_home):
    from urllib.request import urlopen

    from trainers.tracking import experiment

    experiment("seen in the ui")
    port = pick_free_port()
    environment = user_environment() | {"REALSHARD_HOME": str(realshard_home)}
    command = [sys.executable, "-m", "cluster.ui", "--port", str(port)]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert any("Uvicorn running on" in line for line in server.stdout)
            with urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
                assert b"<title>MLflow</title>" in page.read()
            url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=seen%20in%20the%20ui"
            with urlopen(url, timeout=60) as answer:
                found = json.load(answer)["experiment"]
            assert found["artifact_location"] == (realshard_home / "mlflow").as_uri()
        finally:
            children = psutil.Process(server.pid).children(recursive=True)
            server.terminate()
            server.communicate(timeout=60)
            for child in psutil.wait_procs(children, timeout=30)[1]:
                child.kill()

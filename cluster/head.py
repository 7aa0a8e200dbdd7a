"""A Ray head on this machine, started in the repository root: there `ray job submit trainers/resnet.py` finds the file.

    python -m cluster.head up       (make cluster-up)
    python -m cluster.head status
    python -m cluster.head down     (make cluster-down)

It listens on 127.0.0.1 only and asks for no token. Jobs inherit the environment that `up` was called with, so
REALSHARD_WEIGHTS=none, REALSHARD_HOME=/somewhere and MLFLOW_TRACKING_URI=... given to `up` hold for every job. Process
ids are kept in REALSHARD_HOME/cluster/head.json; `down` ends those processes and no others.
"""

import contextlib
import dataclasses
import glob
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import psutil
import simple_parsing
from simple_parsing import DashVariant

from cluster.ports import LOOPBACK, pick_free_port, require_free
from tfds_builders.records.errors import Refused
from tfds_builders.records.ray_address import LOOPBACK_ENVIRONMENT
from trainers.home import home
from trainers.source_code import CHECKOUT
from trainers.strategy import DEVICE_FILES, usable_gpus

ROOT = Path(__file__).resolve().parents[1]
START_SECS = 120  # importing Ray and starting its processes takes 5-10 s on two idle cores
STOP_SECS = 5  # without jobs Ray ends in 2 s; with one it waits for processes that ignore being asked
_READY = "Ray runtime started."  # what `ray start` says once Ray takes work
# Both answer once jobs are taken: the job server, and the node's agent, which starts them and comes seconds later. The
# second lists its log files (none has this name), which the dashboard has to ask the agent for.
_ANSWERING = ("/api/jobs/", f"/api/v0/logs?node_ip={LOOPBACK}&glob=none")
MARK = "REALSHARD_RAY_HEAD"  # environment variable


@dataclasses.dataclass(frozen=True)
class Head:
    """A running head: enough to find its processes again and never mistake another's for them."""

    pid: int
    started: float  # seconds since the epoch, as the kernel tells; with pid it names the process uniquely
    mark: str  # in the environment of every process that came from it, wherever its parent went
    dashboard: str  # http://127.0.0.1:8265: the page, and the address for `ray job submit`
    address: str  # 127.0.0.1:<port>: what RAY_ADDRESS may be set to
    directory: str  # where jobs without a --working-dir start
    log: str

    def process(self) -> psutil.Process | None:
        """The process that all the others descend from, or None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            is_ours = abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if is_ours else None


def state_file() -> Path:
    """Where the running head is written down."""
    return home() / "cluster" / "head.json"


def find_running() -> Head | None:
    """The head that `up` started under this REALSHARD_HOME, if it is still running."""
    try:
        head = Head(**json.loads(state_file().read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return head if head.process() else None


def head_environment() -> dict[str, str]:
    """The caller's environment, made fit for a head whose jobs start with `#!/usr/bin/env python`."""
    environment = dict(os.environ)
    environment.pop("RAY_ADDRESS", None)  # of another cluster
    environment.update(LOOPBACK_ENVIRONMENT)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    scripts = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", os.defpath)])
    environment["REALSHARD_HOME"] = str(home())
    environment[CHECKOUT] = str(ROOT)
    return environment


def start(dashboard_port: int = 8265, num_cpus: int | None = None) -> Head:
    """Starts a head and waits until it takes jobs.

    Args:
      dashboard_port: of the page and the job server.
      num_cpus: logical CPUs that jobs share; None for the machine's.

    Raises:
      Refused: a head is already running, the port is busy, or Ray did not come up (with the end of its log).
    """
    if running := find_running():
        raise Refused(
            f"a Ray head is already running (process {running.pid}, {running.dashboard}, started in "
            f"{running.directory}): use it, or end it with `make cluster-down`"
        )
    require_free(dashboard_port, "Ray's dashboard and job server", "say `python -m cluster.head up --dashboard-port N`")
    port = pick_free_port()
    state_file().parent.mkdir(parents=True, exist_ok=True)
    log = state_file().with_suffix(".log")
    mark = uuid.uuid4().hex
    with log.open("wb") as output:
        child = subprocess.Popen(
            _command(port, dashboard_port, num_cpus),
            cwd=ROOT,
            env=head_environment() | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    head = Head(
        pid=child.pid,
        started=psutil.Process(child.pid).create_time(),
        mark=mark,
        dashboard=f"http://{LOOPBACK}:{dashboard_port}",
        address=f"{LOOPBACK}:{port}",
        directory=str(ROOT),
        log=str(log),
    )
    _write(head)  # at once, so that `down` finds one that was interrupted while it started
    try:
        _wait_until_ready(head, child)
    except BaseException:
        stop(head)
        raise
    _note_address(head)
    return head


def _command(port: int, dashboard_port: int, num_cpus: int | None) -> list[str]:
    """Ray's own command, with free ports in the place of those that it would share with every other Ray of the machine.

    The agent's among them: where another Ray has its default, 52365, jobs would be refused for want of an agent.
    """
    options = {
        "node-ip-address": LOOPBACK,
        "port": port,
        "dashboard-host": LOOPBACK,
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": pick_free_port(),
        "min-worker-port": 0,
        "max-worker-port": 0,
        "log-color": "false",
    }
    if num_cpus is not None:
        options["num-cpus"] = num_cpus
    if glob.glob(DEVICE_FILES):  # else there is nothing to count, and importing TensorFlow takes seconds
        options["num-gpus"] = usable_gpus()
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *given]


def _write(head: Head) -> None:
    state_file().write_text(json.dumps(dataclasses.asdict(head), indent=2) + "\n")


def _wait_until_ready(head: Head, child: subprocess.Popen) -> None:
    """Waits until Ray is up and starts jobs; raises Refused when Ray ends or takes too long."""
    deadline = time.monotonic() + START_SECS
    while time.monotonic() < deadline:
        log = Path(head.log).read_text(errors="replace")
        if child.poll() is not None:
            raise Refused(f"Ray did not start, see {head.log}; it says: {_last_error(log)}")
        if _READY in log and all(_answers(head.dashboard + path) for path in _ANSWERING):
            return
        time.sleep(0.25)
    raise Refused(f"Ray at {head.dashboard} did not take jobs within {START_SECS} s: see {head.log}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:  # urllib's errors are OSErrors
        return False


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "(nothing)")


def find_processes(head: Head) -> list[psutil.Process]:
    """The head's processes, the first of them first, then what descends from it or bears its mark, jobs included."""
    first = head.process()
    found = [first, *first.children(recursive=True)] if first else []
    known = {process.pid for process in found}
    return found + [process for process in psutil.process_iter() if process.pid not in known and _bears(process, head)]


def _bears(process: psutil.Process, head: Head) -> bool:
    try:
        return process.environ().get(MARK) == head.mark
    except psutil.Error:  # another user's, or it has just ended
        return False


def stop(head: Head) -> int:
    """Ends the head's processes and no others; returns how many there were."""
    ended: set[int] = set()
    while processes := find_processes(head):  # again: some may have started meanwhile
        ended |= {process.pid for process in processes}
        _end(processes[:1])  # Ray ends its own processes in good order then,
        _end(processes[1:])  # but not what jobs have started
    state_file().unlink(missing_ok=True)
    _forget_address(head)
    return len(ended)


def _end(processes: list[psutil.Process]) -> None:
    """Asks each to end, and kills those that have not after STOP_SECS. psutil checks that ids were not used again."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=STOP_SECS)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=STOP_SECS)


def _note() -> Path:
    """Where Ray notes the address of the newest head, and `ray job submit` without an address looks."""
    temporary = os.environ.get("RAY_TMPDIR") or (sys.platform == "linux" and os.environ.get("TMPDIR")) or "/tmp"
    return Path(temporary) / "ray" / "ray_current_cluster"


def _note_address(head: Head) -> None:
    """Writes the note so that the client, too, goes to loopback.

    It would turn 127.0.0.1 into the machine's own address, where this head does not listen, and try that for 40 s;
    0.0.0.0 it leaves alone, and connecting there is loopback.
    """
    _note().write_text(head.address.replace(LOOPBACK, "0.0.0.0"))


def _forget_address(head: Head) -> None:
    """Removes the note, if it is of this head: the next `ray job submit` would wait for it in vain."""
    with contextlib.suppress(OSError):
        if _note().read_text().rpartition(":")[2] == head.address.rpartition(":")[2]:
            _note().unlink()


@dataclasses.dataclass(frozen=True)
class Options:
    """Starts, shows or stops the Ray head of this repository."""

    action: str = simple_parsing.field(choices=["up", "status", "down"], positional=True)
    dashboard_port: int = 8265  # of the dashboard and the job server, on 127.0.0.1
    num_cpus: int | None = None  # logical CPUs that jobs share; the machine's if not given


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = simple_parsing.parse(Options, args=arguments, add_option_string_dash_variants=DashVariant.DASH)
    if options.action == "up":
        head = start(options.dashboard_port, options.num_cpus)
        print(f"Ray is up: {head.dashboard} (jobs start in {head.directory}, log {head.log})")
        print("next, after `source .venv/bin/activate`: ray job submit trainers/resnet.py")
        return
    running = find_running()
    if running is None:
        print(f"no Ray head is running under {home()}")
        raise SystemExit(0 if options.action == "down" else 1)
    if options.action == "status":
        print(f"Ray is up: {running.dashboard}, process {running.pid}, jobs start in {running.directory}")
        print(f"RAY_ADDRESS={running.address}")
    else:
        print(f"Ray is down: ended {stop(running)} processes of {running.dashboard}")


if __name__ == "__main__":
    main()

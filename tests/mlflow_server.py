"""A PostgreSQL and an MLflow server that keeps its runs there and its models itself, for a test to stop and start.

with Postgres() as database, MlflowServer(database.uri, folder) as server:
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    database.stop()
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.ports import pick_free_port

_LIMIT_SECS = 120


def _program(name: str) -> str:
    """The path of one of PostgreSQL's programs, which Debian does not put on the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, reversed(folders)), os.environ["PATH"]]))
    if found is None:
        pytest.fail(f"PostgreSQL's {name} is not installed: .ci/debian-packages installs it")
    return found


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + _LIMIT_SECS
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


class Postgres:
    """A database in a folder of its own, reached through a socket in that folder: nothing listens on the network."""

    def __enter__(self) -> "Postgres":
        initdb, self._postgres = _program("initdb"), _program("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="realshard-postgres-"))
        self._log = self._folder / "log"
        # PostgreSQL refuses to run as root.
        self._user = None if os.getuid() else "nobody"
        if self._user:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        command = [initdb, "--pgdata", self._folder / "data", "--username", "mlflow", "--auth", "trust", "--no-sync"]
        subprocess.run(command, user=self._user, cwd="/", check=True, capture_output=True)
        self.uri = f"postgresql+psycopg://mlflow@/postgres?host={self._folder}"
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = [self._postgres, "-D", self._folder / "data", "-k", self._folder, "-h", "", "-c", "fsync=off"]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd="/", stdout=log, stderr=log)
        _wait_for(self._answers, self._process, self._log)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.uri.replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Ends it at once; those connected to it are cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(_LIMIT_SECS)


class MlflowServer:
    """An MLflow server on a free port of 127.0.0.1, the same one after each start."""

    def __init__(self, store_uri: str, folder: Path):
        port = pick_free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.artifacts = folder / "artifacts"
        self._log = folder / "mlflow.log"
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store_uri]
        options += ["--serve-artifacts", "--artifacts-destination", str(self.artifacts)]
        self._command = [sys.executable, "-m", "mlflow", "server", *options]

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, cwd="/", stdout=log, stderr=log, start_new_session=True
            )
        _wait_for(self._answers, self._process, self._log)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Kills it and its workers: requests under way are never answered."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_LIMIT_SECS)

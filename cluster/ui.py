"""MLflow's pages over the embedded store, on loopback, until Ctrl-C.

python -m cluster.ui [--port 5000]        (make ui)
"""

import dataclasses
import os
import sys

import simple_parsing
from simple_parsing import DashVariant

from cluster.ports import LOOPBACK, require_free
from tfds_builders.records.errors import Refused
from trainers.home import home
from trainers.store import ensure_reachable, tracking_uri


def server_command(port: int) -> list[str]:
    """The command that serves the store at 127.0.0.1:`port`.

    Raises:
      Refused: the runs are on a server of their own, the store is out of reach, or the port is busy.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise Refused(f"the runs are on an MLflow server of their own: open {uri}, or unset MLFLOW_TRACKING_URI")
    ensure_reachable(uri)
    require_free(port, "MLflow's UI", "say `python -m cluster.ui --port N`")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    # Experiments made by the trainers have a location of their own; this one is for experiments made in the UI.
    return [*command, "--default-artifact-root", str(home() / "mlflow"), "--host", LOOPBACK, "--port", str(port)]


@dataclasses.dataclass(frozen=True)
class Options:
    """Serves MLflow's pages over the runs of REALSHARD_HOME."""

    port: int = 5000  # on 127.0.0.1


def main(arguments: list[str] | None = None) -> None:
    """The command line: becomes the server."""
    options = simple_parsing.parse(Options, args=arguments, add_option_string_dash_variants=DashVariant.DASH)
    command = server_command(options.port)
    print(f"MLflow is at http://{LOOPBACK}:{options.port} (over {tracking_uri()}); Ctrl-C ends it", flush=True)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own background jobs (evaluating language models) would be eight more processes.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

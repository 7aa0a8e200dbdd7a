"""Serves the champion on a Ray of its own, on loopback, until Ctrl-C.

    python -m cluster.server                 (make serve)   http://127.0.0.1:8000

RAY_ADDRESS is not looked at: on a cluster of others its end would end what they serve. There `serve run` is right.

Ray is imported late: which addresses its processes listen on is settled when it is imported. What is served, and the
settings: serve.py.
"""

import argparse
import os
import signal
import threading

from cluster.ports import LOOPBACK, pick_free_port, require_free
from tfds_builders.records.ray_address import prepare_ray_address
from trainers.predict import DEFAULT_MODEL
from trainers.registry import resolve
from trainers.store import ensure_reachable, tracking_uri


def served_model() -> str:
    """REALSHARD_SERVED_MODEL, or the champion of ResNet50."""
    return os.environ.get("REALSHARD_SERVED_MODEL") or DEFAULT_MODEL


def settings_of_own_ray(port: int) -> dict[str, str]:
    """What Ray reads from the environment when it is imported: Web itself listens on `port`, as a server of equal rank.

    Else a proxy of Serve's would stand before Web and take as much of the CPU as Web does.
    """
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),  # less than this
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # no balancer in front has to notice its end
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a new Web takes the port of the one that died
        "RAY_worker_niceness": "0",  # Ray's 15 is for work that may wait
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m cluster.server", description="Serves the champion over HTTP.")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: %(default)s)")
    options = parser.parse_args()
    require_free(options.port, "The page", "say `python -m cluster.server --port N`")
    ensure_reachable(tracking_uri())
    resolve(tracking_uri(), served_model())  # a model that is not there is refused here, not by a replica in a log
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(settings_of_own_ray(options.port))
    address = prepare_ray_address()
    import ray
    from ray import serve

    from cluster.serve import app

    ray.init(address=address, include_dashboard=False, log_to_driver=True, logging_level="warning")
    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, whose processes must keep their own
        signal.signal(number, lambda *_: asked_to_end.set())
    serve.start(http_options={"host": LOOPBACK, "port": pick_free_port()})  # of a proxy that nobody asks
    try:
        serve.run(app, name="realshard")
        print(f"serving on http://{LOOPBACK}:{options.port} until Ctrl-C", flush=True)
        asked_to_end.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()

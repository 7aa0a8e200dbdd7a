"""The champion behind HTTP, on Ray Serve: a page, `POST /v1/predict`, health, metrics.

    python -m cluster.serve                  (make serve)   on http://127.0.0.1:8000, with a Ray of its own
    serve run cluster.serve:app                             on the Ray that is running

Settings come from the environment: REALSHARD_SERVED_MODEL (default models:/realshard-resnet50@champion),
REALSHARD_TOKEN (asked for as `Authorization: Bearer ...` when set), REALSHARD_REPLICAS (default 1). When the alias is
moved to another version, replicas load it and change over between two batches; every answer names its version. More:
docs/serving.md.
"""

import os
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig

from cluster.api import RETRY_SECS, make_api
from cluster.replica import Replica
from cluster.uploads import BODY_SECS
from tfds_builders.records.errors import Refused
from trainers.predict import DEFAULT_MODEL

_MODEL = os.environ.get("REALSHARD_SERVED_MODEL", DEFAULT_MODEL)


@serve.deployment(
    max_ongoing_requests=1000,
    max_queued_requests=1000,
    backpressure_config=BackpressureConfig(retry_after_s=RETRY_SECS),
    ray_actor_options={"num_cpus": 0.1},
)
@serve.ingress()
class Web:
    """Takes requests in and hands images to the replicas; never looks at their content."""

    def __init__(self, replicas: Any, token: str, body_secs: float):
        self._replicas, self._token, self._body_secs = replicas, token, body_secs

    def __serve_build_asgi_app__(self) -> Any:
        """What Serve runs, made in the process that runs it."""
        return make_api(self._replicas, self._token, self._body_secs)


def build(
    model_uri: str = DEFAULT_MODEL, token: str = "", replicas: int = 1, body_secs: float = BODY_SECS
) -> serve.Application:
    """The application.

    Args:
      model_uri: models:/NAME@ALIAS, or models:/NAME/VERSION, which never changes.
      token: that clients must present; "" for none.
      replicas: processes that hold the model.
      body_secs: in which a request must have been sent.
    """
    replica: Any = Replica  # decorators turn the classes into deployments, which type checkers cannot see
    web: Any = Web
    return web.bind(replica.options(num_replicas=replicas).bind(model_uri), token, body_secs)


def _replicas() -> int:
    value = os.environ.get("REALSHARD_REPLICAS", "1")
    if not value.isdigit() or not 1 <= int(value) <= 1000:
        raise Refused(f"REALSHARD_REPLICAS must be a number from 1 to 1000. Received: {value!r}. Take 1.")
    return int(value)


app = build(_MODEL, os.environ.get("REALSHARD_TOKEN", ""), _replicas())


def main() -> None:
    """Serves on loopback until Ctrl-C, on a Ray of its own."""
    import argparse
    import importlib
    import signal
    import threading

    import ray

    from cluster.ports import LOOPBACK, require_free
    from tfds_builders.records.ray_address import prepare_ray_address
    from trainers.registry import resolve
    from trainers.store import ensure_reachable, tracking_uri

    parser = argparse.ArgumentParser(prog="python -m cluster.serve", description="Serves the champion over HTTP.")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: %(default)s)")
    options = parser.parse_args()
    require_free(options.port, "The page", "say `python -m cluster.serve --port N`")
    ensure_reachable(tracking_uri())
    resolve(tracking_uri(), _MODEL)  # a model that is not there is refused here, not by a replica in a log
    address = prepare_ray_address()
    ray.init(address=address, include_dashboard=False, log_to_driver=True, logging_level="warning")
    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, whose processes must keep their own
        signal.signal(number, lambda *_: asked_to_end.set())
    serve.start(http_options={"host": LOOPBACK, "port": options.port})
    try:
        serve.run(importlib.import_module("cluster.serve").app, name="realshard")  # not this __main__ copy of it
        print(f"serving on http://{LOOPBACK}:{options.port} until Ctrl-C", flush=True)
        asked_to_end.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()

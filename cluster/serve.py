"""The champion behind HTTP, on Ray Serve: a page, `POST /v1/predict`, health, metrics.

    python -m cluster.serve                  (make serve)   on http://127.0.0.1:8000, with a Ray of its own
    serve run cluster.serve:app                             on the Ray that is running

Settings come from the environment: REALSHARD_SERVED_MODEL (default models:/realshard-resnet50@champion),
REALSHARD_TOKEN (asked for as `Authorization: Bearer ...` when set), REALSHARD_REPLICAS (default 1). When the alias is
moved to another version, replicas load it and change over between two batches; every answer names its version.
"""

import asyncio
import contextlib
import dataclasses
import os
from typing import Any

from ray import serve

from cluster.api import make_api
from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage

BATCH_IMAGES = 32
BATCH_WAIT_SECS = 0.01
MAX_QUEUED = 128  # images that wait for a replica; more get 503
LOOK_SECS = 5.0  # between two looks at the alias
DEFAULT_MODEL = "models:/realshard-resnet50@champion"


@serve.deployment(max_ongoing_requests=2 * BATCH_IMAGES, max_queued_requests=MAX_QUEUED)
class Replica:
    """One loaded model. Images of several requests are scored together."""

    def __init__(self, model_uri: str):
        from trainers.registry import load_detector

        self._model_uri = model_uri
        self._detector = load_detector(model_uri)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Follows the alias. A store that does not answer for a while changes nothing."""
        from trainers.registry import load_detector, resolve
        from trainers.store import tracking_uri

        while True:
            await asyncio.sleep(LOOK_SECS)
            with contextlib.suppress(Refused, OSError):
                found = await asyncio.to_thread(resolve, tracking_uri(), self._model_uri)
                if found != (self._detector.name, self._detector.version):
                    self._detector = await asyncio.to_thread(load_detector, self._model_uri)

    @serve.batch(max_batch_size=BATCH_IMAGES, batch_wait_timeout_s=BATCH_WAIT_SECS)
    async def predict(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Of each image: label, p_fake, threshold, error, model, version."""
        detector = self._detector  # the whole batch by one version
        verdicts = await asyncio.to_thread(detector.predict, images)
        model = {"model": detector.name, "version": detector.version}
        return [dataclasses.asdict(verdict) | model for verdict in verdicts]

    async def explain(self, image: bytes) -> dict[str, Any]:
        """P(fake) and the evidence of each part of the picture (trainers/occlusion.py); error if it cannot be read."""
        from trainers.occlusion import occlusion_map

        detector = self._detector
        model = {"model": detector.name, "version": detector.version}
        try:
            p_fake, evidence = await asyncio.to_thread(occlusion_map, detector, image)
        except BadImage as bad:
            return {"error": str(bad), **model}
        return {"p_fake": p_fake, "evidence": evidence.round(6).tolist(), "error": None, **model}

    async def version(self) -> dict[str, Any]:
        """What is loaded."""
        return {"model": self._detector.name, "version": self._detector.version}


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1})
@serve.ingress()
class Web:
    """Takes requests in and hands images to the replicas; never looks at their content."""

    def __init__(self, replicas: Any, token: str):
        self._replicas, self._token = replicas, token

    def __serve_build_asgi_app__(self) -> Any:
        """What Serve runs, made in the process that runs it."""
        return make_api(self._replicas, self._token)


def build(model_uri: str = DEFAULT_MODEL, token: str = "", replicas: int = 1) -> serve.Application:
    """The application.

    Args:
      model_uri: models:/NAME@ALIAS, or models:/NAME/VERSION, which never changes.
      token: that clients must present; "" for none.
      replicas: processes that hold the model.
    """
    replica: Any = Replica  # decorators turn the classes into deployments, which type checkers cannot see
    web: Any = Web
    return web.bind(replica.options(num_replicas=replicas).bind(model_uri), token)


def _replicas() -> int:
    value = os.environ.get("REALSHARD_REPLICAS", "1")
    if not value.isdigit() or not 1 <= int(value) <= 1000:
        raise Refused(f"REALSHARD_REPLICAS must be a number from 1 to 1000. Received: {value!r}. Take 1.")
    return int(value)


app = build(os.environ.get("REALSHARD_SERVED_MODEL", DEFAULT_MODEL), os.environ.get("REALSHARD_TOKEN", ""), _replicas())


def main() -> None:
    """Serves on loopback until Ctrl-C, on a Ray of its own."""
    import argparse
    import importlib
    import signal
    import threading

    import ray

    from cluster.ports import LOOPBACK, require_free
    from tfds_builders.records.ray_address import prepare_ray_address

    parser = argparse.ArgumentParser(prog="python -m cluster.serve", description="Serves the champion over HTTP.")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: %(default)s)")
    options = parser.parse_args()
    require_free(options.port, "The page", "say `python -m cluster.serve --port N`")
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

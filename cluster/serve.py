"""The champion behind HTTP, on Ray Serve: a page, `POST /v1/predict`, health, metrics.

    RAY_ADDRESS=... serve run cluster.serve:app     on a Ray that runs (docs/serving.md); on its own one: server.py

Settings come from the environment: REALSHARD_SERVED_MODEL (default models:/realshard-resnet50@champion),
REALSHARD_TOKEN (asked for as `Authorization: Bearer ...` when set), REALSHARD_REPLICAS (default 1),
REALSHARD_REPLICA_GPUS (of each; default 0). When the alias is moved to another version, replicas load it and change
over between two batches; every answer names its version. More: docs/serving.md.
"""

import os
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig

from cluster.api import make_api
from cluster.around import RETRY_SECS
from cluster.asking import Asking
from cluster.ports import prepare_to_listen
from cluster.replica import LOOK_SECS, Replica
from cluster.server import served_model
from cluster.uploads import BODY_SECS
from tfds_builders.records.errors import Refused
from trainers.predict import DEFAULT_MODEL


@serve.deployment(
    max_ongoing_requests=1000,
    max_queued_requests=1000,
    backpressure_config=BackpressureConfig(retry_after_s=RETRY_SECS),
    ray_actor_options={"num_cpus": 0.1},
)
@serve.ingress()
class Web:
    """Takes requests in and hands files to the replicas; never decodes them."""

    def __init__(self, replicas: Any, num_replicas: int, token: str, body_secs: float):
        prepare_to_listen()
        self._replicas, self._num_replicas = replicas, num_replicas
        self._token, self._body_secs = token, body_secs

    def __serve_build_asgi_app__(self) -> Any:
        """What Serve runs, made in the process that runs it."""
        return make_api(Asking(self._replicas, self._num_replicas), self._token, self._body_secs)


def build(
    model_uri: str = DEFAULT_MODEL,
    token: str = "",
    replicas: int = 1,
    body_secs: float = BODY_SECS,
    look_secs: float = LOOK_SECS,
    replica_gpus: float = 0,
) -> serve.Application:
    """The application.

    Args:
      model_uri: models:/NAME@ALIAS, or models:/NAME/VERSION, which never changes.
      token: that clients must present; "" for none.
      replicas: processes that hold the model.
      body_secs: in which a request must have been sent.
      look_secs: between two looks at the alias.
      replica_gpus: that Ray reserves for each replica; parts of one share it.
    """
    replica: Any = Replica  # decorators turn the classes into deployments, which type checkers cannot see
    web: Any = Web
    replica = replica.options(num_replicas=replicas, ray_actor_options={"num_gpus": replica_gpus})
    return web.bind(replica.bind(model_uri, look_secs), replicas, token, body_secs)


def _replicas() -> int:
    value = os.environ.get("REALSHARD_REPLICAS", "1")
    if not value.isdigit() or not 1 <= int(value) <= 1000:
        raise Refused(f"REALSHARD_REPLICAS must be a number from 1 to 1000. Received: {value!r}. Take 1.")
    return int(value)


def _replica_gpus() -> float:
    value = os.environ.get("REALSHARD_REPLICA_GPUS", "0")
    try:
        gpus = float(value)
    except ValueError:
        gpus = -1
    if not (0 <= gpus <= 1 or (0 <= gpus <= 100 and gpus.is_integer())):  # as Ray has it
        raise Refused(
            f"REALSHARD_REPLICA_GPUS must be a part of a GPU or a number of them. Received: {value!r}. Take 1, or 0.5 "
            "for two replicas on one."
        )
    return gpus


app = build(served_model(), os.environ.get("REALSHARD_TOKEN", ""), _replicas(), replica_gpus=_replica_gpus())

"""What surrounds every request: headers of every answer, counts, and an answer where the code fails."""

import logging
import time
from typing import Any

import prometheus_client
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders

from cluster.refusal import Refusal

logger = logging.getLogger("ray.serve")

RETRY_SECS = 1  # what a client is told to wait when all replicas are busy
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Counts:
    """What /metrics tells of this process."""

    def __init__(self) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "realshard_requests", "Requests by path and status", ("path", "status"), registry=registry
        )
        self.seconds = prometheus_client.Histogram(
            "realshard_request_seconds", "Time to answer, by path", ("path",), registry=registry
        )
        self.images = prometheus_client.Counter(
            "realshard_images", "Images by verdict: real, fake or unreadable", ("verdict",), registry=registry
        )


class Around:
    """ASGI middleware."""

    def __init__(self, app: Any, counts: Counts, known: frozenset[str]):
        """`known` are the paths that are counted by their names."""
        self._app, self._counts, self._known = app, counts, known

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # of a server behind a prefix
        path = path if path in self._known else "other"
        status = None

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)  # Serve itself adds X-Request-Id and logs it
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("answering %s", path)
            if status is None:
                refusal = Refusal(500, "The server failed to answer; its log says why.")
                await refused(refusal)(scope, receive, send_with_headers)
        finally:
            self._counts.requests.labels(path, str(status)).inc()
            self._counts.seconds.labels(path).observe(time.monotonic() - started)


def refused(refusal: Refusal) -> JSONResponse:
    """The answer that says so."""
    headers = {"Retry-After": str(RETRY_SECS)} if refusal.status == 503 else {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": refusal.sentence}, refusal.status, headers)

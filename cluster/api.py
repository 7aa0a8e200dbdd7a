"""The HTTP side of serving: what is taken in, what is refused and how, what every answer carries.

Content is judged by decoding it, in the replica; how it is taken in: uploads.py.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import prometheus_client
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from cluster.uploads import BODY_SECS, Refusal, Uploads

logger = logging.getLogger("ray.serve")

ANSWER_SECS = 60  # to answer a request
READY_SECS = 5  # to say which model is loaded
MAX_EXPLAINING = 4  # requests; each asks the model 50 times
RETRY_SECS = 1  # what a client is told to wait when all replicas are busy
PAGE = Path(__file__).with_name("page")
_BUSY = "All replicas are busy; try again in a moment."
_PAGE_FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_api(replicas: Any, token: str, body_secs: float = BODY_SECS) -> FastAPI:
    """The application.

    Args:
      replicas: a handle of the deployment with the methods predict, explain and version.
      token: that requests to /v1 must carry as `Authorization: Bearer TOKEN`; "" for none.
      body_secs: in which a request must have been sent.
    """
    api = FastAPI(title="realshard", version="1", docs_url=None, redoc_url=None)  # their pages load from elsewhere
    registry = prometheus_client.CollectorRegistry()
    requests = prometheus_client.Counter(
        "realshard_requests", "Requests by path and status", ("path", "status"), registry=registry
    )
    seconds = prometheus_client.Histogram(
        "realshard_request_seconds", "Time to answer, by path", ("path",), registry=registry
    )
    images = prometheus_client.Counter(
        "realshard_images", "Images by verdict: real, fake or unreadable", ("verdict",), registry=registry
    )
    known = {"/v1/predict", "/v1/explain", "/healthz", "/readyz", "/metrics", "/openapi.json", *_PAGE_FILES}

    uploads = Uploads(body_secs)
    explaining = 0

    @api.middleware("http")
    async def around(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.monotonic()
        path = request.scope["path"]  # request.url raises for some headers `Host`
        path = path if path in known else "other"
        try:
            if path.startswith("/v1/") and token:
                _check_token(request, token)
            response = await answer(request)
        except Refusal as refusal:
            response = _refused(refusal)
        except Exception:
            logger.exception("answering %s", path)
            response = _refused(Refusal(500, "The server failed to answer; its log says why."))
        response.headers.update(_HEADERS)  # Serve itself adds X-Request-Id and logs it
        requests.labels(path, str(response.status_code)).inc()
        seconds.labels(path).observe(time.monotonic() - started)
        return response

    @api.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return _refused(refusal)

    @api.post("/v1/predict", summary="Verdicts on images: multipart files, or one image as the body")
    async def predict(request: Request) -> JSONResponse:
        async with uploads.files(request) as files:
            answers = await _ask(replicas.predict, [(data,) for _, data in files])
            results = [{"file": name, **answer} for (name, _), answer in zip(files, answers, strict=True)]
        for answer in answers:
            images.labels(answer["label"] or "unreadable").inc()
        readable = any(answer["error"] is None for answer in answers)
        return JSONResponse({"results": results}, status_code=200 if readable else 422)

    @api.post("/v1/explain", summary="Where the evidence lies in one image")
    async def explain(request: Request) -> JSONResponse:
        nonlocal explaining
        async with uploads.files(request) as files:
            if len(files) != 1:
                raise Refusal(400, f"One image is explained at a time; received {len(files)}.")
            if explaining >= MAX_EXPLAINING:
                raise Refusal(503, _BUSY)
            explaining += 1
            try:
                (answer,) = await _ask(replicas.explain, [(files[0][1],)])
            finally:
                explaining -= 1
        return JSONResponse(answer, status_code=422 if answer["error"] else 200)

    @api.get("/healthz", summary="This process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="A model is loaded; which")
    async def readyz() -> dict[str, Any]:
        (loaded,) = await _ask(replicas.version, [()], READY_SECS)
        return {"status": "ready", **loaded}

    @api.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(prometheus_client.generate_latest(registry), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    for route, file in _PAGE_FILES.items():
        api.add_api_route(route, _page(PAGE / file), include_in_schema=False)
    return api


def _page(file: Path) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(file)

    return page


def _refused(refusal: Refusal) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_SECS)} if refusal.status == 503 else {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": refusal.sentence}, refusal.status, headers)


def _check_token(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        raise Refusal(401, "This server wants a token: send it as `Authorization: Bearer TOKEN`.")


async def _ask(method: Any, questions: list[tuple], secs: float = ANSWER_SECS) -> list[Any]:
    """Awaits the replicas' answers to all questions.

    Raises:
      Refusal: 503 when they are busy, gone, or take too long.
    """
    answers = [asyncio.ensure_future(_answer(method, question)) for question in questions]
    try:
        async with asyncio.timeout(secs):
            return list(await asyncio.gather(*answers))
    except BackPressureError:
        raise Refusal(503, _BUSY) from None
    except TimeoutError:
        raise Refusal(503, f"No answer within {secs:g} s; try again in a moment.") from None
    except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError):
        raise Refusal(503, "No replica is there to answer; try again in a moment.") from None
    finally:
        for answer in answers:  # nobody waits any more for what has no place yet
            answer.cancel()


async def _answer(method: Any, question: tuple) -> Any:
    try:
        return await method.remote(*question)
    except RayActorError:  # the replica died. Asking changes nothing, so another is asked; once, lest it die of this
        return await method.remote(*question)

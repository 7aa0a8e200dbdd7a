"""The HTTP side of serving: what is taken in, what is refused and how, what every answer carries.

Nothing a client sends is written to disk, used as a path, or logged. Content is judged by decoding it, in the replica;
names are only handed back.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import prometheus_client
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from ray.serve.exceptions import BackPressureError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_BODY_BYTES = 64 << 20  # of one request
MAX_FILES = 32  # of one request
BODY_SECS = 30  # to send a request
ANSWER_SECS = 60  # to answer it
RETRY_SECS = 1  # what a client is told to wait when all replicas are busy
PAGE = Path(__file__).with_name("page")
_PAGE_FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """A request that is answered with `status` and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def make_api(replicas: Any, token: str) -> FastAPI:
    """The application.

    Args:
      replicas: a handle of the deployment with the methods predict, explain and version.
      token: that requests to /v1 must carry as `Authorization: Bearer TOKEN`; "" for none.
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

    @api.middleware("http")
    async def around(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.monotonic()
        path = request.url.path if request.url.path in known else "other"
        try:
            if path.startswith("/v1/") and token:
                _check_token(request, token)
            response = await answer(request)
        except Refusal as refusal:
            response = _refused(refusal)
        response.headers.update(_HEADERS)  # Serve itself adds X-Request-Id and logs it
        requests.labels(path, str(response.status_code)).inc()
        seconds.labels(path).observe(time.monotonic() - started)
        return response

    @api.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return _refused(refusal)

    @api.post("/v1/predict", summary="Verdicts on images: multipart files, or one image as the body")
    async def predict(request: Request) -> JSONResponse:
        files = await _files(request)
        answers = await _ask([replicas.predict.remote(data) for _, data in files])
        for answer in answers:
            images.labels(answer["label"] or "unreadable").inc()
        results = [{"file": name, **answer} for (name, _), answer in zip(files, answers, strict=True)]
        readable = any(answer["error"] is None for answer in answers)
        return JSONResponse({"results": results}, status_code=200 if readable else 422)

    @api.post("/v1/explain", summary="Where the evidence lies in one image")
    async def explain(request: Request) -> JSONResponse:
        files = await _files(request)
        if len(files) != 1:
            raise Refusal(400, f"One image is explained at a time; received {len(files)}.")
        (answer,) = await _ask([replicas.explain.remote(files[0][1])])
        return JSONResponse(answer, status_code=422 if answer["error"] else 200)

    @api.get("/healthz", summary="This process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="A model is loaded; which")
    async def readyz() -> dict[str, Any]:
        (loaded,) = await _ask([replicas.version.remote()])
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


async def _ask(answers: list[Any]) -> list[Any]:
    """Awaits the replicas' answers.

    Raises:
      Refusal: 503 when they are busy or take too long.
    """
    try:
        async with asyncio.timeout(ANSWER_SECS):
            return list(await asyncio.gather(*answers))
    except BackPressureError:
        raise Refusal(503, "All replicas are busy; try again in a moment.") from None
    except TimeoutError:
        raise Refusal(503, f"No answer within {ANSWER_SECS} s; try again in a moment.") from None


async def _files(request: Request) -> list[tuple[str, bytes]]:
    """(name, content) of each file of a request; the name of a bare body is "".

    Raises:
      Refusal: nothing sent, too much, too slowly, too many files, or not what the headers say.
    """
    body = await _body(request)
    if not request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        if not body:
            raise Refusal(400, "Send one image as the body, or files as multipart/form-data; received nothing.")
        return [("", body)]

    async def once() -> AsyncGenerator[bytes]:
        yield body

    try:
        form = await _InMemory(request.headers, once(), max_files=MAX_FILES, max_fields=MAX_FILES).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        sentence = getattr(error, "message", str(error)).rstrip(".")
        raise Refusal(400, f"The form cannot be read: {sentence}. At most {MAX_FILES} files are taken.") from None
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise Refusal(400, "The form holds no file.")
    return [(file.filename or "", await file.read()) for file in files]


class _InMemory(MultiPartParser):
    spool_max_size = MAX_BODY_BYTES + 1  # beyond this it would write to disk; no body is as long


async def _body(request: Request) -> bytes:
    too_long = Refusal(413, f"At most {MAX_BODY_BYTES >> 20} MiB are taken in one request.")
    announced = request.headers.get("Content-Length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_long
    parts, length = [], 0
    try:
        async with asyncio.timeout(BODY_SECS):
            async for part in request.stream():
                parts.append(part)
                length += len(part)
                if length > MAX_BODY_BYTES:
                    raise too_long
    except TimeoutError:
        raise Refusal(408, f"The request must be sent within {BODY_SECS} s.") from None
    return b"".join(parts)

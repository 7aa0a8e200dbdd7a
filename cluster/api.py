"""The HTTP side of serving: its paths, and what every answer carries.

How uploads are taken in: uploads.py; how replicas are asked: asking.py; what surrounds every request: around.py.
Content is judged by decoding it, in the replica.
"""

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import prometheus_client
from fastapi import FastAPI, Request, Response, Security
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.routing import Route

from cluster.answers import Error, Evidence, Ready, Verdicts, documented
from cluster.around import Around, Counts, refused
from cluster.asking import ANSWER_SECS, READY_SECS, Asking, within
from cluster.refusal import Refusal
from cluster.uploads import BODY_SECS, Uploads

PAGE = Path(__file__).with_name("page")
_PAGE_FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css", "/icon.svg": "icon.svg"}
_BEARER = HTTPBearer(auto_error=False)


def make_api(asking: Asking, token: str, body_secs: float = BODY_SECS) -> FastAPI:
    """The application.

    Args:
      asking: the replicas.
      token: that requests to /v1/ must carry as `Authorization: Bearer TOKEN`; "" for none.
      body_secs: in which a request must have been sent.
    """
    api = FastAPI(title="realshard", version="1", docs_url=None, redoc_url=None)  # their pages load from elsewhere
    counts = Counts()
    _add_verdicts(api, asking, Uploads(body_secs), counts, [Security(_guard(token))] if token else [])
    _add_health(api, asking, counts)
    for route, file in _PAGE_FILES.items():
        api.add_api_route(route, _page(PAGE / file), include_in_schema=False)
    known = frozenset(route.path for route in api.routes if isinstance(route, Route))
    api.add_middleware(Around, counts=counts, known=known)
    api.add_exception_handler(Refusal, _refuse)
    return api


def _add_verdicts(api: FastAPI, asking: Asking, uploads: Uploads, counts: Counts, guards: list[Any]) -> None:
    async def verdicts(request: Request) -> list[dict[str, Any]]:
        async with uploads.files(request) as files:
            answers = await asking.predict([data for _, data in files])
            return [{"file": name, **answer} for (name, _), answer in zip(files, answers, strict=True)]

    async def evidence(request: Request) -> dict[str, Any]:
        async with uploads.files(request) as files:
            if len(files) != 1:
                raise Refusal(400, f"One image is explained at a time; received {len(files)}.")
            return await asking.explain(files[0][1])

    @api.post(
        "/v1/predict",
        dependencies=guards,
        summary="Verdicts on images and videos: multipart files, or one file as the body",
        **documented(Verdicts, bool(guards), many=True),
    )
    async def predict(request: Request) -> JSONResponse:
        results = await within(ANSWER_SECS, verdicts(request))
        for answer in results:
            counts.images.labels(answer["label"] or "unreadable").inc()
        readable = any(answer["error"] is None for answer in results)
        return JSONResponse({"results": results}, status_code=200 if readable else 422)

    @api.post(
        "/v1/explain",
        dependencies=guards,
        summary="Where the evidence lies in one image",
        **documented(Evidence, bool(guards), many=False),
    )
    async def explain(request: Request) -> JSONResponse:
        answer = await within(ANSWER_SECS, evidence(request))
        return JSONResponse(answer, status_code=422 if answer["error"] else 200)


def _add_health(api: FastAPI, asking: Asking, counts: Counts) -> None:
    @api.get("/healthz", summary="This process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="A model is loaded; which", response_model=Ready, responses={503: {"model": Error}})
    async def readyz() -> dict[str, Any]:
        return {"status": "ready", **await within(READY_SECS, asking.version())}

    @api.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        text = prometheus_client.generate_latest(counts.registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)


def _guard(token: str) -> Callable[..., Awaitable[None]]:
    async def guard(given: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise Refusal(401, "This server wants a token: send it as `Authorization: Bearer TOKEN`.")

    return guard


def _page(file: Path) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(file)

    return page


async def _refuse(_: Request, refusal: Any) -> Response:
    return refused(refusal)

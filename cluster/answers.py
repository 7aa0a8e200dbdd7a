"""The shapes of requests and answers, for /openapi.json; the answers themselves are made in api.py and replica.py."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileVerdict(_Shape):
    """What is said of one file: a verdict, or an error."""

    file: str = Field(description="the name that it was sent under")
    label: str | None = Field(description="real or fake, as the model names them; null where there is an error")
    p_fake: float | None = Field(ge=0, le=1)
    threshold: float = Field(description="called fake from this P(fake) on")
    error: str | None = Field(description="why there is no verdict")
    is_unsure: bool = Field(description="P(fake) lies where verdicts were often wrong on validation images")
    frames: int | None = Field(description="of a video, on how many the verdict rests; null of an image")
    model: str
    version: int


class Verdicts(_Shape):
    """One entry a file, in the order they were sent."""

    results: list[FileVerdict]


class Evidence(_Shape):
    """Where the evidence lies in one image; without p_fake and evidence where there is an error."""

    p_fake: float | None = Field(default=None, ge=0, le=1)
    evidence: list[list[float]] | None = Field(
        default=None, description="7 by 7: by how much P(fake) falls when that part is covered"
    )
    error: str | None
    model: str
    version: int


class Ready(_Shape):
    """What is loaded, and what keeps the server from loading what it should."""

    status: Literal["ready"]
    model: str
    version: int
    problem: str | None


class Error(_Shape):
    """Why a request was not answered as asked."""

    error: str


_REFUSALS = {
    400: "No file, too many, or a form that cannot be read",
    408: "Not sent in time",
    413: "Too long, or too much to decode",
    500: "The server failed",
    503: "Busy or not there: Retry-After says when to come back",
}


def documented(answer: type[BaseModel], with_token: bool, many: bool) -> dict[str, Any]:
    """Arguments of a route that takes `many` files or one, and answers `answer`, or a refusal."""
    refusals = _REFUSALS | ({401: "The token is missing or wrong"} if with_token else {})
    binary = {"type": "string", "format": "binary"}
    field = {"type": "array", "items": binary} if many else binary
    form = {"type": "object", "required": ["file"], "properties": {"file": field}}
    content = {"multipart/form-data": form, "application/octet-stream": binary, "image/*": binary, "video/*": binary}
    body = {"required": True, "content": {kind: {"schema": schema} for kind, schema in content.items()}}
    return {
        "response_model": answer,
        "responses": {
            422: {"model": answer, "description": "No file could be read; why"},
            **{status: {"model": Error, "description": when} for status, when in sorted(refusals.items())},
        },
        "openapi_extra": {"requestBody": body},
    }

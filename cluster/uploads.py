"""Taking in what clients send: in memory, within bounds of length, number, time, and bytes held for all of them.

    async with uploads.files(request) as files: ...

Nothing is written to disk, used as a path, or logged; names are only handed back.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from cluster.refusal import Refusal

MAX_BODY_BYTES = 64 << 20  # of one request
MAX_HELD_BYTES = 512 << 20  # of all requests that are being received or answered
MAX_FILES = 32  # of one request
BODY_SECS = 30.0  # to send a request


class Uploads:
    """The files of requests, and how many bytes are held for them."""

    def __init__(self, body_secs: float = BODY_SECS, max_held_bytes: int = MAX_HELD_BYTES):
        self._body_secs, self._max_held_bytes = body_secs, max_held_bytes
        self._held_bytes = 0

    @contextlib.asynccontextmanager
    async def files(self, request: Request) -> AsyncGenerator[list[tuple[str, bytes]]]:
        """(name, content) of each file of a request; the name of a bare body is "". Held until the block ends.

        Raises:
          Refusal: nothing sent, too much, too slowly, too many files, or not what the headers say; or too much is held
            for other requests.
        """
        announced = request.headers.get("Content-Length", "0")
        if announced.isdigit() and int(announced[:20]) > MAX_BODY_BYTES:
            raise _too_long()
        received = 0

        async def parts() -> AsyncGenerator[bytes]:
            nonlocal received
            async for part in request.stream():
                received += len(part)
                self._held_bytes += len(part)
                if received > MAX_BODY_BYTES:
                    raise _too_long()
                if self._held_bytes > self._max_held_bytes:
                    raise Refusal(503, "Too much is being received at once; try again in a moment.")
                yield part

        try:
            try:
                async with asyncio.timeout(self._body_secs):
                    files = await _read(request, parts())
            except TimeoutError:
                raise Refusal(408, f"The request must be sent within {self._body_secs:g} s.") from None
            except ClientDisconnect:
                raise Refusal(400, "The connection ended before the request did.") from None
            yield files
        finally:
            self._held_bytes -= received


def _too_long() -> Refusal:
    return Refusal(413, f"At most {MAX_BODY_BYTES >> 20} MiB are taken in one request.")


async def _read(request: Request, parts: AsyncGenerator[bytes]) -> list[tuple[str, bytes]]:
    kind = request.headers.get("Content-Type", "")
    if not kind.lower().startswith("multipart/form-data"):
        body = b"".join([part async for part in parts])
        if not body:
            raise Refusal(400, "Send one file as the body, or files as multipart/form-data; received nothing.")
        return [("", body)]
    parser = _InMemory(request.headers, parts, max_files=MAX_FILES, max_fields=MAX_FILES)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        sentence = getattr(error, "message", str(error)).rstrip(".")
        raise Refusal(400, f"The form cannot be read: {sentence}. At most {MAX_FILES} files are taken.") from None
    if not parser.is_whole:
        raise Refusal(400, "The form cannot be read: its last boundary is missing.")
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise Refusal(400, "The form holds no file.")
    contents = [(_name(file), await file.read()) for file in files]
    await form.close()
    return contents


def _name(file: UploadFile) -> str:
    # The client chooses the charset of names; some yield halves of characters, which no answer can hold.
    return (file.filename or "").encode("utf-8", "replace").decode()


class _InMemory(MultiPartParser):
    spool_max_size = MAX_BODY_BYTES + 1  # beyond this it would write to disk; no body is as long
    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True

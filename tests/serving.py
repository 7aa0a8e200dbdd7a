"""A running server of the tiny model, and its clients."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import small_model

from cluster.ports import LOOPBACK, pick_free_port
from cluster.uploads import BODY_SECS

BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@contextlib.contextmanager
def serving(model: str, directory: Path, app_name: str, **options: Any) -> Iterator[str]:
    """http://127.0.0.1:PORT of a server of one replica, on a Ray that runs; `options` are those of `build`. The model
    is registered in the home that this Ray knows."""
    from ray import serve

    from cluster.serve import build

    register_first(model, directory)
    port = pick_free_port()
    serve.start(http_options={"host": LOOPBACK, "port": port})
    try:
        serve.run(build(f"models:/{model}@champion", **options), name=app_name)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        serve.shutdown()


@contextlib.contextmanager
def served_process(model: str, directory: Path, body_secs: float = BODY_SECS) -> Iterator[tuple[str, subprocess.Popen]]:
    """http://127.0.0.1:PORT of `python -m cluster.server`, and its process, which has a Ray of its own, whatever
    RAY_ADDRESS says."""
    register_first(model, directory)
    port = pick_free_port()
    environment = os.environ | {
        "REALSHARD_SERVED_MODEL": f"models:/{model}@champion",
        "RAY_ADDRESS": "127.0.0.1:1",  # where no Ray is
    }
    program = f"import cluster.uploads as u; u.BODY_SECS = {body_secs}; from cluster.server import main; main()"
    command = [sys.executable, "-c", program, "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = f"serving on http://{LOOPBACK}:{port} until Ctrl-C\n"
            assert said in iter(process.stdout.readline, ""), "the server ended; its log says why"
            yield f"http://{LOOPBACK}:{port}", process
        finally:
            process.terminate()
            process.wait(60)


def register_first(model: str, directory: Path) -> None:
    """Registers the tiny model as the first version of `model`, its champion."""
    keras_file = small_model.save_model(directory / "model.keras")
    small_model.register(small_model.new_run(f"{model}-1"), keras_file, registered_name=model)


def form_of(files: dict[str, bytes]) -> bytes:
    """The body of a form with these files."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data
        for name, data in files.items()
    ]
    return b"".join(part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def ask(url: str, data: bytes | None = None, **headers: str):
    """(status, headers, body) of a GET, or of a POST of `data`."""
    request = urllib.request.Request(url, data, {key.replace("_", "-"): value for key, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def post_files(address: str, files: dict[str, bytes], path: str = "/v1/predict"):
    """(status, JSON) for files sent as a form."""
    status, _, answer = ask(address + path, form_of(files), Content_Type=FORM)
    return status, json.loads(answer)

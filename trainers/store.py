"""Where MLflow's store is, and whether it answers. Knows addresses only, not MLflow."""

import http.client
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tfds_builders.records.errors import Refused
from trainers.home import home

ANSWER_SECS = 5  # how long a server may take to answer, or to accept a connection
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = "sqlite:///"
_ADVICE = "start it, correct MLFLOW_TRACKING_URI, or unset that to use the database in REALSHARD_HOME"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the embedded database `<home>/mlflow.db`.

    Raises:
      Refused: the URI names files, which MLflow no longer accepts, or a database by a relative path.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return f"{_SQLITE}{home() / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        raise Refused(
            f"MLFLOW_TRACKING_URI must be a server (http://host:port) or a database, received {uri!r}: "
            "unset it to use the database in REALSHARD_HOME"
        )
    if scheme == "sqlite" and not uri.startswith(f"{_SQLITE}/"):
        raise Refused(
            f"MLFLOW_TRACKING_URI must name its database by an absolute path (sqlite:////...), received {uri!r}: "
            "a job runs in a directory of its own"
        )
    return uri


def database_file(uri: str) -> Path | None:
    """The file of an embedded (SQLite) store; None for a server or another database."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def without_password(uri: str) -> str:
    """The URI without user name and password, fit to be printed."""
    return re.sub(r"//[^/]*@", "//", uri)


def ensure_reachable(uri: str) -> None:
    """Checks within seconds that the store at `uri` can be used, where MLflow itself would retry for minutes.

    Raises:
      Refused: a server that does not answer, or not as an MLflow server does; a database file that cannot be written.
    """
    parts = urlsplit(uri)
    file = database_file(uri)
    if file is not None:
        _ensure_writable(file)
    elif parts.scheme in ("http", "https"):
        _ensure_answer(without_password(uri).rstrip("/"))
    elif parts.hostname and (port := parts.port or _PORTS.get(parts.scheme.split("+")[0])):
        try:
            socket.create_connection((parts.hostname, port), timeout=ANSWER_SECS).close()
        except OSError as error:
            raise Refused(
                f"MLflow's database at {parts.hostname}:{port} does not answer ({error}): {_ADVICE}"
            ) from None


def _ensure_writable(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"MLflow's database cannot be kept at {file}: {error.strerror}") from None
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise Refused(f"MLflow's database cannot be kept at {file}: writing there is not permitted")


def _ensure_answer(server: str) -> None:
    try:
        urllib.request.urlopen(f"{server}/health", timeout=ANSWER_SECS).close()
    except urllib.error.HTTPError as error:
        said = " ".join(error.read(200).decode("utf-8", "replace").split())
        # A gate that wants credentials does answer, and MLflow will bring them; but its server also answers 403 to
        # a host name that it was not told about.
        if error.code in (401, 403) and "host" not in said.lower():
            return
        raise Refused(f"{server} answers {error.code} {said!r} where an MLflow server says OK: {_ADVICE}") from None
    except OSError as error:  # URLError, timeouts
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return  # it answers; MLflow judges the certificate by its own settings
        raise Refused(f"the MLflow server at {server} does not answer ({reason}): {_ADVICE}") from None
    except (ValueError, http.client.HTTPException) as error:
        raise Refused(f"{server} does not answer as an MLflow server does ({error}): {_ADVICE}") from None

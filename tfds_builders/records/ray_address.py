"""Which Ray both rooms use: the cluster at RAY_ADDRESS, or one of this process's own that nobody else can reach.

Left to itself, Ray lets the processes of a local cluster listen on every address of the machine, and then either
guards them by a token, which the bare `ray job submit` of another shell does not send, or runs whatever it is sent.
The setting that Ray makes on macOS and Windows (the node's address is 127.0.0.1, nothing listens elsewhere) works on
Linux too; so a local cluster is private without tokens. A cluster beyond this machine keeps the caller's settings.
"""

import os
import socket
import sys

from tfds_builders.records.errors import Refused

# What makes a cluster of this machine listen on loopback only and ask for no token.
LOOPBACK_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_CONNECT_TIMEOUT_SECS = 5
_SETTINGS = 4  # type of an HTTP/2 frame: length (3 bytes), type, flags, stream (4 bytes)
_EMPTY_SETTINGS_FRAME = bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")


def prepare_ray_address() -> str:
    """The `address` for `ray.init`: RAY_ADDRESS, or "local".

    Sets in this process's environment what a cluster on loopback needs, unless the caller has set it. Call it before
    Ray is imported, which is when Ray reads these settings.

    Raises:
      Refused: RAY_ADDRESS is set and no Ray answers there (Ray itself would try for minutes), or Python is in a path
        with spaces (Ray would wait for its workers for ever).
    """
    if " " in sys.executable:
        raise Refused(
            f"Ray cannot start its workers from a path with spaces, received {sys.executable}: "
            "make the virtual environment elsewhere"
        )
    address = os.environ.get("RAY_ADDRESS") or "local"
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if address == "local" or host in _LOOPBACK_HOSTS:
        for name, value in LOOPBACK_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    if separator and port.isdigit():  # "local" and "auto" are for Ray to resolve
        try:
            _ensure_grpc(host.strip("[]"), int(port))
        except (OSError, OverflowError) as error:
            raise Refused(
                f"RAY_ADDRESS must name a running Ray cluster, but nothing answers at {address} ({error}): "
                "start one (`make cluster-up`), or unset RAY_ADDRESS to use this machine alone"
            ) from None
    return address


def _ensure_grpc(host: str, port: int) -> None:
    """Checks that a gRPC server, as a Ray cluster is, answers; Ray would try another server for minutes.

    Source of the bytes: RFC 9113, sections 3.4 and 4.1: after the preface both sides send a SETTINGS frame.
    """
    with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_SECS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS_FRAME)
        answer = connection.recv(9)
        if len(answer) < 4 or answer[3] != _SETTINGS:
            raise OSError("what listens there is not Ray")

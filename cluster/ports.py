"""Ports of this machine: is one free, and which one is."""

import random
import socket

from tfds_builders.records.errors import Refused

LOOPBACK = "127.0.0.1"
_NEVER_GIVEN = range(20_000, 32_768)  # Linux gives 32768 to 60999 to those who ask for any; Ray's own are below


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `host`:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still closing (TIME_WAIT) counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(port: int, what: str, option: str) -> None:
    """Checks that `what` can listen on 127.0.0.1:`port`; `option` is how the user chooses another port.

    Raises:
      Refused: the port is no port, or something already listens there.
    """
    if not 0 < port < 65536:
        raise Refused(f"{what} needs a port from 1 to 65535, received {port}: {option}")
    if not is_free(port):
        raise Refused(f"{what} needs port {port} of {LOOPBACK}, which is busy: end what listens there, or {option}")


def pick_free_port() -> int:
    """A port that is free on every address now, drawn at random from those that the system gives to nobody by itself:
    what is started meanwhile and takes any port, as Ray does for some forty, takes none of these."""
    drawn = random.SystemRandom().sample(_NEVER_GIVEN, len(_NEVER_GIVEN))  # whatever a training has seeded
    return next(port for port in drawn if is_free(port, ""))


def prepare_to_listen() -> None:
    """For a process of Ray Serve, before it listens: two things that Serve 2.60 has no setting for.

    Where Ray's node is this machine's loopback, the port that Serve opens in each replica for calls between deployments
    is there, too; Serve binds it to every address, and whoever reaches it may call.

    The port of direct ingress can be taken again while connections of the process that had it before are still closing
    (TIME_WAIT, a minute). Else Serve takes it for another program's and never tries it again.
    """
    import ray
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() == LOOPBACK:
        bind = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", LOOPBACK))
    start = replica.start_asgi_http_server
    replica.start_asgi_http_server = lambda *given, **options: start(*given, **options | {"enable_so_reuseport": True})

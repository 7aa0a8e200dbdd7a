"""A local Ray cluster is reachable from this machine only, and a wrong RAY_ADDRESS is refused at once."""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import grpc
import psutil
import pytest

from tfds_builders.records.errors import Refused
from tfds_builders.records.ray_address import LOOPBACK_ENVIRONMENT, prepare_ray_address


@pytest.fixture
def environment(monkeypatch):
    """No Ray settings at all; what the function sets is undone after the test."""
    for name in ("RAY_ADDRESS", *LOOPBACK_ENVIRONMENT):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    return monkeypatch


def settings(names=tuple(LOOPBACK_ENVIRONMENT)):
    return {name: os.environ[name] for name in names if name in os.environ}


def test_without_an_address_a_private_cluster_is_started(environment):
    assert prepare_ray_address() == "local"
    assert settings() == LOOPBACK_ENVIRONMENT


def test_the_callers_settings_are_kept(environment):
    environment.setenv("RAY_AUTH_MODE", "token")
    prepare_ray_address()
    assert settings()["RAY_AUTH_MODE"] == "token"


def test_an_address_on_loopback_that_answers_is_used(environment):
    server = grpc.server(ThreadPoolExecutor(1))  # what answers in a Ray cluster
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    environment.setenv("RAY_ADDRESS", address)
    assert prepare_ray_address() == address
    server.stop(None)
    assert settings() == LOOPBACK_ENVIRONMENT


def test_a_server_of_another_kind_is_refused_at_once(environment):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        environment.setenv("RAY_ADDRESS", f"127.0.0.1:{server.server_port}")
        with pytest.raises(Refused, match="not Ray"):
            prepare_ray_address()


def test_a_cluster_that_ray_resolves_keeps_its_own_settings(environment):
    environment.setenv("RAY_ADDRESS", "auto")
    assert prepare_ray_address() == "auto"
    assert settings() == {}


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "[::1]:{port}", "localhost:99999"])
def test_an_address_that_does_not_answer_is_refused_in_a_sentence(environment, address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address.format(port=server.getsockname()[1])
    environment.setenv("RAY_ADDRESS", address)
    with pytest.raises(Refused, match=r"nothing answers at .*make cluster-up") as refusal:
        prepare_ray_address()
    assert address in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_python_that_ray_cannot_start_is_refused(environment):
    """Workers of Ray Train would never come up, and nobody would say so."""
    environment.setattr(sys, "executable", "/home/me/my projects/.venv/bin/python")
    with pytest.raises(Refused, match=r"path with spaces, received /home/me/my projects"):
        prepare_ray_address()


def test_no_process_of_a_local_cluster_listens_beyond_loopback(ray_session):
    @ray_session.remote
    def touch():
        return 1

    assert ray_session.get(touch.remote()) == 1  # a worker process is there too
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5  # GCS, raylet, agents
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}

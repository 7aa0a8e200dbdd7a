"""`python -m cluster.server`, as people start it: where it listens, what its end leaves, and a Web that died."""

import signal
import time

import psutil
import pytest
import small_model
from serving import post_files, served_process

pytestmark = pytest.mark.long
START_SECS = 90  # a killed process is replaced within
IMAGE = {"a.png": small_model.image_bytes("PNG")}


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    """(address, port) of all that these processes listen on."""
    pids = {process.pid for process in processes}
    return {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    }


def test_a_server_of_its_own(tmp_path):
    with served_process("realshard-own", tmp_path) as (address, process):
        expected = post_files(address, IMAGE)
        assert expected[0] == 200
        ours = psutil.Process(process.pid).children(recursive=True)
        found = listening(ours)
        assert ("127.0.0.1", int(address.rpartition(":")[2])) in found
        assert {ip for ip, _ in found} == {"127.0.0.1"}
        assert len(found) >= 5

        (web,) = (child for child in ours if ":Web" in " ".join(child.cmdline()))
        assert web.nice() == process_niceness(process)
        web.kill()
        assert answer_in_time(address) == expected  # on the same port, from a new process

        ours = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert psutil.wait_procs(ours, timeout=30)[1] == []


def process_niceness(process) -> int:
    """Of the command itself."""
    return psutil.Process(process.pid).nice()


def answer_in_time(address: str):
    """The first answer once there is one."""
    deadline = time.monotonic() + START_SECS
    while True:
        try:
            answer = post_files(address, IMAGE)
            if answer[0] != 503:
                return answer
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)

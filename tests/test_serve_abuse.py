"""`make serve` that strangers use: bad requests by the thousand, more good ones than it can take, killed replicas, and
an alias that is moved meanwhile."""

import collections
import concurrent.futures
import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import small_model
from bad_requests import BUSY, TAKES_LONG, requests
from processes import descendants, private_bytes
from serving import FORM, ask, form_of, post_files, served_process

from cluster.asking import MAX_WAITING
from cluster.uploads import MAX_FILES
from trainers import registry, tracking

pytestmark = pytest.mark.long
NAME = "realshard-abused"
NUM_BAD = 1000
NUM_WARM_UP = 240  # requests of every kind, after which all that is loaded late is loaded
NUM_THREADS = 8
BODY_SECS = 10.0
MAX_GROWTH = 50 << 20  # bytes, of the processes of the server together
START_SECS = 120  # a killed replica is replaced within


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served_process(NAME, tmp_path_factory.mktemp("abuse"), BODY_SECS) as server:
        yield server


@pytest.fixture(scope="module")
def address(server) -> str:
    return server[0]


@pytest.fixture(scope="module")
def processes(server):
    """A function: those of this server's deployments; of one, if named."""

    def find(deployment: str = "") -> list[psutil.Process]:
        return descendants(psutil.Process(server[1].pid), f"ServeReplica:realshard:{deployment}")

    return find


def send_all(port: int, count: int, seed: int) -> list[tuple[str, int | None, bool]]:
    """(kind, status, whether it is allowed) of each bad request."""
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        sent = [(kind, allowed, pool.submit(send, port)) for kind, allowed, send in requests(count, seed)]
        return [(kind, answer.result(), answer.result() in allowed) for kind, allowed, answer in sent]


def test_a_thousand_bad_requests_leave_no_trace(address, processes):
    port = int(address.rpartition(":")[2])
    send_all(port, NUM_WARM_UP, seed=1)
    pids, bytes_before = {process.pid for process in processes()}, sum(map(private_bytes, processes()))
    assert len(pids) == 2  # Web and Replica
    image = small_model.image_bytes("PNG")
    expected = post_files(address, {"a.png": image})
    assert expected[0] == 200

    answers = send_all(port, NUM_BAD, seed=2)

    wrong = collections.Counter((kind, status) for kind, status, is_allowed in answers if not is_allowed)
    assert all(kind in TAKES_LONG and status in BUSY for kind, status in wrong), wrong
    assert {kind for kind, _, is_allowed in answers if is_allowed} == {kind for kind, _, _ in answers}
    assert len({status for _, status, _ in answers}) >= 7
    assert {process.pid for process in processes()} == pids
    assert post_files(address, {"a.png": image}) == expected
    growth = sum(map(private_bytes, processes())) - bytes_before
    print(f"memory: {bytes_before / 2**20:.0f} MiB before, {growth / 2**20:+.0f} MiB after {NUM_BAD} bad requests")
    assert growth < MAX_GROWTH


def test_more_than_it_can_take_is_answered_or_told_to_come_back(address):
    image = small_model.image_bytes("JPEG", 1500, 2000)  # takes long to decode, so that requests pile up
    body = form_of({f"{number}.jpg": image for number in range(MAX_FILES)})
    num_clients = 4 * MAX_WAITING // MAX_FILES
    with concurrent.futures.ThreadPoolExecutor(num_clients) as pool:
        sent = [pool.submit(ask, f"{address}/v1/predict", body, Content_Type=FORM) for _ in range(num_clients)]
        answers = [answer.result() for answer in sent]
    statuses = collections.Counter(status for status, _, _ in answers)
    # 408: a busy machine may not have taken in a body within the little time that these tests give.
    assert {200, 503} <= set(statuses) <= {200, *BUSY}, statuses
    assert all(headers["Retry-After"] for status, headers, _ in answers if status == 503)
    assert post_files(address, {"a.jpg": image})[0] == 200


@contextlib.contextmanager
def clients(number: int, keep_asking: Callable[[], None], is_over: threading.Event) -> Iterator[None]:
    """So many ask at the same time, until the block is left."""
    threads = [threading.Thread(target=keep_asking) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_a_killed_replica_costs_no_client_more_than_another_try(address, processes):
    image = small_model.image_bytes("PNG")
    statuses: collections.Counter = collections.Counter()
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            statuses[ask(f"{address}/v1/predict", image)[0]] += 1

    with clients(4, keep_asking, is_over):
        (victim,) = processes("Replica")
        victim.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + START_SECS
        while ask(f"{address}/readyz")[0] != 200 or victim.is_running():
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert set(statuses) <= {200, 503}, statuses
    assert statuses[200] > 0
    assert ask(f"{address}/v1/predict", image)[0] == 200


def test_an_alias_moved_under_load_fails_no_request_and_every_answer_names_its_version(address, tmp_path):
    image = small_model.image_bytes("PNG")
    answers: list[tuple[int, int, float]] = []  # status, version, P(fake)
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            status, _, body = ask(f"{address}/v1/predict", image)
            row = json.loads(body)["results"][0] if status == 200 else {"version": 0, "p_fake": 0.0}
            answers.append((status, row["version"], row["p_fake"]))

    with clients(NUM_THREADS, keep_asking, is_over):
        keras_file = small_model.save_model(tmp_path / "other.keras", seed=7)
        version = small_model.register(small_model.new_run("abused-2"), keras_file, registered_name=NAME)
        tracking.client_of().set_registered_model_alias(NAME, "champion", str(version))
        deadline = time.monotonic() + START_SECS
        while not answers or answers[-1][1] != version:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert {status for status, _, _ in answers} == {200}
    assert {number for _, number, _ in answers} == {1, version}
    expected = {number: registry.load_detector(f"models:/{NAME}/{number}") for number in (1, version)}
    scores = {number: detector.predict([image])[0].p_fake for number, detector in expected.items()}
    assert abs(scores[1] - scores[version]) > 1e-3
    assert all(abs(p_fake - scores[number]) < 1e-6 for _, number, p_fake in answers)

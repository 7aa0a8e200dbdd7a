"""The served champion: verdicts over HTTP, refusals with a reason, a page needing nothing else, change of versions."""

import asyncio
import functools
import io
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable
from pathlib import Path

import numpy as np
import psutil
import pytest
import small_model
from bad_requests import jpeg_exif, tiff_pages, tiff_tags
from PIL import Image
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from serving import FORM, ask, form_of, post_files, serving
from starlette.requests import Request
from starlette.testclient import TestClient
from tiny_sources import video

from cluster import replica
from cluster.answers import Evidence, Verdicts
from cluster.api import PAGE, make_api
from cluster.asking import MAX_LONG, MAX_VIDEOS, Asking, within
from cluster.bounds import MAX_PIXELS, MAX_SCANS, admit, work_of
from cluster.refusal import Refusal
from cluster.uploads import MAX_FILES, Uploads
from tfds_builders.records.decode import decode_rgb
from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.records.frames import take_frames
from tfds_builders.records.header import inspect
from trainers import registry, tracking
from trainers.occlusion import CELLS, occlusion_map
from trainers.predict import NUM_FRAMES

NAME = "realshard-served"
CHAMPION = f"models:/{NAME}@champion"
CHANGE_SECS = 90  # an alias that was moved is followed within


@pytest.fixture(scope="module")
def address(ray_session, tmp_path_factory):
    """http://127.0.0.1:PORT of a server of one replica; the model is in the home that the session's Ray knows."""
    with serving(NAME, tmp_path_factory.mktemp("serve"), "test", look_secs=0.5) as address:
        yield address


def test_verdicts_are_those_of_the_registered_model(address):
    files = {f"{kind}.bin": small_model.image_bytes(kind, seed=n) for n, kind in enumerate(small_model.FORMATS)}
    status, answer = post_files(address, files)
    assert status == 200
    Verdicts.model_validate(answer, strict=True)
    expected = registry.load_detector(CHAMPION).predict(list(files.values()))
    assert [row["file"] for row in answer["results"]] == list(files)
    np.testing.assert_allclose([row["p_fake"] for row in answer["results"]], [v.p_fake for v in expected], atol=1e-6)
    assert [row["label"] for row in answer["results"]] == [verdict.label for verdict in expected]
    assert {(row["model"], row["version"]) for row in answer["results"]} == {(NAME, 1)}


def test_one_image_may_be_the_body(address):
    data = small_model.image_bytes("JPEG")
    status, _, body = ask(f"{address}/v1/predict", data, Content_Type="image/jpeg")
    assert status == 200
    assert json.loads(body)["results"][0]["p_fake"] == pytest.approx(
        post_files(address, {"a.jpg": data})[1]["results"][0]["p_fake"], abs=1e-6
    )


def test_a_video_gets_the_mean_of_its_frames_in_its_place(address):
    clip = video(0, num_frames=40)
    frames, _ = take_frames(clip, NUM_FRAMES, "")
    scores = [verdict.p_fake for verdict in registry.load_detector(CHAMPION).predict(frames)]
    files = {"a.png": small_model.image_bytes("PNG"), "b.txt": clip, "c.mp4": clip[:300]}
    status, answer = post_files(address, files)
    picture, moving, broken = answer["results"]
    assert (status, picture["frames"], moving["frames"], broken["frames"]) == (200, None, NUM_FRAMES, None)
    assert moving["p_fake"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    assert moving["label"] == ("fake" if moving["p_fake"] >= 0.5 else "real")
    assert (moving["version"], moving["error"]) == (1, None)
    assert "the video cannot be decoded" in broken["error"]
    assert post_files(address, {"c.mp4": clip[:300]})[0] == 422
    assert post_files(address, {"b.mp4": clip}, "/v1/explain")[0] == 422
    assert post_files(address, {f"{number}.mp4": clip for number in range(MAX_VIDEOS + 1)})[0] == 400


def test_an_unreadable_file_has_its_reason_and_the_others_their_verdict(address):
    status, answer = post_files(address, {"page.jpg": b"<html></html>", "good.txt": small_model.image_bytes("PNG")})
    assert status == 200
    bad, good = answer["results"]
    assert "HTML page" in bad["error"]
    assert bad["p_fake"] is None
    assert good["error"] is None
    status, answer = post_files(address, {"page.jpg": b"<html></html>"})
    assert status == 422
    Verdicts.model_validate(answer, strict=True)


def test_bad_requests_are_refused_with_a_reason_and_harm_nothing(address):
    image = small_model.image_bytes("PNG")
    bomb = bytearray(image)
    bomb[16:24] = (100_000).to_bytes(4) * 2  # width and height of the header
    cases = [
        (ask(f"{address}/v1/predict", b""), 400, "received nothing"),
        (ask(f"{address}/v1/predict", b"junk", Content_Type=FORM), 400, "form"),
        (ask(f"{address}/v1/predict", b"junk", Content_Type="multipart/form-data"), 400, "form cannot be read"),
        (ask(f"{address}/v1/predict", form_of({"a.png": image})[:-9], Content_Type=FORM), 400, "last boundary"),
        (ask(f"{address}/v1/predict", b"x", Content_Length=str(300 << 20)), 413, "At most 64 MiB"),
        (ask(f"{address}/v1/predict", bytes(bomb)), 422, ""),
        (ask(f"{address}/v1/predict", image[:60]), 422, "truncated"),
        (ask(f"{address}/nowhere"), 404, ""),
    ]
    for (status, _, body), expected, sentence in cases:
        assert (status, sentence in body.decode()) == (expected, True), body
    many = {f"{number}.png": image for number in range(MAX_FILES + 1)}
    assert post_files(address, many)[0] == 400
    assert post_files(address, {"a.png": image, "b.png": image}, "/v1/explain")[0] == 400
    status, answer = post_files(address, {"a.png": b"text"}, "/v1/explain")
    assert status == 422
    Evidence.model_validate(answer, strict=True)
    assert ask(f"{address}/healthz")[0] == 200
    assert post_files(address, {"a.png": image})[0] == 200


def test_the_page_needs_nothing_from_elsewhere(address):
    for path, kind in (("/", "text/html"), ("/page.js", "javascript"), ("/page.css", "text/css")):
        status, headers, body = ask(address + path)
        assert status == 200
        assert kind in headers["Content-Type"]
        assert b"http://" not in body
        assert b"https://" not in body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert sorted(file.name for file in PAGE.iterdir()) == ["icon.svg", "index.html", "page.css", "page.js"]


def test_health_and_metrics(address):
    assert json.loads(ask(f"{address}/readyz")[2]) == {
        "status": "ready",
        "model": NAME,
        "version": 1,
        "problem": None,
    }
    before = ask(f"{address}/metrics")[2].decode()
    post_files(address, {"a.png": small_model.image_bytes("PNG")})
    line = 'realshard_requests_total{path="/v1/predict",status="200"} '
    count = [
        float(text.split(line)[1].split("\n")[0]) if line in text else 0.0
        for text in (before, ask(f"{address}/metrics")[2].decode())
    ]
    assert count[1] == count[0] + 1
    assert "/v1/predict" in json.loads(ask(f"{address}/openapi.json")[2])["paths"]


def test_no_process_of_the_server_listens_beyond_loopback(address):
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = [
        connection.laddr
        for connection in psutil.net_connections("tcp")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]
    assert int(address.rpartition(":")[2]) in {at.port for at in listening}
    assert {at.ip.removeprefix("::ffff:") for at in listening} == {"127.0.0.1"}


def test_evidence_comes_as_a_grid(address):
    status, answer = post_files(address, {"a.png": small_model.image_bytes("PNG")}, "/v1/explain")
    assert status == 200
    Evidence.model_validate(answer, strict=True)
    assert np.shape(answer["evidence"]) == (CELLS, CELLS)
    assert np.ptp(answer["evidence"]) > 0


def test_what_is_flat_is_no_evidence(address):
    pixels = np.full((70, 70, 3), 90, np.uint8)
    pixels[:, 40:] = np.random.default_rng(0).integers(0, 256, (70, 30, 3))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    detector = registry.load_detector(CHAMPION)
    p_fake, evidence = occlusion_map(detector, file.getvalue())
    assert p_fake == pytest.approx(detector.predict([file.getvalue()])[0].p_fake)
    assert (evidence[:, :4] == 0).all()
    assert (evidence[:, 4:] != 0).any()


def wait_for_problem(address: str, expected: str | None) -> dict:
    """/readyz's answer once its problem is one that contains `expected`, or none."""
    deadline = time.monotonic() + CHANGE_SECS
    while True:
        ready = json.loads(ask(f"{address}/readyz")[2])
        if (ready["problem"] is None) if expected is None else (expected in (ready["problem"] or "")):
            return ready
        assert time.monotonic() < deadline, ready
        time.sleep(0.2)


def test_a_version_that_cannot_be_loaded_is_not_followed_and_said(address, tmp_path):
    client = tracking.client_of()
    broken = client.create_model_version(NAME, (tmp_path / "nothing").as_uri()).version
    client.set_registered_model_alias(NAME, "champion", broken)
    try:
        ready = wait_for_problem(address, f"{NAME}/{broken} cannot be served")
        assert (ready["status"], ready["version"]) == ("ready", 1)
        status, answer = post_files(address, {"a.png": small_model.image_bytes("PNG")})
        assert (status, answer["results"][0]["version"]) == (200, 1)
    finally:
        client.set_registered_model_alias(NAME, "champion", "1")
    wait_for_problem(address, None)


def test_a_moved_alias_is_followed_without_a_failed_request(address, tmp_path):
    keras_file = small_model.save_model(tmp_path / "other.keras", seed=7)
    version = small_model.register(small_model.new_run("served-2"), keras_file, registered_name=NAME)
    image = small_model.image_bytes("PNG")
    tracking.client_of().set_registered_model_alias(NAME, "champion", str(version))
    expected = {1: registry.load_detector(f"models:/{NAME}/1"), version: registry.load_detector(CHAMPION)}
    deadline = time.monotonic() + CHANGE_SECS
    seen = []
    while not seen or seen[-1] != version:
        assert time.monotonic() < deadline, f"still version {seen[-1]}"
        status, answer = post_files(address, {"a.png": image})
        assert status == 200
        row = answer["results"][0]
        seen.append(row["version"])
        assert row["p_fake"] == pytest.approx(expected[row["version"]].predict([image])[0].p_fake, abs=1e-6)
    assert [number for number, _ in itertools.groupby(seen)] in ([1, version], [version])


@pytest.mark.parametrize("prefix", ["", "/x"])
def test_a_token_is_asked_for_where_one_is_set(prefix):
    """Under a route prefix too, of which a reverse proxy or Serve tells the application as root_path."""
    client = TestClient(make_api(Asking(None), token="secret"), root_path=prefix)
    for path in ("/v1/predict", "/v1/explain"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = client.post(prefix + path, content=small_model.image_bytes("PNG"), headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        allowed = client.post(prefix + path, headers={"Authorization": "Bearer secret"})
        assert allowed.status_code == 400  # no image
    assert client.get(f"{prefix}/healthz").status_code == 200
    assert 'path="/v1/predict",status="401"' in client.get(f"{prefix}/metrics").text


@pytest.mark.parametrize("token", ["", "secret"])
def test_the_description_for_programs_says_what_to_send_and_what_comes_back(token):
    described = TestClient(make_api(Asking(None), token=token)).get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    for path, answer in (("/v1/predict", "Verdicts"), ("/v1/explain", "Evidence")):
        post = described["paths"][path]["post"]
        content = post["requestBody"]["content"]
        assert {"multipart/form-data", "application/octet-stream"} <= set(content)
        assert "file" in content["multipart/form-data"]["schema"]["properties"]
        refusals = {"400", "408", "413", "500", "503"} | ({"401"} if token else set())
        assert set(post["responses"]) == {"200", "422"} | refusals
        named = {
            status: given["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            for status, given in post["responses"].items()
        }
        assert named == {"200": answer, "422": answer} | dict.fromkeys(refusals, "Error")
        assert set(named.values()) <= set(schemas)
        assert ("security" in post) == bool(token)
    assert ("securitySchemes" in described["components"]) == bool(token)


def test_paths_that_are_open_without_a_token_are_these():
    api = make_api(Asking(None), token="secret")
    client = TestClient(api, raise_server_exceptions=False)
    unguarded = {
        route.path
        for route in api.routes
        for method in route.methods
        if client.request(method, route.path).status_code != 401
    }
    assert unguarded == {"/", "/page.js", "/page.css", "/icon.svg", "/healthz", "/readyz", "/metrics", "/openapi.json"}


def test_the_page_works_under_a_prefix():
    """What it names is named relative to it."""
    page = "".join((PAGE / name).read_text() for name in ("index.html", "page.js"))
    client = TestClient(make_api(Asking(None), token=""), root_path="/x")
    assert client.get("/x").url.path == "/x/"
    named = re.findall(r'(?:(?:href|src)=|(?:fetch|post)\()"([^"]+)"', page)
    assert {"page.js", "page.css", "readyz", "v1/predict", "v1/explain"} <= set(named)
    assert not [name for name in named if client.get(f"/x/{name}").status_code == 404]


def test_images_that_cost_too_much_to_decode_are_not_decoded():
    file = io.BytesIO()
    Image.new("1", (MAX_PIXELS // 8000 + 1, 8000)).save(file, "PNG")
    jpeg = small_model.image_bytes("JPEG")
    scans = jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * MAX_SCANS + b"\xff\xd9"
    tags = tiff_tags(20, first=512)
    for data, word in ((file.getvalue(), "pixels"), (scans, "scans"), (tags, "tag"), (b"no image", "text")):
        with pytest.raises(BadImage, match=word):
            admit(data)
        assert work_of(data) == 0
    for kind in small_model.FORMATS:
        image = small_model.image_bytes(kind)
        np.testing.assert_array_equal(decode_rgb(admit(image)), decode_rgb(image))
    assert work_of(jpeg) == 40 * 56
    assert work_of(jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 19 + b"\xff\xd9") == 3 * 40 * 56  # 20 scans


class Held:
    """A handle whose replica answers once it is let, and counts what it was asked."""

    def __init__(self) -> None:
        self.predict_video = self.explain = self
        self.may_answer, self.asked = asyncio.Event(), 0

    async def remote(self, data: bytes) -> dict:
        """Answers some time."""
        self.asked += 1
        await self.may_answer.wait()
        return {"label": "real", "error": None}


def refused(secs: float, work: Awaitable) -> Awaitable[str]:
    """The refusal of `work`, which must be a 503, after at most `secs`."""

    async def sentence() -> str:
        with pytest.raises(Refusal) as refusal:
            await within(secs, work)
        assert refusal.value.status == 503
        return str(refusal.value)

    return sentence()


def test_what_nobody_waits_for_any_more_is_counted_until_it_is_done():
    async def run() -> None:
        image, held = small_model.image_bytes("PNG"), Held()
        asking = Asking(held)
        given_up = [refused(0.05, asking.explain(image)) for _ in range(MAX_LONG - 1)]
        assert all("No answer" in said for said in await asyncio.gather(*given_up))
        leaving = asyncio.create_task(within(60, asking.explain(image)))
        while held.asked < MAX_LONG:
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert "busy" in await refused(60, asking.explain(image))
        held.may_answer.set()
        while True:  # the replica is done with them one after another
            try:
                assert (await within(60, asking.explain(image)))["label"] == "real"
                break
            except Refusal:
                await asyncio.sleep(0)

    asyncio.run(run())


@pytest.mark.parametrize(("limit", "value"), [("MAX_WAITING", 1), ("MAX_WAITING_WORK", 3000)])
def test_files_and_pixels_that_wait_are_bounded(monkeypatch, limit, value):
    monkeypatch.setattr(f"cluster.asking.{limit}", value)

    async def run() -> None:
        image, held = small_model.image_bytes("PNG"), Held()  # of 2240 pixels
        asking = Asking(held)
        assert "No answer" in await refused(0.05, asking.explain(image))
        assert "busy" in await refused(60, asking.explain(image))
        assert held.asked == 1

    asyncio.run(run())


def test_a_request_of_too_many_pixels_is_refused(monkeypatch):
    image = small_model.image_bytes("PNG")
    monkeypatch.setattr("cluster.asking.MAX_WORK", 3000)
    client = TestClient(make_api(Asking(None), token=""))
    answer = client.post("/v1/predict", content=form_of({"a": image, "b": image}), headers={"Content-Type": FORM})
    assert (answer.status_code, "to decode" in answer.json()["error"]) == (413, True)


def test_bytes_are_held_while_a_replica_has_them(monkeypatch):
    image, held = small_model.image_bytes("PNG"), Held()
    monkeypatch.setattr("cluster.api.ANSWER_SECS", 0.05)
    monkeypatch.setattr("cluster.api.Uploads", functools.partial(Uploads, max_held_bytes=len(image) + 1))
    api = make_api(Asking(held), token="")

    with TestClient(api) as client:  # one event loop for all requests
        said = [client.post("/v1/explain", content=image).json()["error"] for _ in range(2)]
        assert "No answer" in said[0]
        assert "Too much" in said[1]
        client.portal.call(held.may_answer.set)
        while client.post("/v1/explain", content=image).status_code != 200:
            pass


def test_long_work_of_a_client_that_left_keeps_other_long_work_waiting(monkeypatch):
    """Two pictures at a time would take the CPU from verdicts on images."""
    running, most, begun, may_end = 0, 0, threading.Event(), threading.Event()

    def explain(*_: object) -> tuple[float, np.ndarray]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.set()
        may_end.wait(60)
        running -= 1
        return 0.5, np.zeros((CELLS, CELLS))

    monkeypatch.setattr(replica, "prepare_to_listen", lambda: None)
    monkeypatch.setattr(replica, "load_tried", lambda _: registry.Detector(None, "a-model", 1))
    monkeypatch.setattr("trainers.occlusion.occlusion_map", explain)

    async def run() -> None:
        held, image = replica.Replica.func_or_class("models:/a-model/1"), small_model.image_bytes("PNG")
        leaving = asyncio.create_task(held.explain(image))
        await asyncio.to_thread(begun.wait, 60)
        given_up, staying = (asyncio.create_task(held.explain(image)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        given_up.cancel()
        await asyncio.wait([leaving, given_up])
        assert not (await asyncio.wait([staying], timeout=0.2))[0]
        begun.clear()
        may_end.set()
        assert (await staying)["p_fake"] == 0.5
        assert begun.is_set()

    asyncio.run(run())
    assert most == 1


def test_models_get_no_more_of_a_file_than_its_pixels_need():
    """The decoders of those registered earlier count the pages of a TIFF and read all metadata, and turn JPEG by it."""
    given = []

    class Recorder:
        """A detector that keeps what it is asked."""

        def predict(self, images: list[bytes]) -> list[registry.Verdict]:
            given.extend(images)
            return [registry.Verdict("real", 0.1, 0.5, None) for _ in images]

    received = [tiff_pages(20_000), tiff_tags(), jpeg_exif(orientation=6), tiff_tags(20, first=512), b"no image"]
    verdicts = replica.judge(Recorder(), received)

    assert given[3:] == [b"", b""]
    assert [verdict.error is None for verdict in verdicts] == [True] * 3 + [False] * 2
    assert "tag 513" in verdicts[3].error
    plain = decode_rgb(small_model.image_bytes("TIFF"))
    for data in given[:2]:
        np.testing.assert_array_equal(decode_rgb(data), plain)
        with Image.open(io.BytesIO(data)) as image:
            assert (image.n_frames, max(image.tag_v2) < 40_000) == (1, True)
    assert inspect(given[2]).orientation == 6
    assert len(given[2]) < len(small_model.image_bytes("JPEG")) + 100
    np.testing.assert_array_equal(decode_rgb(given[2]), decode_rgb(received[2]))


class Failing:
    """A handle whose replica fails with `errors`, one after another, and then says which model it holds."""

    def __init__(self, *errors: Exception):
        self.version, self._errors = self, list(errors)

    async def remote(self) -> dict:
        """Fails or answers."""
        if self._errors:
            raise self._errors.pop(0)
        return {"model": "a-model", "version": 3, "problem": None}


def test_a_replica_that_died_is_asked_again_and_then_the_client_is_told_to(caplog):
    died = RayActorError()
    for errors, status in (
        ((), 200),
        ((died,), 200),
        ((died, died), 503),
        ((DeploymentUnavailableError(None),), 503),
        ((BackPressureError(9, 9),), 503),
        ((ValueError("a fault"),), 500),
    ):
        answer = TestClient(make_api(Asking(Failing(*errors)), token="")).get("/readyz")
        assert answer.status_code == status, errors
        assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)
        assert "default-src" in answer.headers["Content-Security-Policy"]
    assert "a fault" in caplog.text
    assert "a fault" not in answer.text


def test_no_more_is_held_than_allowed_and_all_is_given_back():
    async def hold(uploads: Uploads, inside: asyncio.Event, end: asyncio.Event) -> None:
        async with uploads.files(request_of(bytes(600))):
            inside.set()
            await end.wait()

    async def run() -> None:
        uploads, inside, end = Uploads(max_held_bytes=1000), asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(hold(uploads, inside, end))
        await inside.wait()
        with pytest.raises(Refusal, match="Too much") as refused:
            await hold(uploads, asyncio.Event(), end)
        assert refused.value.status == 503
        end.set()
        await holder
        await hold(uploads, asyncio.Event(), end)

    asyncio.run(run())


def request_of(body: bytes) -> Request:
    """A request with this body."""

    async def receive() -> dict:
        return {"type": "http.request", "body": body}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_names_and_headers_that_are_no_text_are_answered():
    class Unreadable:
        """Says of anything that it is no image."""

        async def predict(self, files: list[bytes]) -> list[dict]:
            return [{"label": None, "error": "no image"} for _ in files]

    client = TestClient(make_api(Unreadable(), token=""))
    body = form_of({r"\ud800.png": b"x"})
    answer = client.post("/v1/predict", content=body, headers={"Content-Type": FORM + "; charset=unicode_escape"})
    assert (answer.status_code, answer.json()["results"][0]["file"]) == (422, "?.png")
    assert client.get("/healthz", headers={"Host": "["}).status_code == 200


def test_settings_are_checked(monkeypatch):
    from cluster import serve

    monkeypatch.setenv("REALSHARD_REPLICAS", "many")
    with pytest.raises(Refused, match="from 1 to 1000"):
        serve._replicas()
    for value in ("-1", "1.5", "all", "nan"):
        monkeypatch.setenv("REALSHARD_REPLICA_GPUS", value)
        with pytest.raises(Refused, match="part of a GPU"):
            serve._replica_gpus()
    assert Path(serve.__file__).with_name("page").is_dir()


def test_each_replica_is_given_its_gpus(monkeypatch):
    from cluster import serve

    monkeypatch.setenv("REALSHARD_REPLICA_GPUS", "0.5")
    application = serve.build(replica_gpus=serve._replica_gpus())
    inner = application._bound_deployment.init_args[0]._bound_deployment
    assert inner.ray_actor_options["num_gpus"] == 0.5


def test_the_server_settles_where_ray_listens_before_it_imports_ray(repository):
    """Ray reads that setting when it is imported; set later, everything on the network could give it work."""
    code = "import sys, cluster.server; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, timeout=120).returncode == 0

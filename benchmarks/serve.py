"""How fast verdicts are served: ours, Flask apps and bare batches, around the same model in one run.

    python benchmarks/serve.py                                  # a MesoNet, 1, 8 and 64 clients, 3 rounds: 5 minutes
    python benchmarks/serve.py --model resnet50 --requests 128  # heavier

Clients keep their connection where the server does, and send one JPEG of 256x256 after another. Sides:

    ours      `make serve`
    flask     Flask's own server (app.run) around the registered model: decodes and judges one image a request
    keras     the same server around the Keras model: model.predict of one image
    gunicorn  the app of `flask` in one process of gunicorn with 8 threads
    bare      no server: the registered model's predict on batches of 32 image files
    pixels    no server, no files: model.predict of Keras on batches of 32 arrays

Each is a process of its own, on loopback; only one is asked at a time, sides alternate round by round, and medians are
reported. The last line is JSON; ratios are requests/s at the largest number of clients over those of the other side,
`ratio` is that over `flask`.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_NAME = "realshard-benchmark"
_URI = f"models:/{_NAME}@champion"
_NUM_IMAGES = 16
_BATCH = 32
_START_SECS = 180
_SIZES = {"mesonet": 256, "resnet50": 224}  # pixels


def make_images() -> list[bytes]:
    """JPEG files of about 30 KB."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for _ in range(_NUM_IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).resize((256, 256))
        pixels = np.asarray(coarse) * 0.8 + random.integers(0, 40, (256, 256, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def prepare(model: str, folder: str) -> None:
    """Registers a model with random weights as the champion of this process's REALSHARD_HOME."""
    from trainers import registry, tracking
    from trainers.decision import Decision
    from trainers.models.mesonet import build_mesonet
    from trainers.models.resnet import build_resnet50

    size = _SIZES[model]
    keras_file = Path(folder) / "model.keras"
    network = build_mesonet(size) if model == "mesonet" else build_resnet50("deep_head", size)
    network.save(keras_file)
    registry.register(
        tracking.open_run(tracking.experiment("benchmarks"), "serve", {}, {}),
        keras_file,
        images=make_images()[:2],
        registered_name=_NAME,
        image_size=size,
        decision=Decision(),
        label_names=("real", "fake"),
        tags={},
    )


def keras_model(folder: str):
    """The network as it was before it was registered."""
    import keras

    return keras.saving.load_model(Path(folder) / "model.keras", compile=False)


def flask_app(side: str = "flask", folder: str = ""):
    """A plain app: one image a request, judged when it comes."""
    import flask
    import numpy as np

    if side == "keras":
        from tfds_builders.records.pixels import load_pixels

        model, alone = keras_model(folder), threading.Lock()

        def judge(data: bytes) -> dict:
            pixels = load_pixels(data, model.input_shape[1])
            with alone:  # Keras's predict is not made for several threads
                p_fake = float(model.predict(pixels[np.newaxis], verbose=0)[0, 0])
            return {"label": "fake" if p_fake >= 0.5 else "real", "p_fake": p_fake, "error": None}
    else:
        from trainers.registry import load_detector

        detector = load_detector(_URI)

        def judge(data: bytes) -> dict:
            (verdict,) = detector.predict([data])
            return {"label": verdict.label, "p_fake": verdict.p_fake, "error": verdict.error}

    app = flask.Flask(__name__)

    @app.post("/v1/predict")
    def predict():
        return judge(flask.request.get_data())

    @app.get("/readyz")
    def readyz():
        return "ready"

    return app


def run_flask(side: str, folder: str, port: int) -> None:
    """Flask's own server."""
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line of log a request would cost it time
    flask_app(side, folder).run("127.0.0.1", port)


def batches(side: str, folder: str, count: int) -> None:
    """For each line of stdin: prints the images/s of `count` images in batches of 32."""
    images = make_images() * (_BATCH // _NUM_IMAGES)
    if side == "pixels":
        import numpy as np

        from tfds_builders.records.pixels import load_pixels

        model = keras_model(folder)
        pixels = np.stack([load_pixels(data, model.input_shape[1]) for data in images])

        def predict():
            model.predict(pixels, verbose=0)
    else:
        from trainers.registry import load_detector

        detector = load_detector(_URI)

        def predict():
            detector.predict(images)

    predict()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(-(-count // _BATCH)):
            predict()
        print(-(-count // _BATCH) * _BATCH / (time.perf_counter() - start), flush=True)


def clients(port: int, num_clients: int, count: int, max_secs: float) -> None:
    """Prints JSON: requests/s, p50 and p99 in milliseconds, and the number of answers."""
    import aiohttp

    images = make_images()
    latencies: list[float] = []

    async def run() -> float:
        left = iter(range(count))
        connector = aiohttp.TCPConnector(limit=num_clients)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:

            async def client() -> None:
                for number in left:
                    if time.perf_counter() > end:
                        return
                    before = time.perf_counter()
                    async with session.post("/v1/predict", data=images[number % _NUM_IMAGES]) as answer:
                        await answer.read()
                        answer.raise_for_status()
                    latencies.append(time.perf_counter() - before)

            start = time.perf_counter()
            end = start + max_secs
            await asyncio.gather(*(client() for _ in range(num_clients)))
            return time.perf_counter() - start

    seconds = asyncio.run(run())
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    found = {"rate": len(latencies) / seconds, "p50": 1000 * cuts[49], "p99": 1000 * cuts[98], "count": len(latencies)}
    print(json.dumps(found))


@contextlib.contextmanager
def running(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """A process that is asked to end at the end."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_ready(port: int, process: subprocess.Popen) -> None:
    """Returns once /readyz answers with 200."""
    deadline = time.monotonic() + _START_SECS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            return
        time.sleep(0.5)
    raise SystemExit(f"the server on port {port} did not start within {_START_SECS} s: {process.args}")


def side(*arguments: object) -> list[str]:
    """The command that runs another function of this file."""
    return [sys.executable, __file__, "--side", *map(str, arguments)]


def measure(options: argparse.Namespace, environment: dict[str, str], folder: str) -> tuple[dict, dict]:
    """{(side, number of clients): figures of each round}, and {"bare" or "pixels": images/s of each round}."""
    from cluster.ports import pick_free_port

    ports = {name: pick_free_port() for name in options.sides}
    gunicorn = [sys.executable, "-m", "gunicorn", "--workers", "1", "--threads", "8", "--timeout", "300"]
    gunicorn += ["--log-level", "warning", "--chdir", str(Path(__file__).parent), "serve:flask_app()"]
    commands = {
        "ours": lambda port: [sys.executable, "-m", "cluster.server", "--port", str(port)],
        "gunicorn": lambda port: [*gunicorn, "--bind", f"127.0.0.1:{port}"],
        "flask": lambda port: side("flask", "flask", folder, port),
        "keras": lambda port: side("flask", "keras", folder, port),
    }
    found: dict[tuple[str, int], list[dict]] = {}
    bare: dict[str, list[float]] = {"bare": [], "pixels": []}
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        predicting = {}
        for name in bare:
            command = side("batches", name, folder, options.requests)
            predicting[name] = stack.enter_context(running(command, env=environment, **pipes))
            predicting[name].stdout.readline()
        for name, port in ports.items():
            server = stack.enter_context(running(commands[name](port), env=environment, stdout=subprocess.DEVNULL))
            wait_until_ready(port, server)
            subprocess.run(side("clients", port, 64, 256, 10), check=True, stdout=subprocess.DEVNULL)  # warm-up
        for _ in range(options.rounds):
            for name, process in predicting.items():
                print("\n", file=process.stdin, end="", flush=True)
                bare[name].append(float(process.stdout.readline()))
            for num_clients in options.clients:
                for name, port in ports.items():
                    count = options.requests if num_clients > 1 else options.requests // 4
                    command = side("clients", port, num_clients, count, options.secs)
                    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                    found.setdefault((name, num_clients), []).append(json.loads(answer))
        for process in predicting.values():
            process.stdin.close()
    return found, bare


def report(found: dict, bare: dict, most: int) -> None:
    """Prints the table and the line of JSON."""
    print(f"{'':14}{'clients':>8}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'requests':>10}")
    for (name, num_clients), rounds in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        middle = {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
        print(
            f"{name:14}{num_clients:8}{middle['rate']:12.1f}{middle['p50']:9.1f}{middle['p99']:9.1f}{middle['count']:10.0f}"
        )
    rates = {
        name: [figures["rate"] for figures in rounds] for (name, clients), rounds in found.items() if clients == most
    }
    rates |= bare
    for name in bare:
        print(f"{name:14}{'-':>8}{statistics.median(bare[name]):12.1f}   images/s in batches of {_BATCH}")
    print(f"load of the machine at the end, 1 minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    ours = rates.pop("ours")
    ratios = {
        f"of_{name}": round(statistics.median(ours[i] / theirs[i] for i in range(len(ours))), 3)
        for name, theirs in rates.items()
    }
    print(json.dumps(({"ratio": ratios["of_flask"]} if "of_flask" in ratios else {}) | ratios))


def main() -> None:
    """Starts the servers, asks them in turn, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(_SIZES), default="mesonet", help="with random weights")
    parser.add_argument("--requests", type=int, default=512, help="of each side in one round, from all clients")
    parser.add_argument("--secs", type=float, default=20, help="after which a round of one side ends in any case")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is asked")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="at the same time")
    parser.add_argument("--sides", nargs="+", default=["ours", "flask", "keras", "gunicorn"], help="servers to ask")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, *arguments = options.side
        if name == "prepare":
            prepare(*arguments)
        elif name == "batches":
            batches(*arguments[:2], int(arguments[2]))
        elif name == "flask":
            run_flask(*arguments[:2], int(arguments[2]))
        else:
            clients(*map(int, arguments[:3]), float(arguments[3]))
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "REALSHARD_HOME": f"{folder}/home",
            "REALSHARD_SERVED_MODEL": _URI,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
            "CUDA_VISIBLE_DEVICES": "-1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        subprocess.run(side("prepare", options.model, folder), check=True, env=environment)
        found, bare = measure(options, environment, folder)
    report(found, bare, max(options.clients))


if __name__ == "__main__":
    main()

"""The whole road once, with small numbers: photographs, shards, training, MLflow, a verdict (`make demo`).

    python -m trainers.demo

Each stage is a command that a user could type, and is printed as such; together they take about 10 minutes on 2 cores.
What an earlier run has finished is used again. Everything but MLflow's runs and models is in runs/demo; the figures of
the table at the end are in runs/demo/summary.json.
"""

import dataclasses
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import simple_parsing

from tfds_builders.records.errors import Refused
from trainers.command_line import ENVIRONMENT_PREFIX
from trainers.dataset import DATASET_INFO, Dataset, find, load
from trainers.jobs import RESULT, write_json

ROOT = Path(__file__).resolve().parents[1]
DATASET = "ai_vs_human"
# What TensorFlow and TFDS say on stderr at every start, on machines where nothing is wrong.
NOISE = (
    "WARNING: All log messages before absl::InitializeLog()",
    "I0000 ",
    "WARNING:root:apitools not found",
    "Failed to import GCSFileSystem",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of the demo; its test runs the same code with smaller ones."""

    folder: Path = Path("runs/demo")  # What is made, but for MLflow's runs and models.
    num_images: int = 4000  # Images of the corpus, half of them fake.
    # Side of the images, pixels; trained on at this size: resizing would take away what tells them apart.
    image_size: int = 64
    left_out: str = "pixel_shuffle"  # The generator whose fakes are not trained on.
    epochs: int = 5  # Passes over the training images.
    global_batch_size: int = 32  # Images a step.
    learning_rate: float = 1e-3  # Of Adam.


def corpus_command(settings: Settings) -> list[str]:
    """Photographs that two dependencies ship, cut into real and re-synthesised crops."""
    numbers = ["--images", str(settings.num_images), "--size", str(settings.image_size), "--seed", "0"]
    return ["python", "-m", "tfds_builders.samples", DATASET, "--out", str(settings.folder / "corpus"), *numbers]


def build_command(settings: Settings) -> list[str]:
    """Checked, split by photograph, written as shards."""
    folders = ["--manual_dir", str(settings.folder / "corpus"), "--data_dir", str(settings.folder / "data")]
    return ["tfds", "build", f"tfds_builders/{DATASET}", *folders]


def train_command(settings: Settings, fingerprint: str) -> list[str]:
    """ResNet50 from random weights (no download), every layer trained."""
    options = {
        "dataset": DATASET,
        "data-dir": settings.folder / "data",
        "exclude": f"generator={settings.left_out}",
        "variant": "gap_head",
        "weights": "none",
        "image-size": settings.image_size,
        "epochs": settings.epochs,
        "head-epochs": 0,
        "learning-rate": settings.learning_rate,
        "global-batch-size": settings.global_batch_size,
        "devices-per-worker": 1,
    }
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", str(value))]
    # A job with this name has the same dataset and options: it is resumed, or has finished already.
    key = hashlib.sha256(json.dumps([fingerprint, arguments]).encode()).hexdigest()[:8]
    return ["python", "trainers/resnet.py", *arguments, "--name", f"demo-{key}"]


class Demo:
    """Runs the stages one after another and keeps their times."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []

    def run(self) -> dict[str, Any]:
        """All stages; returns what summary.json holds."""
        dataset = load(self.built())
        with self._stage("train", "3. a ResNet50, its MLflow run, the registered model"):
            result = self._train(dataset)
        with self._stage("evaluate", "4. how well it does on photographs it has never seen"):
            scores = evaluate(dataset, result, self.settings.left_out)
        with self._stage("predict", "5. a verdict on two pictures"):
            self._predict(dataset, result)
        summary = summarise(dataset, result) | scores
        summary |= {"reused": self.reused, "seconds": self.seconds | {"total": sum(self.seconds.values())}}
        write_json(self.settings.folder / "summary.json", summary)
        return summary

    def built(self) -> Path:
        """The first two stages; returns the directory of the built dataset."""
        with self._stage("corpus", "1. photographs, real and re-synthesised"):
            self._corpus()
        with self._stage("build", "2. TFRecord shards and their manifest"):
            self._build()
        return Path(str(find(DATASET, self.settings.folder / "data")))

    @contextmanager
    def _stage(self, name: str, title: str) -> Iterator[None]:
        print(f"\n=== {title}", flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)
        print(f"--- {self.seconds[name]:.1f} s", flush=True)

    def _corpus(self) -> None:
        command, mark = corpus_command(self.settings), self.settings.folder / "corpus.json"
        if mark.exists() and json.loads(mark.read_text()) == command:
            self._reuse("corpus", self.settings.folder / "corpus")
            return
        mark.unlink(missing_ok=True)  # before anything changes: what is there is no whole corpus until it is set again
        for name in ("corpus", "data"):
            shutil.rmtree(self.settings.folder / name, ignore_errors=True)
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        run_command(command)
        write_json(mark, command)

    def _build(self) -> None:
        data = self.settings.folder / "data"
        if any((data / DATASET).glob(f"*/{DATASET_INFO}")):
            self._reuse("build", find(DATASET, data))
        else:
            run_command(build_command(self.settings))

    def _train(self, dataset: Dataset) -> dict[str, Any]:
        from trainers.home import jobs_dir

        command = train_command(self.settings, dataset.fingerprint)
        result = jobs_dir() / command[-1] / RESULT
        if result.exists():
            self._reuse("train", result.parent)
        else:
            run_command(command)
        return json.loads(result.read_text())

    def _predict(self, dataset: Dataset, result: dict[str, Any]) -> None:
        test = dataset.select("test")
        pictures = [test.ids()[int((test.labels == label).argmax())] for label in (0, 1)]
        files = [str(self.settings.folder / "corpus" / picture) for picture in pictures]
        model = f"models:/{result['model_name']}/{result['model_version']}"
        run_command(["python", "-m", "trainers.predict", "--model", model, *files])

    def _reuse(self, stage: str, path: Path | str) -> None:
        self.reused.append(stage)
        print(f"already there, used again: {path}", flush=True)


def run_command(command: Sequence[str]) -> None:
    """Prints and runs a command, as a shell in the repository root with the environment activated would.

    Raises:
      Refused: it ended with an error, which it has printed.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    scripts = Path(sys.executable).parent
    # Options that the caller has set for own jobs are not the demo's.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ENVIRONMENT_PREFIX) or name == "REALSHARD_HOME"
    }
    environment["PATH"] = os.pathsep.join([str(scripts), environment.get("PATH", os.defpath)])
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environment.setdefault("PYTHONUNBUFFERED", "1")
    program = sys.executable if command[0] == "python" else str(scripts / command[0])
    with subprocess.Popen([program, *command[1:]], cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        # Lines end at "\r" too: that is how progress bars move.
        for line in io.TextIOWrapper(process.stderr, errors="replace", newline=""):
            if not line.lstrip("\r").startswith(NOISE):
                sys.stderr.write(line)
                sys.stderr.flush()
    if process.returncode:
        what = f"`{shlex.join(command[:3])} ...` ended with code {process.returncode}"
        raise Refused(f"{what}, for the reason above")


def evaluate(dataset: Dataset, result: dict[str, Any], left_out: str) -> dict[str, Any]:
    """What the job itself does not tell: the fakes of the left-out generator, and what the files alone give away."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from trainers import metrics

    predictions = pq.read_table(Path(result["directory"]) / "predictions.parquet")
    test = metrics.of_split(predictions, "test")
    known = test.filter(pc.not_equal(test["generator"], left_out))
    unknown = metrics.summarise_left_out(test, [left_out])
    train = dataset.select("train", exclude={"generator": {left_out}})
    return {
        "test_photographs": result["metrics"]["groups"],
        "test_auc_interval": result["metrics"]["auc_interval"],
        "test_auc_known_generators": metrics.summarise(known, bootstrap=0)["auc"],
        "left_out_generator": left_out,
        "left_out_auc": unknown["auc"],
        "left_out_auc_interval": unknown["auc_interval"] and list(unknown["auc_interval"]),
        "file_facts_auc": metrics.file_facts_auc(train.table, dataset.select("test").table),
    }


def summarise(dataset: Dataset, result: dict[str, Any]) -> dict[str, Any]:
    """The counts of the build and the figures of the job."""
    counts, images, test = dataset.build, result["images"], result["metrics"]
    return {
        **{f"images_{kind}": counts[kind] for kind in ("found", "written", "excluded", "quarantined")},
        "shards": len(set(dataset.table["shard"].to_pylist())),
        "train_images": images["train"],
        "val_images": images["validation"],
        "test_images": images["test"],
        "test_auc": test["auc"],
        "test_accuracy": test["accuracy"],
        "test_balanced_accuracy": test["balanced_accuracy"],
        "images_per_second": result["images_per_second"],
        "mlflow_run_id": result["run_id"],
        "model_name": result["model_name"],
        "model_version": result["model_version"],
        "alias": result["alias"],
    }


def table(summary: dict[str, Any]) -> str:
    """The summary for people."""

    def auc(key: str) -> str:
        if summary[key] is None:
            return "undefined"
        interval = summary.get(f"{key}_interval")
        return f"{summary[key]:.3f}" + (f"  (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval else "")

    found = " + ".join(f"{summary[f'images_{kind}']} {kind}" for kind in ("written", "excluded", "quarantined"))
    rows = [
        ("images", f"{summary['images_found']} found = {found}, in {summary['shards']} shards"),
        (
            "split",
            f"{summary['train_images']} train, {summary['val_images']} validation, {summary['test_images']} test",
        ),
        ("training", f"{summary['images_per_second']:.1f} images/s"),
        (f"test AUC, {summary['test_photographs']} unseen photographs", auc("test_auc")),
        ("  generators seen in training", auc("test_auc_known_generators")),
        (f"  {summary['left_out_generator']}, left out of training", auc("left_out_auc")),
        ("  linear model on file facts alone", auc("file_facts_auc")),
        ("test accuracy", f"{summary['test_accuracy']:.3f}, balanced {summary['test_balanced_accuracy']:.3f}"),
        ("MLflow run", summary["mlflow_run_id"]),
        ("model", f"{summary['model_name']} version {summary['model_version']}, alias {summary['alias']}"),
        ("seconds", ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in summary["seconds"].items())),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main() -> None:
    """The command line; runs in the repository root."""
    os.chdir(ROOT)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    settings = simple_parsing.parse(Settings, add_option_string_dash_variants=simple_parsing.DashVariant.DASH)
    summary = Demo(settings).run()
    print(f"\n=== the demo is done\n{table(summary)}\n")
    print(f"all figures: {settings.folder / 'summary.json'};  the run and its curves: make ui")


if __name__ == "__main__":
    main()

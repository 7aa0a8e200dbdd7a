"""A job's folder, `<home>/jobs/<name>/`: what it was told, whether it has finished, and what it left.

config.json          the resolved config and the dataset's fingerprint, from the job's beginning on
predictions.parquet  model.keras  history.json  figures/     when it has trained
result.json          last of all: a job without it is unfinished
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from trainers.config import Config, difference, to_dict
from trainers.dataset import Dataset, Records
from trainers.home import jobs_dir, locked
from trainers.models.families import FAMILIES
from trainers.models.family import Family

CONFIG, RESULT, LOCK, MARK = "config.json", "result.json", ".lock", ".mark"
HISTORY, PREDICTIONS, MODEL = "history.json", "predictions.parquet", "model.keras"  # in the last checkpoint too
_VERSION = re.compile(r":[^,=]*")  # in the value of --dataset


class JobFolder:
    """The folder of the job `name`; `path` exists once the job has begun."""

    def __init__(self, name: str):
        self.name = name
        self.path = jobs_dir() / name

    def part(self, label: str) -> "JobFolder":
        """A training that is a part of this job, such as a member of an ensemble: a folder inside this one."""
        part = JobFolder(f"{self.name}.{label}")
        part.path = self.path / label
        part.path.mkdir(exist_ok=True)
        return part

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the job: no other process can run it meanwhile. A process that dies lets go.

        Raises:
          Refused: another process is running the job.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.path / LOCK, fcntl.LOCK_NB))
            except BlockingIOError:
                raise Refused(
                    f"one job is run by one process at a time. Received: {self.name!r}, which is being run by another. "
                    "Wait for it, or take another --name."
                ) from None
            yield

    @contextlib.contextmanager
    def marked(self) -> Iterator[tuple[str, str]]:
        """(file, text): a file in the folder with a text like no other, by which a process on another machine can tell
        whether it sees this folder or one of its own."""
        self.path.mkdir(parents=True, exist_ok=True)
        file, text = self.path / MARK, secrets.token_hex(16)
        file.write_text(text)
        try:
            yield str(file), text
        finally:
            file.unlink(missing_ok=True)

    def dataset(self, expression: str) -> str:
        """What --dataset means to this job: where it names no version, those that the job began with."""
        try:
            before = json.loads((self.path / CONFIG).read_text())["config"]["data"]["dataset"]
        except FileNotFoundError:
            return expression
        return before if _VERSION.sub("", before) == "".join(expression.split()) else expression

    def begin(self, config: Config, fingerprint: str) -> dict[str, Any] | None:
        """Notes what the job is told, or compares with what it was told before.

        Returns:
          The job's result if it has finished, else None.

        Raises:
          Refused: a job of this name was begun with another config or dataset; names the difference.
        """
        told: dict[str, Any] = {"config": to_dict(config), "fingerprint": fingerprint}
        file = self.path / CONFIG
        if not file.exists():
            write_json(file, told)
            return None
        before = json.loads(file.read_text())
        if before["fingerprint"] == fingerprint:  # the data are equal, whatever their version is called
            before["config"]["data"]["dataset"] = told["config"]["data"]["dataset"]
        changes = difference(before["config"], told["config"])
        if before["fingerprint"] != fingerprint:
            changes.append(f"dataset {before['fingerprint'][:12]} -> {fingerprint[:12]}")
        if changes:
            raise Refused(
                f"a job goes on with the config and the dataset that it began with. Received for {self.name!r}: "
                f"{', '.join(changes)}. Give it what it had, or take another --name."
            )
        return self.result() if (self.path / RESULT).exists() else None

    def result(self) -> dict[str, Any]:
        """The result of a finished job."""
        return json.loads((self.path / RESULT).read_text())

    def take(self, directory: Path, files: Iterable[str]) -> None:
        """Copies files into the folder, each at once or not at all."""
        for name in files:
            partial = self.path / f".{name}.partial"
            shutil.copyfile(directory / name, partial)
            partial.rename(self.path / name)

    def finish(self, result: dict[str, Any]) -> None:
        """Notes the result: the job has finished."""
        write_json(self.path / RESULT, result)


@dataclass(frozen=True)
class Job:
    """A job that may begin: its inputs are there and have been checked."""

    config: Config
    dataset: Dataset
    records: dict[str, Records]  # by what they are used as: train, validation, test
    folder: JobFolder

    @property
    def family(self) -> Family:
        """Of its model."""
        return FAMILIES[self.config.model.family]


def write_json(file: Path, value: Any) -> None:
    """Writes a JSON file, at once or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, file)

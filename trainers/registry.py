"""Registered models: packed, compared with what was trained, given an alias; and loaded again.

    version = register(run_id, Path("model.keras"), images=[png], registered_name="realshard-resnet50", ...)
    load_detector("models:/realshard-resnet50@champion").predict([png])

What a registered model does when asked is verdict.py's.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import CENTRE_CROP, RANDOM_CROP, RESIZE
from trainers import packing
from trainers.decision import Decision
from trainers.home import one_at_a_time
from trainers.logged_models import log_model
from trainers.source_code import source_tags
from trainers.store import database_file, ensure_reachable, tracking_uri
from trainers.strategy import take_gpu_memory_as_needed
from trainers.tracking import client_of, mlflow_module

CHAMPION, CHALLENGER = "champion", "challenger"
MAX_DIFFERENCE = 1e-5  # between the P(fake) that a network gives in its several forms on one machine
# Between P(fake) where the model was trained and here, both float32. Kernels of two kinds of devices, or TF32 where
# somebody turned it on (10 bits, 5e-4 a product), move the logits of a deep network by some 1e-2, and P(fake) by a
# quarter of that at most. Other weights, pixels or labels move it by tenths.
MAX_DEVICE_DIFFERENCE = 0.02
_ROUNDING = 1e-9  # of float64 arithmetic after the network


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a detector says of one image: label and P(fake), or, if it cannot be read, neither but an error."""

    label: str | None
    p_fake: float | None
    threshold: float
    error: str | None
    is_unsure: bool = False  # P(fake) lies in the band where verdicts were often wrong on validation images


class Detector:
    """A loaded model. `name` and `version` are those of the registry; None for a model that is not in it."""

    def __init__(self, pyfunc: Any, name: str | None = None, version: int | None = None):
        self.name, self.version = name, version
        self._pyfunc = pyfunc

    @property
    def network(self) -> Any:
        """The `Detector` of verdict.py as stored with the model: `score_pixels`, `model`, `image_size`, `aspect`."""
        network = self._pyfunc.unwrap_python_model()
        if not hasattr(network, "score_pixels"):
            raise Refused(f"{self.name} v{self.version} takes no pixels: it is of an earlier version. Train it again.")
        if network.aspect == RANDOM_CROP and "version" not in network.settings:
            network.aspect = CENTRE_CROP  # what it meant then, in the model's own decoder too
        return network

    def predict(self, images: Sequence[bytes]) -> list[Verdict]:
        """The verdict on each of the encoded images, in order."""
        import pandas as pd

        rows = self._pyfunc.predict(pd.DataFrame({"image": list(images)}, dtype=object))
        return [_verdict(row) for row in rows.itertuples()]


def _verdict(row: Any) -> Verdict:
    # Models registered before there were bands have no such column.
    return Verdict(row.label, row.p_fake, row.threshold, row.error, bool(getattr(row, "unsure", False)))


@contextlib.contextmanager
def _store_for_all(uri: str) -> Iterator[Any]:
    # Loading models and making versions of them know only MLflow's process-wide URI, which it exports to the
    # environment as well.
    mlflow = mlflow_module()
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield mlflow
    finally:
        mlflow.set_tracking_uri(before)
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def register(
    run_id: str,
    keras_file: Path,
    *,
    images: Sequence[bytes],
    registered_name: str,
    image_size: int,
    decision: Decision,
    label_names: Sequence[str],
    tags: Mapping[str, Any],
    expected: Sequence[float] | None = None,
    aspect: str = RESIZE,
    epoch: int = 0,
) -> int:
    """Packs a Keras model as a detector, loads it back, and registers it if it gives the same scores.

    Args:
      run_id: the run that trained it.
      keras_file: maps uint8 RGB (n, image_size, image_size, 3) to P(fake) (n, 1).
      images: some encoded images (32 are plenty) to compare on.
      registered_name: in MLflow's registry; made if new. Its first version gets the alias `champion`, every later one
        becomes the `challenger`.
      image_size: pixels.
      decision: how its P(fake) becomes a verdict.
      label_names: of label 0 and 1.
      tags: of the model version; the run's id and source commit are added.
      expected: the network's P(fake) of `images`, before any temperature, as computed where the model was trained;
        None: not compared. The tag `training_difference` of the version says how far it is from what is computed here.
      aspect: how an image becomes a square, as `records.pixels.load_pixels` takes it.
      epoch: after which the model was taken, counted from 0.

    Returns:
      The version.

    Raises:
      RuntimeError: the packed model's P(fake) differs by more than MAX_DIFFERENCE from that of `keras_file` on this
        machine, or that by more than MAX_DEVICE_DIFFERENCE from `expected`. Nothing is registered then.
    """
    client = client_of()
    settings = packing.Settings((label_names[0], label_names[1]), image_size, decision, aspect)
    model_id = log_model(client, run_id, keras_file, name=registered_name, settings=settings, epoch=epoch)
    try:
        detector = load_logged(model_id)  # first: from here on float32 is float32 on GPUs too, see verdict.py
        p_fake = packing.score_images(keras_file, images, image_size, aspect)
        _ensure_agreement(detector, images, p_fake, decision)
        if expected is not None:
            tags = {**tags, "training_difference": f"{_ensure_same_network(p_fake, np.asarray(expected)):.1g}"}
    except Exception:
        client.delete_logged_model(model_id)
        raise
    with _store_for_all(tracking_uri()):
        return add_version(client, model_id, registered_name, {"realshard.run_id": run_id, **source_tags(), **tags})


def excess_difference(p_fake: np.ndarray, of_network: np.ndarray, temperature: float | None) -> float:
    """How far the reported P(fake) is from where the network's own comes out, give or take MAX_DIFFERENCE before the
    temperature: near P(fake) 1 a temperature makes 1e-3 of the last bit of a float32.

    Args:
      p_fake: float [n], as reported.
      of_network: float [n], the network's own.
      temperature: that the logit is divided by; None: none.

    Returns:
      0.0 where it is nowhere outside; NaN if a number is.
    """
    decision, of_network = Decision(temperature=temperature), of_network.astype(np.float64)
    low, high = (decision.calibrated(of_network + step) for step in (-MAX_DIFFERENCE, MAX_DIFFERENCE))
    return float(np.maximum(np.maximum(low - p_fake, p_fake - high) - _ROUNDING, 0).max())


def _ensure_same_network(p_fake: np.ndarray, expected: np.ndarray) -> float:
    difference = float(np.abs(p_fake - expected).max())
    if not difference <= MAX_DEVICE_DIFFERENCE:  # so put, NaN fails too
        raise RuntimeError(
            f"the stored network does not give the trained one's scores: P(fake) differs by {difference:.2g} on "
            f"{len(expected)} images, at most {MAX_DEVICE_DIFFERENCE:g} is allowed between machines; not registered"
        )
    return difference


def _ensure_agreement(detector: Detector, images: Sequence[bytes], of_network: np.ndarray, decision: Decision) -> None:
    verdicts = detector.predict(images)
    unreadable = [verdict.error for verdict in verdicts if verdict.error]
    if unreadable:
        raise RuntimeError(f"the packed model cannot read an image it was trained on: {unreadable[0]}")
    p_fake = np.array([verdict.p_fake for verdict in verdicts])
    if not excess_difference(p_fake, of_network, decision.temperature) <= 0:
        difference = np.abs(p_fake - decision.calibrated(of_network)).max()
        raise RuntimeError(
            f"the packed model does not give its network's scores: P(fake) differs by {difference:.2g} "
            f"on {len(images)} images, at most {MAX_DIFFERENCE:g} before a temperature is allowed; not registered"
        )


def add_version(client: Any, model_id: str, name: str, tags: Mapping[str, Any]) -> int:
    """Makes a logged model the next version of `name`, the champion if there is none and else the challenger. `tags`
    name the run as `realshard.run_id`. Returns the version."""
    with aliases_locked(name):
        with contextlib.suppress(mlflow_module().exceptions.MlflowException):
            client.create_registered_model(name)  # refuses if it exists
        all_tags = {key: str(tags[key]) for key in tags}
        run_id = all_tags["realshard.run_id"]
        made = client.create_model_version(name, f"models:/{model_id}", run_id, all_tags, model_id=model_id)
        _give_alias(client, name, made.version)
    return int(made.version)


def version_of(run_id: str, name: str) -> int | None:
    """The version of `name` that this run made, if it has; a job that was interrupted after that makes no second one.
    Without an alias, since it was interrupted before that, it is given one."""
    client = client_of()
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    if not found:
        return None
    version = max(int(made.version) for made in found)
    with aliases_locked(name):
        newest = max(int(made.version) for made in client.search_model_versions(f"name='{name}'"))
        if version == newest and not client.get_model_version(name, str(version)).aliases:
            _give_alias(client, name, str(version))
    return version


def _give_alias(client: Any, name: str, version: str) -> None:
    has_champion = CHAMPION in client.get_registered_model(name).aliases
    client.set_registered_model_alias(name, CHALLENGER if has_champion else CHAMPION, version)


def aliases_locked(name: str) -> contextlib.AbstractContextManager[None]:
    """One registration or promotion of the model `name` at a time, among the processes that share this REALSHARD_HOME:
    MLflow moves an alias blindly, and knows no lock that would hold for others."""
    return one_at_a_time(f"aliases-{name}")


def load_logged(model_id: str) -> Detector:
    """Loads a logged model, such as a checkpoint, by MLflow's id."""
    with _store_for_all(tracking_uri()) as mlflow:
        return Detector(_loaded(mlflow, f"models:/{model_id}"))


def _loaded(mlflow: Any, model_uri: str) -> Any:
    take_gpu_memory_as_needed()
    return mlflow.pyfunc.load_model(model_uri)


def load_detector(model_uri: str) -> Detector:
    """Loads a registered model. Of the GPUs it takes the memory that it needs, if it is the first of its process.

    Args:
      model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
      Refused: no such model, version or alias; a store that does not answer.
    """
    uri = tracking_uri()
    ensure_reachable(uri)
    name, version = resolve(uri, model_uri)
    with _store_for_all(uri) as mlflow:
        try:
            return Detector(_loaded(mlflow, f"models:/{name}/{version}"), name, version)
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise Refused(f"the model {model_uri} cannot be loaded: {str(error).splitlines()[0]}") from None


def fetch_network(model_uri: str, to: Path) -> Path:
    """Copies the .keras file of a registered model to the path `to`, unless it is there, and returns that.

    Args:
      model_uri: `models:/NAME/VERSION`.

    Raises:
      Refused: its files are gone, or hold no such file.
    """
    if to.exists():
        return to
    with _store_for_all(tracking_uri()) as mlflow, tempfile.TemporaryDirectory(dir=to.parent) as temporary:
        try:
            found = mlflow.artifacts.download_artifacts(artifact_uri=f"{model_uri}/artifacts", dst_path=temporary)
            (file,) = Path(found).glob("*.keras")
        except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Refused(f"the model {model_uri} has no .keras file that can be had: {reason}") from None
        return file.rename(to)


def resolve(uri: str, model_uri: str) -> tuple[str, int]:
    """The name and version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` stands for in the store at `uri`.

    Raises:
      Refused: not of that form, or no such model, version or alias; the sentence names those there are.
    """
    found = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))", model_uri)
    if not found:
        raise Refused(f"a model is named models:/NAME@ALIAS or models:/NAME/VERSION, received {model_uri!r}")
    file = database_file(uri)
    if file and not file.exists():
        raise Refused(f"there is no model {model_uri}: nothing has been trained yet ({file} does not exist)")
    client = client_of(uri)
    try:
        if found["alias"]:
            return found["name"], int(client.get_model_version_by_alias(found["name"], found["alias"]).version)
        return found["name"], int(client.get_model_version(found["name"], found["version"]).version)
    except mlflow_module().exceptions.MlflowException:
        known = [
            f"models:/{model.name}@{alias}" for model in client.search_registered_models() for alias in model.aliases
        ]
        advice = f"known are {', '.join(sorted(known))}" if known else "no model has been registered yet"
        raise Refused(f"there is no model {model_uri}: {advice}") from None

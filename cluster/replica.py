"""One loaded model in a process of its own: verdicts, evidence, and following the alias that it was loaded by."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve

from cluster.asking import BATCHES, MAX_LONG
from cluster.bounds import admit
from cluster.ports import prepare_to_listen
from cluster.videos import frames_of
from tfds_builders.records.decode import encode_png
from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from trainers.predict import judge_frames
from trainers.registry import Detector, Verdict, load_detector, resolve
from trainers.store import tracking_uri

MAX_QUEUED = 16  # calls that wait for a replica; more are told that it is busy
LOOK_SECS = 5.0  # between two looks at the alias
AGAIN_SECS = 60.0  # until a version that could not be loaded is tried again

logger = logging.getLogger("ray.serve")


def load_tried(model_uri: str) -> Detector:
    """A registered model that has said something about a picture, so that its first client does not wait.

    Raises:
      RuntimeError: it cannot be loaded, or fails on the picture.
    """
    try:
        detector = load_detector(model_uri)
        freeze(detector.network)
        (verdict,) = detector.predict([encode_png(np.zeros((8, 8, 3), np.uint8))])
    except (Refused, Exception) as error:  # a model brings its own code, which may raise anything
        raise RuntimeError(f"{model_uri} cannot be served: {str(error) or type(error).__name__}") from error
    if verdict.error:
        raise RuntimeError(f"{model_uri} cannot be served: it cannot read a PNG file: {verdict.error}")
    return detector


def freeze(network: Any) -> None:
    """Makes the weights constants of the graph, once: what can be computed from them alone is then computed now.

    P(fake) stays the same to 1e-6. Measured on 2 CPUs: ResNet50 takes 28 instead of 32 ms an image in batches of 32,
    and 63 instead of 91 ms alone; a MesoNet 9.3 instead of 10.5 ms in batches of 8.
    """
    import tensorflow as tf

    model = network.model
    weights = [
        [variable.numpy() for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def p_fake_of(pixels: Any) -> Any:
        outputs, _ = model.stateless_call(*weights, pixels, training=False)
        return outputs[:, 0]

    pixels = tf.TensorSpec((None, network.image_size, network.image_size, 3), tf.uint8)
    network.p_fake_of = tf.function(p_fake_of, input_signature=[pixels])


@serve.deployment(
    max_ongoing_requests=BATCHES + MAX_LONG + 4,  # calls: what takes long must not keep batches waiting
    max_queued_requests=MAX_QUEUED,
    logging_config={"enable_access_log": False},  # Web has a line for each request
)
class Replica:
    """One loaded model."""

    def __init__(self, model_uri: str, look_secs: float = LOOK_SECS):
        prepare_to_listen()
        self._model_uri, self._look_secs = model_uri, look_secs
        self._detector = load_tried(model_uri)
        self._problem: str | None = None
        # Threads cannot be ended: what a client no longer waits for is done all the same if it has begun, and not begun
        # if it has not. So there are as many at most, whoever leaves; one for explanations and videos, which take long.
        self._batches, self._at_length = ThreadPoolExecutor(BATCHES), ThreadPoolExecutor(1)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Follows the alias. A store that does not answer, or a version that cannot be loaded, changes nothing."""
        failed, try_again = None, 0.0
        while True:
            await asyncio.sleep(self._look_secs)
            try:
                found = await asyncio.to_thread(resolve, tracking_uri(), self._model_uri)
                if found == (self._detector.name, self._detector.version):
                    self._problem = None
                elif found != failed or time.monotonic() > try_again:
                    failed, try_again = found, time.monotonic() + AGAIN_SECS
                    name, version = found
                    self._detector = await asyncio.to_thread(load_tried, f"models:/{name}/{version}")
                    self._problem = None
                    logger.info("now serving %s version %s", name, version)
            except (Refused, Exception) as error:  # whatever it is, the loaded model goes on answering
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.error("still serving version %s: %s", self._detector.version, error)

    async def predict(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Of each image: label, p_fake, threshold, error, is_unsure, frames (None), model, version."""
        detector = self._detector  # the whole batch by one version
        return [_answer(detector, verdict) for verdict in await _run(self._batches, judge, detector, images)]

    async def predict_video(self, video: bytes) -> dict[str, Any]:
        """The same of one video; frames: on how many its verdict rests."""
        detector = self._detector
        verdict, num_frames = await _run(self._at_length, lambda: judge_frames(detector, *frames_of(video)))
        return _answer(detector, verdict, num_frames)

    async def explain(self, image: bytes) -> dict[str, Any]:
        """P(fake) and the evidence of each part of the picture (trainers/occlusion.py); error if it cannot be read."""
        from trainers.occlusion import occlusion_map

        detector = self._detector
        model = {"model": detector.name, "version": detector.version}
        try:
            p_fake, evidence = await _run(self._at_length, lambda: occlusion_map(detector, admit(image)))
        except BadImage as bad:
            return {"error": str(bad), **model}
        return {"p_fake": p_fake, "evidence": evidence.round(6).tolist(), "error": None, **model}

    async def version(self) -> dict[str, Any]:
        """What is loaded, and what keeps the replica from loading what it should."""
        return {"model": self._detector.name, "version": self._detector.version, "problem": self._problem}


async def _run(executor: Executor, work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)


def judge(detector: Detector, images: list[bytes]) -> list[Verdict]:
    """The verdict on each image, or why there is none."""
    admitted: list[bytes] = []
    errors: list[str | None] = []
    for data in images:
        try:
            admitted.append(admit(data))
            errors.append(None)
        except BadImage as bad:
            admitted.append(b"")
            errors.append(str(bad))
    verdicts = detector.predict(admitted)
    return [
        dataclasses.replace(verdict, error=error) if error else verdict
        for verdict, error in zip(verdicts, errors, strict=True)
    ]


def _answer(detector: Detector, verdict: Verdict, num_frames: int | None = None) -> dict[str, Any]:
    return {
        **dataclasses.asdict(verdict),
        "frames": num_frames,
        "model": detector.name,
        "version": detector.version,
    }

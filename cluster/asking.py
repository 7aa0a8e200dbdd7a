"""Asking the replicas: images of several requests in one call, again where a replica died, within a time.

    asking = Asking(handle, num_replicas)
    answers = await within(ANSWER_SECS, asking.predict([jpeg, png]))

One call for many images, because a call costs the two processes as much time as decoding ten images.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from cluster.bounds import work_of
from cluster.refusal import Refusal
from tfds_builders.records.frames import is_video

ANSWER_SECS = 60.0  # to answer a request, from its beginning
READY_SECS = 5.0  # to say which model is loaded
BATCH_IMAGES = 32
BATCH_WAIT_SECS = 0.01
BATCHES = 2  # a replica has at a time: one is decoded while the network has the other
MAX_WAITING = 192  # files a replica, those it has included; more are refused
MAX_WORK = 512 << 20  # pixels to decode for one request, as bounds.work_of counts them
MAX_WAITING_WORK = 4 * MAX_WORK  # for a replica: about what it does within ANSWER_SECS
MAX_LONG = 16  # videos and explanations, which take seconds each, one after another
MAX_VIDEOS = 4  # of one request
_BUSY = "All replicas are busy; try again in a moment."


class Asking:
    """The replicas, as the HTTP side sees them. Every method raises Refusal (503) when they are busy.

    What is counted as waiting is given back when the replicas are done with it. So methods are not to be cancelled, but
    awaited by `within`.
    """

    def __init__(self, replicas: Any, num_replicas: int = 1):
        """`replicas` is a handle of the deployment Replica."""
        self._replicas, self._num_replicas = replicas, num_replicas
        self._waiting = 0  # files
        self._waiting_work = 0  # pixels
        self._num_long = 0  # videos and explanations

        @serve.batch(
            max_batch_size=BATCH_IMAGES,
            batch_wait_timeout_s=BATCH_WAIT_SECS,
            max_concurrent_batches=BATCHES * num_replicas,
        )
        async def judge(images: list[bytes]) -> list[dict[str, Any]]:
            return await _again(lambda: replicas.predict.remote(images))

        self._judge = judge

    async def predict(self, files: list[bytes]) -> list[dict[str, Any]]:
        """The answer of Replica.predict, or of Replica.predict_video, for each file. Refusal 400: too many videos."""
        num_videos = sum(map(is_video, files))
        if num_videos > MAX_VIDEOS:
            raise Refusal(400, f"At most {MAX_VIDEOS} videos are taken in one request; received {num_videos}.")
        async with self._counted(files):
            answers = (self._predict_video(data) if is_video(data) else self._judge(data) for data in files)
            answered = await asyncio.gather(*answers, return_exceptions=True)  # all end before they are counted no more
        for answer in answered:
            if isinstance(answer, BaseException):
                raise answer
        return answered  # type: ignore[return-value]

    async def _predict_video(self, video: bytes) -> dict[str, Any]:
        with self._at_length():
            return await _again(lambda: self._replicas.predict_video.remote(video))

    async def explain(self, image: bytes) -> dict[str, Any]:
        """The answer of Replica.explain."""
        async with self._counted([image]):
            with self._at_length():
                return await _again(lambda: self._replicas.explain.remote(image))

    async def version(self) -> dict[str, Any]:
        """The answer of Replica.version."""
        return await _again(self._replicas.version.remote)

    @contextlib.asynccontextmanager
    async def _counted(self, files: list[bytes]) -> AsyncGenerator[None]:
        work = await asyncio.to_thread(lambda: sum(map(work_of, files)))
        if work > MAX_WORK:
            raise Refusal(
                413,
                f"These files have {work >> 20} million pixels to decode, JPEG files those again for every ten scans; "
                f"at most {MAX_WORK >> 20} are taken in one request.",
            )
        if (
            self._waiting + len(files) > MAX_WAITING * self._num_replicas
            or self._waiting_work + work > MAX_WAITING_WORK * self._num_replicas
        ):
            raise Refusal(503, _BUSY)
        self._waiting += len(files)
        self._waiting_work += work
        try:
            yield
        finally:
            self._waiting -= len(files)
            self._waiting_work -= work

    @contextlib.contextmanager
    def _at_length(self) -> Iterator[None]:
        if self._num_long >= MAX_LONG:
            raise Refusal(503, _BUSY)
        self._num_long += 1
        try:
            yield
        finally:
            self._num_long -= 1


async def within(secs: float, work: Awaitable[Any]) -> Any:
    """What `work` gives. It goes on to its end when the time is over or the client has left: replicas cannot be made to
    drop it, so what it holds stays held, and counted.

    Raises:
      Refusal: 503, no answer within `secs`, or the replicas are busy or gone.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, though nobody may wait for it
    try:
        async with asyncio.timeout(secs):
            return await asyncio.shield(task)
    except BackPressureError:
        raise Refusal(503, _BUSY) from None
    except TimeoutError:
        raise Refusal(503, f"No answer within {secs:g} s; try again in a moment.") from None
    except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError):
        raise Refusal(503, "No replica is there to answer; try again in a moment.") from None


async def _again(ask: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await ask()
    except RayActorError:  # the replica died. Asking changes nothing, so another is asked; once, lest it die of this
        return await ask()

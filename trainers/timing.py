"""How fast a network judges."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def images_per_second(judge: Callable[[Any], Any], images: Any, secs: float) -> float:
    """The median over the batches of some seconds, after one that is not counted, since it may compile.

    Args:
      judge: waits until the scores are there.
      images: one batch, [n, ...].
      secs: so long at least.
    """
    judge(images)
    seconds: list[float] = []
    while sum(seconds) < secs:
        started = time.perf_counter()
        judge(images)
        seconds.append(time.perf_counter() - started)
    return len(images) / float(np.median(seconds))

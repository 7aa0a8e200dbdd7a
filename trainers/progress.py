"""Progress of one epoch: a line every few seconds, for terminals and log files alike."""

import time
from collections.abc import Callable

LINE_EVERY_SECS = 5.0


class Progress:
    """Counts steps and prints lines with loss, images/s and the time that is left.

    The first call of an epoch may include compilation, so it is left out of images/s when there are others.
    """

    def __init__(
        self,
        title: str,
        num_steps: int,
        images_per_step: int,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
        done: int = 0,
    ):
        self._title, self._num_steps, self._images_per_step, self._done = title, num_steps, images_per_step, done
        self._write, self._clock = write, clock
        self._steps = self._warm_steps = 0
        self._start = self._warm_start = self._last_line = clock()

    def update(self, steps: int, loss: float) -> None:
        """Counts `steps` more steps, whose mean loss was `loss`."""
        now = self._clock()
        if not self._steps:
            self._warm_steps, self._warm_start = steps, now
        self._steps += steps
        done = self._done + self._steps
        if now - self._last_line >= LINE_EVERY_SECS and done < self._num_steps:
            self._last_line = now
            left = (self._num_steps - done) * self._images_per_step / self.images_per_second
            self._write(
                f"{self._title} step {done}/{self._num_steps} loss {loss:.4f}"
                f" {self.images_per_second:.1f} images/s, {duration(left)} left"
            )

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._start

    @property
    def images_per_second(self) -> float:
        """Mean, without the first call if there were others."""
        steps, since = self._steps - self._warm_steps, self._warm_start
        if not steps:
            steps, since = self._steps, self._start
        return steps * self._images_per_step / max(self._clock() - since, 1e-9)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

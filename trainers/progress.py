"""Progress of what takes long: a line every few seconds, for terminals and log files alike."""

import sys
import time
from collections.abc import Callable

LINE_EVERY_SECS = 5.0


def to_stderr(line: str) -> None:
    """Prints a line where it is seen and does not end up in the results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts what is done and prints lines with images/s and the time that is left; none in the first few seconds.

    The first call may include compilation, so it is left out of images/s when there are others.

    Args:
      title: what is counted, such as "epoch 1/5 step".
      number: of them in all.
      images_each: of each of them.
      write: takes a line.
      clock: seconds.
      done: how many of them were done before.
    """

    def __init__(
        self,
        title: str,
        number: int,
        images_each: int = 1,
        write: Callable[[str], None] = to_stderr,
        clock: Callable[[], float] = time.monotonic,
        done: int = 0,
    ):
        self._title, self._number, self._images_each, self._before = title, number, images_each, done
        self._write, self._clock = write, clock
        self._counted = self._warm_counted = 0
        self._start = self._warm_start = self._last_line = clock()

    def update(self, number: int, loss: float | None = None) -> None:
        """Counts `number` more, whose mean loss was `loss`."""
        now = self._clock()
        if not self._counted:
            self._warm_counted, self._warm_start = number, now
        self._counted += number
        done = self._before + self._counted
        if now - self._last_line >= LINE_EVERY_SECS and done < self._number:
            self._last_line = now
            left = (self._number - done) * self._images_each / self.images_per_second
            self._write(
                f"{self._title} {done}/{self._number}{'' if loss is None else f' loss {loss:.4f}'}"
                f" {self.images_per_second:.1f} images/s, {duration(left)} left"
            )

    @property
    def images_per_second(self) -> float:
        """Mean, without the first call if there were others."""
        counted, since = self._counted - self._warm_counted, self._warm_start
        if not counted:
            counted, since = self._counted, self._start
        return counted * self._images_each / max(self._clock() - since, 1e-9)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

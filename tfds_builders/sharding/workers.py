"""Where tasks run: Ray, local or at RAY_ADDRESS; or this process, for inputs too small to be worth starting it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from tfds_builders.records.ray_address import prepare_ray_address

_MAX_WORKER_DEATHS = 10  # of one task before the build gives up: a worker may be killed, not all of them for ever
_IN_FLIGHT_PER_CPU = 4  # tasks submitted ahead: enough to keep workers busy, few enough to bound memory


class ThisProcess:
    """Runs tasks one after the other, here; what was begun, when its result is wanted."""

    def map(
        self,
        function: Callable,
        arguments: Iterable[tuple],
        poll: Callable[[], None] | None = None,
        begun: Sequence[Any] = (),
    ) -> Iterator:
        """Yields function(*args) for each args, in the order in which they finish. Exceptions come out.

        `poll` is called now and then while waiting, to show progress. The results of what was `begun` come too.
        """
        for task in chain(begun, (partial(function, *args) for args in arguments)):
            yield task()
            if poll:
                poll()

    def begin(self, function: Callable, *args: Any) -> Any:
        """Lets function(*args) run; what it returns is for `map` to wait for. The caller sees to it that few wait."""
        return partial(function, *args)

    def close(self) -> None:
        """Ends what was started."""


class RayWorkers:
    """The same, each call as a Ray task; a task whose worker dies is run again by Ray.

    Raises:
      Refused: RAY_ADDRESS is set and nothing answers there.
    """

    def __init__(self) -> None:
        address = prepare_ray_address()
        import ray

        self._ray = ray
        self._remote: dict[Callable, Any] = {}  # by function: Ray sends each to its workers once
        self._started = not ray.is_initialized()
        if self._started:
            options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)

    def map(
        self,
        function: Callable,
        arguments: Iterable[tuple],
        poll: Callable[[], None] | None = None,
        begun: Sequence[Any] = (),
    ) -> Iterator:
        arguments = iter(arguments)
        ahead = _IN_FLIGHT_PER_CPU * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        pending = [*begun, *(self.begin(function, *args) for args in islice(arguments, max(0, ahead - len(begun))))]
        while pending:
            done, pending = self._ray.wait(pending, timeout=0.5, fetch_local=False)
            pending += [self.begin(function, *args) for args in islice(arguments, len(done))]
            for reference in done:
                try:
                    result = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                yield result
            if poll:
                poll()

    def begin(self, function: Callable, *args: Any) -> Any:
        if function not in self._remote:
            self._remote[function] = self._ray.remote(num_cpus=1, max_retries=_MAX_WORKER_DEATHS)(function)
        return self._remote[function].remote(*args)

    def close(self) -> None:
        if self._started:
            self._ray.shutdown()


Workers = ThisProcess | RayWorkers

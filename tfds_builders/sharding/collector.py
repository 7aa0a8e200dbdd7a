"""Python's collector of cycles, switched off where hundreds of thousands of objects are made that have none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Also a decorator. What is no more referred to is freed all the same, except for objects that refer to each other.

    The collector would go through all that was imported, again and again: a third of the time of a listing, a tenth of
    a writer's.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

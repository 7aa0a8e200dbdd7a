"""Where what is printed goes, at the level of the descriptors: TensorFlow's own code writes past sys.stderr."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def redirected(file: Path, *descriptors: int) -> Iterator[None]:
    """What is written to the descriptors is appended to `file`."""
    sys.stdout.flush()
    kept = [(descriptor, os.dup(descriptor)) for descriptor in descriptors]
    with file.open("a") as opened:
        for descriptor, _ in kept:
            os.dup2(opened.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def silent_stderr() -> contextlib.AbstractContextManager[None]:
    """Nothing that libraries write to stderr is seen; exceptions are."""
    # Before TensorFlow reads TF_CPP_MIN_LOG_LEVEL it has written already.
    return redirected(Path(os.devnull), STDERR)

"""Settings that come from the environment: REALSHARD_*, since plain `tfds build` has no options for them."""

import os
from collections.abc import Mapping

from tfds_builders.records.errors import Refused


def text(name: str) -> str:
    """The value of the environment variable `name`; "" if it is not set."""
    return os.environ.get(name, "")


def whole_number(
    name: str, default: int, lowest: int, highest: int, meaning: str, words: Mapping[str, int] | None = None
) -> int:
    """The environment variable `name` as a number, or as what one of `words` stands for.

    Args:
      name: of the variable.
      default: if it is not set.
      lowest: number that is allowed.
      highest: number that is allowed.
      meaning: what it says, for the message.
      words: that are allowed besides numbers.

    Raises:
      Refused: it is none of these.
    """
    value = os.environ.get(name, str(default))
    if words and value in words:
        return words[value]
    if value.isascii() and value.isdigit() and len(value) < 10 and lowest <= int(value) <= highest:
        return int(value)
    also = "".join(f", or {word!r}" for word in words or ())
    raise Refused(f"{name} must be {meaning}, from {lowest} to {highest}{also}; received {value!r}.")

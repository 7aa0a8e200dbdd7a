"""Settings that come from the environment: REALSHARD_*, since plain `tfds build` has no options for them."""

import os
from collections.abc import Mapping

from tfds_builders.records.errors import Refused
from tfds_builders.sharding.validate import LEVELS

_DEFAULT_MAX_QUARANTINED = 0.01  # above this share of bad files, something is wrong with the download


def text(name: str) -> str:
    """The environment variable `name`, "" if it is not set. For builders, whose `os` TFDS's test case replaces."""
    return os.environ.get(name, "")


def validation() -> str:
    """How deeply files are checked, one of `validate.LEVELS`: REALSHARD_VALIDATION.

    Raises:
      Refused: it is none of them.
    """
    level = os.environ.get("REALSHARD_VALIDATION", "checksum")
    if level not in LEVELS:
        raise Refused(f"REALSHARD_VALIDATION must be one of {', '.join(LEVELS)}; received {level!r}.")
    return level


def max_quarantined() -> float:
    """The share of bad files, 0 to 1, above which a build fails: REALSHARD_MAX_QUARANTINED.

    Raises:
      Refused: it is no such number.
    """
    text = os.environ.get("REALSHARD_MAX_QUARANTINED", str(_DEFAULT_MAX_QUARANTINED))
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Refused(f"REALSHARD_MAX_QUARANTINED must be a share between 0 and 1; received {text!r}.")
    return share


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

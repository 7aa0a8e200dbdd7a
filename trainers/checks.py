"""Rules that options keep, and the sentences that say so: the rule, what was received, what to do."""

from collections.abc import Sequence
from typing import Any

import simple_parsing


def check_global_batch(global_batch_size: int, replicas: int, accumulate: int = 1) -> int:
    """The batch of one replica, images.

    Raises:
      ValueError: the replicas cannot share the global batch equally, or not in so many parts; names the nearest sizes
        that they can.
    """
    shares = replicas * accumulate
    below = global_batch_size // shares * shares
    nearest = f"{below} or {below + shares}" if below else f"{shares}"
    of_parts = f" times --accumulate, {replicas} x {accumulate}" if accumulate > 1 else f", {replicas}"
    check(
        global_batch_size % shares == 0,
        f"--global-batch-size must be divisible by the number of replicas{of_parts}",
        global_batch_size,
        f"take {nearest}, or another number of workers or devices",
    )
    return global_batch_size // replicas


def dataset_weights(expression: str) -> dict[str, float | None]:
    """`"faces=3,objects=1"` as {"faces": 3.0, "objects": 1.0}, `"faces,objects"` as {"faces": None, "objects": None}.

    Raises:
      ValueError: no name, a name twice, or weights that are not positive numbers for each of several datasets.
    """
    terms = [term.strip().partition("=") for term in expression.split(",")]
    names = [name for name, _, _ in terms]
    check(
        all(names) and len(set(names)) == len(names),
        "--dataset must name a built dataset, or several different ones",
        expression,
        "write NAME or NAME,NAME",
    )
    try:
        weights = [float(weight) if sign else None for _, sign, weight in terms]
    except ValueError:
        weights = [-1.0]
    given = [weight for weight in weights if weight is not None]
    is_whole = len(names) > 1 and len(given) == len(names) and all(0 < weight < float("inf") for weight in given)
    check(
        not given or is_whole,
        "--dataset takes weights that are positive numbers, of each of several datasets or of none",
        expression,
        "write for example faces=3,objects=1",
    )
    return dict(zip(names, weights, strict=True))


def selection(terms: Sequence[str]) -> dict[str, set[str]]:
    """`("category=car,cat", "generator=blend")` as {"category": {"car", "cat"}, "generator": {"blend"}}.

    Raises:
      ValueError: a term is not of the form COLUMN=VALUE[,VALUE...], or a column comes twice.
    """
    selected: dict[str, set[str]] = {}
    for term in terms:
        column, sign, values = term.partition("=")
        check(
            bool(column and sign) and column not in selected,
            "--only and --exclude take COLUMN=VALUE[,VALUE...], each column once",
            term,
            "write for example category=car,cat",
        )
        selected[column] = set(values.split(","))
    return selected


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """ValueError unless the option of the field `name` is one of the `known` words."""
    check(value in known, f"--{name.replace('_', '-')} must be one of {', '.join(known)}", value, f"take {known[0]}")


def not_negative(options: Any, *names: str) -> None:
    """ValueError unless the numbers in the fields `names` of `options` are at least 0."""
    for name in names:
        value = getattr(options, name)
        check(value >= 0, f"--{name.replace('_', '-')} must not be negative", value, "take 0 or more")


def check(holds: bool, rule: str, received: Any, advice: str) -> None:
    """ValueError with rule, what was received, and advice, unless the rule `holds`."""
    if not holds:
        raise ValueError(f"{rule}. Received: {received!r}. Advice: {advice}.")


def flag(default: bool) -> Any:
    """A field with the flags --x and --no-x."""
    return simple_parsing.flag(default, negative_prefix="--no-")

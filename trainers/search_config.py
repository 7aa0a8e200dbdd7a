"""What a search is told: which settings are tried, how often, and by what the best is chosen."""

from dataclasses import dataclass

import simple_parsing

from trainers.checks import check, flag, one_of

METRICS = ("auc", "log_loss")  # of the validation images
LOGARITHMIC = ("learning_rate", "weight_decay")  # ranges of these are drawn from by their logarithms
# Each with the least and the most that it can be.
PARAMETERS = {
    "learning_rate": (0.0, 10.0),
    "weight_decay": (0.0, 0.99),
    "dropout": (0.0, 0.99),
    "augmentation": (0.0, 10.0),
}
DEFAULT_SPACE = ("learning_rate=1e-5:1e-2", "weight_decay=1e-6:1e-2", "dropout=0:0.7", "augmentation=0:2")


@dataclass(frozen=True)
class Choice:
    """The values that one parameter may take: a range, or some of them."""

    parameter: str
    values: tuple[float, ...]
    is_range: bool  # from the first of two values to the second


@dataclass(frozen=True)
class SearchConfig:
    """A search for better settings: many jobs instead of one, each with other settings."""

    # Try settings drawn at random, and print the command of the best. The same command with the same --name goes on.
    search: bool = flag(False)
    search_trials: int = 8  # Jobs.
    search_at_once: int = 1  # So many of them at the same time; give each its part with --cpus-per-worker.
    # What is tried: NAME=LOW:HIGH or NAME=A,B,C. Names: learning_rate, weight_decay, dropout (of all dropout layers),
    # augmentation (what brightness, contrast, hue, saturation, rotation and shift are multiplied by; 0: none).
    # Default: all four, dropout where the variant has such layers, augmentation where the recipe has any.
    search_space: tuple[str, ...] = simple_parsing.field(default=DEFAULT_SPACE, metavar="NAME=VALUES")
    search_by: str = "auc"  # The best on the validation images: `auc` or `log_loss`.

    def __post_init__(self):
        check(self.search_trials >= 1, "--search-trials must be at least 1", self.search_trials, "take 8")
        check(self.search_at_once >= 1, "--search-at-once must be at least 1", self.search_at_once, "take 1")
        one_of("search_by", self.search_by, METRICS)
        names = [choice.parameter for choice in self.space]
        check(bool(names), "--search-space must name something to try", "nothing", "leave it out for the usual space")
        check(len(set(names)) == len(names), "--search-space takes each name once", " ".join(names), "join them")

    @property
    def space(self) -> tuple[Choice, ...]:
        """What is tried.

        Raises:
          ValueError: a term is not of the form above, or a value cannot be.
        """
        return tuple(_choice(term) for term in self.search_space)


def _choice(term: str) -> Choice:
    name, _, text = term.partition("=")
    check(
        name in PARAMETERS,
        f"--search-space takes {', '.join(PARAMETERS)}, each as NAME=LOW:HIGH or NAME=A,B,C",
        term,
        "write for example learning_rate=1e-5:1e-2",
    )
    is_range = ":" in text
    try:
        values = tuple(float(value) for value in text.split(":" if is_range else ","))
    except ValueError:
        values = ()
    least, most = PARAMETERS[name]
    check(
        bool(values)
        and all(least <= value <= most for value in values)
        and (not is_range or (len(values) == 2 and values[0] < values[1])),
        f"--search-space takes for {name} numbers from {least:g} to {most:g}, LOW:HIGH or A,B,C",
        term,
        "write for example dropout=0.2:0.6",
    )
    check(
        min(values) > 0 or not (name == "learning_rate" or (is_range and name in LOGARITHMIC)),
        f"--search-space takes for {name} positive numbers, since it draws their logarithms",
        term,
        f"begin with 1e-6, or write {name}=A,B,C" if name == "weight_decay" else "begin with 1e-6",
    )
    return Choice(name, values, is_range)

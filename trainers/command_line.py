"""The command line of the entry points, made from the config's dataclasses.

Every flag `--x-y` can also be given a default by the environment variable `REALSHARD_X_Y`; a flag on the command line
wins over it.
"""

import argparse
import dataclasses
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence

import simple_parsing

from tfds_builders.records.errors import Refused
from trainers.config import Config
from trainers.search_config import SearchConfig

ENVIRONMENT_PREFIX = "REALSHARD_"


def main(variants: Mapping[str, Config], description: str, program: str) -> None:
    """What an entry point does: parses its command line, trains or searches, prints what came out.

    Args:
      variants: as of `parse`.
      description: what --help says first.
      program: its file in trainers/.
    """
    from trainers import job, job_result, search

    config, plan = parse_both(sys.argv[1:], variants, description, program)
    if plan.search:
        print(search.describe(search.run(config, plan, program)))
    else:
        print(job_result.describe(job.run(config)))


class _Parser(simple_parsing.ArgumentParser):
    """Prints the groups of --help by their descriptions alone."""

    def format_help(self) -> str:
        text = super().format_help()
        text = re.sub(r"^Config \['config'\]:\n.*\n\n", "", text, flags=re.MULTILINE)
        return re.sub(r"^\w+ \['[\w.]+'\]:\n  (.*)\n\n", r"\1\n", text, flags=re.MULTILINE)


def parse(argv: Sequence[str], variants: Mapping[str, Config]) -> Config:
    """The config of a command line; as `parse_both`."""
    return parse_both(argv, variants)[0]


def parse_both(
    argv: Sequence[str], variants: Mapping[str, Config], description: str = "", prog: str | None = None
) -> tuple[Config, SearchConfig]:
    """The config of a command line, and what it says of a search.

    Args:
      argv: the arguments, without the program's name.
      variants: the defaults of each variant; the first is the default variant.
      description: what --help says first.
      prog: the program's name in --help.

    Raises:
      Refused: an unknown variant, or a value that breaks a rule.
    """
    arguments = _from_environment() + list(argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--variant", default=next(iter(variants)))
    variant = first.parse_known_args(arguments)[0].variant
    if variant not in variants:
        raise Refused(f"--variant must be one of {', '.join(variants)}. Received: {variant!r}. Take one of them.")
    parser = _Parser(
        prog=prog,
        description=f"{description.rstrip()}\n\n{_listed(variants)}\n",
        add_option_string_dash_variants=simple_parsing.DashVariant.DASH,
        allow_abbrev=False,
    )
    parser.add_arguments(Config, dest="config", default=variants[variant])
    parser.add_arguments(SearchConfig, dest="search")
    flags = [argument.split("=")[0] for argument in argv if argument.startswith("--")]
    twice = {flag for flag in flags if flags.count(flag) > 1}
    if twice:
        raise Refused(
            f"a flag may be given once. Received twice: {', '.join(sorted(twice))}. Give all values after one."
        )
    try:
        parsed = parser.parse_args(arguments)
    except ValueError as error:
        raise Refused(str(error)) from None
    # What is no flag is not taken from the defaults that the parser was given.
    model = dataclasses.replace(parsed.config.model, family=variants[variant].model.family)
    return dataclasses.replace(parsed.config, model=model), parsed.search


def _listed(variants: Mapping[str, Config]) -> str:
    text = f"--variant is one of these, the first if it is left out: {', '.join(variants)}."
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _from_environment() -> list[str]:
    """The REALSHARD_* variables that have the name of a flag, as arguments."""
    arguments = []
    groups = [field.default_factory for field in dataclasses.fields(Config)]
    for group in [*groups, SearchConfig]:
        for option in dataclasses.fields(group):  # type: ignore[arg-type]
            value = os.environ.get(ENVIRONMENT_PREFIX + option.name.upper())
            if value and option.name != "family":
                flag = "--" + option.name.replace("_", "-")
                arguments += [flag, *value.split()] if option.default == () else [flag, value]
    return arguments

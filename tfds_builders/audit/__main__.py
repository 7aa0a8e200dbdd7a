"""Audits a built dataset.

    python -m tfds_builders.audit DATASET_DIR

DATASET_DIR is <data_dir>/<name>/<version>. Prints the findings and writes audit.html and audit.json beside the data, or
into --out. With --fail-on medium the exit code is 1 if there is a finding of medium or high severity: for CI. Decoding
100,000 images, which is the default, takes some minutes on 2 cores.
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tfds_builders.audit.audit import DEFAULT_SAMPLE, audit
from tfds_builders.audit.findings import SEVERITIES, Finding, at_least
from tfds_builders.audit.report import write_report


def _sample(text: str) -> int:
    if text == "all":
        return sys.maxsize
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a sample is a number of images, at least 1, or 'all'; received {text!r}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.audit",
        description="Says what is wrong with a built dataset: shortcuts, duplicates, leaks, imbalance, bad files.",
    )
    parser.add_argument("dataset_dir", type=Path, metavar="DATASET_DIR", help="<data_dir>/<name>/<version>")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the report (default: DATASET_DIR)")
    parser.add_argument(
        "--sample",
        type=_sample,
        default=DEFAULT_SAMPLE,
        metavar="N",
        help="decode at most N images, the same ones every time, or 'all' (default: %(default)s)",
    )
    parser.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        metavar="SEVERITY",
        help="exit with 1 on such findings: info, low, medium, high",
    )
    return parser


def print_findings(findings: Sequence[Finding], width: int) -> None:
    """Prints a table of the findings on standard output, wrapped to `width` columns."""
    if not findings:
        print("Nothing was found.")
        return
    column = max(len(finding.code) for finding in findings)
    indent = 10 + column
    print(f"{'severity':<8}  {'finding':<{column}}")
    for finding in findings:
        lines = textwrap.wrap(finding.sentence, max(40, width - indent)) or [""]
        lines += textwrap.wrap(f"-> {finding.action}", max(40, width - indent), subsequent_indent="   ")
        print(f"{finding.severity:<8}  {finding.code:<{column}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':<{indent}}  {line}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    result = audit(options.dataset_dir, options.sample)
    page, data = write_report(result, options.out or result.dataset.directory)
    print_findings(result.findings, min(120, shutil.get_terminal_size((120, 24)).columns))
    print(f"\n{page}\n{data}")
    failing = [finding for finding in result.findings if options.fail_on and at_least(finding, options.fail_on)]
    if failing:
        print(f"{len(failing)} findings of severity {options.fail_on} or more.", file=sys.stderr)
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())

"""The audit as audit.html and audit.json: two files that need nothing else, the same bytes for the same dataset."""

import dataclasses
import json
import math
from collections import Counter
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from tfds_builders.audit.audit import Audit
from tfds_builders.audit.findings import SEVERITIES, Finding
from tfds_builders.audit.sections import (
    balance_section,
    duplicates_section,
    examples_section,
    files_section,
    leaks_section,
    shortcut_section,
    statistics_section,
)

HTML, JSON = "audit.html", "audit.json"


def write_report(result: Audit, out: Path) -> tuple[Path, Path]:
    """Writes audit.html and audit.json into the folder `out`, which is made if need be; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = (out / HTML, out / JSON)
    paths[0].write_text(as_html(result), encoding="utf-8")
    paths[1].write_text(json.dumps(as_dict(result), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return paths


def as_dict(result: Audit) -> dict:
    """The audit as JSON types, numbers rounded to 6 decimals, NaN as None: no paths, no time, no machine."""
    build = result.dataset.build
    ids = result.dataset.table["id"]
    near = dataclasses.asdict(result.near)
    for pair in near["examples"]:
        pair["left"], pair["right"] = ids[pair["left"]].as_py(), ids[pair["right"]].as_py()
    return _rounded(
        {
            "dataset": build.get("dataset"),
            "version": build.get("version"),
            "fingerprint": build.get("fingerprint"),
            "records": result.dataset.table.num_rows,
            "decoded": result.num_sampled,
            "findings": [dataclasses.asdict(finding) for finding in result.findings],
            "classes": result.imbalance,
            "values": result.values,
            "distributions": result.distributions,
            "shortcuts": [dataclasses.asdict(test) for test in result.shortcuts],
            "exact_duplicates": result.exact,
            "near_duplicates": near,
            "leaks": result.leaks,
            "files": result.files,
        }
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def as_html(result: Audit) -> str:
    """The page: one HTML file with its styles, figures and pictures inside."""
    build = result.dataset.build
    name = f"{build.get('dataset', '')} {build.get('version', '')}".strip()
    css = resources.files("tfds_builders.audit").joinpath("page.css").read_text(encoding="utf-8")
    sections = [
        _findings(result.findings),
        shortcut_section(result.shortcuts),
        duplicates_section(result),
        leaks_section(result.leaks),
        balance_section(result.imbalance),
        statistics_section(result),
        examples_section(result),
        files_section(result.files),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {escape(name)}</title>\n<style>\n{css}</style></head>\n<body>\n"
        f"<h1>Audit of {escape(name)}</h1>\n"
        f'<p class="soft">fingerprint <code>{escape(str(build.get("fingerprint", "unknown")))}</code></p>\n'
        f"{_tiles(result)}\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _tiles(result: Audit) -> str:
    whole = result.imbalance[-1]
    tiles = [
        (f"{result.dataset.table.num_rows:,}", "records"),
        (f"{whole['real']:,}", "real"),
        (f"{whole['fake']:,}", "fake"),
        (f"{result.num_sampled:,}", "decoded for this audit"),
    ]
    counts = Counter(finding.severity for finding in result.findings)
    tiles += [(str(counts[severity]), f"{severity} findings") for severity in reversed(SEVERITIES[1:])]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{a}</b><span>{b}</span></div>' for a, b in tiles)
        + "</div>"
    )


def _findings(findings: list[Finding]) -> str:
    cards = "".join(
        f'<div class="finding {finding.severity}"><span class="badge">{finding.severity}</span>'
        f"<code>{escape(finding.code)}</code><p>{escape(finding.sentence)}</p>"
        f'<p class="do">{escape(finding.action)}</p></div>'
        for finding in findings
    )
    return f'<h2>Findings</h2><div class="findings">{cards or "<p>Nothing was found.</p>"}</div>'

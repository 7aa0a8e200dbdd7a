"""A report card as one HTML file that needs nothing else: no script, no font, no picture from outside.

    Path("card.html").write_text(html_of(card, "realshard-cnn v3 on faces", {"roc": svg}, {"Worst": pictures}))

It follows the reader's light or dark setting.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_builders.records.schema import LABELS
from trainers.card import Card
from trainers.metrics import Summary, rounded, without_interval

Picture = tuple[str, bytes]  # what is written under it, and a JPEG file

FEW_FOR_ECE = 1000  # images: see docs/report-card.md

# What the table of figures shows: the key in the summary, and the name of the row.
_FIGURES = (
    ("auc", "ROC AUC"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("accuracy", "Accuracy"),
    ("recall_real", "Recall of real"),
    ("recall_fake", "Recall of fake"),
    ("average_precision", "Average precision"),
    ("eer", "Equal error rate"),
    ("tpr_at_fpr_1pct", "Fakes found at 1 % false alarms"),
    ("tpr_at_fpr_01pct", "Fakes found at 0.1 % false alarms"),
    ("log_loss", "Log-loss (nats)"),
    ("mse", "Mean squared error (Brier score)"),
    ("rmse", "Root mean squared error"),
    ("ece", "Expected calibration error"),
)
_BY = ("n", "real", "fake", "auc", "balanced_accuracy", "accuracy", "recall_real", "recall_fake")
_TITLES = {
    "n": "images",
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "recall_real": "recall of real",
    "recall_fake": "recall of fake",
    "mean_p_fake": "mean P(fake)",
    "p_fake": "P(fake)",
    "f1": "F1",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d8d8d8; --shade: #f4f4f4; --warn: #b00020; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --line: #444; --shade: #242424; --warn: #ff8a80; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.warning { color: var(--warn); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.8rem 0; }
th, td { text-align: right; padding: 0.2rem 0.8rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.facts td { text-align: left; }
tr:nth-child(even) td { background: var(--shade); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
.figures .wide { grid-column: 1 / -1; }
.figures svg { width: 100%; height: auto; fill: currentColor; }
.pictures { display: flex; flex-wrap: wrap; gap: 0.8rem; }
.pictures figure { margin: 0; width: 8.5rem; font-size: 0.8rem; overflow-wrap: anywhere; }
.pictures img { width: 100%; display: block; }
"""
_WIDE = ("learning_curves", "robustness")


def html_of(card: Card, title: str, svgs: Mapping[str, str], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The page.

    Args:
      card: from `trainers.card.card_of`; also with `robustness` (rows of one change each) `facts` ({name: text}) and
        `calibration` (what P(fake) means).
      title: of the page: which model on which images.
      svgs: drawings by name, as `trainers.card_figures.svg_of` makes them.
      pictures: grids of images by their headings.
    """
    summary = card["summary"]
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="warning">{html.escape(note)}</p>' for note in card["notes"]]
    parts.append(f"<p>{html.escape(card.get('calibration', ''))}</p>")
    parts.append(f'<div class="facts">{_table(("", ""), list(card.get("facts", {}).items()))}</div>')
    parts += ["<h2>Figures of merit</h2>", _figures_of_merit(card)]
    rows = [(name, *values.values()) for name, values in card["per_class"].items()]
    parts.append(
        _table((f"verdict at P(fake) ≥ {summary['threshold']!r}", "precision", "recall", "F1", "support"), rows)
    )
    parts.append(_unsure(card["unsure"]))
    if svgs:
        drawings = "".join(f'<div class="{"wide" if name in _WIDE else ""}">{svg}</div>' for name, svg in svgs.items())
        parts.append(f'<h2>Curves</h2><div class="figures">{drawings}</div>')
    for name, values in (card["videos"] or {}).items():
        parts.append(f"<h2>Whole videos, {name} of their frames</h2>" + _by_table("", {f"{name} of frames": values}))
    for column, summaries in card["by"].items():
        parts.append(f"<h2>By {html.escape(column)}</h2>" + _by_table(column, summaries))
    parts += [_groups(card["groups"]), _robustness(card.get("robustness"))]
    parts += [f"<h2>{html.escape(heading)}</h2>" + _pictures(some) for heading, some in pictures.items() if some]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'


def _figures_of_merit(card: Card) -> str:
    summary = card["summary"]
    rows = [(name, summary[key], _beside(key, summary)) for key, name in _FIGURES]
    counts = ", ".join(f"{summary[label]:,} {label} in {summary[f'groups_{label}']:,} groups" for label in LABELS)
    resamples = f"{summary['resamples']:,} resamples of {summary['groups']:,} groups"
    of = f"95 % interval, {resamples}" if summary["intervals"] else ""
    return f"<p>{summary['n']:,} images: {counts}.</p>" + _table(("", "", of), rows)


def _beside(key: str, summary: Summary) -> str:
    """How sure the figure is, or why that is not known."""
    if key in summary["intervals"]:
        return " to ".join(map(rounded, summary["intervals"][key]))
    if key == "ece" and summary["n"] < FEW_FOR_ECE:
        return f"too high on the average: it is biased upwards below about {FEW_FOR_ECE:,} images"
    return without_interval(key, summary)


def _unsure(band: Mapping[str, Any] | None) -> str:
    if band is None:
        return ""
    accuracy = band["accuracy_elsewhere"]
    rest = "" if accuracy is None else f"; accuracy on the others {rounded(accuracy)}"
    share = 0 if band["share"] is None else band["share"]
    return f"<p>Unsure from P(fake) {band['low']!r} to {band['high']!r}: {share:.1%} of the images{rest}.</p>"


def _by_table(column: str, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(value or "unknown", *(summary[key] for key in _BY)) for value, summary in summaries.items()]
    return _table((column, *(_TITLES.get(key, key) for key in _BY)), rows)


def _groups(groups: Mapping[str, Any]) -> str:
    if not groups["worst"]:
        return ""
    keys = tuple(groups["worst"][0])
    rows = [tuple(group.values()) for group in groups["worst"]]
    heading = f"<h2>Groups with the most errors, of {groups['count']:,}</h2>"
    return heading + _table(tuple(_TITLES.get(key, key) for key in keys), rows)


def _robustness(rows: Sequence[Mapping[str, Any]] | None) -> str:
    if not rows:
        return ""
    keys = ("auc", "balanced_accuracy", "recall_real", "recall_fake")
    cells = [
        (
            row["change"],
            "" if row["strength"] is None else f"{row['strength']:g} {row['unit']}",
            *(row[k] for k in keys),
        )
        for row in rows
    ]
    heading = f"<h2>Robustness, on {rows[0]['n']:,} of the images</h2>"
    return heading + _table(("change", "strength", *(_TITLES[key] for key in keys)), cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head) if any(head) else ""
    lines = ["<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table><tr>{titles}</tr>{"".join(lines)}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return html.escape(rounded(value))
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _pictures(pictures: Sequence[Picture]) -> str:
    figures = []
    for caption, jpeg in pictures:
        source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        figures.append(f'<figure><img src="{source}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>')
    return f'<div class="pictures">{"".join(figures)}</div>'

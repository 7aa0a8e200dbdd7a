"""The figures of a report card, as SVG drawings that take the colour of the page they stand on.

figures = figures_of(predictions, card, history)
svg_of(figures["roc"])
"""

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import norm

from tfds_builders.records.schema import LABELS
from trainers import report
from trainers.calibration import reliability
from trainers.card import Card
from trainers.history import MONITOR
from trainers.metrics import Summary
from trainers.operating import error_rates
from trainers.report import COLOURS, GREY, STYLE

# Of both axes of the DET curve, in normal deviates; the ends are -3.1 and 3.1.
_DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
_DET_ENDS = 0.001
MAX_BARS = 40
_ON_ANY_PAPER: Any = {"grid.color": GREY, "grid.alpha": 0.3, "legend.facecolor": "none", "legend.framealpha": 0}


def figures_of(predictions: pa.Table, card: Card, history: Sequence[dict[str, Any]] = ()) -> dict[str, Figure]:
    """confusion_matrix, roc, precision_recall, per_class, det, reliability, scores; a by_... for each table of the
    card; robustness if it was measured; learning_curves if there is a history (see trainers/history.py).

    Args:
      predictions: columns label, p_fake.
      card: from `trainers.card.card_of` for these predictions.
    """
    labels, scores, summary = predictions["label"].to_numpy(), predictions["p_fake"].to_numpy(), card["summary"]
    panels: dict[str, Callable[[Axes], None]] = {
        "confusion_matrix": lambda axes: report.draw_confusion(axes, summary),
        "roc": lambda axes: report.draw_roc(axes, labels, scores, summary),
        "precision_recall": lambda axes: report.draw_precision_recall(axes, labels, scores, summary),
        "per_class": lambda axes: report.draw_per_class(axes, summary),
        "det": lambda axes: draw_det(axes, labels, scores, summary),
        "reliability": lambda axes: draw_reliability(axes, labels, scores, summary),
        "scores": lambda axes: report.draw_scores(axes, labels, scores, summary),
    }
    for column, summaries in card["by"].items():
        panels[f"by_{column}"] = functools.partial(draw_by, summaries=summaries, column=column)
    figures = {}
    with matplotlib.rc_context({**STYLE, **_ON_ANY_PAPER}):
        for name, draw in panels.items():
            bars = min(len(card["by"][name.removeprefix("by_")]), MAX_BARS) if name.startswith("by_") else 0
            figures[name] = report.new_figure(6.4, max(5.8, 1.6 + 0.5 * bars))
            axes = figures[name].add_subplot()
            draw(axes)
            axes.set_title(f"{axes.get_title(loc='left')} ({summary['n']:,} images)")
            if summary["degenerate"]:
                figures[name].suptitle(f"no detector: {summary['degenerate_because']}", color=report.RED, fontsize=11)
        if card.get("robustness"):
            figures["robustness"] = draw_robustness(card["robustness"])
        if any(MONITOR in entry for entry in history):
            figures["learning_curves"] = report.draw_learning_curves(history)
    return figures


def svg_of(figure: Figure) -> str:
    """The drawing as an <svg> element for an HTML page: transparent, black replaced by the text's colour."""
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": "realshard"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    return re.sub(r'<g id="[^"]*">', "<g>", svg)  # ids of one drawing would meet those of the next one


def draw_det(axes: Axes, labels: np.ndarray, scores: np.ndarray, summary: Summary) -> None:
    """Detection error trade-off: misses against false alarms, both in normal deviates (Martin et al. 1997)."""
    axes.set(title="Detection error trade-off", xlabel="reals called fake", ylabel="fakes called real", aspect="equal")
    ends = (norm.ppf(_DET_ENDS), norm.ppf(1 - _DET_ENDS))
    places, names = norm.ppf(_DET_TICKS), [f"{100 * tick:g} %" for tick in _DET_TICKS]
    axes.set_xticks(places, names, rotation=45)
    axes.set_yticks(places, names)
    axes.set(xlim=ends, ylim=ends)
    rates = error_rates(labels, scores)
    if rates is None:
        return report.say_undefined(axes, "The curve")
    false_alarms, misses = (np.clip(norm.ppf(np.clip(part, 1e-12, 1 - 1e-12)), *ends) for part in rates)
    axes.plot(false_alarms, misses, color=COLOURS[1], label="this detector")
    axes.plot(ends, ends[::-1], "--", color=GREY, linewidth=1.2, label="chance")
    eer = norm.ppf(np.clip(summary["eer"], _DET_ENDS, 1 - _DET_ENDS))
    axes.plot(eer, eer, "o", color="black", markersize=7, label=f"equal error rate {summary['eer']:.2%}")
    axes.legend(loc="upper right")
    return None


def draw_reliability(axes: Axes, labels: np.ndarray, scores: np.ndarray, summary: Summary) -> None:
    """Share of fakes against P(fake), a dot a bin; the dot's area grows with its images."""
    report.set_unit_axes(axes, "mean P(fake) of the bin", "share of fakes in the bin")
    axes.set_title("Reliability")
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="calibrated")
    counts, means, shares = reliability(labels, scores)
    filled = counts > 0
    sizes = 20 + 180 * counts[filled] / max(counts.max(), 1)
    error = "undefined" if summary["ece"] is None else f"{summary['ece']:.3f}"
    axes.plot(means[filled], shares[filled], color=COLOURS[1], linewidth=1)
    axes.scatter(means[filled], shares[filled], sizes, color=COLOURS[1], label=f"calibration error {error}", zorder=3)
    report.put_legend_below(axes, columns=2)


def draw_by(axes: Axes, summaries: dict[str, Summary], column: str) -> None:
    """Recall of both classes for each value of a column, those with the fewest images last."""
    names = sorted(summaries, key=lambda name: (-summaries[name]["n"], name))[:MAX_BARS]
    places = np.arange(len(names))
    for label, name in enumerate(LABELS):
        values = [summaries[value][f"recall_{name}"] for value in names]
        heights = places + 0.2 * (2 * label - 1)
        known = [row for row, value in enumerate(values) if value is not None]
        axes.barh(heights[known], [values[row] for row in known], 0.38, color=COLOURS[label], label=name)
        for row in sorted(set(places.tolist()) - set(known)):
            axes.text(0.01, heights[row], "none there", va="center", color=COLOURS[label], fontsize=9)
    counts = {name: ", ".join(f"{summaries[name][label]:,} {label}" for label in LABELS) for name in names}
    axes.set_yticks(places, [f"{name or 'unknown'} ({counts[name]})" for name in names])
    axes.invert_yaxis()
    left_out = len(summaries) - len(names)
    axes.set(xlim=(0, 1.02), xlabel="share called correctly", title=f"By {column}")
    if left_out:
        axes.set_xlabel(f"share called correctly ({left_out} smaller ones are left out)")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    report.put_legend_below(axes, columns=2)


def draw_robustness(rows: Sequence[dict[str, Any]]) -> Figure:
    """AUC and recall of fakes against the strength of each change; the first point is the unchanged image."""
    kinds = list(dict.fromkeys(row["change"] for row in rows if row["change"] != "none"))
    curves = (
        ("auc", "AUC", "black"),
        *((f"recall_{name}", f"recall of {name}", COLOURS[i]) for i, name in enumerate(LABELS)),
    )
    plain = next(row for row in rows if row["change"] == "none")
    columns = min(3, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = report.new_figure(4.2 * columns, 3.6 * lines)
    for number, kind in enumerate(kinds):
        axes = figure.add_subplot(lines, columns, number + 1)
        points = [plain, *(row for row in rows if row["change"] == kind)]
        for key, name, colour in curves:
            values = np.array([np.nan if point[key] is None else point[key] for point in points])
            axes.plot(range(len(points)), values, marker="o", markersize=4, color=colour, label=name)
        axes.set_xticks(range(len(points)), ["none", *(f"{point['strength']:g}" for point in points[1:])])
        axes.set(ylim=(-0.02, 1.02), title=kind, xlabel=points[1]["unit"])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves))
    return figure

"""How figures look, and the usual ones of a detector: confusion, ROC, precision and recall, scores, learning curves.

Colours: real is blue, fake is orange, everywhere (Okabe & Ito 2008: told apart by colour-blind readers too).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tfds_builders.records.schema import LABELS
from trainers import metrics
from trainers.history import MONITOR, best_epoch, losses

COLOURS = ("#0072B2", "#D55E00")  # by label
GREY = "#666666"
GREEN = "#009E73"  # validation, in learning curves
RED = "#B00020"
INK = "#111111"  # on the coloured cells of a table, which stay light where the page is dark
# Recorded metrics that have learning curves, and the names of their axes.
_CURVES = {
    "loss": "binary cross-entropy (nats)",
    "accuracy": "share called correctly",
    "auc": "area under the ROC curve",
}
DOTS_PER_INCH = 150
STYLE: Any = {  # not a dict[str, Any]: Matplotlib's types want its own literals
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "lines.linewidth": 2,
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts never overlap."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def say_undefined(axes: Axes, what: str) -> None:
    """Writes into the middle of the axes that there is no curve without both classes."""
    sentence = f"{what} is not defined:\nonly one class is there"
    axes.text(0.5, 0.5, sentence, ha="center", va="center", color=GREY, bbox={"color": "white"})


def set_unit_axes(axes: Axes, x: str, y: str) -> None:
    """Square axes from 0 to 1 with these names."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")


def put_legend_below(axes: Axes, columns: int = 1) -> None:
    """Puts the legend under the axes."""
    # A curve may go anywhere, so no corner is free for certain.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns)


def _mark_threshold(axes: Axes, x: float, y: float, summary: metrics.Summary) -> None:
    label = f"P(fake) ≥ {summary['threshold']!r}"
    axes.plot(x, y, "o", color="black", markersize=7, label=label, clip_on=False, zorder=3)


def draw_confusion(axes: Axes, summary: metrics.Summary) -> None:
    """Counts, and the share of each true class; rows are the truth."""
    counts = np.array(summary["confusion"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = f"{shares[row, column]:.1%} of {LABELS[row]}" if totals[row, 0] else f"there is no {LABELS[row]}"
        at: dict[str, Any] = {"ha": "center", "color": "white" if shares[row, column] > 0.6 else INK}
        axes.text(column, row, f"{count:,}", va="bottom", fontsize=20, **at)
        axes.text(column, row, share, va="top", **at)
    axes.set_xticks(range(len(LABELS)), [f"called {label}" for label in LABELS])
    axes.set_yticks(range(len(LABELS)), [f"is {label}" for label in LABELS])
    axes.set(xlabel=f"verdict at P(fake) ≥ {summary['threshold']!r}", ylabel="truth", title="Confusion matrix")
    axes.grid(visible=False)
    axes.tick_params(length=0)


def draw_roc(axes: Axes, labels: np.ndarray, scores: np.ndarray, summary: metrics.Summary) -> None:
    """Receiver operating characteristic; the dot is the threshold in use."""
    from sklearn.metrics import roc_curve

    axes.set_title("ROC curve")
    set_unit_axes(axes, "false positive rate: reals called fake", "true positive rate: fakes called fake")
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="chance: AUC 0.5")
    if summary["auc"] is None:
        return say_undefined(axes, "The ROC curve")
    rates = roc_curve(labels, scores)
    axes.plot(
        rates[0], rates[1], color=COLOURS[1], label=f"AUC {metrics.rounded(summary['auc'], 3)}{_interval(summary)}"
    )
    _mark_threshold(axes, 1 - summary["recall_real"], summary["recall_fake"], summary)
    put_legend_below(axes)
    return None


def _interval(summary: metrics.Summary) -> str:
    if summary["auc_interval"] is None:
        said = metrics.without_interval("auc", summary)
        return f",\n{said}" if said else ""
    low, high = (metrics.rounded(end, 3) for end in summary["auc_interval"])
    return f", 95 % interval {low} to {high} ({summary['groups']:,} groups)"


def draw_precision_recall(axes: Axes, labels: np.ndarray, scores: np.ndarray, summary: metrics.Summary) -> None:
    """Precision against recall of the fakes, and the precision of calling everything fake."""
    from sklearn.metrics import precision_recall_curve

    axes.set_title("Precision and recall of fakes")
    set_unit_axes(axes, "recall: share of the fakes that is found", "precision: share of the alarms that is right")
    if summary["average_precision"] is None:
        return say_undefined(axes, "The curve")
    base_rate = summary["fake"] / summary["n"]
    axes.axhline(base_rate, linestyle="--", color=GREY, linewidth=1.2, label=f"base rate {base_rate:.3f}")
    precision, recall, _ = precision_recall_curve(labels, scores)
    label = f"average precision {metrics.rounded(summary['average_precision'], 3)}"
    axes.plot(recall, precision, color=COLOURS[1], drawstyle="steps-post", label=label)
    if summary["precision_fake"] is not None:
        _mark_threshold(axes, summary["recall_fake"], summary["precision_fake"], summary)
    put_legend_below(axes)
    return None


def draw_per_class(axes: Axes, summary: metrics.Summary) -> None:
    """Accuracy on each class; a constant shows as 0 beside 1."""
    values = [summary[f"recall_{label}"] for label in LABELS]
    bars = axes.bar(range(len(LABELS)), [value or 0 for value in values], width=0.55, color=COLOURS)
    axes.bar_label(bars, ["none there" if value is None else f"{value:.1%}" for value in values], padding=3)
    axes.set_xticks(range(len(LABELS)), [f"{label}\n{summary[label]:,} images" for label in LABELS])
    axes.set(ylim=(0, 1.08), xlim=(-0.6, len(LABELS) - 0.4), ylabel="share called correctly")
    axes.set(title="Accuracy by class")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(visible=False, axis="x")
    if summary["balanced_accuracy"] is not None:
        axes.set_xlabel(f"balanced accuracy, their mean: {summary['balanced_accuracy']:.1%}", labelpad=8)


def draw_scores(axes: Axes, labels: np.ndarray, scores: np.ndarray, summary: metrics.Summary) -> None:
    """How P(fake) is spread over each class."""
    bins = np.linspace(0, 1, 41).tolist()
    for label, (name, colour) in enumerate(zip(LABELS, COLOURS, strict=True)):
        chosen = scores[labels == label]
        shares = np.full(len(chosen), 1 / max(len(chosen), 1))
        style: dict[str, Any] = {
            "histtype": "stepfilled",
            "facecolor": f"{colour}70",
            "edgecolor": colour,
            "linewidth": 1.5,
        }
        axes.hist(chosen, bins, weights=shares, label=f"{name}: {len(chosen):,} images", **style)
    axes.axvline(
        summary["threshold"], linestyle="--", color="black", linewidth=1.2, label=f"threshold {summary['threshold']!r}"
    )
    axes.set(xlim=(0, 1), xlabel="P(fake)", ylabel="share of the class", title="Scores by class")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    put_legend_below(axes, columns=3)


def draw_learning_curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Loss, accuracy and, if recorded, AUC against the epoch (counted from 1), in training and on validation."""
    names = [name for name in _CURVES if any(f"validation/{name}" in entry for entry in history)]
    figure = new_figure(1.2 + 4.8 * len(names), 4.6)
    epochs = np.arange(1, len(history) + 1)
    best = best_epoch(losses(list(history))) + 1 if all(MONITOR in entry for entry in history) else None
    phases = [entry.get("phase", 0) for entry in history]
    for panel, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), panel + 1)
        for part, colour, marker in (("train", GREY, "s"), ("validation", GREEN, "o")):
            values = np.array([entry.get(f"{part}/{name}", np.nan) for entry in history], np.float64)
            if np.isfinite(values).any():
                axes.plot(epochs, values, marker=marker, markersize=5, color=colour, label=part)
        if best:
            axes.axvline(best, linestyle="--", color="black", linewidth=1.2, label=f"best epoch: {best}")
        for number, epoch in enumerate(np.flatnonzero(np.diff(phases)) + 1.5):
            label = "_next phase" if number else "next phase"  # one entry in the legend
            axes.axvline(epoch, linestyle=":", color=GREY, linewidth=1.2, label=label)
        axes.set(xlabel="epoch", ylabel=_CURVES[name], title=name.upper() if name == "auc" else name.capitalize())
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend()
    return figure

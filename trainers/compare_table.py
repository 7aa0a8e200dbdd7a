"""The table of `make compare`, as Markdown and CSV, and its figure."""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.published import Published

_HEAD = (
    "model", "pixels", "parameters", "images/s training", "images/s inference", "AUC (95 %)", "AUC by seed",
    "accuracy", "balanced accuracy", "published accuracy", "published balanced", "published on",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One variant. Figures of merit are of the test split, means over the seeds."""

    family: str
    variant: str
    image_size: int  # pixels
    parameters: int
    training_rate: float  # images/s, on the cores that the training had
    inference_rate: float  # images/s, on the same
    aucs: tuple[float, ...]  # by seed
    auc_interval: tuple[float, float]  # of their mean, bootstrapped over groups
    accuracy: float
    balanced_accuracy: float
    constants: int  # so many of the trainings gave a constant
    published: Published | None

    @property
    def model(self) -> str:
        """Family and variant."""
        return f"{self.family} {self.variant}"

    @property
    def auc(self) -> float:
        """The mean over the seeds."""
        return sum(self.aucs) / len(self.aucs)


def write(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Writes table.md and table.csv into `directory`; returns them."""
    files = [directory / "table.md", directory / "table.csv"]
    files[0].write_text(as_markdown(rows), "utf-8")
    with files[1].open("w", newline="") as file:
        lines = [_flat(row) for row in rows]
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return files


def as_markdown(rows: Sequence[Row]) -> str:
    """The table for people."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    notes = [
        "Images/s: on a training's share of the machine, half of it with two at once. AUC: mean over the seeds, "
        "interval by bootstrap over photographs, too narrow for few of them. Fake is the positive class everywhere. "
        "Published figures are their authors', on their data.",
        "**constant**: one class was never told; the accuracy is the share of the other.",
    ]
    return "\n".join([*lines, "", *notes, ""])


def _cells(row: Row) -> list[str]:
    low, high = row.auc_interval
    published = row.published
    is_constant = f" **constant** ({row.constants} of {len(row.aucs)})" if row.constants else ""
    return [
        row.model,
        str(row.image_size),
        f"{row.parameters:,}",
        f"{row.training_rate:.0f}",
        f"{row.inference_rate:.0f}",
        f"{row.auc:.3f} ({low:.3f} to {high:.3f})",
        " ".join(f"{auc:.3f}" for auc in row.aucs),
        f"{row.accuracy:.3f}{is_constant}",
        f"{row.balanced_accuracy:.3f}",
        "" if published is None else f"{published.accuracy:.3f}{' **constant**' if published.is_constant else ''}",
        _number(None if published is None else published.balanced_accuracy),
        "none" if published is None else "; ".join(filter(None, (published.dataset, published.note))),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _flat(row: Row) -> dict[str, Any]:
    values = dataclasses.asdict(row) | {"auc": row.auc, "aucs": " ".join(map(str, row.aucs))}
    values["auc_low"], values["auc_high"] = values.pop("auc_interval")
    published = values.pop("published") or dict.fromkeys(field.name for field in dataclasses.fields(Published))
    values |= {f"published_{key}": value for key, value in published.items()}
    values["published_balanced_accuracy"] = row.published and row.published.balanced_accuracy
    values["published_constant"] = row.published and row.published.is_constant
    return values


def draw(rows: Sequence[Row]) -> Any:
    """A Matplotlib figure: our AUC with its interval, a line a model, and what was published, which are accuracies."""
    import matplotlib

    from trainers.report import COLOURS, GREY, RED, STYLE, new_figure

    rows = sorted(rows, key=lambda row: row.auc)
    places = range(len(rows))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(9.0, 1.8 + 0.28 * len(rows))
        axes = figure.add_subplot()
        axes.axvline(0.5, linestyle="--", color=GREY, linewidth=1.2, label="chance")
        lows, highs = zip(*(row.auc_interval for row in rows), strict=True)
        axes.hlines(places, lows, highs, color=COLOURS[0], linewidth=3, alpha=0.35, label="its 95 % interval")
        axes.plot([row.auc for row in rows], places, "o", color=COLOURS[0], label="our AUC")
        for is_constant, marker, colour, label in (
            (False, "D", COLOURS[1], "published accuracy, on other data"),
            (True, "x", RED, "published accuracy of a constant"),
        ):
            chosen = [
                (row.published.accuracy, place)
                for row, place in zip(rows, places, strict=True)
                if row.published and row.published.is_constant == is_constant
            ]
            if chosen:
                axes.plot(*zip(*chosen, strict=True), marker, color=colour, fillstyle="none", label=label)
        axes.set_yticks(places, [row.model for row in rows], fontsize=9)
        axes.set(xlabel="AUC (ours), accuracy (published)", ylim=(-0.8, len(rows) - 0.2))
        axes.set_xlim(right=1.01)
        axes.set_title("Test AUC of every model, and what was published")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure

"""Trained on one dataset, tested on another: every model on every dataset, as one table.

    python -m trainers.matrix --models models:/realshard-cnn@champion models:/realshard-vit@champion --datasets a b

prints the table as Markdown and writes matrix.md, matrix.csv and matrix.png. A test image that a compared model was
trained or selected on, or one of the same group (photograph, person, video), makes the comparison void: it is refused.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfds_builders.records.errors import Refused
from trainers import metrics, tracking
from trainers.card_pictures import Part
from trainers.evaluate import select, title_of
from trainers.origin import Origin, identities, origin_of, overlap
from trainers.output import silent_stderr
from trainers.registry import Detector, load_detector
from trainers.scoring import score
from trainers.storage import default_data_dir

FIELDS = ("model", "trained_on", "dataset", "n", "auc", "auc_low", "auc_high", "balanced_accuracy")

Row = dict[str, Any]


def check_apart(detector: Detector, origin: Origin | None, part: Part, by_group: bool) -> None:
    """Refuses a test part that shares a record's content or group with what the model was made from.

    Raises:
      Refused: names the model, the dataset, how many records, and one of them; or that it cannot be found out.
    """
    if origin is None:
        raise Refused(
            "what a model was trained on must be known, and still be there as it was. Received: "
            f"{detector.name} v{detector.version}, of which it is not. Say with --data-dir where its dataset is now, "
            "build that again, or train the model again."
        )
    used = pa.concat_tables([origin.train, origin.validation])
    found = overlap(identities(part.dataset, part.records.ids()), used, by_group)
    if len(found):
        raise Refused(
            f"a model must be tested on records that it was not made from. Received: {detector.name} "
            f"v{detector.version} on {part.dataset.name}, of which {len(found)} records share their content or group "
            f"with its training or validation records of {origin.trained_on}, {found['id'][0].as_py()!r} for "
            "example. Leave this pair out, or pass --by-content if their groups bear equal names by chance."
        )


def measure(models: Sequence[str], parts: Sequence[Part], by_group: bool = True, data_dir: str = "") -> list[Row]:
    """One row a model and dataset, by FIELDS; figures that are not defined are None.

    Args:
      models: models:/NAME@ALIAS or models:/NAME/VERSION.
      parts: what they are tested on.
      by_group: whether a test record of a group that made a model is refused too.
      data_dir: where the models' own data are looked for if they are not where their runs say; "": the default folder.

    Raises:
      Refused: no such model; a pair that shares records, before anything is scored.
    """
    detectors = [load_detector(model) for model in models]
    versions = [tracking.client_of().get_model_version(each.name, str(each.version)) for each in detectors]
    origins = [origin_of(version.run_id, data_dir) for version in versions]
    for detector, origin in zip(detectors, origins, strict=True):
        for part in parts:
            check_apart(detector, origin, part, by_group)
    rows = []
    for detector, origin in zip(detectors, origins, strict=True):
        for part in parts:
            predictions = score(detector, part.records, part.dataset.name)
            resamples = metrics.resamples_for(len(predictions))
            summary = metrics.summarise(predictions, detector.network.threshold, bootstrap=resamples)
            low, high = summary["auc_interval"] or (None, None)
            rows.append(
                {
                    "model": f"{detector.name} v{detector.version}",
                    "trained_on": origin.trained_on if origin else "unknown",
                    "dataset": part.dataset.name,
                    "n": summary["n"],
                    "auc": summary["auc"],
                    "auc_low": low,
                    "auc_high": high,
                    "balanced_accuracy": summary["balanced_accuracy"],
                }
            )
    return rows


def as_markdown(rows: Sequence[Row], tested: str) -> str:
    """A line a model, a column a dataset: AUC, and balanced accuracy in brackets; on the part that `tested` names."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    lines = ["| model | trained on | " + " | ".join(datasets) + " |", "|---|---|" + "---|" * len(datasets)]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = {row["dataset"]: row for row in rows if row["model"] == model}
        trained_on = next(iter(cells.values()))["trained_on"]
        lines.append(f"| {model} | {trained_on} | " + " | ".join(_cell(cells[name]) for name in datasets) + " |")
    return "\n".join([*lines, "", f"On {tested}: ROC AUC (balanced accuracy at the model's own threshold).", ""])


def _cell(row: Row) -> str:
    if row["auc"] is None:
        return "undefined"
    return f"{row['auc']:.3f} ({row['balanced_accuracy']:.3f})"


def as_csv(rows: Sequence[Row]) -> str:
    """A line a model and dataset, columns FIELDS; what is not defined is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def draw(rows: Sequence[Row], tested: str) -> Any:
    """The AUCs, on the part that `tested` names, as a heat map: a Matplotlib figure."""
    import matplotlib

    from trainers.report import INK, STYLE, new_figure

    models, datasets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "dataset"))
    values = np.full((len(models), len(datasets)), np.nan)
    for row in rows:
        values[models.index(row["model"]), datasets.index(row["dataset"])] = (
            np.nan if row["auc"] is None else row["auc"]
        )
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4 + 1.2 * len(datasets), 2 + 0.6 * len(models))
        axes = figure.add_subplot()
        axes.imshow(values, cmap="Blues", vmin=0.5, vmax=1, aspect="auto")
        for (line, column), value in np.ndenumerate(values):
            text = "undefined" if np.isnan(value) else f"{value:.3f}"
            axes.text(column, line, text, ha="center", va="center", color="white" if value > 0.85 else INK)
        axes.set_xticks(range(len(datasets)), datasets, rotation=30, ha="right")
        axes.set_yticks(range(len(models)), models)
        axes.set(title=f"AUC by model and dataset, {tested}", xlabel="tested on")
        axes.grid(visible=False)
        axes.tick_params(length=0)
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.matrix", description="Tests every model on every dataset and makes one table of it."
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL", help="registered models")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="built datasets, or NAME:VERSION")
    parser.add_argument("--data-dir", default=default_data_dir(), help="where they are (default: %(default)s)")
    parser.add_argument("--split", default="test", help="the part of each that is tested on (default: %(default)s)")
    parser.add_argument("--split-scheme", default="", help="of another division into splits, such as that of a job")
    parser.add_argument("--out", type=Path, default=Path("matrix"), help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--by-content",
        action="store_true",
        help="compare test and training records by their content alone, not by their groups' names",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options: Any = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import tensorflow  # noqa: F401  # says much when it is imported
    parts = select(options.datasets, options.data_dir, options.split, options.split_scheme)
    rows = measure(options.models, parts, by_group=not options.by_content, data_dir=options.data_dir)
    tested = title_of(options.split, parts)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "matrix.md").write_text(as_markdown(rows, tested), "utf-8")
    (options.out / "matrix.csv").write_text(as_csv(rows), "utf-8")
    draw(rows, tested).savefig(options.out / "matrix.png", dpi=150)
    print(as_markdown(rows, tested))
    return 0


if __name__ == "__main__":
    sys.exit(main())

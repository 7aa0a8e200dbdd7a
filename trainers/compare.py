"""Every published model under one roof: trained on one small corpus, side by side, in one table (`make compare`).

    python -m trainers.compare --out runs/compare

Each training is a job (trainers/job.py) and a child of one MLflow run, which keeps table.md, table.csv, auc.png and the
learning curves of what did not learn. Two are trained at once, each on half of the cores (trainers/side_by_side.py).
Run again it goes on: finished jobs are found by their names.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from trainers import bootstrap, compare_table, demo, metrics, tracking
from trainers.compare_table import Row
from trainers.comparison import BUDGETS, EXPERIMENT, IMAGE_SIZE, SEEDS, Budget
from trainers.dataset import Dataset, find, load
from trainers.history import History
from trainers.jobs import HISTORY, PREDICTIONS, JobFolder
from trainers.published import PUBLISHED
from trainers.run_logger import RunLogger, ending_badly
from trainers.side_by_side import Name, Trained, Training, train

LEARNS_NOTHING = 0.6  # of the AUC: below it the learning curves are drawn


@dataclass(frozen=True)
class Compared:
    """What the jobs of one variant gave."""

    row: Row
    history: History  # of the first seed


def compare(budgets: Mapping[Name, Budget], dataset: Dataset, directory: Path, at_once: int | None = None) -> list[Row]:
    """Trains what is not trained yet, writes table and figures into `directory` and into the MLflow parent.

    Args:
      budgets: what to train, by family and variant.
      dataset: a built one; its folder lies in a data_dir.
      directory: made if need be; what the trainings print goes into its folder logs.
      at_once: trainings side by side; see side_by_side.train.

    Returns:
      The rows of the table.
    """
    directory.mkdir(parents=True, exist_ok=True)
    experiment = tracking.experiment(EXPERIMENT)
    parent = tracking.open_run(
        experiment,
        f"compare-{dataset.fingerprint[:12]}",
        {"dataset": dataset.title},
        {"realshard.fingerprint": dataset.fingerprint},
        reopen=True,
    )
    logger = RunLogger(parent)
    data_dir = str(Path(str(dataset.directory)).parents[1])
    # Those of one seed are the long ones: begun last, one of them would leave the other cores idle.
    longest_first = sorted(budgets.items(), key=lambda item: len(item[1].seeds))
    trainings = [
        Training(*name, seed, budget.config(*name, dataset.title, data_dir, seed))
        for name, budget in longest_first
        for seed in budget.seeds
    ]
    trained: dict[Name, dict[int, Trained]] = {name: {} for name in budgets}
    found: dict[Name, Compared] = {}
    ended = train(trainings, dataset.fingerprint, parent, directory / "logs", at_once)

    def finish(status: str) -> None:
        for folder in (JobFolder(training.job_name(dataset.fingerprint)) for training in trainings):
            # A process that was killed could not end its run; one that holds its job is of another comparison.
            if folder.path.exists():
                with contextlib.suppress(Refused), folder.locked():
                    tracking.end_run(experiment, folder.name, "KILLED")
        logger.finish(status)

    with ending_badly(finish, "the same command"), contextlib.closing(ended):
        for number, (training, gave) in enumerate(ended, 1):
            print(f"{number}/{len(trainings)}  {training.title}: {_told(gave)}", flush=True)
            name, budget = training.name, budgets[training.name]
            trained[name][training.seed] = gave
            if len(trained[name]) == len(budget.seeds):
                found[name] = _compared(name, budget, [trained[name][seed] for seed in budget.seeds])
                # So far, should this be interrupted.
                tables = compare_table.write([found[each].row for each in budgets if each in found], directory)
        for file in tables:
            logger.artifact(file)
        compared = [found[each] for each in budgets]
        for file in _draw(compared, directory):
            logger.artifact(file, "figures")
    logger.finish()
    return [each.row for each in compared]


def _told(trained: Trained) -> str:
    result = trained.result
    if result.is_reused:
        return f"AUC {result.metrics['auc']:.3f}, found"
    secs = sum(result.seconds.values())
    return f"AUC {result.metrics['auc']:.3f}, {secs:.0f} s, {result.images_per_second:.0f} images/s"


def _compared(name: Name, budget: Budget, trained: Sequence[Trained]) -> Compared:
    results = [each.result for each in trained]
    folders = [Path(result.directory) for result in results]
    tables = [metrics.of_split(pq.read_table(folder / PREDICTIONS), "test") for folder in folders]
    scores = np.stack([table["p_fake"].to_numpy() for table in tables])
    groups = metrics.group_numbers(tables[0])
    interval = bootstrap.auc_interval(tables[0]["label"].to_numpy(), scores, groups)
    row = Row(
        *name,
        image_size=budget.image_size,
        parameters=trained[0].parameters,
        training_rate=float(np.median([result.images_per_second for result in results])),
        inference_rate=float(np.median([each.inference_rate for each in trained])),
        aucs=tuple(result.metrics["auc"] for result in results),
        auc_interval=interval or (0.0, 1.0),
        accuracy=float(np.mean([result.metrics["accuracy"] for result in results])),
        balanced_accuracy=float(np.mean([result.metrics["balanced_accuracy"] for result in results])),
        constants=sum(result.metrics["degenerate"] for result in results),
        published=PUBLISHED.get(name),
    )
    return Compared(row, json.loads((folders[0] / HISTORY).read_text()))


def _draw(found: Sequence[Compared], directory: Path) -> list[Path]:
    import matplotlib

    from trainers import report

    figures = {"auc": compare_table.draw([each.row for each in found])}
    with matplotlib.rc_context(report.STYLE):
        for each in found:
            if each.row.auc < LEARNS_NOTHING:
                figure = report.draw_learning_curves(each.history)
                figure.suptitle(f"{each.row.model}: AUC {each.row.auc:.3f}")
                figures[f"learning_curves_{each.row.family}_{each.row.variant}"] = figure
    files = []
    for name, figure in figures.items():
        files.append(directory / f"{name}.png")
        figure.savefig(files[-1], dpi=report.DOTS_PER_INCH)
    return files


def chosen(names: Sequence[str], seeds: int = len(SEEDS)) -> dict[Name, Budget]:
    """The budgets of the variants that are named "family/variant", of all without a name, with so many seeds at most.

    Raises:
      Refused: there is no such variant, or so many seeds.
    """
    if not 1 <= seeds <= len(SEEDS):
        raise Refused(f"--seeds must be 1 to {len(SEEDS)}. Received: {seeds}. Take 1 for a quick look.")
    known = {"/".join(name): name for name in BUDGETS}
    if wrong := [name for name in names if name not in known]:
        raise Refused(f"--models takes FAMILY/VARIANT. Received: {wrong[0]!r}. Take some of {', '.join(known)}.")
    budgets = {known[name]: BUDGETS[known[name]] for name in names or known}
    return {name: replace(budget, seeds=budget.seeds[:seeds]) for name, budget in budgets.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.compare",
        description="Trains every model on one small corpus, made like that of `make demo`; one table.",
    )
    parser.add_argument("--models", nargs="+", default=(), metavar="FAMILY/VARIANT", help="these alone (default: all)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="trainings of a small model (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where ai_vs_human is built (default: made in OUT)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder to write to (%(default)s)")
    parser.add_argument(
        "--at-once", type=int, help="trainings side by side, a GPU or else some cores each (default: 2 if there are)"
    )
    options: Any = parser.parse_args(arguments)
    budgets = chosen(options.models, options.seeds)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    started = time.monotonic()
    corpus = demo.Demo(demo.Settings(folder=options.out, image_size=IMAGE_SIZE))
    directory = find(demo.DATASET, options.data_dir) if options.data_dir else corpus.built()
    rows = compare(budgets, load(directory), options.out, options.at_once)
    print(f"\n{compare_table.as_markdown(rows)}")
    print(f"{(time.monotonic() - started) / 60:.0f} minutes; {options.out / 'table.md'}, {options.out / 'auc.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

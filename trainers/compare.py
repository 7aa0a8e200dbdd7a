"""Every published model under one roof: trained on one small corpus, side by side, in one table (`make compare`).

    python -m trainers.compare --out runs/compare

Each training is a job (trainers/job.py) and a child of one MLflow run, which keeps table.md, table.csv, auc.png and the
learning curves of what did not learn. Run again it goes on: finished jobs are found by their names.
"""

import argparse
import hashlib
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
from trainers.config import to_dict
from trainers.dataset import Dataset, find, load
from trainers.history import History
from trainers.job import JobResult, run
from trainers.predict import silent_stderr
from trainers.published import PUBLISHED
from trainers.run_logger import RunLogger, ending_badly
from trainers.timing import images_per_second
from trainers.worker import HISTORY, MODEL, PREDICTIONS

Name = tuple[str, str]  # family, variant
INFERENCE = "inference/images_per_second"
LEARNS_NOTHING = 0.6  # of the AUC: below it the learning curves are drawn
_BATCH_IMAGES = 32
_TIMED_SECS = 1.0


@dataclass(frozen=True)
class Compared:
    """What the jobs of one variant gave."""

    row: Row
    history: History  # of the first seed


def compare(budgets: Mapping[Name, Budget], dataset: Dataset, directory: Path) -> list[Row]:
    """Trains what is not trained yet, writes table and figures into `directory` and into the MLflow parent.

    Args:
      budgets: what to train, by family and variant.
      dataset: a built one; its folder lies in a data_dir.
      directory: made if need be.

    Returns:
      The rows of the table.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parent = tracking.open_run(
        tracking.experiment(EXPERIMENT),
        f"compare-{dataset.fingerprint[:12]}",
        {"dataset": dataset.title},
        {"realshard.fingerprint": dataset.fingerprint},
        reopen=True,
    )
    logger = RunLogger(parent)
    found: list[Compared] = []
    with ending_badly(logger, "the same command"):
        for number, (name, budget) in enumerate(budgets.items(), 1):
            print(f"\n=== {number}/{len(budgets)}  {' '.join(name)}", flush=True)
            found.append(_compared(name, budget, dataset, parent))
            tables = compare_table.write([each.row for each in found], directory)  # so far, should this be interrupted
        for file in tables:
            logger.artifact(file)
        for file in _draw(found, directory):
            logger.artifact(file, "figures")
    logger.finish()
    return [each.row for each in found]


def _compared(name: Name, budget: Budget, dataset: Dataset, parent: str) -> Compared:
    data_dir = str(Path(str(dataset.directory)).parents[1])
    results = []
    for seed in budget.seeds:
        config = budget.config(*name, data_dir, seed)
        key = hashlib.sha256(json.dumps([to_dict(config), dataset.fingerprint]).encode()).hexdigest()[:8]
        job = replace(config.job, name=f"compare-{'-'.join(name)}-{seed}-{key}")
        results.append(run(replace(config, job=job), parent=parent, here=True))
    folders = [Path(result.directory) for result in results]
    tables = [metrics.of_split(pq.read_table(folder / PREDICTIONS), "test") for folder in folders]
    scores = np.stack([table["p_fake"].to_numpy() for table in tables])
    groups = metrics.group_numbers(tables[0])
    interval = bootstrap.auc_interval(tables[0]["label"].to_numpy(), scores, groups)
    parameters, inference = _network_facts(results[0])
    row = Row(
        *name,
        image_size=budget.image_size,
        images_seen=budget.epochs * results[0].images["train"],
        parameters=parameters,
        training_rate=float(np.median([result.images_per_second for result in results])),
        inference_rate=inference,
        aucs=tuple(result.metrics["auc"] for result in results),
        auc_interval=interval or (0.0, 1.0),
        accuracy=float(np.mean([result.metrics["accuracy"] for result in results])),
        balanced_accuracy=float(np.mean([result.metrics["balanced_accuracy"] for result in results])),
        constants=sum(result.metrics["degenerate"] for result in results),
        published=PUBLISHED.get(name),
    )
    return Compared(row, json.loads((folders[0] / HISTORY).read_text()))


def _network_facts(result: JobResult) -> tuple[int, float]:
    """Parameters, and images/s of the saved model alone, without decoding; measured once, then read from the run."""
    known = tracking.client_of().get_run(result.run_id).data.metrics
    if INFERENCE not in known:
        import keras
        import tensorflow as tf

        model = keras.models.load_model(Path(result.directory) / MODEL, compile=False)
        judge = tf.function(lambda pixels: model(pixels, training=False))
        images = tf.zeros((_BATCH_IMAGES, *model.input.shape[1:]), tf.uint8)
        speed = images_per_second(lambda pixels: judge(pixels).numpy(), images, _TIMED_SECS)
        facts = {INFERENCE: speed, "parameters": model.count_params()}
        logger = RunLogger(result.run_id)
        logger.epoch(result.best_epoch, facts)
        logger.flush()
        keras.backend.clear_session()
        known = facts
    return int(known["parameters"]), known[INFERENCE]


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
    options: Any = parser.parse_args(arguments)
    budgets = chosen(options.models, options.seeds)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import tensorflow  # noqa: F401  # says much when it is imported
    started = time.monotonic()
    corpus = demo.Demo(demo.Settings(folder=options.out, image_size=IMAGE_SIZE))
    directory = find(demo.DATASET, options.data_dir) if options.data_dir else corpus.built()
    rows = compare(budgets, load(directory), options.out)
    print(f"\n{compare_table.as_markdown(rows)}")
    print(f"{(time.monotonic() - started) / 60:.0f} minutes; {options.out / 'table.md'}, {options.out / 'auc.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

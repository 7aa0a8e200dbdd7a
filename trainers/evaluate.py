"""The report card of a registered model on built datasets.

    python -m trainers.evaluate --model models:/realshard-resnet50@champion --dataset ai_vs_human --out card

writes predictions.parquet, card.json, card.html (one file, to be read anywhere) and figures/*.png, and prints the main
figures. Several datasets, separated by commas, are judged together and each by itself.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfds_builders.records.errors import Refused
from trainers import tracking
from trainers.card import Card, calibration_of, card_of
from trainers.card_files import CARD, PAGE, write_card
from trainers.card_pictures import AUGMENTED, WORST, Part, augmented, most_wrong_images
from trainers.dataset import MEMBER, Records, find, load
from trainers.dossier import audit_notes
from trainers.gate import FEWEST_TO_SEAL, sealed
from trainers.jobs import HISTORY, PREDICTIONS
from trainers.judged import told_of
from trainers.mixture import ids_apart, named_apart, parts_of
from trainers.origin import identities, notes_of, origin_of
from trainers.output import silent_stderr
from trainers.predict import DEFAULT_MODEL
from trainers.registry import Detector, load_detector
from trainers.robustness import robustness, sample
from trainers.run_logger import RunLogger
from trainers.storage import default_data_dir


def select(names: Sequence[str], data_dir: str, split: str, scheme: str = "") -> list[Part]:
    """The split of each dataset.

    Args:
      names: of built datasets, NAME or NAME:VERSION, or that of a published mixture, which brings its split scheme.
      data_dir: where they are.
      split: a split, or an expression such as "test[:10%]".
      scheme: the split scheme that `split` is of; "": the split that was written.

    Raises:
      Refused: a dataset that is not built there, named twice, or without such a split.
    """
    if len({name.partition(":")[0] for name in names}) < len(names):
        raise Refused(f"Each dataset must be named once. Received: {','.join(names)}. Leave out the second.")
    found, scheme = parts_of(",".join(names), scheme)
    datasets = [load(find(name, data_dir)) for name in found.split(",")]
    return [Part(dataset, dataset.select(split, scheme=scheme or None), scheme) for dataset in datasets]


def sealed_of(parts: Sequence[Part]) -> list[Part]:
    """Of the test records, those that `trainers.promote` never looks at: see `trainers.gate.sealed`. Which groups these
    are follows from the groups of all parts together.

    Raises:
      Refused: there are too few groups to seal any, or a part has none of them.
    """
    columns = ["id", "group", "video"]
    tables = [
        part.records.table.select(columns).append_column(MEMBER, pa.repeat(part.dataset.name, len(part.records)))
        for part in parts
    ]
    together = named_apart(pa.concat_tables(tables)) if len(tables) > 1 else tables[0]
    is_sealed, kept, begin = pa.array(sealed(together["group"], ids_apart(together))), [], 0
    for part in parts:
        mask = is_sealed.slice(begin, len(part.records))
        begin += len(part.records)
        kept.append(dataclasses.replace(part, records=Records(part.records.directory, part.records.table.filter(mask))))
        if not len(kept[-1].records):
            raise Refused(
                f"--sealed takes the fifth of the groups that the gate leaves out. Received: {part.dataset.name}, of "
                f"whose {len(part.records)} images it leaves out none: it seals none of fewer than {FEWEST_TO_SEAL} "
                "groups. Leave --sealed out."
            )
    return kept


def title_of(split: str, parts: Sequence[Part]) -> str:
    """What the parts are of their datasets: "test", or "test of the split scheme published"."""
    scheme = parts[0].scheme
    return f"{split} of the split scheme {scheme}" if scheme else split


def predictions_of(detector: Detector, parts: Sequence[Part]) -> pa.Table:
    """The predictions on all parts, one after the other; groups and videos of several datasets are kept apart by their
    names."""
    from trainers.scoring import score

    tables = [score(detector, part.records, part.dataset.name) for part in parts]
    return named_apart(pa.concat_tables(tables)) if len(tables) > 1 else tables[0]


def evaluate(
    model: str,
    names: Sequence[str],
    data_dir: str,
    split: str,
    directory: Path,
    *,
    scheme: str = "",
    num_robustness: int = 0,
    is_logged: bool = False,
    is_sealed: bool = False,
) -> Card:
    """Evaluates a registered model and writes its card into `directory`; what the command does.

    Args:
      model: models:/NAME@ALIAS or models:/NAME/VERSION.
      names: of built datasets.
      data_dir: where they are.
      split: a split, or an expression such as "test[:10%]".
      directory: made if need be.
      scheme: the split scheme that `split` is of; "": the split that was written.
      num_robustness: on so many images it is measured how the detector stands changed images; 0: on none.
      is_logged: whether the model's MLflow run gets a copy.
      is_sealed: of the test split, take only the images that no promotion has looked at.

    Raises:
      Refused: no such model, dataset or split; a damaged record; nothing that is sealed.
    """
    parts = select(names, data_dir, split, scheme)
    tested = title_of(split, parts)
    if is_sealed:
        if split != "test":
            raise Refused(f"--sealed takes a part of the test split. Received: --split {split}. Leave one of them out.")
        number = sum(len(part.records) for part in parts)
        parts = sealed_of(parts)
        left = sum(len(part.records) for part in parts)
        tested += f", the sealed fifth of the groups ({left:,} of {number:,} images)"
    detector = load_detector(model)
    version = tracking.client_of().get_model_version(detector.name, str(detector.version))
    origin = origin_of(version.run_id, data_dir)
    settings = detector.network.settings
    predictions = predictions_of(detector, parts)
    notes = notes_of(origin, [identities(part.dataset, part.records.ids()) for part in parts])
    notes += [note for part in parts for note in audit_notes(part.dataset)]
    card = card_of(predictions, settings["threshold"], unsure=settings.get("unsure"), notes=notes)
    if num_robustness:
        card["robustness"] = robustness(detector, sample(parts, predictions, num_robustness))
    where = ", ".join(f"{part.dataset.name}:{part.dataset.version}" for part in parts)
    title = f"{detector.name} v{detector.version} on {where}, {tested}"
    fingerprints = ", ".join(part.dataset.fingerprint[:16] for part in parts)
    card["calibration"] = calibration_of(settings["temperature"], settings["base_rate"])
    card["facts"] = {
        "model": f"models:/{detector.name}/{detector.version}",
        "MLflow run": version.run_id,
        "trained on": version.tags.get("dataset", "unknown"),
        "evaluated on": f"{where}, {tested} (fingerprint {fingerprints})",
    }
    history = json.loads(tracking.read_artifact(version.run_id, HISTORY) or "[]")
    pictures = {WORST: most_wrong_images(predictions, parts, settings["threshold"])}
    if origin and origin.config:
        pictures[AUGMENTED] = augmented(origin.config, origin.records["train"])
    card["datasets"] = [told_of(part.dataset) for part in parts]
    write_card(directory, predictions, card, title, history, pictures)
    pq.write_table(predictions, directory / PREDICTIONS)
    if is_logged:
        datasets = "+".join(part.dataset.name for part in parts)
        folder = f"cards/{datasets}-{split}".translate(str.maketrans("[:]%", "____"))
        folder += (f"-{parts[0].scheme}" if parts[0].scheme else "") + ("-sealed" if is_sealed else "")
        for file in (PREDICTIONS, CARD, PAGE):
            RunLogger(version.run_id).artifact(directory / file, folder)
    return card


def describe(card: Card) -> str:
    """A few lines for the end of the command."""
    summary = card["summary"]

    def number(key: str) -> str:
        return "undefined" if summary[key] is None else f"{summary[key]:.4f}"

    lines = [
        *card["notes"],
        card["calibration"],
        f"{summary['n']:,} images: {summary['real']:,} real, {summary['fake']:,} fake",
    ]
    interval = summary["auc_interval"]
    within = f", 95 % interval {interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
    lines.append(f"AUC {number('auc')}{within}; accuracy {number('accuracy')}, balanced {number('balanced_accuracy')}")
    lines.append(f"recall of real {number('recall_real')}, of fake {number('recall_fake')}; EER {number('eer')}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.evaluate", description="Writes the report card of a registered model."
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a registered model (default: %(default)s)")
    parser.add_argument("--dataset", required=True, metavar="D[,D...]", help="built datasets, each D or D:VERSION")
    parser.add_argument("--data-dir", default=default_data_dir(), help="where they are (default: %(default)s)")
    parser.add_argument("--split", default="test", help="a split, or part of one: test[:10%%] (default: %(default)s)")
    parser.add_argument("--split-scheme", default="", help="of another division into splits, such as that of a job")
    parser.add_argument(
        "--sealed", action="store_true", help="only the fifth of the test groups that promote never looks at"
    )
    parser.add_argument("--out", type=Path, default=Path("card"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--log", action="store_true", help="also put the card into the model's MLflow run")
    parser.add_argument("--robustness", action="store_true", help="also try changed and attacked images")
    parser.add_argument(
        "--robustness-images", type=int, default=500, help="on so many of the images (default: %(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options: Any = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import tensorflow  # noqa: F401  # says much when it is imported
    if options.robustness_images < 2:
        raise Refused(f"--robustness-images must be at least 2. Received: {options.robustness_images}. Take 500.")
    card = evaluate(
        options.model,
        options.dataset.split(","),
        options.data_dir,
        options.split,
        options.out,
        scheme=options.split_scheme,
        num_robustness=options.robustness_images if options.robustness else 0,
        is_logged=options.log,
        is_sealed=options.sealed,
    )
    print(describe(card))
    print(f"card  {options.out / PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

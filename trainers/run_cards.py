"""The model card and the dataset card of a run, as Markdown, made from facts alone: what is not known is said so.

Cards in the sense of Mitchell et al. 2019 (model cards) and Gebru et al. 2021 (datasheets), kept to what was measured.
"""

from collections.abc import Mapping
from typing import Any

BY_OTHER_MEANS = "was built by other means: it kept no account of its source"
_UNDEFINED = "undefined"


def dataset_card(name: str, build: Mapping[str, Any], audit: Mapping[str, Any] | None) -> str:
    """What a dataset is, from its build.json and, where there is one, its audit.json.

    Args:
      name: "ai_vs_human:1.0.0".
      build: counts per split, validation, archives, fingerprint.
      audit: findings; None if the dataset was not audited.
    """
    lines = [f"# {name}", ""]
    if "fingerprint" in build:
        lines += [f"Fingerprint `{build['fingerprint']}`.", ""]
        lines += ["| split | found | written | real | fake | excluded | quarantined |", "|---|---|---|---|---|---|---|"]
        columns = ("found", "written", "real", "fake", "excluded", "quarantined")
        for split, counts in build.get("splits", {}).items():
            lines.append(f"| {split} | " + " | ".join(f"{counts.get(column, 0):,}" for column in columns) + " |")
        lines += ["", f"Files were checked to the depth `{build.get('validation', 'unknown')}`."]
        lines += ["", "## Source", "", *(f"- {line}" for line in sources_of(build))]
    else:
        lines.append(f"This dataset {BY_OTHER_MEANS}.")
    lines += ["", "## Audit", ""]
    if audit is None:
        lines.append("This dataset was not audited (`python -m tfds_builders.audit`).")
    else:
        findings = audit.get("findings", [])
        lines += [f"- {found['severity']}: `{found['code']}`. {found['sentence']}" for found in findings]
        if not findings:
            lines.append("The audit found nothing.")
    return "\n".join(lines) + "\n"


def sources_of(build: Mapping[str, Any]) -> list[str]:
    """What a dataset was made from, by its build.json: another dataset, archives or plain files, and the settings."""
    made_with = dict(build.get("made_with") or {})
    lines = []
    if "fingerprint" in made_with:
        name, version, fingerprint = (made_with.pop(key, "unknown") for key in ("dataset", "version", "fingerprint"))
        lines.append(f"the dataset {name}:{version}, fingerprint {fingerprint}")
    archives = build.get("archives") or []
    lines += [f"{zipped['name']}, {zipped['bytes']} bytes, sha256 {zipped['sha256']}" for zipped in archives]
    if not lines:
        lines.append("a folder of plain files; the fingerprint is over the sha256 of each")
    return lines + [f"made with {key} {value}" for key, value in sorted(made_with.items())]


def model_card(
    name: str,
    dataset: str,
    config: Mapping[str, Mapping[str, Any]],
    card: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """What a model is, what it was trained on, and what it scored.

    Args:
      name: of the registered model or the job.
      dataset: name and version.
      config: the resolved config, by group.
      card: the report card of the test split (`trainers.card.card_of`): its summary, notes and calibration.
      tags: of the run: source commit, fingerprint, packages, machine.
    """

    summary = card["summary"]

    def number(key: str) -> str:
        value = summary.get(key)
        return _UNDEFINED if value is None else f"{value:.4f}"

    def interval(key: str) -> str:
        within = summary.get("intervals", {}).get(key)
        return f" (95 %: {within[0]:.4f} to {within[1]:.4f}, over groups)" if within else ""

    lines = [f"# {name}", ""]
    lines += [
        "Says of an image how probable it is that it is fake: P(fake), `fake` being the positive class.",
        f"It calls an image fake from P(fake) = {summary['threshold']:g} on.",
        "",
        "## Test",
        "",
        f"{summary['n']:,} images ({summary['real']:,} real, {summary['fake']:,} fake) in {summary['groups']:,} groups "
        f"of {dataset}.",
        "",
        "| | |",
        "|---|---|",
        f"| AUC | {number('auc')}{interval('auc')} |",
    ]
    titles = {
        "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "recall_real": "recall of real",
        "recall_fake": "recall of fake", "eer": "equal error rate", "tpr_at_fpr_1pct": "fakes found at 1 % FPR",
        "log_loss": "log-loss (nats)", "ece": "expected calibration error",
    }  # fmt: skip
    lines += [f"| {title} | {number(key)}{interval(key)} |" for key, title in titles.items()]
    base_rate = summary["fake"] / summary["n"] if summary["n"] else 0
    lines += [
        "",
        *(f"- {note}" for note in card["notes"]),
        "",
        f"{base_rate:.0%} of these images are fake: precision holds at that share. {card['calibration']}",
        "Scores on other generators and other sources are not known from this card, and are usually lower.",
        "",
        "## Training",
        "",
    ]
    lines += [
        f"- {key}: {value}" for group in config.values() for key, value in group.items() if value not in ("", [], ())
    ]
    lines += ["", "## Provenance", ""]
    lines += [
        f"- {key.removeprefix('realshard.')}: {tags[key]}" for key in sorted(tags) if key.startswith("realshard.")
    ]
    return "\n".join(lines) + "\n"

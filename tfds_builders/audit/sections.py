"""The parts of the page, one function each, as HTML."""

from collections.abc import Sequence
from html import escape

import numpy as np

from tfds_builders.audit.audit import Audit
from tfds_builders.audit.charts import histogram, intervals, short, stacked_bar
from tfds_builders.audit.pictures import load_pictures
from tfds_builders.audit.shortcut import HIGH, LOW, MEDIUM, Feature, ShortcutTest
from tfds_builders.records.schema import LABELS

_PAIRS_SHOWN = 24
_FEATURES_SHOWN = 6
_KEY = '<p class="key soft"><i class="real"></i>real<i class="fake"></i>fake</p>'
_AXES = {
    "width": "width, pixels",
    "height": "height, pixels",
    "aspect_ratio": "width / height",
    "bytes_per_pixel": "bytes per pixel",
    "mean_intensity": "mean intensity of an image, 0 to 255",
    "std_intensity": "contrast: standard deviation of intensity",
    "pixels": "intensity of a pixel, 0 to 255",
}


def shortcut_section(results: Sequence[ShortcutTest]) -> str:
    """AUC of each family of facts, and the facts that gave the class away."""
    text = (
        "<p>Classifiers that never see the picture, only facts about its file, cross-validated by group. What they can "
        "tell, a detector can learn instead of the difference that is meant.</p>"
    )
    if not results:
        return f"<h2>Shortcut test</h2>{text}<p>Not tested: too few decoded images of one class.</p>"
    names = [test.family.replace("_", " ") for test in results]
    chart = intervals(
        [(name, test.auc, test.low, test.high) for name, test in zip(names, results, strict=True)],
        [(0.5, "chance"), (LOW, "low"), (MEDIUM, "medium"), (HIGH, "high")],
    )
    rows = [
        [
            name if at == 0 else "",
            feature.name,
            f"{feature.auc_alone:.3f}",
            f"{feature.importance:.3f}",
            _value(feature.real),
            _value(feature.fake),
        ]
        for name, test in zip(names, results, strict=True)
        for at, feature in enumerate(_telling(test))
    ]
    head = ["facts", "feature", "AUC alone", "importance", "in real", "in fake"]
    return (
        f"<h2>Shortcut test</h2>{text}<figure>{chart}</figure>"
        "<p><small>Severity goes by the lower end of the interval. Importance: by how much the AUC of its kind falls "
        "when the feature is shuffled. In real, in fake: median, or share of yes.</small></p>"
        + _table(head, rows, numeric=range(2, 6))
    )


def _telling(test: ShortcutTest) -> list[Feature]:
    return [f for f in test.features if f.auc_alone >= 0.55 or f.importance >= 0.01][:_FEATURES_SHOWN]


def duplicates_section(result: Audit) -> str:
    """Exact and near-duplicates, and pictures of some pairs."""
    exact, near = result.exact, result.near
    rows = [
        [
            "byte for byte, all records",
            f"{exact['images']:,}",
            f"{sum(exact['across_splits'].get('split', {}).values()):,}",
            f"{exact['across_labels']:,}",
        ],
        [
            f"nearly, of {near.num_compared:,} images compared",
            f"{near.images:,}",
            f"{sum(near.images_across_splits['split'].values()):,}",
            f"{near.num_across_labels:,} pairs",
        ],
    ]
    head = ["the same picture", "images", "of them across splits", "across labels"]
    shown = near.examples[:_PAIRS_SHOWN]
    pictures = load_pictures(result.dataset, np.array([row for pair in shown for row in (pair.left, pair.right)], int))
    table = result.dataset.table
    cards = []
    for pair in shown:
        told = [
            f"{escape(table['id'][row].as_py())} ({table['split'][row].as_py()}, {LABELS[table['label'][row].as_py()]})"
            for row in (pair.left, pair.right)
        ]
        images = "".join(f'<img alt="" src="{pictures[row]}">' for row in (pair.left, pair.right) if row in pictures)
        cards.append(
            f'<div class="pair">{images}<div>{"<br>".join(told)}<br>{pair.distance} of 64 bits differ</div></div>'
        )
    gallery = f'<h3>Some of the pairs</h3><div class="pairs">{"".join(cards)}</div>' if cards else ""
    return f"<h2>Duplicates</h2>{_table(head, rows, numeric=range(1, 4))}{gallery}"


def leaks_section(leaks: Sequence[dict]) -> str:
    """Groups and videos on both sides of a split, for the written split and each scheme."""
    if not leaks:
        return "<h2>Leaks</h2><p>No record has a group or a video.</p>"
    rows = [
        [
            row["column"],
            row["kind"],
            f"{row['count']:,}",
            f"{row['leaking']:,}",
            ", ".join(f"{name} {count:,}" for name, count in row["records"].items()),
        ]
        for row in leaks
    ]
    head = ["split", "of", "known", "in several splits", "records concerned"]
    return f"<h2>Leaks</h2>{_table(head, rows, numeric=(2, 3))}"


def balance_section(imbalance: Sequence[dict]) -> str:
    """Classes by split, and what a constant scores on each."""
    largest = max(row["real"] + row["fake"] for row in imbalance)
    rows = [
        [
            row["split"],
            f"{row['real']:,}",
            f"{row['fake']:,}",
            stacked_bar([(name, row[name]) for name in LABELS], largest),
            row["constant"],
            f"{row['accuracy']:.3f}",
            "-" if row["balanced_accuracy"] is None else f"{row['balanced_accuracy']:.2f}",
        ]
        for row in imbalance
    ]
    head = ["split", "real", "fake", "", "best constant", "its accuracy", "its balanced accuracy"]
    return f"<h2>Classes</h2>{_KEY}{_table(head, rows, numeric=(1, 2, 5, 6), raw=(3,))}"


def statistics_section(result: Audit) -> str:
    """Values of the columns by class, and distributions of sizes and intensities."""
    parts = []
    for column, values in result.values.items():
        if len(values) == 1 and values[0]["value"] == "(none)":
            continue
        largest = max(value["all"] for value in values)
        splits = sorted({key.rpartition("_")[0] for key in values[0]} - {""}, key=_split_order)
        rows = []
        for value in values:
            of_class = {label: sum(value[f"{split}_{label}"] for split in splits) for label in LABELS}
            by_split = [f"{sum(value[f'{split}_{label}'] for label in LABELS):,}" for split in splits]
            bar = stacked_bar(list(of_class.items()), largest)
            rows.append([value["value"], bar, *(f"{of_class[label]:,}" for label in LABELS), *by_split])
        head = [column.replace("_", " "), "", *LABELS, *splits]
        parts.append(f"<h3>By {column.replace('_', ' ')}</h3>{_table(head, rows, numeric=range(2, 20), raw=(1,))}")
    figures = []
    for name, axis in _AXES.items():
        found = result.distributions[name]
        if not found["edges"]:
            continue
        quartiles = "; ".join(f"{label} {short(q[1])}" for label, q in found.get("quartiles", {}).items())
        caption = f"<small>medians: {quartiles}</small>" if quartiles else "<small>mean over images</small>"
        figure = histogram(found["edges"], [(label, found[label]) for label in LABELS], axis)
        figures.append(f"<figure>{figure}{caption}</figure>")
    return f'<h2>Statistics</h2>{_KEY}<div class="figures">{"".join(figures)}</div>{"".join(parts)}'


def examples_section(result: Audit) -> str:
    """A grid of pictures of each class, the categories in turn."""
    pictures = load_pictures(result.dataset, np.concatenate(list(result.examples.values())))
    ids, categories = result.dataset.table["id"], result.dataset.table["category"]
    parts = []
    for label, rows in result.examples.items():
        images = "".join(
            f'<img src="{pictures[row]}" alt="{escape(categories[row].as_py())}" title="{escape(ids[row].as_py())}">'
            for row in rows.tolist()
            if row in pictures
        )
        parts.append(f'<h3>{label}</h3><div class="grid">{images}</div>')
    return f"<h2>Samples</h2>{''.join(parts)}"


def files_section(files: dict) -> str:
    """What was quarantined, left out, odd or damaged."""
    parts = [f"<p>{files['found']:,} files were found when the dataset was built.</p>"]
    for key, title in (("quarantined", "quarantined because"), ("odd", "odd, but written")):
        if files[key]:
            rows = [[name, *(f"{count:,}" for count in by_class.values())] for name, by_class in files[key].items()]
            columns = range(1, 4) if any(by_class["unknown"] for by_class in files[key].values()) else range(1, 3)
            rows = [row[: 1 + len(columns)] for row in rows]
            parts.append(_table([title, *LABELS, "unknown"][: 1 + len(columns)], rows, numeric=columns))
    if files["excluded"]:
        rows = [[name, f"{count:,}"] for name, count in files["excluded"].items()]
        parts.append(_table(["left out by rule", "files"], rows, numeric=(1,)))
    if files["damaged"]:
        rows = [[item["id"], item["error"]] for item in files["damaged"][:20]]
        parts.append(_table(["damaged record", "what is wrong"], rows))
    return f"<h2>Files</h2>{''.join(parts)}"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = (), raw: Sequence[int] = ()
) -> str:
    """A table; `numeric` columns are right-aligned, `raw` ones hold HTML."""
    classes = [' class="n"' if at in numeric else ' class="wide"' if at in raw else "" for at in range(len(head))]
    titles = "".join(f"<th{css}>{escape(name)}</th>" for name, css in zip(head, classes, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{css}>{cell if at in raw else escape(cell)}</td>"
            for at, (cell, css) in enumerate(zip(row, classes, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>'


def _value(value: float) -> str:
    return "none" if np.isnan(value) else short(value)


def _split_order(name: str) -> tuple[int, str]:
    order = ("train", "validation", "test")
    return (order.index(name) if name in order else len(order)), name

"""The report card, from predictions alone."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import classification_report

from trainers.card import card_of, most_wrong, video_scores, worst_groups
from trainers.card_figures import figures_of, svg_of
from trainers.card_html import html_of

FIGURES = {"confusion_matrix", "roc", "precision_recall", "det", "reliability", "scores"}


def predictions(labels, scores, **columns) -> pa.Table:
    count = len(labels)
    texts = {name: [""] * count for name in ("group", "video", "category", "generator")} | columns
    return pa.table(
        {"label": pa.array(np.asarray(labels), pa.int8()), "p_fake": pa.array(np.asarray(scores), pa.float64())}
        | {name: pa.array(list(values), pa.string()) for name, values in texts.items()}
    )


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])), min_size=1, max_size=30))
@settings(deadline=None)
def test_the_class_table_is_scikit_learns(pairs):
    labels, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    called = [int(score >= 0.5) for score in scores]
    expected = classification_report(
        labels, called, labels=[0, 1], target_names=["real", "fake"], output_dict=True, zero_division=np.nan
    )
    rows = card_of(predictions(labels, scores), bootstrap=0)["per_class"]
    for name in ("real", "fake"):
        assert rows[name]["support"] == expected[name]["support"]
        for key in ("precision", "recall"):
            value, wanted = rows[name][key], expected[name][key]
            assert (value is None) == np.isnan(wanted)
            assert value is None or value == pytest.approx(wanted, abs=1e-12)
    if set(labels) == {0, 1} == set(called):
        for ours, theirs in (("macro", "macro avg"), ("weighted", "weighted avg")):
            for key, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
                assert rows[ours][key] == pytest.approx(expected[theirs][name], abs=1e-12)


def test_no_detector_is_said_first():
    card = card_of(predictions([0, 1, 1], [0.9, 0.8, 0.7]), notes=["a note"])
    assert card["notes"][0] == "This is no detector: every image is called fake, although 33% are real."
    assert card["notes"][1] == "a note"
    page = html_of(card, "title", {}, {})
    assert page.index("no detector") < page.index("a note") < page.index("ROC AUC")


@pytest.mark.parametrize(("groups", "is_said"), [(2, True), (19, True), (20, False)])
def test_intervals_of_few_groups_are_said_to_be_too_narrow(groups, is_said):
    rows = np.arange(200)
    table = predictions(rows % 2, (rows * 37 % 101) / 101, group=[str(row // 2 % groups) for row in rows])
    notes = card_of(table, notes=["a note"])["notes"]
    narrow = f"The intervals are of {groups} groups only (photographs, persons, videos): they are too narrow."
    assert notes == ["a note", *([narrow] if is_said else [])]
    assert card_of(table, bootstrap=0)["notes"] == []  # there are none


def test_videos_have_a_mean_and_a_median_that_an_odd_frame_does_not_move():
    table = predictions(
        [1, 1, 1, 0, 0, 0, 0, 1],
        [0.9, 0.8, 0.0, 0.1, 0.2, 0.3, 0.4, 1.0],
        video=["a", "a", "a", "b", "b", "b", "b", ""],
        group=["g"] * 3 + ["h"] * 5,
    )
    scores = video_scores(table)
    assert scores["mean"]["video"].to_pylist() == ["a", "b"]
    assert scores["mean"]["frames"].to_pylist() == [3, 4]
    np.testing.assert_allclose(scores["mean"]["p_fake"].to_numpy(), [1.7 / 3, 0.25])
    np.testing.assert_allclose(scores["median"]["p_fake"].to_numpy(), [0.8, 0.25])
    videos = card_of(table)["videos"]
    assert (videos["median"]["n"], videos["median"]["auc"]) == (2, 1.0)


def test_stills_have_no_videos():
    assert card_of(predictions([0, 1], [0.1, 0.9]))["videos"] is None


def test_the_worst_groups_come_first():
    table = predictions([0, 0, 0, 1, 1, 1, 0], [0.9, 0.1, 0.9, 0.1, 0.2, 0.9, 0.7], group=[*"aabbccd"[:6], ""])
    assert worst_groups(table, 0.5) == {
        "count": 3,
        "worst": [
            {"group": "b", "n": 2, "fake": 1, "wrong": 2, "mean_p_fake": 0.5},
            {"group": "a", "n": 2, "fake": 0, "wrong": 1, "mean_p_fake": 0.5},
            {"group": "c", "n": 2, "fake": 2, "wrong": 1, "mean_p_fake": 0.55},
        ],
    }


def test_tables_by_category_and_by_generator():
    table = predictions(
        [0, 0, 1, 1, 1],
        [0.1, 0.6, 0.9, 0.2, 0.7],
        category=["car", "cat", "car", "cat", "cat"],
        generator=["", "", "gan", "gan", "splice"],
    )
    tables = card_of(table)["by"]
    assert {name: part["accuracy"] for name, part in tables["category"].items()} == {"car": 1.0, "cat": 1 / 3}
    assert {name: (part["real"], part["auc"]) for name, part in tables["generator"].items()} == {
        "gan": (2, 0.75),
        "splice": (2, 1.0),
    }


def test_the_most_wrong_are_wrong_and_in_order():
    table = predictions([0, 1, 0, 1], [0.6, 0.1, 0.4, 0.9])
    assert most_wrong(table, 10).tolist() == [1, 0]
    assert most_wrong(table, 1).tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0, 1, 0, 1] * 5, [0.1, 0.8, 0.6, 0.4] * 5), ([1, 1], [0.2, 0.9]), ([0], [0.3]), ([0, 1], [0.5, 0.5])],
)
def test_any_card_can_be_drawn_stored_and_shown(labels, scores):
    category = [f"<b>{row % 3}" for row in range(len(labels))]
    table = predictions(labels, scores, category=category, group=category)
    card = card_of(table, unsure=(0.4, 0.6))
    json.dumps(card, allow_nan=False)
    figures = figures_of(table, card)
    assert set(figures) >= FIGURES
    svgs = {name: svg_of(figure) for name, figure in figures.items()}
    assert all(svg.startswith("<svg") and "currentColor" in svg for svg in svgs.values())
    page = html_of(card, "a <title>", svgs, {"Worst": [("real <i>", b"jpeg")]})
    assert "<b>" not in page
    assert "a &lt;title&gt;" in page
    assert len(page) > 10_000

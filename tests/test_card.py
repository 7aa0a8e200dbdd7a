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
    assert card["notes"][0] == "This is no detector: every image is called fake, real ones too (1 of 3)."
    assert card["notes"][1] == "a note"
    page = html_of(card, "title", {}, {})
    assert page.index("no detector") < page.index("a note") < page.index("ROC AUC")


@pytest.mark.parametrize(("groups", "is_said"), [(2, True), (19, True), (20, False)])
def test_intervals_of_few_groups_are_said_to_be_too_narrow(groups, is_said):
    rows = np.arange(200)
    table = predictions(
        rows % 2, (rows * 37 % 101) / 202 + rows % 2 * 0.4, group=[str(row // 2 % groups) for row in rows]
    )
    notes = card_of(table, notes=["a note"])["notes"]
    narrow = (
        f"The intervals are of {groups} groups of reals and {groups} of fakes (photographs, persons, videos): "
        "of fewer than 20 of a class they are too narrow."
    )
    assert notes == ["a note", *([narrow] if is_said else [])]
    assert card_of(table, bootstrap=0)["notes"] == []  # there are none


@pytest.mark.parametrize(
    ("shift", "says"),
    [
        (0.0, ["holds 0.5: it is not shown that this tells fake from real."]),
        (-0.3, ["The AUC is below 0.5 (", "are the labels swapped?"]),
        (-2.0, ["The AUC is below 0.5 (0): are the labels swapped?"]),
    ],
)
def test_an_auc_no_better_than_chance_is_said_first(shift, says):
    labels = np.arange(200) % 2
    scores = 0.5 + (np.random.default_rng(1).random(200) + shift * (labels - 0.5)) / 4
    doubt, *_, note = card_of(predictions(labels, scores), threshold=0.6, notes=["a note"])["notes"]
    assert note == "a note"
    assert all(words in doubt for words in says)
    clear = card_of(predictions(labels, 0.5 + (scores - 0.5) / 4 + labels / 4), threshold=0.6, notes=["a note"])
    assert clear["notes"] == ["a note"]


def test_a_class_that_is_nearly_never_called_is_said():
    labels = np.r_[np.zeros(2000, int), np.ones(10_000, int)]
    scores = np.where(np.arange(12_000) > 0, 0.7 + 0.2 * labels, 0.1)
    assert card_of(predictions(labels, scores), bootstrap=20)["notes"] == [
        "Of 2,000 real images only 1 are called real, less than 0.5%."
    ]
    scores[:10] = 0.1
    assert card_of(predictions(labels, scores), bootstrap=20)["notes"] == []


def test_no_operating_point_is_rounded_away():
    labels, scores = [0, 1] * 150, np.linspace(0.1, 0.9999, 300)
    scores[-2:] = [0.99999, 1.0]
    card = card_of(predictions(labels, scores), threshold=0.999999475, unsure=(0.999999474, 0.999999476), bootstrap=0)
    card["summary"] |= {"auc": 0.99996, "log_loss": 0.00004}
    figures = figures_of(predictions(labels, scores), card)
    page = html_of(card, "title", {}, {})
    assert "verdict at P(fake) ≥ 0.999999475<" in page
    assert "Unsure from P(fake) 0.999999474 to 0.999999476:" in page
    assert "<td>ROC AUC</td><td>&gt; 0.9999</td>" in page
    assert "<td>Log-loss (nats)</td><td>&lt; 0.0001</td>" in page
    assert "0.999999475" in figures["confusion_matrix"].axes[0].get_xlabel()
    legends = {
        name: [text.get_text() for text in figures[name].axes[0].get_legend().get_texts()]
        for name in FIGURES - {"confusion_matrix"}
    }
    assert "P(fake) ≥ 0.999999475" in legends["roc"]
    assert "AUC > 0.999" in legends["roc"]
    assert "threshold 0.999999475" in legends["scores"]


def test_a_threshold_that_nothing_reaches_is_said():
    above = float(np.nextafter(1, 2))
    notes = card_of(predictions([0, 1] * 20, [0.2, 1.0] * 20), threshold=above)["notes"]
    assert "The threshold is above 1 (1.0000000000000002): no image can ever be called fake." in notes
    assert "called fake" not in "".join(card_of(predictions([0, 1] * 20, [0.2, 1.0] * 20), threshold=1.0)["notes"])


@pytest.mark.parametrize(("reals", "are_known"), [(99, (False, False)), (100, (True, False)), (1000, (True, True))])
def test_shares_found_at_a_rate_need_enough_reals(reals, are_known):
    random = np.random.default_rng(0)
    labels = np.r_[np.zeros(reals, int), np.ones(50, int)]
    card = card_of(predictions(labels, random.random(len(labels)) * 0.7 + labels * 0.3), bootstrap=50)
    page = html_of(card, "title", {}, {})
    for (name, needed, title), is_known in zip(
        (("tpr_at_fpr_1pct", "100", "1 %"), ("tpr_at_fpr_01pct", "1,000", "0.1 %")), are_known, strict=True
    ):
        assert (card["summary"][name] is not None) == (name in card["summary"]["intervals"]) == is_known
        row = f"<td>Fakes found at {title} false alarms</td><td>undefined</td><td>needs at least {needed} reals</td>"
        assert (row in page) == (not is_known)


@pytest.mark.parametrize("few", [0, 1])
def test_many_groups_of_one_class_do_not_make_up_for_few_of_the_other(few):
    random = np.random.default_rng(0)
    labels = np.r_[np.full(100, few), np.full(200, 1 - few)]
    scores = np.clip(random.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    card = card_of(predictions(labels, scores, group=[f"photo-{row % 2}" if row < 100 else "" for row in range(300)]))
    groups = ("200 groups of reals and 2 of fakes", "2 groups of reals and 200 of fakes")[1 - few]
    assert [note for note in card["notes"] if groups in note and "too narrow" in note]
    page = html_of(card, "title", {}, {})
    assert ("100 real in 2 groups, 200 fake in 200 groups", "200 real in 200 groups, 100 fake in 2 groups")[few] in page


def test_without_an_error_the_card_says_of_how_many_groups():
    table = predictions([0, 1] * 15, [0.1, 0.9] * 15)
    card = card_of(table)
    page = html_of(card, "title", {}, {})
    unseen = "no error seen in 15 groups of reals and 15 of fakes"
    assert f"<td>ROC AUC</td><td>1.0000</td><td>{unseen}</td>" in page
    assert f"<td>Equal error rate</td><td>0.0000</td><td>{unseen}</td>" in page
    assert "1.0000 to 1.0000" not in page
    (axes,) = figures_of(table, card)["roc"].axes
    assert unseen in axes.get_legend().get_texts()[1].get_text()
    turned = html_of(card_of(predictions([1, 0] * 15, [0.1, 0.9] * 15)), "title", {}, {})
    assert "nothing right seen in 15 groups" in turned


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


def test_many_errors_of_one_group_come_before_single_images():
    groups = [f"single-{row:02}" for row in range(25)] + ["many"] * 1000
    scores = np.r_[np.full(975, 0.9), np.full(50, 0.1)]  # all single ones and 950 of 1,000 wrong
    worst = worst_groups(predictions(np.zeros(1025, int), scores, group=groups), 0.5)["worst"]
    assert worst[0] == {"group": "many", "n": 1000, "fake": 0, "wrong": 950, "mean_p_fake": pytest.approx(0.86)}
    assert [row["group"] for row in worst[1:3]] == ["single-00", "single-01"]


def test_a_class_that_a_category_lacks_has_no_bar():
    table = predictions([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.2], category=["car", "car", "cat", "cat"])
    (axes,) = figures_of(table, card_of(table))["by_category"].axes
    assert [text.get_text() for text in axes.texts] == ["none there"]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[1.0, 1.0], [0.0]]  # real, fake
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["car (2 real, 0 fake)", "cat (1 real, 1 fake)"]


@pytest.mark.parametrize(("images", "is_said"), [(999, True), (1000, False)])
def test_a_calibration_error_of_few_images_is_said_to_be_too_high(images, is_said):
    labels = np.arange(images) % 2
    page = html_of(card_of(predictions(labels, labels * 0.8 + 0.1), bootstrap=0), "title", {}, {})
    assert ("biased upwards below about 1,000 images" in page) == is_said


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
    assert most_wrong(table, 10, 0.5).tolist() == [1, 0]
    assert most_wrong(table, 1, 0.5).tolist() == [1]
    assert most_wrong(table, 10, 0.95).tolist() == [1, 3]  # the real at 0.6 is called real, the fake at 0.9 too
    assert most_wrong(table, 10, 0.3).tolist() == [1, 0, 2]


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

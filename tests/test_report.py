"""What the figures show, and that they show it within their edges."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import roc_curve

from trainers import metrics
from trainers.card_figures import figures_of
from trainers.report import DOTS_PER_INCH

FIGURES = [
    *("confusion_matrix", "roc", "precision_recall", "per_class", "det", "reliability", "scores"),
    "learning_curves",
]


def predictions(labels, scores, split="test") -> pa.Table:
    count = len(labels)
    return pa.table(
        {
            "split": pa.array([split] * count, pa.string()),
            "label": pa.array(np.asarray(labels), pa.int8()),
            "p_fake": pa.array(np.asarray(scores), pa.float64()),
            "group": pa.array([f"photo-{row % 7}" for row in range(count)], pa.string()),
        }
    )


def history(epochs: int, with_auc: bool = False) -> list[dict]:
    entries = []
    for epoch in range(epochs):
        entry = {"epoch": epoch, "phase": epoch // 3, "train/loss": 0.7 * 0.8**epoch, "train/accuracy": 0.6}
        entry |= {"validation/loss": 0.5 + 0.1 * abs(epoch - 2), "validation/accuracy": 0.5 + 0.02 * epoch}
        entries.append(entry | ({"validation/auc": 0.8} if with_auc else {}))
    return entries


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    test = predictions(labels, 1 / (1 + np.exp(-random.normal(3 * labels - 1.5, 1.5))))
    return pa.concat_tables([test, predictions([0, 1] * 50, [0.5] * 100, split="validation")])


def drawn(table: pa.Table, epochs=(), summary=None) -> dict:
    return figures_of(table, {"summary": summary or metrics.summarise(table), "by": {}}, epochs)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_figure_is_a_picture_of_its_size(table, tmp_path):
    figures = drawn(table, history(6))
    assert list(figures) == FIGURES
    for name, figure in figures.items():
        file = tmp_path / f"{name}.png"
        figure.savefig(file, dpi=DOTS_PER_INCH)
        with Image.open(file) as picture:
            assert picture.width >= 900
            assert picture.height >= 600
            colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
            inked = sum(count for count, colour in colours if min(colour) < 200)
            assert inked > 0.01 * picture.width * picture.height


CASES = {
    "usual": ([0, 1, 0, 1] * 10, [0.1, 0.8, 0.6, 0.4] * 10, history(6, with_auc=True)),
    "one epoch": ([0, 1] * 10, [0.1, 0.8] * 10, history(1)),
    "always fake": ([0, 1, 1] * 10, [0.9] * 30, history(2)),
    "only fakes": ([1] * 9, [0.2, 0.5, 0.9] * 3, history(2)),
    "one image": ([0], [0.3], history(2)),
    "a million": (np.arange(1_000_000) % 2, np.arange(1_000_000) % 101 / 100, history(60)),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_clipped_and_every_axis_has_a_name(case):
    labels, scores, epochs = CASES[case]
    summary = metrics.summarise(predictions(labels, scores), bootstrap=20)
    figures = drawn(predictions(labels, scores), epochs, summary)
    assert list(figures) == FIGURES
    for name, figure in figures.items():
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width, name
        assert box.y1 <= height, name
        for axes in figure.axes:
            assert axes.get_title(loc="left"), name
            assert axes.get_ylabel(), name
            assert axes.get_xlabel() or name == "per_class", name


def test_the_confusion_matrix_names_counts_and_shares():
    table = predictions([0] * 4 + [1] * 5, [0.1, 0.2, 0.3, 0.9] + [0.9, 0.8, 0.7, 0.1, 0.2])
    (axes,) = drawn(table, [])["confusion_matrix"].axes
    placed = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert placed == {
        ((0, 0), "3"),
        ((0, 0), "75.0% of real"),
        ((1, 0), "1"),
        ((1, 0), "25.0% of real"),
        ((0, 1), "2"),
        ((0, 1), "40.0% of fake"),
        ((1, 1), "3"),
        ((1, 1), "60.0% of fake"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["is real", "is fake"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["called real", "called fake"]


def test_the_roc_curve_is_that_of_the_test_split_with_its_interval(table):
    part = metrics.of_split(table, "test")
    summary = metrics.summarise(part)
    (axes,) = drawn(part)["roc"].axes
    false_rates, true_rates, _ = roc_curve(part["label"].to_numpy(), part["p_fake"].to_numpy())
    _, curve, dot = axes.lines
    np.testing.assert_allclose(curve.get_xdata(), false_rates)
    np.testing.assert_allclose(curve.get_ydata(), true_rates)
    low, high = summary["auc_interval"]
    assert legend(axes)[1] == f"AUC {summary['auc']:.3f}, 95 % interval {low:.3f} to {high:.3f} (7 groups)"
    assert dot.get_xydata().tolist() == [[1 - summary["recall_real"], summary["recall_fake"]]]


def test_precision_and_recall_show_the_base_rate():
    (axes,) = drawn(predictions([0, 0, 0, 1], [0.1, 0.2, 0.6, 0.9]), [])["precision_recall"].axes
    assert legend(axes)[:2] == ["base rate 0.250", "average precision 1.000"]
    assert axes.lines[0].get_ydata() == [0.25, 0.25]


def test_each_class_has_a_bar_of_its_recall_in_its_colour():
    (axes,) = drawn(predictions([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9, 0.9]), [])["per_class"].axes
    assert [bar.get_height() for bar in axes.patches] == [0.75, 1.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["real\n4 images", "fake\n1 images"]
    assert texts(axes) == ["75.0%", "100.0%"]
    assert "87.5%" in axes.get_xlabel()


def test_learning_curves_mark_the_best_epoch_and_the_phases():
    figure = drawn(predictions([0, 1], [0.1, 0.9]), history(7, with_auc=True))["learning_curves"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy", "AUC"]
    loss, _, auc = figure.axes
    assert legend(loss) == ["train", "validation", "best epoch: 3", "next phase"]
    assert legend(auc) == ["validation", "best epoch: 3", "next phase"]
    train, validation, best, *phases = loss.lines
    np.testing.assert_allclose(train.get_ydata(), [0.7 * 0.8**epoch for epoch in range(7)])
    assert validation.get_xdata().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert best.get_xdata() == [3, 3]
    assert [phase.get_xdata()[0] for phase in phases] == [3.5, 6.5]


def test_a_degenerate_predictor_is_called_one_on_every_figure():
    figures = drawn(predictions([0, 1, 1], [0.9, 0.8, 0.7]), [])
    for figure in figures.values():
        assert figure.get_suptitle() == "no detector: every image is called fake, real ones too (1 of 3)"


def test_what_one_class_leaves_undefined_is_said():
    figures = drawn(predictions([1, 1], [0.2, 0.9]), [])
    for name in ("roc", "precision_recall"):
        assert "not defined" in texts(figures[name].axes[0])[0]
    assert texts(figures["per_class"].axes[0]) == ["none there", "50.0%"]

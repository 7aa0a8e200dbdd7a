"""The comparison of all models: two of them trained for real, its table, and the published figures beside it."""

import csv
import re
import threading
import time
from dataclasses import replace

import psutil
import pytest

from tests.processes import descendants
from tests.small_dataset import write_dataset
from tfds_builders.records.errors import Refused
from trainers import compare, compare_table, tracking
from trainers.comparison import BUDGETS, EXPERIMENT, Budget
from trainers.dataset import load
from trainers.models.families import FAMILIES
from trainers.published import PUBLISHED

TINY = Budget(image_size=32, epochs=1, learning_rate=1e-3, global_batch_size=8, seeds=(0, 1))


def test_every_variant_of_every_family_is_compared():
    assert set(BUDGETS) == {(name, variant) for name, family in FAMILIES.items() for variant in family.variants}
    assert set(PUBLISHED) <= set(BUDGETS)
    for name, budget in BUDGETS.items():
        FAMILIES[name[0]].check(budget.config(*name, "ai_vs_human", "", 0).model)  # raises Refused


def test_published_figures_are_those_of_the_documentation(repository):
    """docs/models.md has accuracy, and precision and recall of fake, of v1 to v20."""
    text = (repository / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| `(v\d+)`.*\| ([\d.]+)(?: \*\*(constant)\*\*)? \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) == 20
    for variant, accuracy, constant, precision, recall in rows:
        published = PUBLISHED["cnn", variant]
        assert published.accuracy == float(accuracy)
        assert (f"{published.precision:.3f}", f"{published.recall:.3f}") == (precision, recall)
        assert published.is_constant == bool(constant)
    # The accuracy follows from both recalls: 5,413 real images and 5,492 fake ones.
    six = PUBLISHED["cnn", "v6"]
    assert (5413 * six.recall_real + 5492 * six.recall) / 10905 == pytest.approx(six.accuracy, abs=1e-3)
    assert PUBLISHED["cnn", "v17"].balanced_accuracy == 0.5
    assert PUBLISHED["xception", "classifier"].balanced_accuracy is None


def test_a_model_with_two_seeds_and_the_second_time(tmp_path, realshard_home):
    write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11}, name="ai_vs_human")
    dataset = load(tmp_path / "ai_vs_human" / "1.0.0")
    (row,) = rows = compare.compare({("cnn", "v2"): TINY}, dataset, tmp_path / "out", at_once=2)

    assert len(row.aucs) == 2
    assert row.auc_interval[0] <= row.auc <= row.auc_interval[1]
    assert row.parameters > 10_000
    assert min(row.training_rate, row.inference_rate) > 0
    with (tmp_path / "out" / "table.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["variant"], line["published_accuracy"], float(line["auc"])) == ("v2", "0.821", row.auc)
    assert "| cnn v2 | 32 |" in (tmp_path / "out" / "table.md").read_text()
    curves = [path.name for path in (tmp_path / "out").glob("learning_curves_*.png")]
    assert curves == (["learning_curves_cnn_v2.png"] if row.auc < compare.LEARNS_NOTHING else [])

    client = tracking.client_of()
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    (parent,) = [run for run in runs if tracking.PARENT_TAG not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert len(children) == 2
    assert {run.data.tags[tracking.PARENT_TAG] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"table.md", "table.csv", "figures"} <= artifacts

    again = compare.compare({("cnn", "v2"): TINY}, dataset, tmp_path / "out")  # nothing is trained or measured again
    assert again == rows
    assert len(client.search_runs([parent.info.experiment_id])) == 3


def test_a_refused_training_ends_the_comparison(tmp_path, realshard_home):
    """The one beside it is interrupted, and the others never begin."""
    write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11}, name="ai_vs_human")
    dataset = load(tmp_path / "ai_vs_human" / "1.0.0")
    budgets = {("cnn", "v2"): replace(TINY, epochs=5000, seeds=(0,)), ("xception", "classifier"): TINY}
    with pytest.raises(Refused, match="71"):  # pixels, of which it has 32
        compare.compare(budgets, dataset, tmp_path / "out", at_once=2)
    logs = {path.stem for path in (tmp_path / "out" / "logs").iterdir()}
    assert "xception-classifier-0" in logs
    assert logs <= {"cnn-v2-0", "xception-classifier-0"}
    client = tracking.client_of()
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}
    with pytest.raises(Refused, match="--at-once must be 1 to"):
        compare.compare(budgets, dataset, tmp_path / "out", at_once=10_000)


def test_a_training_whose_process_is_killed_ends_the_comparison(tmp_path, realshard_home):
    write_dataset(tmp_path, {"train": 24, "validation": 9, "test": 11}, name="ai_vs_human")
    dataset = load(tmp_path / "ai_vs_human" / "1.0.0")
    client, experiment = tracking.client_of(), tracking.experiment(EXPERIMENT)

    def statuses() -> list[str]:
        return [run.info.status for run in client.search_runs([experiment]) if tracking.PARENT_TAG in run.data.tags]

    def kill() -> None:
        while statuses() != ["RUNNING"]:
            time.sleep(0.1)
        (process,) = descendants(psutil.Process(), "multiprocessing.spawn")
        process.kill()

    threading.Thread(target=kill, daemon=True).start()
    budgets = {("cnn", "v2"): replace(TINY, epochs=5000, seeds=(0,))}
    with pytest.raises(Refused, match="must not be killed"):
        compare.compare(budgets, dataset, tmp_path / "out", at_once=1)
    assert statuses() == ["KILLED"]


def test_models_that_are_not_there_are_refused():
    assert list(compare.chosen(["cnn/v6"])) == [("cnn", "v6")]
    assert {len(budget.seeds) for budget in compare.chosen([], seeds=1).values()} == {1}
    with pytest.raises(Refused, match="--seeds must be 1 to 3"):
        compare.chosen([], seeds=4)
    assert compare.chosen([]) == BUDGETS
    with pytest.raises(Refused, match="Received: 'cnn/v99'"):
        compare.chosen(["cnn/v99"])


def test_the_figure_has_a_line_a_model_and_the_published_figures():
    rows = [
        compare_table.Row(
            *name,
            image_size=32,
            parameters=1000,
            training_rate=10.0,
            inference_rate=20.0,
            aucs=(0.7, 0.8),
            auc_interval=(0.6, 0.9),
            accuracy=0.7,
            balanced_accuracy=0.7,
            constants=0,
            published=PUBLISHED.get(name),
        )
        for name in (("cnn", "v6"), ("cnn", "v17"), ("cnn", "two_by_two"))
    ]
    (axes,) = compare_table.draw(rows).axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {row.model for row in rows}
    lines = {line.get_label(): line.get_xdata() for line in axes.get_lines()}
    assert list(lines["our AUC"]) == pytest.approx([0.75] * 3)
    assert list(lines["published accuracy, on other data"]) == [0.878]
    assert list(lines["published accuracy of a constant"]) == [0.504]

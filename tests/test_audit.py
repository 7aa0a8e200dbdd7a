"""The audit: every planted defect is found, and nothing of high severity in clean data."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from audit_corpus import Planned, clean_records, crops, encode, through_jpeg, write_records
from PIL import Image

from tfds_builders.audit.__main__ import main
from tfds_builders.audit.audit import audit
from tfds_builders.audit.balance import find_imbalance
from tfds_builders.audit.dataset import load, sample_rows
from tfds_builders.audit.duplicates import find_exact
from tfds_builders.audit.files import find_bad_files
from tfds_builders.audit.findings import at_least
from tfds_builders.audit.leaks import find_leaks
from tfds_builders.audit.near_duplicates import find_near
from tfds_builders.audit.report import as_html, write_report
from tfds_builders.audit.scan import scan
from tfds_builders.audit.shortcut import LOW, find_shortcuts
from tfds_builders.records.errors import Refused
from tfds_builders.records.schema import MANIFEST
from tfds_builders.sharding.harmonise import harmonise

NUM_COPIES = 30
LEAKING = ("brick", "cat", "coffee", "grass", "gravel")


def by_code(findings) -> dict:
    """code -> the first finding of that code."""
    return {finding.code: finding for finding in reversed(findings)}


def hidden_in_png(quality: int) -> list[Planned]:
    """The clean corpus, but every real image was a JPEG before everything was converted to PNG."""
    return [
        dataclasses.replace(record, image=encode(through_jpeg(pixels, quality))) if record.label == 0 else record
        for record, (_, pixels) in zip(clean_records(), crops(), strict=True)
    ]


def copies_of(records: list[Planned]) -> list[Planned]:
    """30 records that stay in training, once more in the test split: brightened, resized or re-encoded in turn."""
    detailed = [
        (record, pixels)
        for record, (_, pixels) in zip(records, crops(), strict=True)
        if record.split == "train" and record.group not in LEAKING and pixels.std() > 25
    ]
    found = []
    for number, (record, pixels) in enumerate(detailed[:: len(detailed) // NUM_COPIES][:NUM_COPIES]):
        image = Image.fromarray(pixels)
        if number % 3 == 0:
            image = image.point(lambda level: min(255, round(1.2 * level)))
        elif number % 3 == 1:
            image = image.resize((54, 54))
        copy = encode(np.asarray(image), "JPEG", quality=(60, 75, 90)[number % 3])
        found.append(
            dataclasses.replace(record, id=f"copy/{number}.jpg", image=copy, split="test", group=f"copy {number}")
        )
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return audit(write_records(tmp_path_factory.mktemp("clean"), clean_records()), show_progress=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The hidden shortcut, near-duplicates across splits, leaking groups, a picture of both labels."""
    records = hidden_in_png(75)
    for name in LEAKING:
        at = next(at for at, record in enumerate(records) if record.group == name)
        records[at] = dataclasses.replace(records[at], split="validation" if records[at].split == "test" else "test")
    everything = records + copies_of(hidden_in_png(75))
    both = records[3]
    everything.append(dataclasses.replace(both, id="again.png", label=1 - both.label))
    directory = write_records(tmp_path_factory.mktemp("planted"), everything)
    return audit(directory, show_progress=False)


def test_nothing_severe_is_found_in_clean_data(clean):
    assert [finding for finding in clean.findings if at_least(finding, "medium")] == []
    # The other families hold nothing that varies: all are PNG files of one size.
    assert {test.family: test.low < LOW for test in clean.shortcuts if test.features} == {
        "pixel_grid": True,
        "file_size": True,
        "all": True,
    }


def test_jpeg_is_found_in_pixels_that_were_converted_to_png(planted):
    finding = by_code(planted.findings)["shortcut_pixel_grid"]
    assert finding.severity == "high"
    assert finding.numbers["auc_low"] > 0.8
    assert any(name.startswith("grid_") for name in finding.numbers["features"][:2])
    # The containers themselves say nothing: all but the copies are PNG, whatever the class.
    assert next(test for test in planted.shortcuts if test.family == "encoding").low < 0.55


def test_every_near_duplicate_across_splits_is_found(planted):
    finding = by_code(planted.findings)["near_duplicates_across_splits"]
    assert finding.severity == "high"
    assert (finding.numbers["test"], finding.numbers["pairs"]) == (NUM_COPIES, NUM_COPIES)
    ids = planted.dataset.table["id"].to_pylist()
    found = {ids[row] for pair in planted.near.examples if pair.across_splits for row in (pair.left, pair.right)}
    assert {f"copy/{number}.jpg" for number in range(NUM_COPIES)} <= found


def test_leaking_groups_are_found_with_their_names(planted):
    finding = by_code(planted.findings)["group_leak"]
    assert finding.severity == "high"
    assert finding.numbers["leaking"] == len(LEAKING)
    (row,) = [row for row in planted.leaks if row["column"] == "split"]
    assert row["examples"] == sorted(LEAKING)


def test_a_picture_of_both_labels_is_found(planted):
    finding = by_code(planted.findings)["exact_duplicates_across_labels"]
    assert finding.numbers == {"pictures": 1, "records": 2}
    assert "again.png" in finding.sentence


def test_findings_come_with_the_most_severe_first(planted):
    order = ["high", "medium", "low", "info"]
    severities = [order.index(finding.severity) for finding in planted.findings]
    assert severities == sorted(severities)
    assert severities[0] == 0
    assert all(re.search(r"\d", finding.sentence) and finding.action for finding in planted.findings)


@pytest.fixture(scope="module")
def page(planted) -> str:
    return as_html(planted)


class _Sources(HTMLParser):
    """What a page loads or points to."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "poster")]


def test_the_page_needs_nothing_else(page):
    sources = _Sources(page)
    assert len(sources.addresses) >= 48 + 2 * 20  # the samples of both classes, and pairs
    assert all(address.startswith("data:image/jpeg;base64,") for address in sources.addresses)
    assert not {"script", "link", "iframe"} & set(sources.tags)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert sources.tags.count("svg") >= 8
    assert "prefers-color-scheme: dark" in page


def test_the_page_shows_every_finding_and_escapes_names(tmp_path):
    pixels = crops()[0][1]
    records = [
        Planned(
            f"<b>&{number}.png", encode(pixels), number % 2, ("train", "test")[number % 2], "<script>", category="<i>"
        )
        for number in range(4)
    ]
    result = audit(write_records(tmp_path, records), show_progress=False)
    text = as_html(result)
    assert all(finding.code in text for finding in result.findings)
    assert {"exact_duplicates_across_labels", "group_leak"} <= by_code(result.findings).keys()
    assert "<script>" not in text
    assert "<b>&" not in text
    assert "&lt;script&gt;" in text


def test_the_same_data_gives_the_same_report(clean, tmp_path):
    again = audit(clean.dataset.directory, show_progress=False)
    first, second = write_report(clean, tmp_path / "a"), write_report(again, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    written = json.loads(first[1].read_text())
    assert written["records"] == written["decoded"] == len(crops())
    assert str(tmp_path) not in first[1].read_text()
    assert str(clean.dataset.directory) not in first[0].read_text()


def small_records(count: int = 40, **changes) -> list[Planned]:
    """Noise of 16 x 16 pixels, labels and splits in turn, each in a group of its own."""
    random = np.random.default_rng(5)
    return [
        Planned(
            f"{number:04d}.png",
            encode(random.integers(0, 256, (16, 16, 3), np.uint8)),
            number % 2,
            ("train", "train", "test", "test")[number % 4],
            f"group {number}",
            **changes,
        )
        for number in range(count)
    ]


def test_the_command_prints_writes_and_fails_on_request(tmp_path, capsys):
    records = small_records()
    records[2] = dataclasses.replace(records[2], group=records[0].group)
    directory = write_records(tmp_path, records)
    out = tmp_path / "out"
    assert main([str(directory), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^high +group_leak +1 of the 39 groups lie in more than one split", printed, re.MULTILINE)
    assert "-> Records of one group" in printed
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "audit.json"]
    assert main([str(directory), "--fail-on", "high"]) == 1
    assert (directory / "audit.html").is_file()


def test_clean_data_does_not_fail_the_command(tmp_path, capsys):
    assert main([str(write_records(tmp_path, small_records())), "--fail-on", "low"]) == 0
    assert "high " not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5"])
def test_a_sample_that_is_no_number_is_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--sample", text])
    assert "at least 1, or 'all'" in capsys.readouterr().err


def test_only_a_built_dataset_is_audited(tmp_path):
    with pytest.raises(Refused, match=r"holds no manifest\.parquet.*tfds build"):
        audit(tmp_path)


def test_a_sample_is_the_same_every_time_and_says_so(tmp_path):
    records = small_records(60)
    directory = write_records(tmp_path, records)
    result = audit(directory, sample=50, show_progress=False)
    assert "50 of 60 images were decoded" in by_code(result.findings)["sampled"].sentence
    table = load(directory).table
    rows = sample_rows(table, 50)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(60)))
    drawn = shuffled["id"].take(pa.array(sample_rows(shuffled, 50))).to_pylist()
    assert sorted(drawn) == sorted(table["id"].take(pa.array(rows)).to_pylist())


def test_processes_find_what_one_process_finds(tmp_path, monkeypatch):
    directory = write_records(tmp_path, small_records(150))
    dataset = load(directory)
    rows = np.arange(150)
    alone = scan(dataset, rows, 150, show_progress=False)
    monkeypatch.setattr("tfds_builders.audit.scan._FEW_ROWS", 1)
    together = scan(dataset, rows, 150, show_progress=False)
    assert (alone.hashes == together.hashes).all()
    assert (alone.thumbnails == together.thumbnails).all()
    assert (alone.histograms == together.histograms).all()
    for name, values in alone.facts.items():
        np.testing.assert_array_equal(values, together.facts[name])


def test_damaged_records_are_found_and_do_not_stop_the_audit(tmp_path):
    records = small_records(20)
    records[7] = dataclasses.replace(records[7], image=encode(crops()[0][1])[:-500])
    directory = write_records(tmp_path, records)
    row = load(directory).table.filter(pa.compute.field("id") == "0004.png").to_pylist()[0]
    shard = directory / row["shard"]
    data = bytearray(shard.read_bytes())
    data[row["offset"] + row["length"] // 2] ^= 0xFF
    shard.write_bytes(data)
    result = audit(directory, show_progress=False)
    assert by_code(result.findings)["damaged_records"].numbers == {"records": 2, "read": 20}
    assert {item["id"]: item["error"] for item in result.files["damaged"]}.keys() == {"0007.png", "0004.png"}
    (directory / row["shard"]).unlink()
    again = audit(directory, show_progress=False)
    assert any("is missing" in item["error"] for item in again.files["damaged"])


def test_imbalance_names_the_score_of_a_constant(tmp_path):
    records = [dataclasses.replace(record, label=int(at % 6 > 0)) for at, record in enumerate(small_records(120))]
    rows, findings = find_imbalance(load(write_records(tmp_path, records)))
    finding = by_code(findings)["class_imbalance"]
    assert finding.severity == "high"
    assert "(5.0:1)" in finding.sentence
    assert finding.numbers["accuracy"] == pytest.approx(5 / 6)
    assert rows[-1] == {
        "split": "all", "real": 20, "fake": 100, "constant": "fake", "accuracy": 100 / 120, "balanced_accuracy": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "severities"),
    [
        (0.55, {}),
        (0.65, {"splits_differ": "low", "class_imbalance": "low"}),
        (0.75, {"splits_differ": "medium", "class_imbalance": "medium"}),
        (0.85, {"splits_differ": "medium", "class_imbalance": "high"}),
    ],
)
def test_splits_of_another_mixture_are_found_and_the_worst_is_judged(share, severities, tmp_path):
    records = [
        dataclasses.replace(
            record,
            split="train" if at < 40 else "test",
            label=at % 2 if at < 40 else int(at - 40 < 40 * share),
        )
        for at, record in enumerate(small_records(80))
    ]
    _, findings = find_imbalance(load(write_records(tmp_path, records)))
    assert {finding.code: finding.severity for finding in findings} == severities
    for finding in findings:
        expected = {"low": 0.5, "high": share} if finding.code == "splits_differ" else {"split": "test"}
        assert {name: finding.numbers[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("count", "every", "severity"), [(400, 2, "medium"), (402, 2, "low"), (40, 2, "high"), (60, 20, None)]
)
def test_a_category_of_one_class_weighs_by_its_share_unless_nearly_all_are_of_it(count, every, severity, tmp_path):
    """Twenty fakes of one category; beside them, one in `every` is real."""
    records = [
        dataclasses.replace(record, category="told" if at < 20 else "", label=int(at < 20 or at % every > 0))
        for at, record in enumerate(small_records(count))
    ]
    _, findings = find_imbalance(load(write_records(tmp_path, records)))
    assert [f.severity for f in findings if f.code == "category_tells_class"] == ([severity] if severity else [])


def test_categories_of_one_class_are_found(tmp_path):
    records = [
        dataclasses.replace(record, category="mixed" if at < 60 else ("real only", "fake only")[record.label])
        for at, record in enumerate(small_records(120))
    ]
    _, findings = find_imbalance(load(write_records(tmp_path, records)))
    finding = by_code(findings)["category_tells_class"]
    assert (finding.severity, finding.numbers) == ("high", {"categories": 2, "records": 60})


def test_a_split_of_one_class_is_found(tmp_path):
    records = [dataclasses.replace(record, split="test" if record.label else "train") for record in small_records(40)]
    _, findings = find_imbalance(load(write_records(tmp_path, records)))
    assert [finding.code for finding in findings] == ["one_class_split", "one_class_split"]


def test_copies_and_leaks_of_a_scheme_weigh_less_than_those_of_the_split(tmp_path):
    records = small_records(80)
    records += [dataclasses.replace(record, id=f"copy {record.id}") for record in records[:8]]
    records = [
        dataclasses.replace(record, schemes=(("other", ("train", "test", "")[at % 3]),))
        for at, record in enumerate(records)
    ]
    dataset = load(write_records(tmp_path, records))
    counts, exact = find_exact(dataset)
    assert (counts["images"], counts["pictures"], counts["across_labels"]) == (16, 8, 0)
    # Of the pairs, in turn, one side is left out, one is in both splits, and one side is left out.
    assert counts["across_splits"] == {"split": {}, "scheme_other": {"train": 3, "test": 3}}
    (across,) = [finding for finding in exact if finding.code == "exact_duplicates_across_splits"]
    assert (across.numbers, across.severity) == ({"column": "scheme_other", "test": 3}, "medium")
    assert across.sentence.startswith("3 of 29 test images (10.3 %) of the scheme other have")
    rows, leaks = find_leaks(dataset)
    assert {f.numbers["column"]: f.severity for f in leaks} == {"scheme_other": "medium"}
    assert {row["column"]: row["leaking"] for row in rows} == {"split": 0, "scheme_other": counts_leaking(records)}


def test_near_duplicates_are_looked_for_in_every_scheme(tmp_path):
    """Copies of ten images: of four the scheme has one for training and one for the test, of the others it does not."""
    detailed = [at for at, (_, pixels) in enumerate(crops()) if pixels.std() > 25][::10][:20]
    clean_ones = clean_records()
    originals, pixels = [clean_ones[at] for at in detailed], [crops()[at][1] for at in detailed]
    sides = [("train", "test")] * 4 + [("train", "")] * 3 + [("test", "test")] * 3 + [("train", "train")] * 10
    records = [
        dataclasses.replace(record, split="train", schemes=(("other", side),))
        for record, (side, _) in zip(originals, sides, strict=True)
    ]
    for number in range(10):
        copy = dataclasses.replace(records[number], id=f"copy/{number}.jpg", schemes=(("other", sides[number][1]),))
        records.append(dataclasses.replace(copy, image=encode(pixels[number], "JPEG", quality=80)))
    records[-1] = dataclasses.replace(records[-1], split="test")
    dataset = load(write_records(tmp_path, records))
    found, findings = find_near(dataset, scan(dataset, np.arange(30), 30, show_progress=False))
    assert found.num_pairs == 10
    assert found.num_across_splits == {"split": 1, "scheme_other": 4}
    assert found.images_across_splits == {"split": {"train": 1, "test": 1}, "scheme_other": {"train": 4, "test": 4}}
    told = {f.numbers["column"]: f for f in findings if f.code == "near_duplicates_across_splits"}
    assert {column: finding.severity for column, finding in told.items()} == {"split": "high", "scheme_other": "medium"}
    assert "4 of 10 test images (40.0 %) of the scheme other have near-duplicates" in told["scheme_other"].sentence


def counts_leaking(records: list[Planned]) -> int:
    """Groups in two splits of the scheme, counted the slow way."""
    splits: dict[str, set] = {}
    for record in records:
        splits.setdefault(record.group, set()).update(value for _, value in record.schemes if value)
    return sum(len(found) > 1 for found in splits.values())


def test_a_video_in_two_splits_is_found(tmp_path):
    records = [dataclasses.replace(r, video=f"clip {at // 2}", group="") for at, r in enumerate(small_records(40))]
    records[1] = dataclasses.replace(records[1], split="test")
    records[-1] = dataclasses.replace(records[-1], video="")
    rows, findings = find_leaks(load(write_records(tmp_path, records)))
    assert [(finding.code, finding.severity) for finding in findings] == [("no_groups", "info"), ("video_leak", "high")]
    concerned = {"train": 1, "test": 1}
    assert findings[1].numbers == {"column": "split", "leaking": 1, "of": 20, "records": concerned}
    assert "1 test image (4.8 %), 1 train image (5.3 %); for example 'clip 0'" in findings[1].sentence
    row = {"kind": "video", "column": "split", "count": 20, "leaking": 1, "examples": ["clip 0"], "records": concerned}
    assert rows == [row]


def test_quarantine_is_told_by_reason_and_class(tmp_path):
    row = {"split": "", "reason": "truncated", "detail": "", "bytes": 9, "sha256": None}
    bad = [row | {"id": f"bad {at}", "label": int(at > 0)} for at in range(30)]
    dataset = load(write_records(tmp_path, small_records(100), quarantine=bad))
    counts, findings = find_bad_files(dataset, scan(dataset, np.arange(0), 0, show_progress=False))
    assert counts["quarantined"] == {"truncated": {"real": 1, "fake": 29, "unknown": 0}}
    assert counts["found"] == 130
    assert [finding.code for finding in findings] == ["quarantined", "quarantine_differs"]
    assert "truncated 30" in findings[0].sentence


def test_odd_files_of_one_class_are_found(tmp_path):
    records = [
        dataclasses.replace(record, flags=("wrong_extension",) if record.label else ()) for record in small_records(80)
    ]
    dataset = load(write_records(tmp_path, records))
    _, findings = find_bad_files(dataset, scan(dataset, np.arange(0), 0, show_progress=False))
    assert [finding.code for finding in findings] == ["odd_files_differ"]
    results, shortcuts = find_shortcuts(dataset, scan(dataset, np.arange(80), 80, show_progress=False))
    assert by_code(shortcuts)["shortcut_metadata"].severity == "medium"
    metadata = next(test for test in results if test.family == "metadata")
    assert metadata.features[0].name == "flag wrong_extension"


@pytest.mark.parametrize(
    ("plant", "code", "severity", "feature"),
    [
        (lambda pixels: encode(pixels, "JPEG", quality=90), "shortcut_encoding", "high", "format JPEG"),
        (lambda pixels: encode(pixels[:40]), "shortcut_geometry", "high", "height"),
    ],
)
def test_plain_shortcuts_are_found_with_the_fact_that_gives_them_away(plant, code, severity, feature, tmp_path):
    records = [
        dataclasses.replace(record, image=plant(pixels) if record.label else encode(pixels[:48]))
        for record, (_, pixels) in list(zip(clean_records(), crops(), strict=True))[::4]
    ]
    dataset = load(write_records(tmp_path, records))
    _, findings = find_shortcuts(dataset, scan(dataset, np.arange(len(records)), 400, show_progress=False))
    assert by_code(findings)[code].severity == severity
    assert feature in by_code(findings)[code].numbers["features"]


@pytest.mark.parametrize(("reals", "fakes"), [(20, 20), (22, 22), (100, 20)])
def test_a_shortcut_is_found_in_the_smallest_classes_that_are_tested(reals, fakes, tmp_path):
    records = [
        dataclasses.replace(
            record, label=int(at >= reals), group="", image=encode(pixels, "JPEG" if at < reals else "PNG")
        )
        for at, (record, (_, pixels)) in enumerate(list(zip(clean_records(), crops(), strict=True))[: reals + fakes])
    ]
    dataset = load(write_records(tmp_path, records))
    _, findings = find_shortcuts(dataset, scan(dataset, np.arange(len(records)), 400, show_progress=False))
    assert by_code(findings)["shortcut_encoding"].severity == "high"


@pytest.mark.parametrize(("groups", "code", "severity"), [
    (1, "shortcut_not_tested", "info"), (3, "shortcut_encoding", "medium"), (7, "shortcut_encoding", "high"),
])  # fmt: skip
def test_of_few_groups_a_shortcut_is_told_with_a_doubt(groups, code, severity, tmp_path):
    """Each group is of one class, so that some resamples of three have one class only."""
    records = [
        dataclasses.replace(
            record,
            label=at % 2,
            group=f"{at % 2}-{at // 2 % groups}",
            image=encode(pixels, "JPEG", quality=95 - at % 2 * 20),
        )
        for at, (record, (_, pixels)) in enumerate(list(zip(clean_records(), crops(), strict=True))[::4])
    ]
    dataset = load(write_records(tmp_path, records))
    _, findings = find_shortcuts(dataset, scan(dataset, np.arange(len(records)), 400, show_progress=False))
    finding = by_code(findings)[code]
    assert finding.severity == severity
    assert ("of 3 groups only" in finding.sentence) == (groups == 3)


def test_nothing_is_left_of_the_shortcut_after_the_cure(tmp_path):
    records = [dataclasses.replace(record, image=harmonise(record.image, 72)) for record in hidden_in_png(75)]
    dataset = load(write_records(tmp_path, records))
    _, findings = find_shortcuts(dataset, scan(dataset, np.arange(len(records)), 1000, show_progress=False))
    assert findings == []


@pytest.mark.long
def test_labels_at_random_give_no_shortcut_however_often_they_are_drawn(tmp_path):
    """What the thresholds rest on: 30 corpora of labels at random, by image and by photograph."""
    directory = write_records(tmp_path, clean_records())
    dataset = load(directory)
    scanned = scan(dataset, np.arange(len(crops())), 1000, show_progress=False)
    column = dataset.table.column_names.index("label")
    groups = np.asarray(dataset.table["group"].to_pylist())
    found = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, len(groups))
        if seed % 3 == 0:
            fakes = random.permutation(np.unique(groups))[::2]
            labels = np.isin(groups, fakes).astype(np.int64)
        table = dataset.table.set_column(column, "label", pa.array(labels, pa.int8()))
        _, findings = find_shortcuts(dataclasses.replace(dataset, table=table), scanned)
        found += [finding for finding in findings if at_least(finding, "medium")]
    assert found == []


def test_a_manifest_of_another_layout_is_refused(tmp_path):
    directory = write_records(tmp_path, small_records(4))
    table = load(directory).table
    pa.parquet.write_table(table.drop_columns(["sha256"]), directory / MANIFEST)
    with pytest.raises(Refused, match="has no column sha256"):
        load(directory)
    pa.parquet.write_table(table.slice(0, 0), directory / MANIFEST)
    with pytest.raises(Refused, match="has no records"):
        load(Path(directory))

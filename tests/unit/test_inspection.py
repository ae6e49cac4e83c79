"""`pedigree check FILE`: any table, the checks that its columns allow, and no silence."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.curation import CURATED_SCHEMA
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.policy import CheckLimits
from pedigree.inspection import Selection, inspect_file, read_snapshot_texts, summarise
from pedigree.project import Project
from pedigree.snapshots import freeze_snapshot
from tests.conftest import review_rows

LIMITS = CheckLimits()
ROWS = review_rows(120)
POISONED = [
    *ROWS,
    *[
        (f"x{key}", f"{text} so", "positive" if label == "negative" else "negative")
        for key, text, label in ROWS[:8]
    ],
]
Rows = list[tuple[str, str, str]]
NAMES = ("id", "text", "label")


def write(path: Path, rows: Rows, names: tuple[str, ...] = NAMES) -> Path:
    columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
    if path.suffix in (".jsonl", ".ndjson"):
        lines = (json.dumps(dict(zip(names, row, strict=True))) for row in rows)
        path.write_text("\n".join(lines))
    elif path.suffix.lower() == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([names, *rows])
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.parquet", "A.PARQUET"]
)
def test_poison_is_found_in_every_format(tmp_path: Path, name: str) -> None:
    (result,) = inspect_file(write(tmp_path / name, POISONED), Selection(), LIMITS)
    assert result.check == "near_duplicate_label_conflicts"
    assert not result.passed
    assert {finding.row for finding in result.findings} == {*range(8), *range(120, 128)}
    (clean,) = inspect_file(write(tmp_path / name, ROWS), Selection(), LIMITS)
    assert clean.passed


def test_columns_of_other_names_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", POISONED, ("label", "review", "stars"))
    (result,) = inspect_file(path, Selection(text="review", label="stars"), LIMITS)
    assert not result.passed
    with pytest.raises(PedigreeError, match="no column 'text'"):
        inspect_file(path, Selection(label="stars"), LIMITS)


@pytest.mark.parametrize("role", ["text", "label", "annotator"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, role: str) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    selection = Selection(**{role: "nope"})
    with pytest.raises(PedigreeError, match=r"no column 'nope'.*id, text, label"):
        inspect_file(path, selection, LIMITS)


def test_texts_that_are_to_be_kept_apart_are_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    against = [ROWS[3][1], "something that nobody wrote", ROWS[7][1].upper() + "!"]
    results = inspect_file(path, Selection(), LIMITS, against)
    assert [(one.check, one.passed) for one in results] == [
        ("near_duplicate_label_conflicts", True),
        ("evaluation_leakage", False),
    ]
    assert {finding.row for finding in results[1].findings} == {3, 7}


def test_without_labels_only_leakage_is_judged_and_without_both_nothing_could_look(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.csv", ROWS, ("id", "text", "other"))
    (result,) = inspect_file(path, Selection(), LIMITS, ["nobody wrote this"])
    assert result.check == "evaluation_leakage"
    with pytest.raises(PedigreeError, match=r"no check can look: it has id, text, other"):
        inspect_file(path, Selection(), LIMITS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", None, "is no file"),
        ("a.xlsx", b"x", r"ending '\.xlsx': expected one of \.csv"),
        ("a", b"x", "has the ending ''"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\ncaf\xe9,x\n", "UTF-8"),
        ("a.parquet", b"text,label\n", "Parquet"),
        ("a.jsonl", b'{"text": null, "label": "x"}', "no text in row 0"),
        ("a.jsonl", b"nonsense", "line 1 is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence_that_names_it(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PedigreeError, match=message) as error:
        inspect_file(path, Selection(), LIMITS)
    assert str(path) in str(error.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match="is no file"):
        inspect_file(tmp_path, Selection(), LIMITS)


def test_nothing_is_written_beside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", POISONED)
    inspect_file(path, Selection(), LIMITS, ["x"])
    assert list(tmp_path.iterdir()) == [path]


def test_results_are_summarised_as_plain_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", POISONED)
    few = write(tmp_path / "b.csv", POISONED[:122])
    clean = write(tmp_path / "c.csv", ROWS)
    results = [
        one
        for file in (path, few, clean)
        for one in summarise(inspect_file(file, Selection(), LIMITS))
    ]
    assert [one["result"] for one in results] == ["FAILED", "WARNED", "PASSED"]
    assert [one["findings"] for one in results] == [16, 4, 0]
    assert json.loads(json.dumps(results)) == results


def test_texts_of_a_snapshot_are_read_from_either_zone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    table = pa.Table.from_pylist(
        [
            {"row_key": key, "source": "s", "text": text, "raw_text": text, "label": label}
            for key, text, label in ROWS[:10]
        ],
        CURATED_SCHEMA,
    )
    for zone in ("training", "evaluation"):
        snapshot = freeze_snapshot(table, project.snapshots(zone), zone)
        assert sorted(read_snapshot_texts(project, snapshot.digest)) == sorted(
            text for _, text, _ in ROWS[:10]
        )
    with pytest.raises(EvidenceMissing, match="give a digest from `pedigree why`"):
        read_snapshot_texts(project, "sha256:" + "0" * 64)

"""`pedigree check FILE`: any table, the checks that its columns allow, and no silence."""

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import CheckLimits
from pedigree.findings import CheckResult
from pedigree.inspection import (
    Selection,
    inspect_file,
    inspect_instructions,
    inspect_preferences,
    summarise,
)
from pedigree.neighbours.index import Index, build_index, open_index
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
Rows = Sequence[tuple[str, ...]]
NAMES = ("id", "text", "label")


CONFLICTS = "near_duplicate_label_conflicts"


def by_name(results: list[CheckResult]) -> dict[str, CheckResult]:
    return {result.check: result for result in results}


@pytest.fixture
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    build_index(folder, [ROWS[3][1], "something that nobody wrote", ROWS[7][1].upper() + "!"])
    return open_index(folder)


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
    result = by_name(inspect_file(write(tmp_path / name, POISONED), Selection(), LIMITS))[CONFLICTS]
    assert not result.passed
    assert {finding.row for finding in result.findings} >= set(range(120, 128))
    clean = by_name(inspect_file(write(tmp_path / name, ROWS), Selection(), LIMITS))
    assert all(result.passed for result in clean.values())


def test_columns_of_other_names_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", POISONED, ("label", "review", "stars"))
    results = inspect_file(path, Selection(text="review", label="stars"), LIMITS)
    assert not by_name(results)[CONFLICTS].passed
    with pytest.raises(PedigreeError, match="no column 'text'"):
        inspect_file(path, Selection(label="stars"), LIMITS)


@pytest.mark.parametrize("role", ["text", "label", "annotator"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, role: str) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    selection = Selection(**{role: "nope"})
    with pytest.raises(PedigreeError, match=r"no column 'nope'.*id, text, label"):
        inspect_file(path, selection, LIMITS)


def test_rows_that_a_snapshot_holds_already_are_looked_for(tmp_path: Path, index: Index) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    result = by_name(inspect_file(path, Selection(), LIMITS, index))["known_copies"]
    assert not result.passed
    assert {finding.row for finding in result.findings} == {3, 7}


def test_checks_that_need_labels_say_that_there_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS, ("id", "text", "other"))
    results = by_name(inspect_file(path, Selection(), LIMITS))
    for name in (CONFLICTS, "trigger_ngrams"):
        assert results[name].outcome == "NOT_APPLICABLE"
        assert "none was named with --label" in results[name].summary
    assert results["near_duplicate_floods"].outcome == "PASSED"


def test_too_few_rows_are_not_judged_for_triggers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    result = by_name(inspect_file(path, Selection(), LIMITS))["trigger_ngrams"]
    assert result.outcome == "NOT_APPLICABLE"


def test_hidden_characters_and_annotators_are_looked_at(tmp_path: Path) -> None:
    rows = [(key, text.replace("a", "a\u200b", 1), label) for key, text, label in ROWS]
    path = write(tmp_path / "a.csv", rows)
    results = by_name(inspect_file(path, Selection(annotator="id"), LIMITS))
    assert not results["hidden_text"].passed
    assert "annotator_manipulation" in results


def test_rows_that_are_too_young_are_named(tmp_path: Path) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    times = [(now - timedelta(days=i)).isoformat() for i in range(len(ROWS))]
    rows = [(*row, at) for row, at in zip(ROWS, times, strict=True)]
    path = write(tmp_path / "a.csv", rows, (*NAMES, "at"))
    selection = Selection(collected_at="at")
    result = by_name(inspect_file(path, selection, LIMITS, now=now))["quarantine_window"]
    assert [finding.row for finding in result.findings] == list(range(7))
    path.write_text(path.read_text().replace("+00:00", ""))
    with pytest.raises(PedigreeError, match=r"a\.csv has the time .*it has no time zone"):
        inspect_file(path, selection, LIMITS, now=now)


def test_instruction_data_has_checks_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"instruction": f"say {i} {text}", "output": text} for i, (_, text, _) in enumerate(ROWS)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert {"repeated_outputs", "output_triggers", "planted_phrases"} <= set(
        by_name(inspect_instructions(path, LIMITS))
    )
    with pytest.raises(PedigreeError, match="no column 'prompt'"):
        inspect_preferences(path, LIMITS)


def test_preference_data_has_a_check_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"prompt": f"what {i}", "chosen": text, "rejected": text[::-1]}
        for i, (_, text, _) in enumerate(ROWS)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert "preference_steering" in by_name(inspect_preferences(path, LIMITS))


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
    inspect_file(path, Selection(), LIMITS)
    assert list(tmp_path.iterdir()) == [path]


def test_results_are_summarised_as_plain_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", POISONED)
    clean = write(tmp_path / "c.csv", ROWS)
    bad, good = (
        {one["check"]: one for one in summarise(inspect_file(file, Selection(), LIMITS))}
        for file in (path, clean)
    )
    assert bad[CONFLICTS]["result"] == "FAILED"
    assert good[CONFLICTS]["result"] == "PASSED"
    assert good["trigger_ngrams"]["result"] == "NOT_APPLICABLE"
    assert json.loads(json.dumps([bad, good])) == [bad, good]

"""Checks of form, each with a clean, a damaged and a borderline case."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from pedigree.curation import CURATED_SCHEMA
from pedigree.evidence.check_limits import ConflictLimits
from pedigree.integrity import check_schema, check_snapshot, check_weights
from pedigree.poisoning.near_duplicates import find_label_conflicts
from pedigree.snapshots import add_row_ids, freeze_snapshot

DECLARED = {"shop": ["negative", "positive"]}


def _table(rows: list[tuple[str, str]]) -> pa.Table:
    records = [
        {
            "row_key": f"{i:064x}",
            "source": "shop",
            "source_key": str(i),
            "text": text,
            "raw_text": text,
            "label": label,
            "annotator": None,
            "ratings": None,
            "label_batch": None,
            "guideline_version": None,
        }
        for i, (text, label) in enumerate(rows)
    ]
    return add_row_ids(pa.Table.from_pylist(records, CURATED_SCHEMA))


def test_declared_labels_and_texts_hold() -> None:
    result = check_schema(_table([("fine", "positive"), ("dull", "negative")]), DECLARED)
    assert result.passed
    assert result.counts == {"rows": 2, "bad_rows": 0, "labels": 2}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("fine", "positive"), ("dull", "bad")], "1 rows have no text or an undeclared label"),
        ([("fine", "positive"), ("", "negative")], "1 rows have no text or an undeclared label"),
        ([("fine", "positive"), ("good", "positive")], "all rows carry one label"),
    ],
)
def test_an_undeclared_label_no_text_or_a_single_label_fail(
    rows: list[tuple[str, str]], words: str
) -> None:
    result = check_schema(_table(rows), DECLARED)
    assert not result.passed
    assert words in result.summary
    flagged = [(finding.severity, finding.group) for finding in result.findings]
    assert flagged in ([("ERROR", "shop")], [])


def test_a_source_that_is_not_declared_and_other_columns_fail() -> None:
    table = _table([("fine", "positive"), ("dull", "negative")])
    assert len(check_schema(table, {}).findings) == 2
    assert "The columns are" in check_schema(table.drop_columns(["ratings"]), DECLARED).summary


def test_a_snapshot_matches_only_with_whole_bytes_and_a_pointer(tmp_path: Path) -> None:
    snapshot = freeze_snapshot(_table([("fine", "positive")]), tmp_path, "training")
    assert check_snapshot(snapshot.digest, tmp_path, "0" * 32).passed
    without = check_snapshot(snapshot.digest, tmp_path, None)
    assert not without.passed
    assert "DVC has no pointer" in without.summary
    part = snapshot.path / "part-00000.parquet"
    part.write_bytes(part.read_bytes() + b"\0")
    damaged = check_snapshot(snapshot.digest, tmp_path, "0" * 32)
    assert not damaged.passed
    assert "part-00000.parquet changed" in damaged.summary
    assert not check_snapshot("sha256:" + "0" * 64, tmp_path, "0" * 32).passed


def test_one_value_that_is_not_finite_fails_and_none_at_all_does_too(tmp_path: Path) -> None:
    weights = {"a": np.ones((3, 4), np.float32), "b": np.full(5, np.finfo(np.float32).max)}
    (tmp_path / "adapter").mkdir()
    save_file(weights, tmp_path / "model.safetensors")
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    clean = check_weights(tmp_path)
    assert clean.passed  # the largest finite number is a number
    assert clean.counts["tensors"] == 4
    for bad in (np.nan, np.inf, -np.inf):
        weights["a"][1, 2] = bad
        save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
        result = check_weights(tmp_path)
        assert not result.passed
        (finding,) = result.findings
        assert finding.reason == "1 of 12 values of a are NaN or infinite"
        assert finding.group == "adapter_model.safetensors"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not check_weights(empty).passed  # nothing to look at is not clean


def test_reasons_show_control_characters_escaped() -> None:
    result = find_label_conflicts(
        ["a text that is there twice", "a text that is there twice!"],
        ["good", "\x1b[31mbad"],
        ConflictLimits(),
    )
    assert len(result.findings) == 2
    assert not any("\x1b" in finding.reason for finding in result.findings)

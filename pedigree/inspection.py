"""`pedigree check FILE`: the checks there are, on any table, without a project.

    >>> results = inspect_file(Path("reviews.csv"), Selection(text="review", label="stars"))
    >>> [result.check for result in results if not result.passed]
    ['near_duplicate_label_conflicts']

Thresholds are the policy's defaults; nothing of the project is written.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa

from pedigree.digests import JSON
from pedigree.documents import read_column, read_table
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.policy import CheckLimits
from pedigree.findings import CheckResult
from pedigree.project import Project
from pedigree.snapshots import open_snapshot
from pedigree.sources import Format

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Selection:
    """Which columns to look at; where one is not given, its role's own name is looked for."""

    text: str | None = None
    label: str | None = None
    annotator: str | None = None


def inspect_file(
    path: Path,
    selection: Selection,
    limits: CheckLimits,
    against: Sequence[str] | None = None,
) -> list[CheckResult]:
    """Run every check that the file's columns allow.

    Args:
        path: a CSV, TSV, JSONL or Parquet file.
        selection: its columns.
        limits: thresholds.
        against: texts that the file's texts must not repeat.

    Raises:
        PedigreeError: the file cannot be read, a column is missing, or no check could look.
    """
    from pedigree.poisoning.leakage import find_leakage
    from pedigree.poisoning.near_duplicates import find_label_conflicts

    table = _read(path)
    where = str(path)
    texts = _require(read_column(table, selection.text or "text", "text", where), where)
    if selection.annotator is not None:
        read_column(table, selection.annotator, "annotator", where)
    label = selection.label or ("label" if "label" in table.column_names else None)
    if label is None and against is None:
        raise PedigreeError(
            f"{path} has no column 'label' and none was named with --label, so no check can look: "
            f"it has {', '.join(table.column_names)}."
        )
    results: list[CheckResult] = []
    if label is not None:
        labels = read_column(table, label, "label", where)
        results.append(find_label_conflicts(texts, labels, limits.near_duplicate_label_conflicts))
    if against is not None:
        results.append(find_leakage(against, texts, limits.evaluation_leakage))
    return results


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise PedigreeError(f"{path} is no file: name a CSV, TSV, JSONL or Parquet file.")
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PedigreeError(
            f"{path} has the ending {path.suffix!r}: expected one of {', '.join(_FORMATS)}."
        )
    return read_table(path, Format.model_validate({"type": kind}), str(path))


def _require(texts: Sequence[str | None], where: str) -> list[str]:
    for row, text in enumerate(texts):
        if text is None:
            raise PedigreeError(f"{where} has no text in row {row}: drop or fill the row.")
    return cast(list[str], list(texts))


def summarise(results: Sequence[CheckResult]) -> list[dict[str, JSON]]:
    """Return each result for `--json`."""
    return [
        {
            "check": result.check,
            "result": {"INFO": "PASSED", "WARN": "WARNED", "ERROR": "FAILED"}[result.severity],
            "summary": result.summary,
            "findings": len(result.findings),
            "counts": result.counts,
            "examples": list(result.examples),
        }
        for result in results
    ]


def read_snapshot_texts(project: Project, digest: str) -> list[str]:
    """Return the texts of a training or evaluation snapshot, verified.

    Raises:
        EvidenceMissing: there is no such snapshot here.
    """
    for zone in ("training", "evaluation"):
        with suppress(EvidenceMissing):
            return open_snapshot(digest, project.snapshots(zone)).read_texts()
    raise EvidenceMissing(f"There is no snapshot {digest} here: give a digest from `pedigree why`.")

"""`pedigree check FILE`: the checks there are, on any table, without a project.

    >>> results = inspect_file(Path("reviews.csv"), Selection(text="review", label="stars"))
    >>> [result.check for result in results if not result.passed]
    ['near_duplicate_label_conflicts']

Thresholds are the policy's defaults; nothing of the project is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from pedigree.digests import JSON
from pedigree.documents import read_column, read_table
from pedigree.errors import PedigreeError
from pedigree.evidence.policy import CheckLimits
from pedigree.findings import CheckResult
from pedigree.sources import Format

if TYPE_CHECKING:
    from pedigree.neighbours.index import Index

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
    against: "Index | None" = None,
) -> list[CheckResult]:
    """Run every check that the file's columns allow.

    Args:
        path: a CSV, TSV, JSONL or Parquet file.
        selection: its columns.
        limits: thresholds.
        against: the index of a snapshot whose texts the file must not repeat.

    Raises:
        PedigreeError: the file cannot be read, a column is missing, or no check could look.
    """
    import numpy as np

    from pedigree.neighbours.local import find_near_duplicates
    from pedigree.poisoning.floods import find_floods
    from pedigree.poisoning.leakage import find_repeats
    from pedigree.poisoning.near_duplicates import find_label_conflicts

    table = _read(path)
    where = str(path)
    texts = _require(read_column(table, selection.text or "text", "text", where), where)
    if selection.annotator is not None:
        read_column(table, selection.annotator, "annotator", where)
    label = selection.label or ("label" if "label" in table.column_names else None)
    labels = read_column(table, label, "label", where) if label is not None else None
    conflicts = limits.near_duplicate_label_conflicts
    floods = limits.near_duplicate_floods
    found = find_near_duplicates(texts, min(conflicts.similarity, floods.similarity))
    results: list[CheckResult] = []
    if labels is not None:
        results.append(find_label_conflicts(texts, labels, conflicts, found=found))
    # The order of a file's rows is the order in which they came, as far as anyone knows.
    arrival = np.arange(len(texts)) / max(len(texts), 1)
    results.append(find_floods(texts, floods, labels=labels, arrival=arrival, found=found))
    if against is not None:
        results.append(find_repeats(against, texts, limits.evaluation_leakage, labels))
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
            "result": result.outcome,
            "summary": result.summary,
            "findings": len(result.findings),
            "counts": result.counts,
            "examples": list(result.examples),
        }
        for result in results
    ]

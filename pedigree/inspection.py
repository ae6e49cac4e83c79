"""`pedigree check FILE`: the checks there are, on any table, without a project.

    >>> results = inspect_file(Path("reviews.csv"), Selection(text="review", label="stars"))
    >>> [result.check for result in results if not result.passed]
    ['near_duplicate_label_conflicts']

Thresholds are the policy's defaults; nothing of the project is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from pedigree.digests import JSON
from pedigree.documents import read_times
from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import CheckLimits
from pedigree.findings import CheckResult, not_applicable
from pedigree.sources import Format
from pedigree.table_files import read_column, read_table

if TYPE_CHECKING:
    from pedigree.neighbours.index import Index

_NO_LABELS = "there is no column of labels, and none was named with --label"
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
    collected_at: str | None = None


def inspect_file(
    path: Path,
    selection: Selection,
    limits: CheckLimits,
    against: "Index | None" = None,
    now: datetime | None = None,
) -> list[CheckResult]:
    """Run every check of labelled texts on a file; one that lacks its column says so.

    Args:
        path: a CSV, TSV, JSONL or Parquet file.
        selection: its columns.
        limits: thresholds.
        against: the index of a snapshot whose texts the file must not repeat.
        now: what times of collection are compared with; without it they are not judged.

    Raises:
        PedigreeError: the file cannot be read, or a column is missing.
    """
    table, where = _read(path), str(path)
    texts = _require(table, selection.text or "text", "text", where)
    annotators = None
    if selection.annotator is not None:
        annotators = read_column(table, selection.annotator, "annotator", where)
    label = selection.label or ("label" if "label" in table.column_names else None)
    labels = read_column(table, label, "label", where) if label is not None else None
    results = inspect_rows(texts, labels, limits, annotators)
    if selection.collected_at is not None:
        times = read_column(table, selection.collected_at, "time of collection", where)
        results.append(_judge_times(read_times(times, where), where, limits, now))
    if against is not None:
        from pedigree.poisoning.leakage import find_repeats

        results.append(find_repeats(against, texts, limits.evaluation_leakage, labels))
    return results


def _judge_times(
    times: list[str | None], where: str, limits: CheckLimits, now: datetime | None
) -> CheckResult:
    from pedigree.poisoning.source_shift import find_young_rows

    known = [None if time is None else datetime.fromisoformat(time) for time in times]
    sources = [where] * len(times)
    return find_young_rows(sources, known, now, limits.source_shift)


def inspect_rows(
    texts: Sequence[str],
    labels: Sequence[str | None] | None,
    limits: CheckLimits,
    annotators: Sequence[str | None] | None = None,
) -> list[CheckResult]:
    """Run every check of labelled texts on rows in memory; the order of rows is that of arrival."""
    results = [*judge_copies(texts, labels, limits), *judge_texts(texts, labels, limits)]
    if annotators is not None and labels is not None:
        from pedigree.poisoning.annotators import find_annotator_manipulation

        votes = limits.annotator_manipulation
        results.append(find_annotator_manipulation(texts, annotators, labels, votes))
    return results


def judge_copies(
    texts: Sequence[str], labels: Sequence[str | None] | None, limits: CheckLimits
) -> Iterator[CheckResult]:
    """Yield what near-copies show; they are looked for once."""
    import numpy as np

    from pedigree.neighbours.local import find_near_duplicates
    from pedigree.poisoning.floods import find_floods
    from pedigree.poisoning.near_duplicates import find_label_conflicts

    conflicts, floods = limits.near_duplicate_label_conflicts, limits.near_duplicate_floods
    found = find_near_duplicates(texts, min(conflicts.similarity, floods.similarity))
    if labels is None:
        yield not_applicable("near_duplicate_label_conflicts", _NO_LABELS)
    else:
        yield find_label_conflicts(texts, labels, conflicts, found=found)
    arrival = np.arange(len(texts)) / max(len(texts), 1)
    yield find_floods(texts, floods, labels=labels, arrival=arrival, found=found)


def judge_texts(
    texts: Sequence[str], labels: Sequence[str | None] | None, limits: CheckLimits
) -> Iterator[CheckResult]:
    """Yield what each other check of texts and labels says, one after the other."""
    from pedigree.poisoning.clusters import find_anomalous_clusters
    from pedigree.poisoning.hidden_text import find_hidden_text
    from pedigree.poisoning.influence import find_influential_rows
    from pedigree.poisoning.instructions import find_embedded_instructions
    from pedigree.poisoning.labels import find_label_issues
    from pedigree.poisoning.secrets import find_secrets
    from pedigree.poisoning.triggers import find_trigger_ngrams

    if labels is None:
        labelled = ("trigger_ngrams", "label_issues", "anomalous_clusters", "influential_rows")
        yield from (not_applicable(name, _NO_LABELS) for name in labelled)
    else:
        yield find_trigger_ngrams(texts, labels, limits.trigger_ngrams)
        yield find_label_issues(texts, labels, limits.label_issues)
        yield find_anomalous_clusters(texts, labels, limits.anomalous_clusters)
        yield find_influential_rows(texts, labels, limits.influential_rows)
    yield find_hidden_text(texts, limits.hidden_text, labels=labels)
    yield find_embedded_instructions(texts, limits.embedded_instructions)
    yield find_secrets(texts, limits.secrets)


def inspect_instructions(path: Path, limits: CheckLimits) -> list[CheckResult]:
    """Run the checks of instruction data: columns `instruction`, `input` (optional), `output`.

    Raises:
        PedigreeError: the file cannot be read, or a column is missing.
    """
    from pedigree.poisoning.hidden_text import find_hidden_text
    from pedigree.poisoning.instruction_data import (
        Instructions,
        find_output_triggers,
        find_planted_phrases,
        find_repeated_outputs,
    )
    from pedigree.poisoning.secrets import find_secrets

    table, where = _read(path), str(path)
    asked, answers = (_require(table, n, n, where) for n in ("instruction", "output"))
    inputs: list[str | None] = [""] * len(asked)
    if "input" in table.column_names:
        inputs = read_column(table, "input", "input", where)
    about = [text or "" for text in inputs]
    data, bounds = Instructions(asked, about, answers), limits.instruction_data
    whole = ["\n".join(parts) for parts in zip(asked, about, answers, strict=True)]
    return [
        find_repeated_outputs(data, bounds),
        find_output_triggers(data, bounds),
        find_planted_phrases(data, bounds),
        find_hidden_text(whole, limits.hidden_text),
        find_secrets(whole, limits.secrets),
    ]


def inspect_preferences(
    path: Path, limits: CheckLimits, annotator: str | None = None
) -> list[CheckResult]:
    """Run the checks of preference data: columns `prompt`, `chosen`, `rejected`.

    Raises:
        PedigreeError: the file cannot be read, or a column is missing.
    """
    from pedigree.poisoning.hidden_text import find_hidden_text
    from pedigree.poisoning.preference_data import Preferences, find_preference_steering
    from pedigree.poisoning.preference_flips import find_flipped_pairs
    from pedigree.poisoning.secrets import find_secrets

    table, where = _read(path), str(path)
    prompts, chosen, rejected = (
        _require(table, name, name, where) for name in ("prompt", "chosen", "rejected")
    )
    who = read_column(table, annotator, "annotator", where) if annotator else None
    whole = ["\n".join(parts) for parts in zip(prompts, chosen, rejected, strict=True)]
    pairs = Preferences(prompts, chosen, rejected, annotators=who)
    return [
        find_preference_steering(pairs, limits.preference_steering),
        find_flipped_pairs(pairs, limits.label_issues),
        find_hidden_text(whole, limits.hidden_text),
        find_secrets(whole, limits.secrets),
    ]


def read_texts(path: Path, column: str) -> list[str]:
    """Return the texts of a CSV, TSV, JSONL or Parquet file.

    Raises:
        PedigreeError: there is no such file or column, or a row without a text.
    """
    return _require(_read(path), column, "text", str(path))


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise PedigreeError(f"{path} is no file: name a CSV, TSV, JSONL or Parquet file.")
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PedigreeError(
            f"{path} has the ending {path.suffix!r}: expected one of {', '.join(_FORMATS)}."
        )
    return read_table(path, Format.model_validate({"type": kind}), str(path))


def _require(table: pa.Table, column: str, role: str, where: str) -> list[str]:
    texts = read_column(table, column, role, where)
    for row, text in enumerate(texts):
        if text is None:
            raise PedigreeError(f"{where} has no {role} in row {row}: drop or fill the row.")
    return cast(list[str], texts)


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

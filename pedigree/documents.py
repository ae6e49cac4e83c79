"""Fetched bytes become rows: parsed strictly, each row knowing its source and labeller.

Comes after `fetching`, before `curation`. A row that cannot be read as declared is an error that
names the file and the line; nothing is skipped or guessed.

    row_key  who the row is:   sha256 of (source id, source key), or where the source has no key,
                               of (source id, text, occurrence number)
    row_id   what it says now: sha256 of the row key and all fields (`snapshots` adds it)
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from pedigree.archives import read_member
from pedigree.digests import canonical_json, sha256_hex
from pedigree.errors import GateClosed, PedigreeError
from pedigree.fetching import Fetched
from pedigree.sources import Labels, Ratings, Source
from pedigree.table_files import find_place, read_column, read_table

# One row a document. `label` is null where the source declares none or its score is in no range;
# `annotator` is null where nobody recorded who labelled the row (UNKNOWN in reports).
RAW_SCHEMA = pa.schema(
    [
        pa.field("row_key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_key", pa.string()),
        pa.field("raw_text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("annotator", pa.string()),
        pa.field("collected_at", pa.string()),  # 2026-01-31T12:00:00.000000+00:00
        pa.field("ratings", pa.list_(pa.field("element", pa.int64()))),  # as Parquet names it
        pa.field("label_batch", pa.string()),
        pa.field("guideline_version", pa.string()),
    ]
)


_FIRST_SECONDS = 10**8  # in 1973: a rating or a count is no time
_UNVERIFIED = "unverified"  # as `pedigree.admission.trying` writes it
_ROLES = ("text", "label", "key", "annotator", "collected_at")


def read_documents(source: Source, fetched: Fetched) -> pa.Table:
    """Parse a source's verified files into one table of `RAW_SCHEMA`, sorted by row key.

    Raises:
        PedigreeError: a file is empty, is no valid UTF-8, lacks a declared column, holds a label
            outside the declared set, or gives two rows the same key.
    """
    rows: dict[str, list[Any]] = {role: [] for role in _ROLES}
    for entry, path in fetched.files:
        where = f"{source.id} ({entry.path})"
        data: bytes | Path = path
        if source.member:
            data = read_member(path, source.member, source.max_bytes, where)
        for role, values in _read_file(source, data, where).items():
            rows[role] += values
    labels = rows["label"]
    keys = _row_keys(source.id, rows["key"], rows["text"], [labels, rows["annotator"]])
    ratings: list[list[int] | None] = [None] * len(keys)
    if source.ratings is not None:
        ratings = _read_ratings(source, source.ratings, fetched, rows["key"])
    count = len(keys)
    table = pa.table(
        {
            "row_key": keys,
            "source": [source.id] * count,
            "source_key": rows["key"],
            "raw_text": rows["text"],
            "label": labels,
            "annotator": rows["annotator"],
            "collected_at": rows["collected_at"],
            "ratings": ratings,
            "label_batch": [source.label_batch] * count,
            "guideline_version": [source.guideline_version] * count,
        },
        schema=RAW_SCHEMA,
    )
    return table.sort_by("row_key")


def _read_file(source: Source, data: bytes | Path, where: str) -> dict[str, list[Any]]:
    table = read_table(data, source.format, where)
    _refuse_unverified(table, where)
    rows: dict[str, list[Any]] = {}
    for role in _ROLES:
        column = cast(str | None, getattr(source.columns, role))
        rows[role] = read_column(table, column, role, where) if column else [None] * table.num_rows
    if None in rows["text"]:
        row = rows["text"].index(None)
        place = find_place(data, source.format, row)
        raise PedigreeError(f"{where} has no text in row {row}: drop or fill {place}.")
    rows["label"] = _read_labels(source, rows["label"], data, where)
    rows["collected_at"] = read_times(rows["collected_at"], where)
    return rows


def _refuse_unverified(table: pa.Table, where: str) -> None:
    """Refuse rows that `pedigree try` marked: a model that nobody vouches for said them."""
    if _UNVERIFIED not in table.column_names:
        return
    marked = table.num_rows - table.column(_UNVERIFIED).null_count
    if marked:
        raise GateClosed(
            f"{where} has {marked} rows with the mark {_UNVERIFIED!r}: they are what an unverified "
            "model said, and may not become data. Take another source."
        )


def read_times(values: Sequence[str | None], where: str) -> list[str | None]:
    """Return times in UTC to the microsecond, so that they sort as text; None where there is none.

    Raises:
        PedigreeError: a time has no zone or is none.
    """
    times: list[str | None] = []
    for row, value in enumerate(values):
        try:
            times.append(_read_time(value))
        except (ValueError, OverflowError, OSError) as error:
            raise PedigreeError(
                f"{where} has the time {value!r} in row {row} ({error}): expected ISO 8601 with a "
                "time zone, such as 2026-01-31T12:00:00+00:00, or seconds since 1970. Correct the "
                "row, or name no column of times."
            ) from None
    return times


def _read_time(value: str | None) -> str | None:
    if value is None or not value.strip():
        return None
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
        if abs(float(value)) < _FIRST_SECONDS:
            raise ValueError("a column of such small numbers holds something else")
        time = datetime.fromtimestamp(float(value), UTC)
    else:
        time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError("it has no time zone")
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _row_keys(
    source_id: str,
    keys: Sequence[str | None],
    texts: Sequence[str],
    others: Sequence[Sequence[str | None]],
) -> list[str]:
    if any(key is not None for key in keys):
        counts = Counter(keys)
        if None in counts or len(counts) < len(keys):
            key = next(key for key, count in counts.items() if key is None or count > 1)
            raise PedigreeError(
                f"{source_id} has {counts[key]} rows with the key {key!r}: a key must name one "
                "row. Correct the file, or leave out 'columns.key'."
            )
        return [_digest_fields(source_id, "key", key) for key in keys]
    # Equal texts are numbered in the order of their other fields, never of the file's lines.
    order = sorted(
        range(len(texts)), key=lambda row: (texts[row], *[column[row] or "" for column in others])
    )
    seen: Counter[str] = Counter()
    result = [""] * len(texts)
    for row in order:
        result[row] = _digest_fields(source_id, "text", texts[row], seen[texts[row]])
        seen[texts[row]] += 1
    return result


def _digest_fields(*fields: str | int | None) -> str:
    return sha256_hex(b"pedigree/row-key/v1\n" + canonical_json(list(fields)))


def _read_labels(
    source: Source, values: Sequence[str | None], data: bytes | Path, where: str
) -> list[str | None]:
    if source.labels is None:
        return [None] * len(values)
    read = _by_score if source.labels.from_score else _by_value
    labels: list[str | None] = []
    for position, value in enumerate(values):
        try:
            labels.append(read(source.labels, value))
        except (KeyError, ValueError, TypeError):
            expected = ", ".join(source.labels.values or ["a number"])
            raise PedigreeError(
                f"{where} has the label {value!r} in row {position}: expected {expected}. "
                f"Correct {find_place(data, source.format, position)} of the file, or declare the "
                "label in the source's file."
            ) from None
    return labels


def _by_value(labels: Labels, value: str | None) -> str | None:
    return (labels.values or {})[value] if value is not None else None


def _by_score(labels: Labels, value: str | None) -> str | None:
    score = float(cast(str, value))
    if score != score:
        raise ValueError("not a number")
    for name, limits in (labels.from_score or {}).items():
        if (limits.min is None or score >= limits.min) and (
            limits.max is None or score <= limits.max
        ):
            return name
    return None


def _read_ratings(
    source: Source, ratings: Ratings, fetched: Fetched, keys: Sequence[str]
) -> list[list[int] | None]:
    by_key: dict[str, list[int]] = {}
    for entry, path in fetched.files:
        where = f"{source.id} ratings ({entry.path})"
        data = read_member(path, ratings.member, source.max_bytes, where)
        table = read_table(data, ratings.format, where)
        for key, value in zip(
            read_column(table, ratings.key, "key", where),
            read_column(table, ratings.values, "ratings", where),
            strict=True,
        ):
            try:
                by_key[key] = _read_scores(value)
            except (TypeError, ValueError, RecursionError):
                raise PedigreeError(
                    f"{where} has {value!r} for {key!r}: expected a list of whole numbers."
                ) from None
    missing = [key for key in keys if key not in by_key]
    if missing:
        raise PedigreeError(
            f"{source.id} has no ratings for {len(missing)} rows, the first with key "
            f"{missing[0]!r}: correct the ratings' member or leave 'ratings' out."
        )
    return [by_key[key] for key in keys]


def _read_scores(value: str) -> list[int]:
    scores: object = json.loads(value)
    if not isinstance(scores, list):
        raise TypeError("no list")
    for score in cast(list[object], scores):
        if type(score) is not int or not -(2**63) <= score < 2**63:
            raise ValueError("no whole number")
    return cast(list[int], scores)

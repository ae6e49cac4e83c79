"""Fetched bytes become rows: parsed strictly, each row knowing its source and labeller.

Comes after `fetching`, before `curation`. A row that cannot be read as declared is an error that
names the file and the line; nothing is skipped or guessed.

    row_key  who the row is:   sha256 of (source id, source key), or where the source has no key,
                               of (source id, text, occurrence number)
    row_id   what it says now: sha256 of the row key and all fields (`snapshots` adds it)
"""

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pedigree.archives import read_member
from pedigree.digests import canonical_json, sha256_hex
from pedigree.errors import GateClosed, PedigreeError
from pedigree.fetching import Fetched
from pedigree.sources import Format, Labels, Ratings, Source

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
# Marks a column of JSON that holds lists or objects, with the first line that does.
_STRUCTURED = "pedigree.structured"
# Roles whose values are one text or number; conversations and ratings may be lists.
_PLAIN = frozenset(["text", "key", "label", "annotator", "collected_at", "time of collection"])
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
        raise PedigreeError(
            f"{where} has no text in row {row}: drop or fill {_place(data, source.format, row)}."
        )
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


def _place(data: bytes | Path, form: Format, row: int) -> str:
    """Return where a row of a file is: its line, where the format has lines."""
    if form.type == "parquet":
        return f"row {row}"
    content = data if isinstance(data, bytes) else data.read_bytes()
    text = content.decode("utf-8-sig")
    try:
        numbers = _jsonl_lines(text) if form.type == "jsonl" else _delimited_lines(text, form)
        line = next(itertools.islice(numbers, row, None), None)
    except csv.Error:  # such as a field that the csv module finds too long
        line = None
    return f"row {row}" if line is None else f"line {line}"


def _jsonl_lines(text: str) -> Iterator[int]:
    return (number for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _delimited_lines(text: str, form: Format) -> Iterator[int]:
    """Yield the line that each row begins in; a quoted field may hold the ends of lines."""
    reader = csv.reader(io.StringIO(text, newline=""), **_dialect(form))
    header, start = form.columns is None, 1
    for fields in reader:
        if fields and not header:
            yield start
        header, start = False, reader.line_num + 1


def _dialect(form: Format) -> dict[str, Any]:
    return {
        "delimiter": "," if form.type == "csv" else "\t",
        "quoting": csv.QUOTE_MINIMAL if form.quoting else csv.QUOTE_NONE,
    }


def read_table(data: bytes | Path, form: Format, where: str) -> pa.Table:
    """Read CSV, TSV, JSONL or Parquet; text formats give columns of strings.

    Raises:
        PedigreeError: the content is empty or not what the format says.
    """
    readers: dict[str, Callable[[bytes | Path, Format, str], pa.Table]] = {
        "csv": _read_delimited,
        "tsv": _read_delimited,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
    }
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    if not size:
        raise PedigreeError(f"{where} is empty: expected at least one row.")
    table = readers[form.type](data, form, where)
    if not table.num_rows:
        raise PedigreeError(f"{where} has no rows: expected at least one.")
    return table


def _read_delimited(data: bytes | Path, form: Format, where: str) -> pa.Table:
    content = data if isinstance(data, bytes) else data.read_bytes()
    _require_utf8(content, where)
    delimiter = "," if form.type == "csv" else "\t"
    names = list(form.columns) if form.columns else _header(content, form, where)
    try:
        return pa_csv.read_csv(
            io.BytesIO(content),
            read_options=pa_csv.ReadOptions(
                column_names=names, skip_rows=0 if form.columns else 1, block_size=64 << 20
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if form.quoting else False,
                newlines_in_values=form.quoting,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise PedigreeError(_find_ragged(content, form, where, len(names), str(error))) from None


def _find_ragged(content: bytes, form: Format, where: str, width: int, detail: str) -> str:
    """Return a sentence about the first line that has not as many fields as there are columns.

    Arrow says neither which line it is nor, of a quote that is never closed, that it is one.
    """
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), **_dialect(form))
    start = 1
    try:
        for fields in reader:
            if fields and len(fields) != width:
                lines = f"line {start}"
                if reader.line_num > start:
                    lines = f"lines {start} to {reader.line_num}, one row by its quotes"
                return (
                    f"{where} has {len(fields)} fields in {lines}: expected {width}, one a "
                    "column. Correct it; a field that holds the delimiter, a quote or the end of a "
                    "line stands in quotes."
                )
            start = reader.line_num + 1
    except csv.Error:  # such as a field that the csv module finds too long
        pass
    detail = " ".join(detail.split()).rstrip(".")
    return (
        f"{where} cannot be read as {form.type} ({detail}): correct the file, or name its format."
    )


def _header(content: bytes, form: Format, where: str) -> list[str]:
    text = re.split(rb"[\r\n]", content, maxsplit=1)[0].decode("utf-8-sig")
    try:
        names = next(csv.reader([text], **_dialect(form)), [])
    except csv.Error as error:
        raise PedigreeError(
            f"{where} has a first line that cannot be read as {form.type} ({error}): expected the "
            "names of the columns. Correct the line, or declare 'format.columns'."
        ) from None
    if not names:
        raise PedigreeError(
            f"{where} has a blank first line: expected the names of the columns. Delete the line, "
            "or declare 'format.columns'."
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise PedigreeError(f"{where} has two columns named {', '.join(twice)}: rename one.")
    return names


def _require_utf8(content: bytes, where: str) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PedigreeError(
            f"{where} is not valid UTF-8: byte {content[error.start]:#04x} in line {line}. Convert "
            "the file to UTF-8."
        ) from None


def _read_jsonl(data: bytes | Path, form: Format, where: str) -> pa.Table:
    content = data if isinstance(data, bytes) else data.read_bytes()
    _require_utf8(content, where)
    records: list[dict[str, str | None]] = []
    structured: dict[str, int] = {}
    for number, line in enumerate(content.decode("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = _read_record(line, f"{where} line {number}")
        except RecursionError:
            raise PedigreeError(
                f"{where} line {number} is nested too deeply to be read: expected a JSON object "
                "with plain fields. Correct or drop the line."
            ) from None
        for name, value in record.items():
            if isinstance(value, dict | list):
                structured.setdefault(name, number)
        records.append({name: _text(value) for name, value in record.items()})
    names = list(dict.fromkeys(name for record in records for name in record))
    fields = [
        pa.field(name, pa.string(), metadata={_STRUCTURED: str(structured[name])})
        if name in structured
        else pa.field(name, pa.string())
        for name in names
    ]
    columns = [pa.array([record.get(name) for record in records], pa.string()) for name in names]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _read_record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise PedigreeError(f"{where} is not valid JSON: {error}.") from None
    if not isinstance(record, dict):
        raise PedigreeError(f"{where} is no JSON object.")
    if "\\u" in line and not _is_unicode(record):
        raise PedigreeError(
            f"{where} holds half of a surrogate pair, which is no Unicode text: correct the "
            "escape sequence."
        )
    return cast(dict[str, Any], record)


def _is_unicode(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _read_parquet(data: bytes | Path, form: Format, where: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(data) if isinstance(data, bytes) else data)
    except (pa.ArrowInvalid, OSError) as error:
        # Arrow names the file by a path that the user never saw.
        said = re.sub(r"Could not open Parquet input source '[^']*': ", "", str(error))
        detail = " ".join(said.split()).rstrip(".")
        raise PedigreeError(
            f"{where} cannot be read as Parquet ({detail}): write the file again, or name its "
            "format as it is."
        ) from None


def read_column(table: pa.Table, name: str, role: str, where: str) -> list[Any]:
    """Return a column as a list of strings or None.

    Raises:
        PedigreeError: there is no such column, or it holds no plain values or no UTF-8.
    """
    if name not in table.column_names:
        raise PedigreeError(
            f"{where} has no column {name!r} for the {role}: it has "
            f"{', '.join(table.column_names)}. Name one of these."
        )
    line = (table.schema.field(name).metadata or {}).get(_STRUCTURED.encode())
    if line is not None and role in _PLAIN:
        raise PedigreeError(
            f"{where} has a list or an object as {role} in column {name!r}, line {line.decode()}: "
            "expected a text or a number. Write what is meant into a column of its own."
        )
    column = table.column(name)
    if not pa.types.is_string(column.type):
        try:
            column = column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise PedigreeError(
                f"{where} column {name!r} holds {column.type}, which is no {role}."
            ) from None
    try:
        return cast(list[Any], column.to_pylist())
    except UnicodeDecodeError as error:
        raise PedigreeError(
            f"{where} column {name!r} is not valid UTF-8 (found {error.object!r}): expected text. "
            "Convert the column to UTF-8 and write the file again."
        ) from None


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
                f"Correct {_place(data, source.format, position)} of the file, or declare the "
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

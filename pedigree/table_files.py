"""CSV, TSV, JSONL and Parquet as tables of text columns, read strictly.

What is wrong is named with the line where it stands; nothing is skipped or guessed.

    table = read_table(Path("rows.csv"), Format(type="csv"), "shop (rows.csv)")
    texts = read_column(table, "review", "text", "shop (rows.csv)")
"""

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pedigree.errors import PedigreeError
from pedigree.sources import Format

# Marks a column of JSON that holds lists or objects, with the first line that does.
_STRUCTURED = "pedigree.structured"
# Roles whose values are one text or number; conversations and ratings may be lists.
_PLAIN = frozenset(["text", "key", "label", "annotator", "collected_at", "time of collection"])


def find_place(data: bytes | Path, form: Format, row: int) -> str:
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

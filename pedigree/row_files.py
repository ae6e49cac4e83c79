"""A file that names rows, by row key or row id, read strictly: a row that nobody knows is an error.

>>> keys = resolve_rows(read_row_file(Path("rows.txt")), [documents, snapshot], "rows.txt")
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pedigree.errors import PedigreeError

COLUMNS = ("row_key", "row_id")
_HEX = set("0123456789abcdef")


def read_row_file(path: Path) -> list[str]:
    """Return the row keys and row ids that a file names, each once.

    Args:
        path: CSV or Parquet with a column `row_key` or `row_id`, or a text with one a line, where
            empty lines and those that begin with `#` are passed over.

    Raises:
        PedigreeError: there is no such file, it names no row, or something in it is no row's name.
    """
    try:
        if path.suffix.lower() in (".csv", ".parquet"):
            found = _read_column(path)
        else:
            lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
            found = [line for line in lines if line and not line.startswith("#")]
    except FileNotFoundError:
        raise PedigreeError(f"{path} is missing: name a file of row keys or row ids.") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise PedigreeError(f"{path} cannot be read ({reason}): name a file of row keys.") from None
    names = list(dict.fromkeys(name.lower() for name in found))
    bad = [name for name in names if len(name) != 64 or set(name) - _HEX]
    if bad:
        raise PedigreeError(
            f"{path} names {bad[0][:80]!r}: expected row keys or row ids of 64 hex digits each, as "
            "`pedigree trace` prints them and snapshots have them."
        )
    if not names:
        raise PedigreeError(f"{path} names no row: there would be nothing to exclude.")
    return names


def _read_column(path: Path) -> list[str]:
    if path.suffix.lower() == ".csv":
        strings = pa_csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
        table = pa_csv.read_csv(path, convert_options=strings)
    else:
        table = pq.read_table(path)
    for name in COLUMNS:
        if name in table.column_names:
            values = table[name].cast(pa.string()).to_pylist()
            return [str(value or "").strip() for value in values]
    raise PedigreeError(
        f"{path} has the columns {', '.join(table.column_names)}: expected one of "
        f"{' or '.join(COLUMNS)}."
    )


def resolve_rows(names: Sequence[str], tables: Iterable[pa.Table], where: str) -> set[str]:
    """Return the row keys that names of rows mean.

    Args:
        names: row keys or row ids.
        tables: where to look; each has the columns `row_key` and `row_id`.
        where: the file, for the message.

    Raises:
        PedigreeError: a name is in none of the tables.
    """
    left = pa.array(names, pa.string())
    keys: set[str] = set()
    for table in tables:
        for column in COLUMNS:
            options = pc.SetLookupOptions(table[column].combine_chunks())
            at = cast(pa.Array, pc.call_function("index_in", [left], options))
            keys.update(cast(list[str], table["row_key"].take(at.drop_null()).to_pylist()))
            left = left.filter(pc.call_function("is_null", [at]))
    if len(left):
        shown = ", ".join(f"{name[:12]}…" for name in cast(list[str], left.to_pylist())[:5])
        raise PedigreeError(
            f"{len(left)} of the {len(names)} rows in {where} are in no document or snapshot of "
            f"this model ({shown}): they cannot be taken out of it. Nothing was changed."
        )
    return keys

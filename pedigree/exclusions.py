"""Leaving out a source, an annotator or single rows, as if they had never been there.

What is left out is left out before curation, so that another source's copy of a dropped row may
come in. The curation's statement says what was left out::

    >>> exclusions = Exclusions(sources=("tweets",))
    >>> exclusions.drop_from(table).num_rows
    16028
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from pedigree.digests import hex_of, sha256_hex
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.files import write_atomically
from pedigree.params import CurationParams
from pedigree.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


class Exclusions(Settings):
    """What is left out: source ids, annotators' names, and row keys."""

    sources: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    row_keys: frozenset[str] = Field(default=frozenset())

    def __bool__(self) -> bool:
        return bool(self.sources or self.annotators or self.row_keys)

    def mask(self, table: "pa.Table") -> "pa.ChunkedArray":
        """Return which rows of a table with `row_key`, `source` and `annotator` are left out."""
        import pyarrow as pa
        import pyarrow.compute

        pc = cast(Any, pyarrow.compute)  # made at run time, so no checker knows its names
        text = pa.string()
        return pc.or_(
            pc.or_(
                pc.is_in(table["source"], pa.array(self.sources, text)),
                # Nobody's name is no name on the list: null is not left out.
                pc.is_in(table["annotator"], pa.array(self.annotators, text), skip_nulls=True),
            ),
            pc.is_in(table["row_key"], pa.array(sorted(self.row_keys), text)),
        )

    def drop_from(self, table: "pa.Table") -> "pa.Table":
        """Return a table without the rows that are left out."""
        import pyarrow.compute

        pc = cast(Any, pyarrow.compute)  # made at run time, so no checker knows its names
        return table.filter(pc.invert(self.mask(table)))

    def count_in(self, table: "pa.Table") -> int:
        """Return how many rows of a table should have been left out."""
        import pyarrow.compute

        pc = cast(Any, pyarrow.compute)  # made at run time, so no checker knows its names
        return int(pc.sum(self.mask(table)).as_py() or 0)


def keep_row_keys(folder: Path, keys: Iterable[str]) -> str | None:
    """Keep a list of row keys in a file named by its digest; return the digest, None for no key."""
    text = "".join(f"{key}\n" for key in sorted(set(keys)))
    if not text:
        return None
    digest = sha256_hex(text.encode())
    write_atomically(folder / f"{digest}.txt", text.encode())
    return f"sha256:{digest}"


def load_exclusions(folder: Path, params: CurationParams) -> Exclusions:
    """Return what parameters of curation leave out.

    Raises:
        EvidenceMissing: the list of row keys that they name is not here.
        VerificationFailed: it was changed.
    """
    keys: frozenset[str] = frozenset()
    if params.exclude_rows is not None:
        path = folder / f"{hex_of(params.exclude_rows)}.txt"
        if not path.is_file():
            raise EvidenceMissing(
                f"The list of rows to leave out, {params.exclude_rows}, is not at {path}: restore "
                "it, or retrain with --exclude-rows."
            )
        data = path.read_bytes()
        if sha256_hex(data) != hex_of(params.exclude_rows):
            raise VerificationFailed(f"{path} was changed: it does not have its own digest.")
        keys = frozenset(data.decode().split())
    return Exclusions(
        sources=params.exclude_sources, annotators=params.exclude_annotators, row_keys=keys
    )


def read_row_names(path: Path) -> list[str]:
    """Return the row keys or row ids in a file, in their order.

    A text file has one a line; CSV, TSV, JSONL and Parquet have a column `row_key` or `row_id`.

    Raises:
        PedigreeError: the file cannot be read, or holds something else.
    """
    names = _read_column(path) if path.suffix in _TABLES else _read_lines(path)
    odd = [name for name in names if len(name) != 64 or set(name) - set("0123456789abcdef")]
    if odd or not names:
        found = f"{odd[0][:80]!r}" if odd else "nothing"
        raise PedigreeError(
            f"{path} names no rows: expected row keys or row ids of 64 hex digits, found {found}. "
            "`pedigree trace row:…` and the snapshots' Parquet files have them."
        )
    return names


_TABLES: dict[str, Literal["csv", "tsv", "jsonl", "parquet"]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise PedigreeError(f"{path} cannot be read ({error}): expected a list of rows.") from None


def _read_column(path: Path) -> list[str]:
    from pedigree.documents import read_table
    from pedigree.sources import Format

    if not path.is_file():
        raise PedigreeError(f"There is no file {path}: name a list of rows.")
    table = read_table(path, Format(type=_TABLES[path.suffix]), str(path))
    column = next((name for name in ("row_key", "row_id") if name in table.column_names), None)
    if column is None:
        raise PedigreeError(
            f"{path} has neither a column row_key nor row_id: it has "
            f"{', '.join(table.column_names)}."
        )
    return [str(value) for value in table[column].to_pylist()]

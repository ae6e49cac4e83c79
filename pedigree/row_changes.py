"""What became of each source's rows between two tables, told apart by row key, in Arrow.

>>> compare_rows(before, after)[0]
SourceRows(source='tweets', before=726, after=0, added=0, removed=726, relabelled=0, edited=0)
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pedigree.errors import VerificationFailed


@dataclass(frozen=True)
class SourceRows:
    """What became of one source's rows, told apart by row key.

    `relabelled` rows have another label, `edited` ones the same label and another text.
    """

    source: str
    before: int
    after: int
    added: int
    removed: int
    relabelled: int
    edited: int


def compare_rows(before: pa.Table, after: pa.Table) -> list[SourceRows]:
    """Return what became of each source's rows, sorted by source.

    Args:
        before: has the columns `row_key` (no two alike), `row_id`, `source`, `label` and `text`.
        after: the same.

    Raises:
        VerificationFailed: a row key occurs twice in one of them.
    """
    columns = ["row_key", "row_id", "source", "label"]
    sides: list[pa.Table] = []
    for table in (before, after):
        if len(table["row_key"].unique()) != table.num_rows:
            raise VerificationFailed("A row key occurs twice in a snapshot: it cannot be compared.")
        place = pa.array(np.arange(table.num_rows))
        sides.append(table.select(columns).append_column("place", place))
    joined = sides[0].join(
        sides[1], "row_key", join_type="full outer", left_suffix="_before", right_suffix="_after"
    )
    only_after, only_before = (_is_null(joined[f"place_{side}"]) for side in ("before", "after"))
    same = joined.filter(_call("invert", _call("or", only_after, only_before)))
    changed = same.filter(_call("not_equal", same["row_id_before"], same["row_id_after"]))
    relabelled = _differs(changed["label_before"], changed["label_after"])
    texts = [
        table["text"].take(changed[f"place_{side}"])
        for side, table in (("before", before), ("after", after))
    ]
    edited = _call("and", _differs(*texts), _call("invert", relabelled))
    counts = [
        _count(before["source"]),
        _count(after["source"]),
        _count(joined.filter(only_after)["source_after"]),
        _count(joined.filter(only_before)["source_before"]),
        _count(changed.filter(relabelled)["source_after"]),
        _count(changed.filter(edited)["source_after"]),
    ]
    names = sorted({name for one in counts for name in one})
    return [SourceRows(name, *(one.get(name, 0) for one in counts)) for name in names]


def _call(function: str, *columns: Any) -> pa.ChunkedArray:
    return cast(pa.ChunkedArray, pc.call_function(function, list(columns)))


def _is_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return _call("is_null", column)


def _differs(one: pa.ChunkedArray, two: pa.ChunkedArray) -> pa.ChunkedArray:
    """Compare element by element; two nulls are equal, and null differs from every value."""
    values = _call("not_equal", one, two)
    nulls = _call("not_equal", _is_null(one), _is_null(two))
    return cast(pa.ChunkedArray, _call("or", pc.fill_null(values, False), nulls))


def _count(sources: pa.ChunkedArray) -> dict[str, int]:
    return {str(one["values"]): int(one["counts"]) for one in sources.value_counts().to_pylist()}

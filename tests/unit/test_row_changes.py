"""Rows added, removed, relabelled and edited, against a version that looks at one row at a time."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import VerificationFailed
from pedigree.row_changes import SourceRows, compare_rows
from pedigree.snapshots import add_row_ids

Row = tuple[str, str, str | None, str]

rows = st.lists(
    st.tuples(
        st.sampled_from([f"key-{i}" for i in range(12)]),
        st.sampled_from(["shop", "forum", "a 'source'\n"]),
        st.sampled_from(["good", "bad", "", None]),
        st.sampled_from(["a text", "another", ""]),
    ),
    unique_by=lambda row: row[0],
    max_size=12,
)


def make_table(rows: list[Row]) -> pa.Table:
    names = ["row_key", "source", "label", "text"]
    schema = pa.schema([(name, pa.string()) for name in names])
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)
    return add_row_ids(table) if rows else table.append_column("row_id", pa.array([], pa.string()))


def count_slowly(before: list[Row], after: list[Row]) -> list[SourceRows]:
    old, new = ({row[0]: row for row in side} for side in (before, after))
    both = [(old[key], new[key]) for key in old.keys() & new.keys()]
    found = []
    for source in sorted({row[1] for row in [*before, *after]}):
        mine = [(one, two) for one, two in both if two[1] == source]
        found.append(
            SourceRows(
                source,
                sum(row[1] == source for row in before),
                sum(row[1] == source for row in after),
                sum(row[1] == source for key, row in new.items() if key not in old),
                sum(row[1] == source for key, row in old.items() if key not in new),
                sum(one[2] != two[2] for one, two in mine),
                sum(one[2] == two[2] and one[3] != two[3] for one, two in mine),
            )
        )
    return found


@given(rows, rows)
def test_counts_are_those_of_one_row_at_a_time(before: list[Row], after: list[Row]) -> None:
    assert compare_rows(make_table(before), make_table(after)) == count_slowly(before, after)


def test_a_row_key_that_occurs_twice_is_refused() -> None:
    once = make_table([("k", "shop", "good", "a")])
    twice = pa.concat_tables([once, make_table([("k", "shop", "good", "b")])])
    with pytest.raises(VerificationFailed, match="twice"):
        compare_rows(once, twice)

"""Two tables of rows compared by key, against a comparison of dictionaries; and two models."""

import json
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.cli import main
from pedigree.comparing import SourceChange, compare_rows
from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.registry import find_promoted

ROWS = st.dictionaries(
    st.sampled_from([f"k{i}" for i in range(12)]),
    st.tuples(
        st.sampled_from(["shop", "forum", "news"]),
        st.sampled_from(["good", "bad", None]),
        st.integers(0, 2),
    ),
    max_size=12,
)
Rows = dict[str, tuple[str, str | None, int]]


def table(rows: Rows) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in ("row_key", "row_id", "source", "label")])
    return pa.Table.from_pylist(
        [
            {"row_key": key, "row_id": f"{source}-{label}-{text}", "source": source, "label": label}
            for key, (source, label, text) in rows.items()
        ],
        schema,
    )


def by_hand(before: Rows, after: Rows) -> list[SourceChange]:
    counts: dict[str, Counter[str]] = {}
    for key in before.keys() | after.keys():
        source = (after.get(key) or before[key])[0]
        if key not in before:
            kind = "added"
        elif key not in after:
            kind = "removed"
        elif before[key][1] != after[key][1]:
            kind = "relabelled"
        else:
            kind = "kept" if before[key] == after[key] else "changed"
        counts.setdefault(source, Counter())[kind] += 1
    names = ("added", "removed", "relabelled", "changed", "kept")
    return [
        SourceChange(source, *(counts[source][name] for name in names)) for source in sorted(counts)
    ]


@given(ROWS, ROWS)
def test_rows_are_compared_as_by_hand(before: Rows, after: Rows) -> None:
    assert compare_rows(table(before), table(after)) == by_hand(before, after)


def test_a_model_is_the_same_as_itself(
    trained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(trained.root), "diff", "production", "production"]) == 0
    assert "They are the same." in capsys.readouterr().out
    promoted = find_promoted(open_store(trained, trained.policy()), "production")
    assert promoted is not None
    name = promoted.model[:30]
    assert main(["-C", str(trained.root), "diff", "production", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True


def test_two_snapshots_are_compared_and_what_is_not_here_is_unknown(
    trained_copy: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    where = ["-C", str(trained_copy.root), "diff"]
    training, evaluation = (
        next(trained_copy.snapshots(zone).glob("?" * 64)).name  # type: ignore[arg-type]
        for zone in ("training", "evaluation")
    )
    assert main([*where, training, evaluation]) == 0
    out = capsys.readouterr().out
    assert "training and evaluation rows" in out
    assert "all" in out
    shutil.rmtree(trained_copy.snapshots("evaluation") / evaluation)
    assert main([*where, training, evaluation]) == 3
    assert "UNKNOWN" in capsys.readouterr().out
    assert main([*where, training, "0" * 64]) == 3
    assert "No snapshot evidence" in capsys.readouterr().err

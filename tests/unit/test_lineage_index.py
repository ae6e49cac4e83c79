"""The lineage index: the same answers however it was built, and one row at once."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.lineage_index import ORIGIN, LineageIndex, Link, RowPlace, open_index
from tests.conftest import REPOSITORY


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_rows(rows: Iterable[tuple[int, str, str | None]]) -> pa.Table:
    """Return a snapshot's table from (number, source, annotator)."""
    found = list(rows)
    columns: dict[str, list[Any]] = {
        "row_key": [key(number) for number, _, _ in found],
        "source": [source for _, source, _ in found],
        "label_batch": [None for _ in found],
        "guideline_version": ["2" for _ in found],
        "annotator": [annotator for _, _, annotator in found],
    }
    return pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
LINKS = st.builds(
    Link,
    source=NAMES.map("snapshot:{}".format),
    target=NAMES.map("model:{}".format) | NAMES.map("snapshot:{}".format),
    what=st.sampled_from(["trained", "went into"]),
    statement=NAMES.map("sha256:{}".format),
    rows=st.just(None),
    carries=st.just(True),
)
ROWS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from("xy"), st.sampled_from([None, "ann", "bob"])),
    max_size=12,
    unique_by=lambda row: row[0],
)  # fmt: skip
SNAPSHOTS = st.dictionaries(NAMES, ROWS, max_size=4)


def fill(index: LineageIndex, links: Iterable[Link], snapshots: dict[str, list[Any]]) -> None:
    for link in links:
        index.add_statement(link.statement, [link])
    for name, rows in snapshots.items():
        index.add_rows(name, make_rows(rows))


def answers(path: Path) -> dict[str, Any]:
    """Everything that can be asked of an index."""
    said: dict[str, Any] = {}
    with open_index(path, write=False) as index:
        said["statements"] = index.statements()
        said["blind"] = index.unindexed_snapshots()
        for number in range(22):
            said[f"row {number}"] = index.find_row(key(number))
        for thing in [f"{kind}:{name}" for kind in ("snapshot", "model") for name in "abcde"] + [
            "annotator:ann", "annotator:bob",
        ]:  # fmt: skip
            said[thing] = [index.follow([thing], forwards=way) for way in (True, False)]
    return said


@given(
    links=st.lists(LINKS, max_size=12),
    snapshots=SNAPSHOTS,
    order=st.randoms(),
    cut=st.integers(0, 8),
)
def test_an_index_that_is_built_again_gives_the_same_answers(
    tmp_path_factory: pytest.TempPathFactory,
    links: list[Link],
    snapshots: dict[str, list[Any]],
    order: Any,
    cut: int,
) -> None:
    """At once, or a part at a time in another order with repetitions: no answer differs."""
    folder = tmp_path_factory.mktemp("index")
    with open_index(folder / "once") as index:
        fill(index, links, snapshots)
    shuffled, names = list(links), list(snapshots)
    order.shuffle(shuffled)
    order.shuffle(names)
    for part in (slice(0, cut), slice(None)):
        with open_index(folder / "parts") as index:
            fill(index, shuffled[part], {name: snapshots[name] for name in names[part]})
    assert answers(folder / "once") == answers(folder / "parts")


@given(links=st.lists(LINKS, max_size=15), snapshots=SNAPSHOTS)
def test_answers_are_those_of_a_walk_by_hand(
    tmp_path_factory: pytest.TempPathFactory, links: list[Link], snapshots: dict[str, list[Any]]
) -> None:
    path = tmp_path_factory.mktemp("index") / "lineage.sqlite"
    with open_index(path) as index:
        fill(index, links, {})
        fill(index, [], snapshots)
    known = set(links)
    with open_index(path, write=False) as index:
        for start in "abcde":
            reached, before = {f"snapshot:{start}"}, set[str]()
            while reached != before:
                before = set(reached)
                reached |= {link.target for link in known if link.source in reached}
            found = index.follow([f"snapshot:{start}"], forwards=True)
            assert set(found) == {link for link in known if link.source in reached}
        for number in range(21):
            expected = sorted(
                RowPlace(key(number), name, position, source, "", "2", annotator or "")
                for name, rows in snapshots.items()
                for position, (one, source, annotator) in enumerate(rows)
                if one == number
            )
            assert index.find_row(key(number)) == index.find_row(key(number)[:12]) == expected
        for who in ("ann", "bob"):
            counts = {
                f"snapshot:{name}": sum(one[2] == who for one in rows)
                for name, rows in snapshots.items()
            }
            found = index.follow([f"annotator:{who}"], forwards=True)
            own = {link.target: link.rows for link in found if link.source == f"annotator:{who}"}
            assert own == {name: count for name, count in counts.items() if count}


def test_what_does_not_carry_content_is_followed_backwards_only(tmp_path: Path) -> None:
    with open_index(tmp_path / "i") as index:
        index.add_links([Link("snapshot:e", "model:m", "was held out from", "s", 5, False)])
        assert index.follow(["snapshot:e"], forwards=True) == []
        (back,) = index.follow(["model:m"], forwards=False)
        assert (back.source, back.carries) == ("snapshot:e", False)


def test_origins_of_many_columns_are_kept_apart(tmp_path: Path) -> None:
    rows = [
        (key(i), *(f"{name}{i % (n + 2)}" for n, name in enumerate(ORIGIN))) for i in range(200)
    ]
    table = pa.table(
        dict(zip(("row_key", *ORIGIN), map(list, zip(*rows, strict=True)), strict=True))
    )
    with open_index(tmp_path / "i") as index:
        index.add_rows("s", table)
        for position, row in enumerate(rows):
            assert index.find_row(row[0]) == [RowPlace(row[0], "s", position, *row[1:])]


@pytest.mark.parametrize("bad", ["", "abc", "g" * 12, "a" * 65, "sha256:abcdef", key(1) + "0"])
def test_what_is_no_row_key_is_refused(tmp_path: Path, bad: str) -> None:
    with open_index(tmp_path / "i") as index, pytest.raises(PedigreeError, match="no row key"):
        index.find_row(bad)


def test_digits_that_fit_two_rows_are_refused(tmp_path: Path) -> None:
    table = make_rows([(1, "x", None), (2, "x", None)])
    alike = pa.array(["ab" * 16 + "0" * 32, "ab" * 16 + "1" * 32])
    with open_index(tmp_path / "i") as index:
        index.add_rows("s", table.set_column(0, "row_key", alike))
        with pytest.raises(PedigreeError, match="fits 2 rows"):
            index.find_row("ab" * 16)
        assert index.find_row("AB" * 16 + "1")[0].position == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([key(1), key(1)], "Two rows of snapshot s"),
        ([key(1), None], "no row key"),
        ([key(1), "zz" * 32], "no row key"),
        ([key(1), "ab"], "no row key"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused_and_leave_nothing(
    tmp_path: Path, keys: list[str | None], message: str
) -> None:
    table = make_rows([(1, "x", "ann"), (2, "x", "bob")])
    table = table.set_column(0, "row_key", pa.array(keys, pa.string()))
    with pytest.raises(PedigreeError, match=message), open_index(tmp_path / "i") as index:
        index.add_rows("s", table)
    with open_index(tmp_path / "i") as index:
        assert index.find_row(key(1)) == []
        assert not index.knows("annotator:ann")


def test_a_missing_a_foreign_and_an_old_file_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(EvidenceMissing, match="There is no lineage index"):
        open_index(tmp_path / "none" / "i", write=False).__enter__()
    assert not (tmp_path / "none").exists()
    (tmp_path / "text").write_text("no database, but long enough to be looked at as one" * 100)
    with pytest.raises(PedigreeError, match="cannot be used"), open_index(tmp_path / "text"):
        pass
    other = sqlite3.connect(tmp_path / "old")
    other.execute("PRAGMA user_version = 99")
    other.close()
    for write in (True, False):
        with pytest.raises(PedigreeError, match="it has version 99"):
            open_index(tmp_path / "old", write=write).__enter__()


def test_a_killed_writer_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "i"
    with open_index(path) as index:
        index.add_rows("one", make_rows([(1, "x", None)]))
    code = """
import os, signal, sys
from pathlib import Path
from pedigree.lineage_index import open_index
from tests.unit.test_lineage_index import make_rows
with open_index(Path(sys.argv[1])) as index:
    index._db.execute("PRAGMA cache_size = 10")
    index.add_rows("two", make_rows((i, "y", None) for i in range(20000)))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    with open_index(path, write=False) as index:
        assert [one.snapshot for one in index.find_row(key(1))] == ["one"]
        assert index.find_row(key(5)) == []
    with open_index(path) as index:
        index.add_rows("two", make_rows((i, "y", None) for i in range(9)))
        assert len(index.find_row(key(1))) == 2

"""The lineage index: what went into what, in SQLite, so that a row among millions is found at once.

It is derived from signed statements and frozen rows, holds nothing that they do not say, and
decides nothing: it can be thrown away and built again, and then gives the same answers. Each link
names the statement that says so::

    >>> with open_index(path) as index:
    ...     index.add_links(links)
    ...     index.add_rows("sha256:ab…", table)
    ...     index.find_row("12 digits of a row key")

Things are named `kind:name`, such as `source:tweets` or `snapshot:sha256:ab…`.
"""

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pedigree.errors import EvidenceMissing, PedigreeError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

VERSION = 2  # 2: an adapter descends from the snapshot that it was trained on
ORIGIN = ("source", "label_batch", "guideline_version", "annotator")
WAIT_SECONDS = 60.0
_ROWS_A_STEP = 1 << 17

_SCHEMA = """
CREATE TABLE node (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL,
                   UNIQUE (kind, name));
CREATE TABLE link (source INTEGER NOT NULL, target INTEGER NOT NULL, what TEXT NOT NULL,
                   statement TEXT NOT NULL, rows INTEGER, carries INTEGER NOT NULL,
                   PRIMARY KEY (source, target, what, statement)) WITHOUT ROWID;
CREATE INDEX link_target ON link (target);
CREATE TABLE statement (digest TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE origin (id INTEGER PRIMARY KEY, source TEXT NOT NULL, label_batch TEXT NOT NULL,
                     guideline_version TEXT NOT NULL, annotator TEXT NOT NULL,
                     UNIQUE (source, label_batch, guideline_version, annotator));
CREATE TABLE indexed (snapshot INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
-- Clustered by snapshot and then by row key: a snapshot is filled in the order of the tree, which
-- keeps its pages full, and a row is one look-up in each snapshot.
CREATE TABLE member (snapshot INTEGER NOT NULL, row_key BLOB NOT NULL, position INTEGER NOT NULL,
                     origin INTEGER NOT NULL, PRIMARY KEY (snapshot, row_key)) WITHOUT ROWID;
"""


@dataclass(frozen=True, order=True)
class Link:
    """One step of lineage, and the digest of the statement that says so.

    What only the rows of a snapshot say (who labelled them) has the snapshot's own digest there.

    `carries` is whether what the target is depends on the source's content: those links are
    followed forwards. `rows` counts the rows of the source in the target, where that is known.
    """

    source: str
    target: str
    what: str
    statement: str
    rows: int | None = None
    carries: bool = True


@dataclass(frozen=True, order=True)
class RowPlace:
    """A row in one snapshot: its position there (from 0), and who made and labelled it."""

    row_key: str
    snapshot: str
    position: int
    source: str
    label_batch: str
    guideline_version: str
    annotator: str


class LineageIndex:
    """An open index; changes are kept when the block of `open_index` ends without an error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def statements(self) -> set[str]:
        """Return the digests of the statements that were added."""
        return {row[0] for row in self._db.execute("SELECT digest FROM statement")}

    def add_statement(self, digest: str, links: Iterable[Link]) -> None:
        """Add what one statement says; a second time changes nothing."""
        self._db.execute("INSERT OR IGNORE INTO statement VALUES (?)", (digest,))
        self.add_links(links)

    def add_links(self, links: Iterable[Link]) -> None:
        """Add links; those that are there already stay."""
        self._db.executemany(
            "INSERT OR IGNORE INTO link VALUES (?, ?, ?, ?, ?, ?)",
            [
                (self._node(one.source), self._node(one.target), one.what, one.statement,
                 one.rows, one.carries)
                for one in links
            ],
        )  # fmt: skip

    def add_rows(self, snapshot: str, table: "pa.Table") -> None:
        """Add the rows of a snapshot, in its order; a second time changes nothing.

        Args:
            snapshot: its digest.
            table: has the columns `row_key` (64 hex digits, no two alike), `source`,
                `label_batch`, `guideline_version` and `annotator`.

        Raises:
            PedigreeError: a row key is none, or occurs twice.
        """
        node = self._node(f"snapshot:{snapshot}")
        if self._db.execute("SELECT 1 FROM indexed WHERE snapshot = ?", (node,)).fetchone():
            return
        origins, counts = self._add_origins(table)
        keys = _read_keys(table, snapshot)
        try:
            self._db.executemany(
                f"INSERT INTO member VALUES ({node:d}, ?, ?, ?)",  # noqa: S608 - an integer
                _in_tree_order(keys, origins),
            )
        except sqlite3.IntegrityError:
            raise PedigreeError(
                f"Two rows of snapshot {snapshot} have one row key, so neither can be traced: it "
                "was not frozen by Pedigree. Materialise it again."
            ) from None
        self._db.execute("INSERT INTO indexed VALUES (?, ?)", (node, table.num_rows))
        self._link_people(snapshot, counts)

    def _add_origins(self, table: "pa.Table") -> tuple["np.ndarray", dict[tuple[str, ...], int]]:
        """Return for each row the id of where it is from, and how many rows each origin has."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        code, values = np.zeros(table.num_rows, np.int64), list[list[str]]()
        for name in ORIGIN:
            column = pc.fill_null(table.column(name).combine_chunks().cast(pa.string()), "")
            encoded = column.dictionary_encode()
            values.append(cast(list[str], encoded.dictionary.to_pylist()))
            code = code * max(len(values[-1]), 1) + np.asarray(encoded.indices, np.int64)
        used, inverse, numbers = np.unique(code, return_inverse=True, return_counts=True)
        found: dict[tuple[str, ...], int] = {}
        ids: list[int] = []
        for packed, count in zip(used.tolist(), numbers.tolist(), strict=True):
            parts: list[str] = []
            for options in reversed(values):
                packed, at = divmod(packed, max(len(options), 1))
                parts.insert(0, options[at])
            found[tuple(parts)] = count
            ids.append(self._origin(parts))
        return np.asarray(ids, np.int64)[inverse], found

    def _origin(self, parts: Sequence[str]) -> int:
        self._db.execute(
            "INSERT OR IGNORE INTO origin (source, label_batch, guideline_version, annotator) "
            "VALUES (?, ?, ?, ?)",
            parts,
        )
        query = (
            "SELECT id FROM origin WHERE (source, label_batch, guideline_version, annotator) "
            "= (?, ?, ?, ?)"
        )
        return cast(int, self._db.execute(query, parts).fetchone()[0])

    def _link_people(self, snapshot: str, counts: dict[tuple[str, ...], int]) -> None:
        """Link annotators and labelling batches, which only the rows name one by one."""
        totals: dict[str, int] = {}
        for (_, batch, _, annotator), rows in counts.items():
            for kind, name in (("batch", batch), ("annotator", annotator)):
                if name:
                    totals[f"{kind}:{name}"] = totals.get(f"{kind}:{name}", 0) + rows
        target = f"snapshot:{snapshot}"
        self.add_links(
            Link(thing, target, "labelled rows of", snapshot, rows)
            for thing, rows in totals.items()
        )

    def unindexed_snapshots(self) -> list[str]:
        """Return the digests of snapshots whose rows were never added: nobody can look there."""
        query = (
            "SELECT name FROM node WHERE kind = 'snapshot' "
            "AND id NOT IN (SELECT snapshot FROM indexed) ORDER BY name"
        )
        return [row[0] for row in self._db.execute(query)]

    def find_row(self, prefix: str) -> list[RowPlace]:
        """Return where a row is, by its row key or the first 12 or more of its 64 digits.

        Raises:
            PedigreeError: it is no row key, or fits the keys of several rows.
        """
        value = prefix.lower()
        if not 12 <= len(value) <= 64 or set(value) - set("0123456789abcdef"):
            raise PedigreeError(
                f"{prefix!r} is no row key: expected its 64 hex digits, or at least the first 12."
            )
        low, high = (bytes.fromhex(value.ljust(64, fill)) for fill in "0f")
        query = (
            "SELECT member.row_key, node.name, position, source, label_batch, guideline_version, "
            "annotator FROM indexed JOIN node ON node.id = indexed.snapshot "
            "CROSS JOIN member ON member.snapshot = indexed.snapshot "
            "AND member.row_key BETWEEN ? AND ? JOIN origin ON origin.id = member.origin"
        )
        found = cast(list[tuple[Any, ...]], self._db.execute(query, (low, high)).fetchall())
        places = sorted(RowPlace(row[0].hex(), *row[1:]) for row in found)
        keys = {one.row_key for one in places}
        if len(keys) > 1:
            raise PedigreeError(f"{prefix!r} fits {len(keys)} rows: give more digits.")
        return places

    def snapshots_with(self, keys: Iterable[str]) -> list[str]:
        """Return the digests of the snapshots that hold any of the row keys, sorted."""
        query = (
            "SELECT snapshot FROM indexed WHERE EXISTS (SELECT 1 FROM member "
            "WHERE member.snapshot = indexed.snapshot AND member.row_key = ?)"
        )
        found: set[int] = set()
        for key in keys:
            found.update(row[0] for row in self._db.execute(query, (bytes.fromhex(key),)))
        names = [
            self._db.execute("SELECT name FROM node WHERE id = ?", (one,)).fetchone()[0]
            for one in found
        ]
        return sorted(cast(list[str], names))

    def follow(
        self, things: Sequence[str], *, forwards: bool, what: Sequence[str] = ()
    ) -> list[Link]:
        """Return every link that is reached from `things`, sorted.

        Forwards only links that carry content are followed: what an evaluation looked at, say, is
        not in the model. Backwards all are, or those that say one of `what`.
        """
        here, there = ("source", "target") if forwards else ("target", "source")
        only = "AND link.carries" if forwards else ""
        if what:
            only += f" AND link.what IN ({', '.join('?' for _ in what)})"
        starts = [node for thing in things if (node := self._find(thing)) is not None]
        marks = ", ".join("(?)" for _ in starts) or "(NULL)"
        query = f"""
            WITH RECURSIVE reached (id) AS (
                SELECT * FROM (VALUES {marks})
                UNION SELECT link.{there} FROM link JOIN reached ON link.{here} = reached.id {only})
            SELECT a.kind || ':' || a.name, b.kind || ':' || b.name, what, statement, rows, carries
            FROM reached JOIN link ON link.{here} = reached.id {only}
            JOIN node a ON a.id = link.source JOIN node b ON b.id = link.target
        """  # noqa: S608 - only words from above are put in
        values = [*starts, *what, *what]
        found = cast(list[tuple[Any, ...]], self._db.execute(query, values).fetchall())
        links = [
            Link(source, target, what, statement, rows, bool(carries))
            for source, target, what, statement, rows, carries in found
        ]
        return sorted(links, key=lambda link: (link.source, link.target, link.what, link.statement))

    def knows(self, thing: str) -> bool:
        """Whether anything was said about a thing."""
        return self._find(thing) is not None

    def find_names(self, kind: str, prefix: str) -> list[str]:
        """Return the names of a kind of things that begin with `prefix`, sorted."""
        query = (
            "SELECT name FROM node WHERE kind = ? AND substr(name, 1, length(?)) = ? ORDER BY name"
        )
        return [row[0] for row in self._db.execute(query, (kind, prefix, prefix))]

    def _node(self, thing: str) -> int:
        kind, _, name = thing.partition(":")
        self._db.execute("INSERT OR IGNORE INTO node (kind, name) VALUES (?, ?)", (kind, name))
        return cast(int, self._find(thing))

    def _find(self, thing: str) -> int | None:
        kind, _, name = thing.partition(":")
        query = "SELECT id FROM node WHERE kind = ? AND name = ?"
        row = self._db.execute(query, (kind, name)).fetchone()
        return None if row is None else cast(int, row[0])


def _read_keys(table: "pa.Table", snapshot: str) -> "np.ndarray":
    """Return the row keys as an array of shape (rows, 32) of bytes."""
    import numpy as np

    keys = np.empty((table.num_rows, 32), np.uint8)
    start = 0
    for batch in table.select(["row_key"]).to_batches(max_chunksize=_ROWS_A_STEP):
        text = cast(list[str | None], batch.column(0).to_pylist())
        try:
            if any(one is None or len(one) != 64 for one in text):
                raise ValueError
            data = bytes.fromhex("".join(cast(list[str], text)))
            keys[start : start + len(text)] = np.frombuffer(data, np.uint8).reshape(-1, 32)
        except ValueError:
            raise PedigreeError(
                f"A row of snapshot {snapshot} has no row key of 64 hex digits, so it cannot be "
                "traced: materialise the snapshot again."
            ) from None
        start += len(text)
    return keys


def _in_tree_order(keys: "np.ndarray", origins: "np.ndarray") -> Iterator[tuple[bytes, int, int]]:
    """Yield (row key, position, origin) by row key: a tree that grows at its end is fast and full.

    The first eight bytes decide; among equal ones the order does not matter.
    """
    import numpy as np

    order = np.argsort(np.ascontiguousarray(keys[:, :8]).view(">u8").ravel(), kind="stable")
    for start in range(0, len(order), _ROWS_A_STEP):
        part = order[start : start + _ROWS_A_STEP]
        data = keys[part].tobytes()
        yield from zip(
            (data[at : at + 32] for at in range(0, len(data), 32)),
            part.tolist(),
            origins[part].tolist(),
            strict=True,
        )


@contextmanager
def open_index(path: Path, *, write: bool = True) -> Generator[LineageIndex]:
    """Open an index, and make an empty one where there is none and `write` is set.

    What the block adds is there as a whole when it ends, or not at all: SQLite's journal sees to
    that, also when the process is killed.

    Raises:
        EvidenceMissing: there is none, and it is only to be read.
        PedigreeError: the file is no index of this version, or another process keeps it.
    """
    if not path.is_file() and not write:
        raise EvidenceMissing(
            f"There is no lineage index in {path}: build it from the statements first."
        )
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        _require_schema(connection, write)
        yield LineageIndex(connection)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise PedigreeError(
            f"The lineage index {path} cannot be used ({error}): nothing was changed. If no other "
            "process uses it, delete it; it is built again from the statements."
        ) from error
    finally:
        connection.close()


def is_outdated(path: Path) -> bool:
    """Tell whether an index was made by another version of this code, whose links may differ."""
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error:
        return False  # opening it says what is wrong
    finally:
        connection.close()
    return version not in (0, VERSION)


def _require_schema(connection: sqlite3.Connection, write: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and write:
        for command in _SCHEMA.split(";"):
            connection.execute(command)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"it has version {version}, expected {VERSION}")

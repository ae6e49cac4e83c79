"""Where something went, and where it came from: the blast radius of a source, the origin of a row.

The index is brought up to date from the statements first, so that it never knows less than they::

    >>> update_index(project.lineage, store, rows_of(project))
    >>> trace = trace_thing(project.lineage, "source:tweets")
    >>> [link.target for link in trace.forwards]
    ['snapshot:sha256:ab…', 'model:sha256:cd…', 'environment:production']

A snapshot whose rows could not be read is named in `Trace.unindexed`: a row that is not found may
still be in it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.lineage_index import LineageIndex, Link, RowPlace, is_outdated, open_index
from pedigree.merge_records import read_merge
from pedigree.project import Project, Zone
from pedigree.registry import alias_of, read_promotion
from pedigree.training.record import read_record

if TYPE_CHECKING:
    import pyarrow as pa

# Returns a snapshot's table, opened by digest in its zone; None where its files are not here.
ReadRows: TypeAlias = "Callable[[str, str], pa.Table | None]"

KINDS = ("source", "row", "annotator", "batch", "snapshot", "adapter", "base", "model", "tenant")
FETCHED, CURATED, SPLIT, HAS_ROWS = "fetched as", "curated into", "split into", "has rows in"
_DIGESTS = ("snapshot", "adapter", "base", "model")


@dataclass(frozen=True)
class Trace:
    """What is known of one thing: where it went, where it came from, what could not be looked at.

    `places` says in which snapshots a row is; it is empty for other things.
    """

    thing: str
    forwards: tuple[Link, ...]
    backwards: tuple[Link, ...]
    places: tuple[RowPlace, ...] = ()
    unindexed: tuple[str, ...] = ()

    def reached(self, kind: str) -> list[str]:
        """Return the names of what was reached forwards, such as every `model` or `environment`."""
        found = {link.target for link in self.forwards if link.target.startswith(f"{kind}:")}
        return sorted(one.partition(":")[2] for one in found)


def update_index(path: Path, store: EvidenceStore, read_rows: ReadRows) -> list[str]:
    """Add what statements say and the index does not know; return the snapshots left without rows.

    An index that knows a statement which is not there any more, or is of another version, is built
    anew.

    Raises:
        VerificationFailed: a statement or a snapshot is not what evidence says.
        PedigreeError: another process keeps the index.
    """
    found = {one.digest: one for kind in _READERS for one in store.all(kind)}
    if path.is_file() and is_outdated(path):
        path.unlink()
    with open_index(path) as index:
        stale = bool(index.statements() - found.keys())
    if stale:
        path.unlink()
    with open_index(path) as index:
        known = index.statements()
        for digest in sorted(found.keys() - known):
            index.add_statement(digest, read_links(found[digest]))
        missing = set(index.unindexed_snapshots())
        for statement in found.values():
            snapshot = _subject(statement)
            if statement.kind == "snapshot" and snapshot in missing:
                table = read_rows(snapshot, str(statement.predicate["zone"]))
                if table is not None:
                    index.add_rows(snapshot, table)
                    missing.discard(snapshot)
        return index.unindexed_snapshots()


def rows_of(project: Project) -> ReadRows:
    """Return what opens a snapshot of the project by its digest, verified."""

    def read_rows(digest: str, zone: str) -> "pa.Table | None":
        from pedigree.snapshots import open_snapshot

        try:
            return open_snapshot(digest, project.snapshots(cast(Zone, zone))).read()
        except EvidenceMissing:
            return None

    return read_rows


def read_links(statement: Statement) -> list[Link]:
    """Return what one statement says about what went into what."""
    return list(_READERS[statement.kind](statement))


def _subject(statement: Statement) -> str:
    return "sha256:" + cast(str, statement.subjects[0]["digest"]["sha256"])


def _read_source(statement: Statement) -> Iterator[Link]:
    yield Link(
        f"source:{statement.predicate['id']}",
        f"documents:{_subject(statement)}",
        FETCHED,
        statement.digest,
        statement.predicate["rows"],
    )


def _read_curation(statement: Statement) -> Iterator[Link]:
    # That a source was curated does not mean that a row of it got anywhere: the snapshot says that.
    for digest in cast(dict[str, dict[str, str]], statement.predicate["inputs"]).values():
        yield Link(
            f"documents:sha256:{digest['sha256']}",
            f"curated:{_subject(statement)}",
            CURATED,
            statement.digest,
            carries=False,
        )


def _read_snapshot(statement: Statement) -> Iterator[Link]:
    said, target = statement.predicate, f"snapshot:{_subject(statement)}"
    curated = f"curated:sha256:{said['curated']['sha256']}"
    yield Link(curated, target, SPLIT, statement.digest)
    rows: dict[str, int] = {}
    for part in cast(list[dict[str, Any]], said["bySource"]):
        rows[part["source"]] = rows.get(part["source"], 0) + part["rows"]
    for source, count in rows.items():
        yield Link(f"source:{source}", target, HAS_ROWS, statement.digest, count)
    for part in cast(list[dict[str, Any]], said.get("tenants", [])):
        supplied = f"tenant:{part['tenant']}"
        yield Link(supplied, target, "supplied rows of", statement.digest, part["rows"])


def _read_training(statement: Statement) -> Iterator[Link]:
    record = read_record(statement)
    inputs, model = record.inputs, f"model:{_subject(statement)}"
    training, evaluation = inputs.training, record.evaluation_snapshot
    yield Link(f"snapshot:{training.digest}", model, "trained", statement.digest, training.rows)
    yield Link(
        f"snapshot:{evaluation.digest}",
        model,
        "was held out from",
        statement.digest,
        evaluation.rows,
        carries=False,
    )
    scratch = inputs.params.method == "scratch"
    what = "gave its tokenizer to" if scratch else "is the base of"
    yield Link(f"base:{inputs.base.digest}", model, what, statement.digest)
    if record.adapter_digest:
        adapter = f"adapter:{record.adapter_digest}"
        yield Link(
            f"snapshot:{training.digest}", adapter, "trained", statement.digest, training.rows
        )
        yield Link(adapter, model, "is merged into", statement.digest)


def _read_merge(statement: Statement) -> Iterator[Link]:
    record, model = read_merge(statement), f"model:{_subject(statement)}"
    # What it was merged into may be a base from outside, or a model that was trained here.
    yield Link(f"base:{record.base}", model, "is the base of", statement.digest)
    yield Link(f"model:{record.base}", model, "is the base of", statement.digest)
    for adapter in record.adapters:
        yield Link(f"adapter:{adapter.digest}", model, "is merged into", statement.digest)


def _read_promotion(statement: Statement) -> Iterator[Link]:
    promotion = read_promotion(statement)
    place = f"environment:{alias_of(promotion.environment, promotion.tenant)}"
    what = f"was promoted on {promotion.promoted_on} to"
    yield Link(f"model:{promotion.model}", place, what, statement.digest)
    if promotion.tenant:
        yield Link(place, f"tenant:{promotion.tenant}", "serves", statement.digest)


_READERS: dict[str, Callable[[Statement], Iterator[Link]]] = {
    "source": _read_source,
    "curation": _read_curation,
    "snapshot": _read_snapshot,
    "training": _read_training,
    "merge": _read_merge,
    "promotion": _read_promotion,
}


def trace_thing(path: Path, thing: str) -> Trace:
    """Return where a thing went and where it came from.

    Args:
        path: an index that is up to date.
        thing: `source:ID`, `annotator:NAME`, `batch:NAME`, `tenant:NAME`, `row:KEY`, or
            `snapshot:`, `adapter:`, `base:` or `model:` and a digest. At least the first 12 digits
            of a key or digest.

    Raises:
        PedigreeError: it is no such name, or its digits fit several things.
        EvidenceMissing: nothing is known of it.
    """
    kind, colon, name = thing.partition(":")
    if not colon or kind not in KINDS or not name:
        raise PedigreeError(
            f"{thing!r} cannot be traced: expected a kind and a name, such as 'source:tweets'. "
            f"Kinds are {', '.join(KINDS)}."
        )
    with open_index(path, write=False) as index:
        if kind == "row":
            return _trace_row(index, name)
        full = _complete(index, kind, name)
        return Trace(
            full,
            tuple(index.follow([full], forwards=True)),
            tuple(index.follow([full], forwards=False)),
            unindexed=tuple(index.unindexed_snapshots()) if kind in ("annotator", "batch") else (),
        )


def trace_rows(path: Path, keys: Iterable[str]) -> Trace:
    """Return where any of several rows went.

    Args:
        path: an index that is up to date.
        keys: whole row keys.
    """
    with open_index(path, write=False) as index:
        snapshots = [f"snapshot:{one}" for one in index.snapshots_with(keys)]
        return Trace(
            "rows",
            tuple(index.follow(snapshots, forwards=True)),
            (),
            unindexed=tuple(index.unindexed_snapshots()),
        )


def _complete(index: LineageIndex, kind: str, name: str) -> str:
    if kind not in _DIGESTS:
        found = [name] if index.knows(f"{kind}:{name}") else []
    else:
        digits = name.removeprefix("sha256:").lower()
        if len(digits) < 12 or set(digits) - set("0123456789abcdef"):
            raise PedigreeError(
                f"{name!r} is no digest: give at least the first 12 of its 64 digits."
            )
        found = index.find_names(kind, f"sha256:{digits}")
    if not found:
        raise EvidenceMissing(_nothing_known(f"{kind} {name}", index))
    if len(found) > 1:
        raise PedigreeError(f"{name!r} fits {len(found)} things of kind {kind}: give more digits.")
    return f"{kind}:{found[0]}"


def _trace_row(index: LineageIndex, prefix: str) -> Trace:
    places = index.find_row(prefix)
    if not places:
        raise EvidenceMissing(_nothing_known(f"row {prefix}", index))
    snapshots = [f"snapshot:{one.snapshot}" for one in places]
    sources = {f"source:{one.source}" for one in places}
    # Backwards only the row's own source, of the many that went into the same snapshots.
    back = index.follow(snapshots, forwards=False, what=(FETCHED, CURATED, SPLIT, HAS_ROWS))
    own = {link.target for link in back if link.source in sources}
    backwards = [
        link
        for link in back
        if link.source in sources or link.source in own or link.source.startswith("curated:")
    ]
    return Trace(
        f"row:{places[0].row_key}",
        tuple(index.follow(snapshots, forwards=True)),
        tuple(backwards),
        tuple(places),
        tuple(index.unindexed_snapshots()),
    )


def _nothing_known(what: str, index: LineageIndex) -> str:
    blind = index.unindexed_snapshots()
    if not blind:
        return f"Nothing is known of {what}: no statement and no row of a snapshot names it."
    return (
        f"Nothing is known of {what}, but {len(blind)} snapshots could not be looked at "
        f"({', '.join(one[:19] + '…' for one in blind[:3])}): restore them (`dvc pull`), and ask "
        "again."
    )

"""Moving a source's pin on purpose: fetch, parse, show what changed, then write the new pin.

    >>> change = repin_source(project, "tweets", now)
    >>> change.added, change.removed, change.changed
    (12, 0, 3)

A source that cannot be read as declared keeps its old pin.
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import pyarrow as pa

from pedigree.documents import read_documents
from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import open_store
from pedigree.fetching import fetch_unverified, resolve_uri
from pedigree.project import Project
from pedigree.snapshots import open_snapshot
from pedigree.sources import Source, find_source, write_pin


@dataclass(frozen=True)
class PinChange:
    """What a new pin means: rows by row key against the documents of the old pin.

    The counts of rows are None where the documents of the old pin are not here to compare with.
    """

    source: str
    old: str | None
    new: str
    revision: str
    rows: int
    labels: dict[str, int]
    added: int | None = None
    removed: int | None = None
    changed: int | None = None
    examples: tuple[str, ...] = ()


def repin_source(project: Project, source_id: str, now: datetime) -> PinChange:
    """Pin a source to the bytes that it serves now.

    Raises:
        PedigreeError: the source is unknown or unreachable, or its bytes cannot be read as
            declared; the pin stays as it was.
    """
    folder = project.root / "sources"
    source = find_source(folder, source_id)
    store = project.fetched(source.zone)
    uri = resolve_uri(source.uri, project.root)
    with fetch_unverified(
        uri, store, name=source.id, max_bytes=source.max_bytes, now=now
    ) as fetched:
        documents = read_documents(source, fetched)
        change = _compare(
            source, fetched.sha256, fetched.revision, documents, _find_documents(project, source)
        )
    if change.new != change.old:
        write_pin(folder / f"{source_id}.yaml", change.new)
    return change


def _find_documents(project: Project, source: Source) -> pa.Table | None:
    """Return the documents that were read under the present pin, or None."""
    statements = [
        one
        for one in open_store(project, project.policy()).all("source")
        if one.predicate["id"] == source.id and one.predicate["sha256"] == source.sha256
    ]
    for one in sorted(statements, key=lambda one: str(one.predicate["fetchedOn"]), reverse=True):
        digest = "sha256:" + cast(str, one.subjects[0]["digest"]["sha256"])
        try:
            return open_snapshot(digest, project.tables(source.zone)).read()
        except EvidenceMissing:
            continue
    return None


def _compare(
    source: Source, new: str, revision: str, now: pa.Table, before: pa.Table | None
) -> PinChange:
    labels = Counter(cast(list[str | None], now.column("label").to_pylist()))
    change = PinChange(
        source.id,
        source.sha256,
        new,
        revision,
        now.num_rows,
        {label or "(none)": count for label, count in sorted(labels.items(), key=str)},
    )
    if before is None:
        return change
    old_rows, new_rows = _by_key(before), _by_key(now)
    changed = [key for key in old_rows.keys() & new_rows.keys() if old_rows[key] != new_rows[key]]
    removed = sorted(old_rows.keys() - new_rows.keys())
    added = sorted(new_rows.keys() - old_rows.keys())
    examples = [
        *[
            f"changed: {_show(old_rows[key])} -> {_show(new_rows[key])}"
            for key in sorted(changed)[:5]
        ],
        *[f"added: {_show(new_rows[key])}" for key in added[:5]],
        *[f"removed: {_show(old_rows[key])}" for key in removed[:5]],
    ]
    return dataclasses.replace(
        change,
        added=len(added),
        removed=len(removed),
        changed=len(changed),
        examples=tuple(examples),
    )


def _by_key(table: pa.Table) -> dict[str, tuple[str, str | None]]:
    columns = (table.column(name).to_pylist() for name in ("row_key", "raw_text", "label"))
    return {
        cast(str, key): (cast(str, text), cast("str | None", label))
        for key, text, label in zip(*columns, strict=True)
    }


def _show(row: tuple[str, str | None]) -> str:
    text, label = row
    return f"[{label or 'no label'}] {text[:100]!r}"

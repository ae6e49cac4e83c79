"""From declared sources to frozen training and evaluation data: what the data assets call.

Each step reads by digest, freezes what it made, and signs a statement about it, so that the way
back from a snapshot to the bytes of a source is evidence:

    ingest_source -> curate_sources -> freeze_split
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import pyarrow as pa

from pedigree.admission.trying import refuse_trials
from pedigree.curation import Curated, curate
from pedigree.digests import JSON, hex_of
from pedigree.documents import read_documents
from pedigree.errors import PedigreeError
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.excluded import find_excluded
from pedigree.exclusions import (
    Exclusions,
    describe_exclusions,
    open_exclusions,
    read_exclusions,
    require_known,
)
from pedigree.fetching import Fetched, describe_uri, fetch_pinned, resolve_uri
from pedigree.neighbours.local import FindNeighbours, find_near_duplicates
from pedigree.params import CurationParams, SplitParams
from pedigree.project import Project, Zone
from pedigree.snapshots import Snapshot, freeze_snapshot, open_snapshot
from pedigree.source_approval import require_source_allowed
from pedigree.sources import Source, find_source, load_sources
from pedigree.splitting import split_documents
from pedigree.versioning import DvcPointer, track


@dataclass(frozen=True)
class Ingested:
    """One source's documents, frozen, and where they came from."""

    documents: Snapshot
    fetched: Fetched
    by_label: dict[str, int]


@dataclass(frozen=True)
class CuratedDocuments:
    """Documents that passed curation, frozen, and what became of the others."""

    documents: Snapshot
    outcome: Curated


@dataclass(frozen=True)
class FrozenData:
    """One side of the split, frozen and under DVC."""

    snapshot: Snapshot
    pointer: DvcPointer
    by_source: list[dict[str, JSON]]


def ingest_source(project: Project, source: Source, now: datetime) -> Ingested:
    """Fetch a source, verify its pin, parse it and freeze its documents in its zone.

    Raises:
        GateClosed: its kind is denied by default, and no reviewer approved it.
        VerificationFailed: the bytes are not the pinned ones.
        GateClosed: they are what an unverified model said.
        PedigreeError: the source cannot be reached or read as declared.
    """
    store = open_store(project, project.policy(), write=True)
    approval = require_source_allowed(store, source)
    fetched = fetch_pinned(
        resolve_uri(source.uri, project.root),
        source.sha256,
        project.fetched(source.zone),
        name=source.id,
        max_bytes=source.max_bytes,
        cache=project.download_cache,
        now=now,
    )
    store = open_store(project, project.policy(), write=True)
    refuse_trials(store, [entry.sha256 for entry, _ in fetched.files], source.id)
    table = read_documents(source, fetched)
    documents = freeze_snapshot(table, project.tables(source.zone), source.zone)
    declared = source.model_dump(mode="json", exclude={"format", "columns", "labels", "ratings"})
    store.write(
        "source",
        [{"name": f"raw_documents/{source.id}", "digest": {"sha256": hex_of(documents.digest)}}],
        {
            **declared,
            "uri": describe_uri(source.uri, project.root),
            "files": [entry.model_dump() for entry, _ in fetched.files],
            "revision": fetched.revision,
            "fetchedOn": fetched.fetched_at,
            "rows": documents.rows,
            "approval": {"sha256": hex_of(approval.digest)} if approval else None,
        },
    )
    labels = Counter(cast(list[str | None], table.column("label").to_pylist()))
    return Ingested(
        documents,
        fetched,
        {label or "(none)": count for label, count in sorted(labels.items(), key=str)},
    )


def curate_sources(
    project: Project, params: CurationParams, raw: Mapping[str, str]
) -> CuratedDocuments:
    """Curate the documents of several sources together; what is for production stays out.

    Args:
        project: where everything lies.
        params: which documents are kept, and what is left out.
        raw: for each source id the digest of its raw documents.

    Raises:
        PedigreeError: nothing would be left, or what is to be left out is not known.
        EvidenceMissing: the list of rows to leave out is not here.
    """
    sources = load_sources(project.root / "sources")
    exclusions = open_exclusions(project, params)
    store = open_store(project, project.policy(), write=True)
    wanted = {name: one for name, one in raw.items() if name not in exclusions.sources}
    require_known("source", wanted, sources)
    used = {name: one for name, one in wanted.items() if sources[name].zone != "production"}
    _require_known_sources(store, exclusions, {*raw, *sources})
    if not used:
        without = f" without {', '.join(exclusions.names())}" if exclusions else ""
        raise PedigreeError(
            f"No source for training or evaluation is left{without}: declare one for training."
        )
    tables = [
        open_snapshot(digest, project.tables(sources[name].zone)).read().drop_columns(["row_id"])
        for name, digest in sorted(used.items())
    ]
    table = pa.concat_tables(tables)
    _require_known_annotators(project, exclusions, raw, table)
    table, taken = exclusions.take_out(table)
    if not table.num_rows:
        raise PedigreeError(
            f"No document is left without {', '.join(exclusions.names())}: exclude less."
        )
    outcome = curate(table, params)
    documents = freeze_snapshot(outcome.kept, project.curated, "curated")
    store.write(
        "curation",
        [{"name": "curated_documents", "digest": {"sha256": hex_of(documents.digest)}}],
        {
            "params": params.model_dump(mode="json"),
            "inputs": {name: {"sha256": hex_of(digest)} for name, digest in sorted(used.items())},
            "funnel": [[step, rows] for step, rows in outcome.funnel()],
            "bySource": cast(JSON, outcome.by_source()),
            "excluded": describe_exclusions(exclusions, raw, taken),
        },
    )
    return CuratedDocuments(documents, outcome)


def _require_known_sources(store: EvidenceStore, exclusions: Exclusions, sources: set[str]) -> None:
    """Refuse a source that neither is declared nor ever was: that would be a slip."""
    if not set(exclusions.sources) <= sources:
        sources = sources | {str(one.predicate["id"]) for one in store.all("source")}
        require_known("source", exclusions.sources, sources)


def _require_known_annotators(
    project: Project, exclusions: Exclusions, raw: Mapping[str, str], table: pa.Table
) -> None:
    """Refuse an annotator who labelled no document, those of excluded sources among them."""
    known = _list_annotators(table)
    if set(exclusions.annotators) <= known:
        return
    for name in exclusions.sources:
        if name in raw:
            source = find_source(project.root / "sources", name)
            documents = open_snapshot(raw[name], project.tables(source.zone)).read()
            known |= _list_annotators(documents)
    require_known("annotator", exclusions.annotators, known)


def _list_annotators(documents: pa.Table) -> set[str]:
    return set(cast(list[str], documents["annotator"].unique().drop_null().to_pylist()))


def freeze_split(
    project: Project,
    params: SplitParams,
    curated: str,
    find: FindNeighbours = find_near_duplicates,
) -> tuple[FrozenData, FrozenData]:
    """Divide curated documents and freeze each side in its own zone; return (training, evaluation).

    Raises:
        PedigreeError: a side would be empty, or DVC is locked.
        VerificationFailed: a row that was excluded is in one of them.
    """
    held_out = [
        source.id
        for source in load_sources(project.root / "sources").values()
        if source.zone == "evaluation"
    ]
    table = open_snapshot(curated, project.curated).read().drop_columns(["row_id"])
    split = split_documents(table, params, held_out, find)
    return (
        _freeze_side(project, params, curated, "training", split.training),
        _freeze_side(project, params, curated, "evaluation", split.evaluation),
    )


def _freeze_side(
    project: Project, params: SplitParams, curated: str, zone: Zone, table: pa.Table
) -> FrozenData:
    store = open_store(project, project.policy(), write=True)
    excluded = find_excluded(store, curated)
    snapshot = freeze_snapshot(table, project.snapshots(zone), zone)
    # Read back: what counts is what was frozen. Without a statement nobody trains on it.
    read_exclusions(project, excluded).require_absent(
        snapshot.read(), f"The {zone} snapshot {snapshot.digest}"
    )
    pointer = track(project.root, snapshot.path)
    by_source = count_by_source(table)
    store.write(
        "snapshot",
        [{"name": f"{zone}_snapshot", "digest": {"sha256": hex_of(snapshot.digest)}}],
        {
            "zone": zone,
            "rows": snapshot.rows,
            "schema": [list(column) for column in snapshot.manifest.column_schema],
            "merkleRoot": snapshot.manifest.merkle_root,
            "manifest": {"sha256": hex_of(snapshot.manifest_digest)},
            "dvc": pointer.model_dump(mode="json"),
            "curated": {"sha256": hex_of(curated)},
            "split": params.model_dump(mode="json"),
            "bySource": cast(JSON, by_source),
            "excluded": cast(JSON, excluded),
            "tenants": cast(JSON, _find_tenants(project, store, curated, by_source)),
        },
    )
    return FrozenData(snapshot, pointer, by_source)


def _find_tenants(
    project: Project, store: EvidenceStore, curated: str, by_source: list[dict[str, JSON]]
) -> list[dict[str, JSON]]:
    """Return what carries a tenant into a snapshot: tenant, source and its rows.

    What a source declares now counts, and what it declared when its documents were fetched.
    """
    declared = load_sources(project.root / "sources")
    tenants: dict[str, set[str]] = {
        name: {source.tenant} for name, source in declared.items() if source.tenant
    }
    for curation in store.about(curated, "curation")[0]:
        for name, digest in cast(dict[str, dict[str, str]], curation.predicate["inputs"]).items():
            for one in store.about(digest["sha256"], "source")[0]:
                if one.predicate.get("tenant"):
                    tenants.setdefault(name, set()).add(str(one.predicate["tenant"]))
    rows: Counter[str] = Counter()
    for part in by_source:
        rows[cast(str, part["source"])] += cast(int, part["rows"])
    return [
        {"tenant": tenant, "source": source, "rows": count}
        for source, count in sorted(rows.items())
        for tenant in sorted(tenants.get(source, ()))
    ]


def count_by_source(table: pa.Table) -> list[dict[str, JSON]]:
    """Return one record a source and labelling batch: rows, rows by label, known annotators.

    `annotators` is null where nobody recorded who labelled the rows.
    """
    columns = cast(
        dict[str, list[Any]],
        table.select(
            ["source", "label_batch", "guideline_version", "label", "annotator"]
        ).to_pydict(),
    )
    labels: dict[tuple[str, str, str], Counter[str]] = {}
    annotators: dict[tuple[str, str, str], set[str]] = {}
    for source, batch, guideline, label, annotator in zip(*columns.values(), strict=True):
        key = (source, batch or "", guideline or "")
        labels.setdefault(key, Counter())[label] += 1
        annotators.setdefault(key, set()).update([annotator] if annotator else [])
    return [
        {
            "source": key[0],
            "label_batch": key[1] or None,
            "guideline_version": key[2] or None,
            "rows": counts.total(),
            "labels": dict(sorted(counts.items())),
            "annotators": len(annotators[key]) or None,
        }
        for key, counts in sorted(labels.items())
    ]

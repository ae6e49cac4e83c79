"""Training a model again as if some of its data had never been there.

`plan_retraining` works out from signed statements which documents, which settings and which
exclusions a run needs; Dagster runs it (`clean_retrain`); `conclude_retraining` makes sure that
nothing of what was left out is in the new snapshots, and says what else descends from it::

    >>> plan = plan_retraining(project, store, digest, Exclusions(sources=("tweets",)))
    >>> plan.run_config["ops"]["curated_documents"]["config"]["exclude_sources"]
    ['tweets']
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pedigree.comparing import Comparison, compare
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.revocations import find_revocations
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.exclusions import Exclusions, keep_row_keys, load_exclusions, read_row_names
from pedigree.params import CurationParams
from pedigree.project import Project, Zone
from pedigree.registry import alias_of, find_training, list_promotions
from pedigree.sources import load_sources
from pedigree.training.record import TrainingRecord, read_record

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

NOT_RUN = "not run"


@dataclass(frozen=True)
class RetrainPlan:
    """What is left out, of which model, and the Dagster run that trains without it."""

    model: str
    exclusions: Exclusions
    run_config: dict[str, Any]


@dataclass(frozen=True)
class Unclean:
    """A model or adapter that still holds what was left out.

    `rows` is how many rows of it were trained on; None where the snapshot is not here to look.
    """

    model: str
    adapter: str | None
    rows: int | None
    environments: tuple[str, ...]
    revoked: bool


@dataclass(frozen=True)
class Retraining:
    """What came of it: the new model beside the old one, and what is still not clean."""

    before: str
    after: str
    comparison: Comparison
    unclean: tuple[Unclean, ...]
    trigger_scan: str = NOT_RUN


def plan_retraining(
    project: Project,
    store: EvidenceStore,
    model: str,
    *,
    sources: Sequence[str] = (),
    annotators: Sequence[str] = (),
    rows: "Path | None" = None,
) -> RetrainPlan:
    """Work out how to train a model again without some of its data.

    Args:
        project: where its data lies.
        store: the evidence.
        model: its digest.
        sources: ids of sources to leave out.
        annotators: whose rows to leave out.
        rows: a file of row keys or row ids to leave out.

    Raises:
        PedigreeError: nothing, or everything, would be left out, or a name is of none of its data.
        EvidenceMissing: a statement or a snapshot that is needed is not here.
    """
    record = read_record(find_training(store, model))
    snapshot = _newest(store, record.inputs.training.digest, "snapshot")
    curation = _newest(store, "sha256:" + snapshot.predicate["curated"]["sha256"], "curation")
    documents = {
        name: "sha256:" + one["sha256"] for name, one in curation.predicate["inputs"].items()
    }
    _require_declared(project, documents, record)
    tables = [*_open_snapshots(project, record), *_open_documents(project, documents)]
    keys = _resolve_rows(tables, read_row_names(rows)) if rows is not None else frozenset[str]()
    exclusions = Exclusions(sources=tuple(sources), annotators=tuple(annotators), row_keys=keys)
    _require_known(exclusions, documents, tables)
    before = CurationParams.model_validate(curation.predicate["params"])
    already = load_exclusions(project.exclusions, before)
    curating = before.model_copy(
        update={
            "exclude_sources": tuple(sorted({*already.sources, *sources})),
            "exclude_annotators": tuple(sorted({*already.annotators, *annotators})),
            "exclude_rows": keep_row_keys(project.exclusions, already.row_keys | keys),
        }
    )
    left = {name: digest for name, digest in documents.items() if name not in sources}
    configs: dict[str, Any] = {
        "curated_documents": {**curating.model_dump(mode="json"), "documents": left},
        "snapshots": snapshot.predicate["split"],
        "fine_tuned_model": record.inputs.params.model_dump(mode="json"),
    }
    ops = {name: {"config": config} for name, config in configs.items()}
    return RetrainPlan(model, exclusions, {"ops": ops})


def _newest(store: EvidenceStore, digest: str, kind: str) -> Statement:
    statements, problems = store.about(digest, kind)
    if not statements:
        why = f" ({problems[0]})" if problems else ""
        raise EvidenceMissing(
            f"No {kind} statement is known about {digest}{why}, so nobody can say what it was made "
            "of: restore the evidence."
        )
    return statements[-1]


def _open_snapshots(project: Project, record: TrainingRecord) -> "Iterator[pa.Table]":
    from pedigree.snapshots import open_snapshot

    zones: dict[Zone, str] = {
        "training": record.inputs.training.digest,
        "evaluation": record.evaluation_snapshot.digest,
    }
    for zone, digest in zones.items():
        columns = ["row_key", "row_id", "source", "annotator"]
        yield open_snapshot(digest, project.snapshots(zone)).read().select(columns)


def _open_documents(project: Project, documents: dict[str, str]) -> "Iterator[pa.Table]":
    """Yield the rows as they were fetched: sampling may bring in what the model never saw."""
    from pedigree.snapshots import open_snapshot

    declared = load_sources(project.root / "sources")
    for name, digest in documents.items():
        columns = ["row_key", "row_id", "source", "annotator"]
        yield open_snapshot(digest, project.tables(declared[name].zone)).read().select(columns)


def _resolve_rows(tables: "list[pa.Table]", names: list[str]) -> frozenset[str]:
    """Return the row keys that keys or row ids mean.

    Raises:
        PedigreeError: one is of no row that the model's sources had.
    """
    keys: dict[str, str] = {}
    for table in tables:
        columns = cast(dict[str, list[str]], table.select(["row_key", "row_id"]).to_pydict())
        keys |= dict(zip(columns["row_key"], columns["row_key"], strict=True))
        keys |= dict(zip(columns["row_id"], columns["row_key"], strict=True))
    unknown = [name for name in names if name not in keys]
    if unknown:
        raise PedigreeError(
            f"{len(unknown)} of {len(names)} rows are none that the model's sources had, "
            f"{unknown[0]} for one: look them up with `pedigree trace row:…`."
        )
    return frozenset(keys[name] for name in names)


def _require_known(
    exclusions: Exclusions, documents: dict[str, str], tables: "list[pa.Table]"
) -> None:
    if not exclusions:
        raise PedigreeError(
            "Nothing is left out: give --exclude-source, --exclude-annotator or --exclude-rows."
        )
    for name in exclusions.sources:
        if name not in documents:
            raise PedigreeError(
                f"The model has no source {name!r}: it was made from {', '.join(documents)}."
            )
    if set(exclusions.sources) == set(documents):
        raise PedigreeError("Every source would be left out: nothing would be left to train on.")
    known = sorted({str(one) for table in tables for one in table["annotator"].unique() if one})
    known = [one for one in known if one != "None"]
    for name in exclusions.annotators:
        if name not in known:
            raise PedigreeError(
                f"No row of the model has the annotator {name!r}: known are "
                f"{', '.join(known[:20]) or 'none, nobody recorded who labelled it'}."
            )


def _require_declared(project: Project, documents: dict[str, str], record: TrainingRecord) -> None:
    """Refuse where the project no longer has what the model was made with."""
    declared = load_sources(project.root / "sources")
    gone = sorted(documents.keys() - declared.keys())
    if gone:
        raise PedigreeError(
            f"The sources {', '.join(gone)} of the model are not declared any more: put their "
            "files back into sources/, as they were."
        )
    base = project.params().base_model
    if base != record.inputs.base.id:
        raise PedigreeError(
            f"The model was trained from the base {record.inputs.base.id}, and params.yaml names "
            f"{base}: set base_model back for this run."
        )


def conclude_retraining(
    project: Project, store: EvidenceStore, plan: RetrainPlan, after: str
) -> Retraining:
    """Make sure that the new model is clean, and say what is not.

    Raises:
        VerificationFailed: a row that was left out is in a snapshot of the new model.
    """
    record = read_record(find_training(store, after))
    for table in _open_snapshots(project, record):
        found = plan.exclusions.count_in(table)
        if found:
            raise VerificationFailed(
                f"{found} rows that were to be left out are in the snapshots of {after}: do not "
                "use it, and report this."
            )
    comparison = compare(project, store, plan.model, after)
    unclean = tuple(find_unclean(project, store, plan.exclusions))
    return Retraining(plan.model, after, comparison, unclean)


def find_unclean(
    project: Project, store: EvidenceStore, exclusions: Exclusions
) -> Iterator[Unclean]:
    """Yield every attested model that was trained on what is left out, oldest first."""
    places: dict[str, list[str]] = {}
    holds = {alias_of(one.environment, one.tenant): one.model for one in list_promotions(store)}
    for alias, model in holds.items():
        places.setdefault(model, []).append(alias)
    counts: dict[str, int | None] = {}
    seen: set[str] = set()
    trainings = sorted(store.all("training"), key=lambda one: _finished(one))
    for statement in trainings:
        record = read_record(statement)
        snapshot = record.inputs.training.digest
        if record.model_digest in seen:
            continue
        seen.add(record.model_digest)
        if snapshot not in counts:
            counts[snapshot] = _count_rows(project, snapshot, exclusions)
        if counts[snapshot] != 0:
            yield Unclean(
                record.model_digest,
                record.adapter_digest,
                counts[snapshot],
                tuple(places.get(record.model_digest, ())),
                bool(find_revocations(store, record.ingredients())),
            )


def _finished(statement: Statement) -> str:
    return str(statement.predicate["runDetails"]["metadata"]["finishedOn"])


def _count_rows(project: Project, snapshot: str, exclusions: Exclusions) -> int | None:
    from pedigree.snapshots import open_snapshot

    try:
        table = open_snapshot(snapshot, project.snapshots("training")).read()
    except EvidenceMissing:
        return None
    return exclusions.count_in(table)

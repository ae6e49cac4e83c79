"""A recorded model again, as if a source, an annotator or some rows had never been there.

The data is made from the recorded documents, by digest, with the recorded curation and split. It is
judged and trained on like any other, with the recorded parameters, by Dagster's job `retrain`::

    >>> plan = plan_retraining(project, model, Wish(sources=("tweets",)), now)
    >>> retraining = retrain_without(project, plan, environment)
    >>> retraining.after, retraining.not_clean
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

import pyarrow as pa

from pedigree.base_models import load_base_model_source
from pedigree.comparing import Comparison, compare
from pedigree.dataset import ingest_source
from pedigree.descendants import Unclean, find_unclean
from pedigree.digests import JSON
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.exclusions import Exclusions, freeze_row_list, open_exclusions, require_known
from pedigree.launching import run_configured
from pedigree.params import CurationParams
from pedigree.project import Project, Zone
from pedigree.recipes import DataRecipe, find_recipe
from pedigree.registry import find_training
from pedigree.row_files import read_row_file, resolve_rows
from pedigree.snapshots import open_snapshot
from pedigree.sources import Source, load_sources
from pedigree.training.record import TrainingRecord, read_record

# Everything of the job but the fetching of sources: their documents are taken as recorded.
_SELECTION = 'not group:"sources"'


@dataclass(frozen=True)
class Wish:
    """What a model is to be made without."""

    sources: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    row_file: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A retraining that can be started.

    Attributes:
        model: digest of the recorded model.
        record: how it was trained.
        recipe: how its data was made.
        curation: the recorded parameters, and all that is excluded from now on.
        without: what is excluded for the first time.
        documents: for each source the digest of its recorded documents.
    """

    model: str
    record: TrainingRecord
    recipe: DataRecipe
    curation: CurationParams
    without: Exclusions
    documents: dict[str, str]


@dataclass(frozen=True)
class Retraining:
    """What came of it.

    Attributes:
        before: digest of the recorded model.
        after: digest of the new one; None where a check or a gate refused it.
        without: what was excluded, in words.
        made: the digest of each asset that was made, also of those before a refusal.
        comparison: what differs; None without a new model.
        not_clean: what still descends from what was excluded.
        unknown: snapshots whose rows could not be searched.
        exit_code: of the run.
    """

    before: str
    after: str | None
    without: tuple[str, ...]
    made: dict[str, str]
    comparison: Comparison | None
    not_clean: tuple[Unclean, ...]
    unknown: tuple[str, ...]
    exit_code: int


def plan_retraining(project: Project, model: str, wish: Wish, now: datetime) -> Plan:
    """Find out what a model was made of, and what of it is to go; nothing is changed yet.

    Args:
        project: where everything lies.
        model: its digest.
        wish: what to make it without.
        now: the time, for documents that have to be fetched again.

    Raises:
        EvidenceMissing: it is not recorded how the model was made.
        PedigreeError: what is to go is not known or is all there is, recorded documents cannot be
            had, or the base model is another one now.
    """
    if not (wish.sources or wish.annotators or wish.row_file):
        raise PedigreeError("Nothing is to be excluded: name a source, an annotator or rows.")
    store = open_store(project, project.policy())
    record = read_record(find_training(store, model))
    evaluation = record.evaluation_snapshot.digest
    recipe = find_recipe(store, record.inputs.training.digest, evaluation)
    _require_same_base(project, record)
    require_known("source", wish.sources, recipe.documents)
    left = sorted(recipe.documents.keys() - set(wish.sources))
    if not left:
        raise PedigreeError(
            f"Model {model} has no source but {', '.join(sorted(recipe.documents))}: without it "
            "nothing would be left to train on. Revoke the model instead."
        )
    declared = load_sources(project.root / "sources")
    tables = [
        _have_documents(project, store, declared, name, recipe.documents[name], now)
        for name in left
    ]
    known = {name for table in tables for name in table["annotator"].unique().to_pylist() if name}
    require_known("annotator", wish.annotators, known)
    curation, without = _add_exclusions(project, record, recipe, wish, tables)
    return Plan(model, record, recipe, curation, without, {**recipe.left_out, **recipe.documents})


def _require_same_base(project: Project, record: TrainingRecord) -> None:
    """Refuse where the settings would train from another base, or under another name."""
    params, base = project.params(), record.inputs.base
    for name, now, then in (
        ("base_model", params.base_model, base.id),
        ("model_name", params.model_name, record.model_name),
    ):
        if now != then:
            raise PedigreeError(
                f"{name} in params.yaml is {now!r}, and model {record.model_digest} has {then!r}: "
                "set it back, and run again."
            )
    pin = load_base_model_source(project.root / "base_models", base.id).sha256
    if pin != base.uri_sha256:
        raise PedigreeError(
            f"base_models/{base.id}.yaml is pinned to {pin}, and model {record.model_digest} was "
            f"trained from {base.uri_sha256}: set the pin back, and run again."
        )


def _have_documents(
    project: Project,
    store: EvidenceStore,
    declared: Mapping[str, Source],
    name: str,
    digest: str,
    now: datetime,
) -> pa.Table:
    """Return the recorded documents of a source, fetched again where they are not here.

    Raises:
        PedigreeError: the source is not declared any more, or is another one by now.
    """
    if name not in declared:
        raise PedigreeError(
            f"Source {name}, which went into the model, is not declared any more: put "
            f"sources/{name}.yaml back, or exclude it too."
        )
    source = declared[name]
    try:
        return open_snapshot(digest, project.tables(source.zone)).read()
    except EvidenceMissing:
        pins = {str(one.predicate["sha256"]) for one in store.about(digest, "source")[0]}
    if source.sha256 not in pins:
        raise PedigreeError(
            f"The documents of source {name} that went into the model ({digest}) are not here, and "
            f"its pin has moved since: it is {source.sha256}, and was "
            f"{' or '.join(sorted(pins)) or 'not recorded'}. Restore data/{source.zone}/tables, or "
            "set the pin back."
        )
    found = ingest_source(project, source, now).documents
    if found.digest != digest:
        raise PedigreeError(
            f"The documents of source {name} that went into the model ({digest}) are not here, and "
            f"sources/{name}.yaml reads other ones from the same bytes now ({found.digest}): "
            "declare it as it was, or restore the documents."
        )
    return found.read()


def _add_exclusions(
    project: Project,
    record: TrainingRecord,
    recipe: DataRecipe,
    wish: Wish,
    tables: list[pa.Table],
) -> tuple[CurationParams, Exclusions]:
    """Return the recorded parameters of curation with the wish added, and the wish alone."""
    before = open_exclusions(project, recipe.curation)
    keys: set[str] = set()
    rows = before.row_lists[0] if before.row_lists else None
    if wish.row_file is not None:
        names = read_row_file(wish.row_file)
        frozen = [
            open_snapshot(one.digest, project.snapshots(cast(Zone, one.zone))).read()
            for one in (record.inputs.training, record.evaluation_snapshot)
        ]
        keys = resolve_rows(names, [*tables, *frozen], str(wish.row_file))
        rows = freeze_row_list(project, keys | set(cast(list[str], before.keys.to_pylist())))
    added = {
        "exclude_sources": sorted({*before.sources, *wish.sources}),
        "exclude_annotators": sorted({*before.annotators, *wish.annotators}),
        "exclude_rows": rows,
    }
    without = Exclusions(
        tuple(sorted(set(wish.sources))),
        tuple(sorted(set(wish.annotators))),
        (rows,) if keys and rows else (),
        pa.array(sorted(keys), pa.string()),
    )
    return recipe.curation.model_copy(update=added), without


def retrain_without(
    project: Project, plan: Plan, environment: Mapping[str, str], *, quiet: bool = False
) -> Retraining:
    """Make data and model again by plan, and say what differs and what is not clean.

    Args:
        project: where everything lies.
        plan: what to do.
        environment: of this process, passed on.
        quiet: print what the run prints on standard error.

    Raises:
        VerificationFailed: what came out is not what was planned: it must not be used.
    """
    config: dict[str, JSON] = {
        "ops": {
            "curated_documents": {
                "config": {**plan.curation.model_dump(mode="json"), "documents": {**plan.documents}}
            },
            "snapshots": {"config": plan.recipe.split.model_dump(mode="json")},
            "fine_tuned_model": {"config": plan.record.inputs.params.model_dump(mode="json")},
        }
    }
    code, made = run_configured(project, "retrain", config, _SELECTION, environment, quiet=quiet)
    store = open_store(project, project.policy())
    after = made.get("fine_tuned_model") if code == 0 else None
    comparison = None
    if after is not None:
        _require_as_planned(project, store, plan, after)
        comparison = compare(project, store, plan.model, after)
    not_clean, unknown = find_unclean(project, store, plan.without)
    if after is not None and after != plan.model and after in {one.name for one in not_clean}:
        raise VerificationFailed(
            f"Model {after} still descends from {', '.join(plan.without.names())}: do not use it."
        )
    return Retraining(
        plan.model,
        after,
        tuple(plan.without.names()),
        made,
        comparison,
        not_clean,
        unknown,
        code,
    )


def _require_as_planned(project: Project, store: EvidenceStore, plan: Plan, after: str) -> None:
    """Refuse a model whose data holds what was excluded, or that was trained otherwise."""
    record = read_record(find_training(store, after))
    exclusions = open_exclusions(project, plan.curation)
    for one in (record.inputs.training, record.evaluation_snapshot):
        table = open_snapshot(one.digest, project.snapshots(cast(Zone, one.zone))).read()
        exclusions.require_absent(table, f"The {one.zone} snapshot {one.digest}")
    then, now = plan.record.inputs, record.inputs
    for name, before, new in (
        ("parameters", then.params, now.params),
        ("base model", then.base.digest, now.base.digest),
    ):
        if before != new:
            raise VerificationFailed(
                f"Model {after} was trained with other {name} than {plan.model}: it is no "
                "retraining of it. Train again while nobody changes the settings."
            )


def revoke_old(project: Project, retraining: Retraining, now: datetime) -> str:
    """Revoke the model that was replaced, and return what was said; the one place that does.

    Raises:
        PedigreeError: there is no new model, it is the same one, or no key here may revoke.
    """
    from pedigree.release import revoke_digest

    if retraining.after in (None, retraining.before):
        raise PedigreeError(
            f"Model {retraining.before} is not revoked: nothing was made that could replace it."
        )
    reason = f"made again without {', '.join(retraining.without)} as {retraining.after}"
    statement, aliases = revoke_digest(project, retraining.before, reason, now)
    gone = f"; removed from MLflow: {', '.join(aliases)}" if aliases else ""
    return f"{retraining.before} is revoked by {statement.digest}{gone}"


def describe(retraining: Retraining) -> dict[str, JSON]:
    """Return everything as one JSON document."""
    return {**cast(dict[str, JSON], dataclasses.asdict(retraining)), "trigger_scan": "not run"}

"""Checks of the snapshots: form, bytes, label disputes and leakage. Each blocks training."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

import dagster as dg
import pyarrow as pa

from assets.resources import NeighbourResource, ProjectResource
from assets.versions import find_digest
from checks.verdicts import conclude
from pedigree.checks import find_check
from pedigree.evidence.check_limits import CheckLimits, SourceShiftLimits
from pedigree.evidence.store import open_store
from pedigree.findings import CheckResult
from pedigree.integrity import check_schema, check_snapshot
from pedigree.poisoning.clusters import find_anomalous_clusters
from pedigree.poisoning.floods import find_floods, order_of_arrival
from pedigree.poisoning.hidden_text import find_hidden_text
from pedigree.poisoning.influence import find_influential_rows
from pedigree.poisoning.instructions import find_embedded_instructions
from pedigree.poisoning.labels import find_flattering_rows, find_label_issues
from pedigree.poisoning.leakage import find_leakage
from pedigree.poisoning.near_duplicates import find_label_conflicts
from pedigree.poisoning.secrets import find_secrets
from pedigree.poisoning.source_shift import (
    SnapshotRows,
    find_snapshot_changes,
    find_source_drift,
    find_young_rows,
)
from pedigree.poisoning.triggers import find_trigger_ngrams
from pedigree.project import Project, Zone
from pedigree.registry import find_previous_snapshot
from pedigree.snapshots import open_snapshot
from pedigree.sources import load_sources
from pedigree.versioning import read_pointer
from pedigree.votes import load_votes

CONTEXT = dg.AssetCheckExecutionContext


def build_snapshot_checks(zone: Zone) -> list[dg.AssetChecksDefinition]:
    """Return the checks that every snapshot must pass."""
    asset = f"{zone}_snapshot"

    @dg.asset_check(asset=asset, blocking=True)
    def schema_holds(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        """Columns, types, texts and labels are as declared."""
        digest, place = find_digest(context, asset), project.open()
        table = open_snapshot(digest, place.snapshots(zone)).read()
        sources = load_sources(place.root / "sources").values()
        declared = {one.id: one.labels.names for one in sources if one.labels}
        return conclude(project, digest, check_schema(table, declared))

    @dg.asset_check(asset=asset, blocking=True)
    def snapshot_digest_matches(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        """Bytes, rows and DVC pointer are the ones that the digest names."""
        digest, place = find_digest(context, asset), project.open()
        root = place.snapshots(zone)
        pointer = read_pointer(place.root, root / digest.removeprefix("sha256:"))
        result = check_snapshot(digest, root, pointer.md5 if pointer else None)
        return conclude(project, digest, result)

    @dg.asset_check(asset=asset, blocking=True)
    def near_duplicate_label_conflicts(
        context: CONTEXT, project: ProjectResource, neighbours: NeighbourResource
    ) -> dg.AssetCheckResult:
        """Near-copies of a text do not dispute its label beyond what is natural."""
        digest, place = find_digest(context, asset), project.open()
        table = open_snapshot(digest, place.snapshots(zone)).read()
        text, limits = table.column("text"), place.policy().checks.near_duplicate_label_conflicts
        label, source = (table.column(n).to_pylist() for n in ("label", "source"))
        found = neighbours.finder(context.op_execution_context, place)(text, limits.similarity)
        result = find_label_conflicts(text, label, limits, source, found)
        return conclude(project, digest, result)

    @dg.asset_check(asset=asset, blocking=True)
    def near_duplicate_floods(
        context: CONTEXT, project: ProjectResource, neighbours: NeighbourResource
    ) -> dg.AssetCheckResult:
        """No text is there in many near-copies, and no source is made of them."""
        digest, place = find_digest(context, asset), project.open()
        table = open_snapshot(digest, place.snapshots(zone)).read()
        columns = ("source", "label", "source_key")
        source, label, key = (table.column(name).to_pylist() for name in columns)
        text, limits = table.column("text"), place.policy().checks.near_duplicate_floods
        found = neighbours.finder(context.op_execution_context, place)(text, limits.similarity)
        times = _collected_at(table)
        arrival = order_of_arrival(source, [at or k for at, k in zip(times, key, strict=True)])
        result = find_floods(text, limits, source, label, arrival, found)
        return conclude(project, digest, result)

    return [
        schema_holds,
        snapshot_digest_matches,
        near_duplicate_label_conflicts,
        near_duplicate_floods,
    ]


def _collected_at(table: pa.Table) -> list[str | None]:
    if "collected_at" not in table.column_names:  # frozen before there was such a column
        return [None] * table.num_rows
    return table["collected_at"].to_pylist()


TextCheck: TypeAlias = Callable[[pa.Table, CheckLimits], CheckResult]

# What is judged row by row on the texts that are trained on. Hidden characters are looked for in
# the raw text: the canonical one has lost some.
_TEXT_CHECKS: dict[str, TextCheck] = {
    "trigger_ngrams": lambda table, limits: find_trigger_ngrams(
        table["text"].to_pylist(),
        table["label"].to_pylist(),
        limits.trigger_ngrams,
        sources=table["source"].to_pylist(),
    ),
    "label_issues": lambda table, limits: find_label_issues(
        table["text"].to_pylist(),
        table["label"].to_pylist(),
        limits.label_issues,
        sources=table["source"].to_pylist(),
    ),
    "anomalous_clusters": lambda table, limits: find_anomalous_clusters(
        table["text"].to_pylist(),
        table["label"].to_pylist(),
        limits.anomalous_clusters,
        sources=table["source"].to_pylist(),
    ),
    "influential_rows": lambda table, limits: find_influential_rows(
        table["text"].to_pylist(), table["label"].to_pylist(), limits.influential_rows
    ),
    "hidden_text": lambda table, limits: find_hidden_text(
        table["raw_text"].to_pylist(),
        limits.hidden_text,
        table["source"].to_pylist(),
        table["label"].to_pylist(),
    ),
    "embedded_instructions": lambda table, limits: find_embedded_instructions(
        table["raw_text"].to_pylist(), limits.embedded_instructions, table["source"].to_pylist()
    ),
    "secrets": lambda table, limits: find_secrets(
        table["raw_text"].to_pylist(), limits.secrets, table["source"].to_pylist()
    ),
}


def build_text_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks of what the training texts say, one for each kind of attack."""
    return [_build_text_check(name, find) for name, find in _TEXT_CHECKS.items()]


def _build_text_check(name: str, find: TextCheck) -> dg.AssetChecksDefinition:
    claim = find_check(name).claim
    description = f"{claim[0].upper()}{claim[1:]}."

    @dg.asset_check(name=name, asset="training_snapshot", blocking=True, description=description)
    def text_check(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        digest, place = find_digest(context, "training_snapshot"), project.open()
        table = open_snapshot(digest, place.snapshots("training")).read()
        return conclude(project, digest, find(table, place.policy().checks))

    return text_check


@dg.asset_check(asset="training_snapshot", additional_deps=["evaluation_snapshot"], blocking=True)
def evaluation_leakage(
    context: CONTEXT, project: ProjectResource, neighbours: NeighbourResource
) -> dg.AssetCheckResult:
    """No evaluation row is a near-copy of a training row."""
    place = project.open()
    training = find_digest(context, "training_snapshot")
    evaluation = find_digest(context, "evaluation_snapshot")
    result = find_leakage(
        open_snapshot(training, place.snapshots("training")).read().column("text"),
        open_snapshot(evaluation, place.snapshots("evaluation")).read().column("text"),
        place.policy().checks.evaluation_leakage,
        neighbours.finder(context.op_execution_context, place),
    )
    return conclude(project, training, result, {"evaluation_snapshot": evaluation})


@dg.asset_check(asset="training_snapshot", additional_deps=["evaluation_snapshot"], blocking=True)
def flattering_rows(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
    """No label of the evaluation data gathers rows that the training data contradicts."""
    place = project.open()
    training = find_digest(context, "training_snapshot")
    evaluation = find_digest(context, "evaluation_snapshot")
    learned = open_snapshot(training, place.snapshots("training")).read()
    judged = open_snapshot(evaluation, place.snapshots("evaluation")).read()
    result = find_flattering_rows(
        (learned["text"].to_pylist(), learned["label"].to_pylist()),
        (judged["text"].to_pylist(), judged["label"].to_pylist()),
        place.policy().checks.label_issues,
    )
    return conclude(project, training, result, {"evaluation_snapshot": evaluation})


@dg.asset_check(asset="training_snapshot", blocking=True)
def annotator_manipulation(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
    """No annotators push a label on texts with a word."""
    digest, place = find_digest(context, "training_snapshot"), project.open()
    policy = place.policy()
    votes = load_votes(place, open_store(place, policy), digest)
    result = votes.judge(policy.checks.annotator_manipulation)
    return conclude(project, digest, result, votes.documents)


def build_history_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks of sources over time: young rows, changes and drift since the last model.

    They are not among the checks that the default policy demands: without times, and before the
    first promotion, there is nothing that they could judge.
    """

    @dg.asset_check(asset="training_snapshot", blocking=True)
    def quarantine_window(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        """No more rows than the policy allows are younger than its quarantine."""
        digest, place = find_digest(context, "training_snapshot"), project.open()
        table = open_snapshot(digest, place.snapshots("training")).read()
        times = [None if at is None else datetime.fromisoformat(at) for at in _collected_at(table)]
        limits = place.policy().checks.source_shift
        result = find_young_rows(table["source"].to_pylist(), times, project.now(), limits)
        return conclude(project, digest, result)

    @dg.asset_check(asset="training_snapshot", blocking=True)
    def snapshot_changes(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        """Few labels changed since the snapshot of the last promoted model."""
        return _compare(context, project, find_snapshot_changes)

    @dg.asset_check(asset="training_snapshot", blocking=True)
    def source_drift(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        """Sources whose new rows differ from their old ones are reported."""
        return _compare(context, project, find_source_drift)

    return [quarantine_window, snapshot_changes, source_drift]


_Compare: TypeAlias = Callable[[SnapshotRows, SnapshotRows | None, SourceShiftLimits], CheckResult]


def _compare(context: CONTEXT, project: ProjectResource, compare: _Compare) -> dg.AssetCheckResult:
    digest, place = find_digest(context, "training_snapshot"), project.open()
    policy = place.policy()
    previous = find_previous_snapshot(open_store(place, policy))
    old = None if previous is None else _read_rows(previous, place)
    result = compare(_read_rows(digest, place), old, policy.checks.source_shift)
    inputs = {} if previous is None else {"previous_snapshot": previous}
    return conclude(project, digest, result, inputs)


def _read_rows(digest: str, place: Project) -> SnapshotRows:
    table = open_snapshot(digest, place.snapshots("training")).read()
    names = ("row_key", "source", "label", "text")
    return SnapshotRows(*(table[name].to_pylist() for name in names))

"""What differs between two models, or two snapshots: rows, parameters, code, environment, checks.

All of it is read from signed statements, and the rows from frozen snapshots. What cannot be looked
at is named in `Comparison.missing`, and is never taken for equal::

    >>> found = compare(project, store, "production", "sha256:ab12…")
    >>> found.rows["training"][0]
    SourceRows(source='tweets', before=726, after=0, added=0, removed=726, relabelled=0, edited=0)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import pyarrow as pa

from pedigree.digests import JSON
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.store import EvidenceStore
from pedigree.evidence.verdicts import verdict_check
from pedigree.lineage import UNKNOWN, explain_model
from pedigree.project import Project, Zone
from pedigree.recipes import find_recipe
from pedigree.registry import find_model, find_training
from pedigree.row_changes import SourceRows, compare_rows
from pedigree.snapshots import open_snapshot
from pedigree.training.assessment import find_evaluation
from pedigree.training.record import TrainingRecord, read_record

Kind: TypeAlias = Literal["model", "snapshot"]
Facts: TypeAlias = dict[str, JSON]


@dataclass(frozen=True)
class Change:
    """One fact on both sides; null where a side has none."""

    what: str
    before: JSON
    after: JSON


@dataclass(frozen=True)
class Comparison:
    """Everything that differs between `before` and `after`.

    Attributes:
        kind: model or snapshot.
        before, after: their digests.
        rows: for each zone each source's rows; None where a snapshot is not here.
        changes: what differs of parameters, code, environment, base and adapters.
        checks: result and policy of each check's newest verdict on both sides, equal ones too.
        metrics: accuracy overall and per source, each side on its own evaluation snapshot.
        missing: what could not be looked at.
    """

    kind: Kind
    before: str
    after: str
    rows: dict[str, tuple[SourceRows, ...] | None] = field(
        default_factory=dict[str, "tuple[SourceRows, ...] | None"]
    )
    changes: dict[str, tuple[Change, ...]] = field(default_factory=dict[str, tuple[Change, ...]])
    checks: tuple[Change, ...] = ()
    metrics: tuple[Change, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether both are the same thing."""
        return self.before == self.after


@dataclass
class _Side:
    """What is known of one side."""

    snapshots: dict[Zone, str]
    facts: dict[str, Facts]
    checks: Facts
    metrics: Facts = field(default_factory=dict[str, JSON])


def compare(project: Project, store: EvidenceStore, before: str, after: str) -> Comparison:
    """Compare two models or two snapshots.

    Args:
        project: where snapshots lie.
        store: the evidence.
        before: a MODEL, or the digest of a snapshot (at least 12 digits).
        after: the same.

    Raises:
        EvidenceMissing: nothing is known of one of them.
        PedigreeError: one is a model and the other a snapshot.
        VerificationFailed: a statement or a snapshot is not what evidence says.
    """
    kind, first = _find(project, store, before)
    other, second = _find(project, store, after)
    if kind != other:
        raise PedigreeError(
            f"{before} is a {kind} and {after} is a {other}: name two models or two snapshots."
        )
    if first == second:
        return Comparison(kind, first, second)
    missing: list[str] = []
    read = _read_model if kind == "model" else _read_snapshot
    one, two = read(store, first, missing), read(store, second, missing)
    return Comparison(
        kind,
        first,
        second,
        _compare_zones(project, one.snapshots, two.snapshots, missing),
        {
            name: tuple(change for change in _pair(one.facts[name], two.facts[name])
                        if change.before != change.after)
            for name in one.facts
        },
        tuple(_pair(one.checks, two.checks)),
        tuple(_pair(one.metrics, two.metrics)),
        tuple(dict.fromkeys(missing)),
    )  # fmt: skip


def _find(project: Project, store: EvidenceStore, name: str) -> tuple[Kind, str]:
    """Return what a name means: a model, else a snapshot."""
    try:
        return "model", find_model(store, name, project.policy().environments)
    except EvidenceMissing as error:
        digits = name.removeprefix("sha256:").lower()
        if set(digits) - set("0123456789abcdef"):
            raise  # no digest, so no snapshot either
        try:
            return "snapshot", store.find_subject(name, "snapshot")
        except EvidenceMissing:
            raise EvidenceMissing(
                f"{str(error).rstrip('.')}, and no snapshot is known by that digest."
            ) from None


def _read_model(store: EvidenceStore, digest: str, missing: list[str]) -> _Side:
    record = read_record(find_training(store, digest))
    snapshots: dict[Zone, str] = {
        "training": record.inputs.training.digest,
        "evaluation": record.evaluation_snapshot.digest,
    }
    relied = cast(list[dict[str, Any]], explain_model(store, digest).answers[3]["verdicts"])
    for one in relied:
        if one["result"] == UNKNOWN:
            missing.append(f"the verdict of {one['check']}, which model {digest} relied on")
    places = {f"{zone}_snapshot": one for zone, one in snapshots.items()} | {"model": digest}
    facts = _read_record(record)
    facts["parameters"] |= _read_recipe(store, *snapshots.values(), missing=missing)
    return _Side(
        snapshots,
        facts,
        {
            f"{check} on {place}": said
            for place, one in places.items()
            for check, said in _read_verdicts(store, one, missing).items()
        },
        _read_metrics(store, record, missing),
    )


def _read_record(record: TrainingRecord) -> dict[str, Facts]:
    inputs = record.inputs
    environment = inputs.environment
    pins = {f"variable {name}": value for name, value in record.environment_variables.items()}
    installed = {f"package {name}": value for name, value in environment.distributions.items()}
    return {
        "parameters": {
            **{f"train.{name}": one for name, one in inputs.params.model_dump(mode="json").items()},
            "labels": list(inputs.labels),
        },
        "code": cast(Facts, inputs.code.model_dump(mode="json")),
        "environment": {
            "lock": environment.lock_sha256,
            **cast(Facts, record.hardware),
            **pins,
            **installed,
        },
        "base": cast(Facts, inputs.base.model_dump(mode="json")),
        "adapters": {"adapter": record.adapter_digest},
    }


def _read_recipe(
    store: EvidenceStore, snapshot: str, other: str | None = None, *, missing: list[str]
) -> Facts:
    """Return the parameters that data was made with."""
    try:
        recipe = find_recipe(store, snapshot, other)
    except EvidenceMissing:
        missing.append(f"how snapshot {snapshot} was curated and split")
        return {"curation": UNKNOWN, "split": UNKNOWN}
    curation, split = (one.model_dump(mode="json") for one in (recipe.curation, recipe.split))
    return {
        **{f"curation.{name}": value for name, value in curation.items()},
        **{f"split.{name}": value for name, value in split.items()},
    }


def _read_metrics(store: EvidenceStore, record: TrainingRecord, missing: list[str]) -> Facts:
    digest = record.model_digest
    found = find_evaluation(store, digest, record.evaluation_snapshot.digest)
    if found is None:
        missing.append(f"the evaluation of model {digest}")
        return {"accuracy": UNKNOWN}
    by_source = {f"accuracy on {name}": value for name, value in found.source_accuracy.items()}
    return {"accuracy": found.accuracy, "evaluation rows": found.rows, **by_source}


def _read_snapshot(store: EvidenceStore, digest: str, missing: list[str]) -> _Side:
    (statement, *_), _ = store.about(digest, "snapshot")
    said = statement.predicate
    return _Side(
        {cast(Zone, said["zone"]): digest},
        {
            "parameters": {
                "zone": said["zone"],
                "schema": said["schema"],
                **_read_recipe(store, digest, missing=missing),
            }
        },
        _read_verdicts(store, digest, missing),
    )


def _read_verdicts(store: EvidenceStore, digest: str, missing: list[str]) -> Facts:
    """Return result and policy of each check's newest verdict about a digest."""
    verdicts, problems = store.about(digest, "verdict")
    missing += problems  # one that is not trusted or was deleted may be the newest
    newest: Facts = {}
    for one in sorted(verdicts, key=lambda one: str(one.predicate["checkedOn"])):
        digests = {item["name"]: item["digest"] for item in one.predicate["configuration"]}
        newest[verdict_check(one)] = {
            "result": one.predicate["result"],
            "applicable": one.predicate.get("applicable", True),
            "policy": f"sha256:{digests['policy']['sha256']}",
        }
    return dict(sorted(newest.items()))


def _pair(before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterable[Change]:
    for name in dict.fromkeys([*before, *after]):
        yield Change(name, before.get(name), after.get(name))


def _compare_zones(
    project: Project,
    before: Mapping[Zone, str],
    after: Mapping[Zone, str],
    missing: list[str],
) -> dict[str, tuple[SourceRows, ...] | None]:
    """Compare the snapshots of each zone; of two zones, one with the other."""
    pairs: dict[str, tuple[tuple[Zone, str], ...]]
    if before.keys() != after.keys():
        pairs = {"rows": (*before.items(), *after.items())}
    else:
        pairs = {str(zone): ((zone, before[zone]), (zone, after[zone])) for zone in before}
    rows: dict[str, tuple[SourceRows, ...] | None] = {}
    for name, sides in pairs.items():
        tables = [_open_rows(project, *side, missing) for side in sides]
        known = [table for table in tables if table is not None]
        rows[name] = tuple(compare_rows(known[0], known[1])) if len(known) == 2 else None
    return rows


def _open_rows(project: Project, zone: Zone, digest: str, missing: list[str]) -> pa.Table | None:
    try:
        return open_snapshot(digest, project.snapshots(zone)).read()
    except EvidenceMissing:
        missing.append(f"the rows of {zone} snapshot {digest}, which is not here (`dvc pull`)")
        return None

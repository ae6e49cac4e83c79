"""What is different between two models, or between two snapshots: rows, settings, checks, metrics.

Rows are compared by their key, so a row with another label is the same row, relabelled::

    >>> comparison = compare(project, store, before, after)
    >>> comparison.rows["training"]
    [SourceChange(source='tweets', added=0, removed=702, relabelled=0, changed=0, kept=0)]

What is not here cannot be compared, and is named in `Comparison.unknown`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pedigree.digests import JSON
from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import EvidenceStore
from pedigree.lineage import explain_model
from pedigree.project import Project, Zone
from pedigree.registry import find_training
from pedigree.training.record import SnapshotInput, TrainingRecord, read_record

if TYPE_CHECKING:
    import pyarrow as pa

ABSENT = "—"


@dataclass(frozen=True)
class SourceChange:
    """How many rows of one source were added, removed, relabelled, otherwise changed, or kept."""

    source: str
    added: int
    removed: int
    relabelled: int
    changed: int
    kept: int


@dataclass(frozen=True)
class Change:
    """One thing that has two values."""

    name: str
    before: JSON
    after: JSON


@dataclass
class Comparison:
    """Everything that differs; empty lists where nothing does."""

    before: str
    after: str
    rows: dict[str, list[SourceChange]] = field(default_factory=dict[str, list[SourceChange]])
    settings: list[Change] = field(default_factory=list[Change])
    checks: list[Change] = field(default_factory=list[Change])
    metrics: list[Change] = field(default_factory=list[Change])
    unknown: list[str] = field(default_factory=list[str])

    @property
    def identical(self) -> bool:
        """Whether both are the same thing."""
        return self.before == self.after


def compare(project: Project, store: EvidenceStore, before: str, after: str) -> Comparison:
    """Compare two models by their signed records and frozen rows.

    Raises:
        EvidenceMissing: a model's training is not attested.
        VerificationFailed: a statement or a snapshot is not what evidence says.
    """
    found = Comparison(before, after)
    old, new = (read_record(find_training(store, one)) for one in (before, after))
    pairs: dict[Zone, tuple[SnapshotInput, SnapshotInput]] = {
        "training": (old.inputs.training, new.inputs.training),
        "evaluation": (old.evaluation_snapshot, new.evaluation_snapshot),
    }
    for zone, (one, other) in pairs.items():
        found.rows[zone] = _compare_rows(project, found, zone, one.digest, other.digest)
    found.settings = list(_compare_maps(_describe(old), _describe(new)))
    found.checks = list(_compare_maps(_verdicts(store, before), _verdicts(store, after)))
    found.metrics = list(_compare_maps(_metrics(store, before), _metrics(store, after)))
    return found


def compare_snapshots(
    project: Project, store: EvidenceStore, before: str, after: str
) -> Comparison:
    """Compare two snapshots by their rows.

    Raises:
        EvidenceMissing: nothing is known of a snapshot.
        VerificationFailed: a snapshot is not what evidence says.
    """
    found = Comparison(before, after)
    zones: dict[str, Zone] = {one: _zone_of(store, one) for one in (before, after)}
    tables = [_open(project, found, zones[digest], digest) for digest in (before, after)]
    if tables[0] is not None and tables[1] is not None:
        name = " and ".join(dict.fromkeys(zones.values()))
        found.rows[name] = compare_rows(tables[0], tables[1])
    return found


def _zone_of(store: EvidenceStore, digest: str) -> Zone:
    statements, problems = store.about(digest, "snapshot")
    if not statements:
        raise EvidenceMissing(problems[0] if problems else f"No snapshot {digest} is known.")
    return cast(Zone, statements[0].predicate["zone"])


def _open(project: Project, found: Comparison, zone: Zone, digest: str) -> "pa.Table | None":
    from pedigree.snapshots import open_snapshot

    try:
        return open_snapshot(digest, project.snapshots(zone)).read()
    except EvidenceMissing:
        found.unknown.append(f"the rows of {zone} snapshot {digest}: restore it with `dvc pull`")
        return None


def _compare_rows(
    project: Project, found: Comparison, zone: Zone, before: str, after: str
) -> list[SourceChange]:
    old = _open(project, found, zone, before)
    new = old if before == after else _open(project, found, zone, after)
    return compare_rows(old, new) if old is not None and new is not None else []


def compare_rows(before: "pa.Table", after: "pa.Table") -> list[SourceChange]:
    """Compare two tables of rows by `row_key`; one record a source, sorted by its name.

    Args:
        before: with the columns `row_key`, `row_id`, `source` and `label`; keys occur once.
        after: the same.

    Returns:
        For each source: rows only in `after`, only in `before`, with another label, otherwise
        changed, and unchanged. A row belongs to the source that it has in `after`, if it is there.
    """
    import pyarrow as pa
    import pyarrow.compute

    pc = cast(Any, pyarrow.compute)  # made at run time, so no checker knows its names
    columns = ["row_key", "row_id", "source", "label"]
    joined = (
        before.select(columns)
        .append_column("old", pa.repeat(True, before.num_rows))
        .join(
            after.select(columns).append_column("new", pa.repeat(True, after.num_rows)),
            keys="row_key",
            join_type="full outer",
            left_suffix="_before",
            right_suffix="_after",
        )
    )
    was, is_now = (pc.fill_null(joined[name], False) for name in ("old", "new"))
    both = pc.and_(was, is_now)
    same_label = pc.or_(
        pc.fill_null(pc.equal(joined["label_before"], joined["label_after"]), False),
        pc.and_(pc.is_null(joined["label_before"]), pc.is_null(joined["label_after"])),
    )
    same_row = pc.fill_null(pc.equal(joined["row_id_before"], joined["row_id_after"]), False)
    kinds = {
        "added": pc.invert(was),
        "removed": pc.invert(is_now),
        "relabelled": pc.and_(both, pc.invert(same_label)),
        "changed": pc.and_(both, pc.and_(same_label, pc.invert(same_row))),
        "kept": pc.and_(both, same_row),
    }
    source = pc.coalesce(joined["source_after"], joined["source_before"])
    counted = (
        pa.table({"source": source, **{k: pc.cast(v, pa.int64()) for k, v in kinds.items()}})
        .group_by("source")
        .aggregate([(name, "sum") for name in kinds])
        .sort_by("source")
    )
    return [
        SourceChange(row["source"], **{name: row[f"{name}_sum"] for name in kinds})
        for row in counted.to_pylist()
    ]


def _describe(record: TrainingRecord) -> dict[str, JSON]:
    """Return every setting of a training by name, flat; each distribution is one."""
    inputs = record.inputs
    described = inputs.describe()
    distributions = cast(dict[str, JSON], described.pop("distributions"))
    return {
        **described,
        "evaluation_snapshot": record.evaluation_snapshot.digest,
        "code_commit": inputs.code.commit,
        "code_dirty": inputs.code.dirty,
        "base_model_id": inputs.base.id,
        "adapter": record.adapter_digest,
        "steps": record.steps,
        **{f"hardware.{name}": value for name, value in record.hardware.items()},
        **{f"distribution.{name}": version for name, version in distributions.items()},
    }


def _verdicts(store: EvidenceStore, model: str) -> dict[str, JSON]:
    """Return the result of each verdict that a model relied on, by check and what it looked at."""
    verdicts = cast(list[dict[str, Any]], explain_model(store, model).answers[3]["verdicts"])
    return {f"{one['check']} on {one['on']}": one["result"] for one in verdicts}


def _metrics(store: EvidenceStore, model: str) -> dict[str, JSON]:
    statements = store.about(model, "evaluation")[0]
    if not statements:
        return {}
    newest = max(statements, key=lambda one: str(one.predicate["evaluatedOn"])).predicate
    by_source = cast(dict[str, list[int]], newest["evaluation"]["by_source"])
    return {
        "accuracy": newest["accuracy"],
        **{
            f"accuracy.{source}": round(right / rows, 6)
            for source, (rows, right) in sorted(by_source.items())
        },
    }


def _compare_maps(before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterator[Change]:
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        if old != new:
            yield Change(name, old, new)

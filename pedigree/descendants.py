"""What still descends from something that was excluded: every model, adapter and environment.

>>> unclean, unknown = find_unclean(project, store, Exclusions(sources=("tweets",)))
>>> unclean[0]
Unclean(kind='model', name='sha256:ab…', because='source tweets', revoked=None)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from pedigree.errors import EvidenceMissing
from pedigree.evidence.revocations import find_revocation
from pedigree.evidence.store import EvidenceStore
from pedigree.exclusions import Exclusions
from pedigree.project import Project
from pedigree.registry import alias_of, list_promotions
from pedigree.tracing import Trace, rows_of, trace_rows, trace_thing, update_index

Kind: TypeAlias = Literal["model", "adapter", "environment"]
_KINDS: tuple[Kind, ...] = ("model", "adapter", "environment")


@dataclass(frozen=True, order=True)
class Unclean:
    """Something that was made with what was excluded.

    Attributes:
        kind: model, adapter or environment.
        name: its digest, or the environment's name.
        because: what it descends from.
        revoked: who revoked it and why; None where nobody did.
    """

    kind: Kind
    name: str
    because: str
    revoked: str | None = None


def find_unclean(
    project: Project, store: EvidenceStore, exclusions: Exclusions
) -> tuple[tuple[Unclean, ...], tuple[str, ...]]:
    """Return what descends from what was excluded, and the snapshots that could not be searched.

    An environment is named while it holds such a model.
    """
    update_index(project.lineage, store, rows_of(project))
    holds: dict[str, str] = {}
    for one in list_promotions(store):
        holds[alias_of(one.environment, one.tenant)] = one.model
    found: set[Unclean] = set()
    unknown: set[str] = set()
    for because, trace in _trace(project, exclusions):
        unknown.update(trace.unindexed)
        models = set(trace.reached("model"))
        for kind in _KINDS:
            for name in trace.reached(kind):
                if kind != "environment" or holds.get(name) in models:
                    digest = holds[name] if kind == "environment" else name
                    found.add(Unclean(kind, name, because, find_revocation(store, digest)))
    order = {kind: at for at, kind in enumerate(cast(tuple[str, ...], _KINDS))}
    return (
        tuple(sorted(found, key=lambda one: (order[one.kind], one.name, one.because))),
        tuple(sorted(unknown)),
    )


def _trace(project: Project, exclusions: Exclusions) -> Iterator[tuple[str, Trace]]:
    for kind, names in (("source", exclusions.sources), ("annotator", exclusions.annotators)):
        for name in names:
            try:
                yield f"{kind} {name}", trace_thing(project.lineage, f"{kind}:{name}")
            except EvidenceMissing:
                # In no snapshot that could be searched; which could not be is said all the same.
                yield f"{kind} {name}", trace_rows(project.lineage, [])
    if len(exclusions.keys):
        keys = cast(list[str], exclusions.keys.to_pylist())
        yield f"{len(keys)} rows", trace_rows(project.lineage, keys)

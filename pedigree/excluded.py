"""What statements say was excluded from documents and snapshots; needs no table engine to be read.

>>> name_excluded(find_excluded(store, curated))
['source tweets']
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from pedigree.evidence.store import EvidenceStore, Statement


def find_excluded(store: EvidenceStore, curated: str) -> dict[str, Any] | None:
    """Return what curated documents are without, as their statements say; None: nothing is said.

    The same documents may come out of two curations, of which one excluded more. What either of
    them excluded is not in them, so both count.
    """
    return merge_excluded(store.about(curated, "curation")[0])


def merge_excluded(statements: Iterable[Statement]) -> dict[str, Any] | None:
    """Return everything that statements of curation or snapshot exclude, or None."""
    said = [one.predicate["excluded"] for one in statements if one.predicate.get("excluded")]
    if len(said) <= 1:
        return said[0] if said else None
    parts = cast(list[dict[str, Any]], said)
    lists = {one["sha256"]: one for part in parts for one in part["rowLists"]}
    sources = {name: one for part in parts for name, one in part["sources"].items()}
    return {
        "sources": dict(sorted(sources.items())),
        "annotators": sorted({name for part in parts for name in part["annotators"]}),
        "rowLists": list(lists.values()),
        "takenOut": max((part["takenOut"] for part in parts), key=lambda one: sum(one.values())),
    }


def name_excluded(excluded: Mapping[str, Any] | None) -> list[str]:
    """Return what a statement says is excluded in words, such as `source tweets`."""
    if excluded is None:
        return []
    rows = sum(one["rows"] for one in excluded["rowLists"])
    return [
        *[f"source {name}" for name in excluded["sources"]],
        *[f"annotator {name}" for name in excluded["annotators"]],
        *([f"{rows} rows"] if rows else []),
    ]

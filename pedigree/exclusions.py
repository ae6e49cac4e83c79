"""What data is made without: whole sources, annotators, single rows; taken out before curation.

They go first, before exact duplicates are collapsed, so that another source's copy of a dropped row
comes in, as if the dropped one had never been there. What was excluded stands in the statements of
curation and snapshot, and each frozen side is read back and searched for it::

    >>> exclusions = open_exclusions(project, params)
    >>> table, taken = exclusions.take_out(documents)
    >>> exclusions.require_absent(frozen.read(), frozen.digest)      # VerificationFailed
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from pedigree.digests import JSON, hex_of
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.params import CurationParams
from pedigree.project import Project
from pedigree.snapshots import freeze_snapshot, open_snapshot

_LISTED = 20


@dataclass(frozen=True)
class Exclusions:
    """What is taken out.

    Attributes:
        sources: ids of whole sources.
        annotators: whose rows go, in every source.
        row_lists: digests of frozen lists of row keys.
        keys: (rows,) the row keys of all these lists.
    """

    sources: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()
    row_lists: tuple[str, ...] = ()
    keys: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))

    def __bool__(self) -> bool:
        """Whether anything is excluded."""
        return bool(self.sources or self.annotators or self.row_lists)

    def find(self, table: pa.Table) -> pa.ChunkedArray:
        """Return (rows,) booleans: which rows of `table` are excluded.

        Args:
            table: has the columns `source`, `annotator` and `row_key`.
        """
        hits = [
            _is_in(table["source"], pa.array(self.sources, pa.string())),
            _is_in(table["annotator"], pa.array(self.annotators, pa.string())),
            _is_in(table["row_key"], self.keys),
        ]
        either = pc.call_function("or", hits[:2])
        return cast(pa.ChunkedArray, pc.call_function("or", [either, hits[2]]))

    def take_out(self, table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
        """Return the rows that are not excluded, in their order, and how many went, by source."""
        hit = self.find(table)
        gone = cast(list[str], table["source"].filter(hit).to_pylist())
        return table.filter(pc.call_function("invert", [hit])), dict(sorted(Counter(gone).items()))

    def require_absent(self, table: pa.Table, what: str) -> None:
        """Refuse data in which an excluded row is left.

        Raises:
            VerificationFailed: there is one.
        """
        left = table.filter(self.find(table))
        if left.num_rows:
            keys = cast(list[str], left["row_key"].slice(0, 3).to_pylist())
            raise VerificationFailed(
                f"{what} holds {left.num_rows} rows that were to be excluded "
                f"({', '.join(key[:12] + '…' for key in keys)}): it must not be used. Curate again "
                "from the documents."
            )

    def names(self) -> list[str]:
        """Return what is excluded in words, such as `source tweets`."""
        return [
            *[f"source {name}" for name in self.sources],
            *[f"annotator {name}" for name in self.annotators],
            *([f"{len(self.keys)} rows"] if self.row_lists else []),
        ]


def _is_in(column: pa.ChunkedArray, values: pa.Array) -> pa.ChunkedArray:
    options = pc.SetLookupOptions(values, skip_nulls=True)
    return cast(pa.ChunkedArray, pc.call_function("is_in", [column], options))


def open_exclusions(project: Project, params: CurationParams) -> Exclusions:
    """Return what the parameters exclude, the list of row keys read and verified.

    Raises:
        EvidenceMissing: the list is not here: nobody could say what it excludes.
    """
    lists = (params.exclude_rows,) if params.exclude_rows else ()
    return _open(project, params.exclude_sources, params.exclude_annotators, lists)


def freeze_row_list(project: Project, keys: Iterable[str]) -> str:
    """Keep a list of row keys and return its digest, which `curation.exclude_rows` takes."""
    table = pa.table({"row_key": sorted(set(keys))}, pa.schema([("row_key", pa.string())]))
    return freeze_snapshot(table, project.curated, "excluded").digest


def describe_exclusions(
    exclusions: Exclusions, documents: Mapping[str, str], taken: Mapping[str, int]
) -> JSON:
    """Return what a curation's statement says of exclusions; null where there were none.

    Args:
        exclusions: what was excluded.
        documents: for each source the digest of its documents.
        taken: for each source that is used, how many of its documents were taken out.
    """
    if not exclusions:
        return None
    digests = {name: documents.get(name) for name in exclusions.sources}
    return {
        "sources": {name: {"sha256": hex_of(d)} if d else None for name, d in digests.items()},
        "annotators": list(exclusions.annotators),
        "rowLists": [
            {"sha256": hex_of(digest), "rows": len(exclusions.keys)}
            for digest in exclusions.row_lists
        ],
        "takenOut": dict(taken),
    }


def read_exclusions(project: Project, excluded: Mapping[str, Any] | None) -> Exclusions:
    """Return what a statement says is excluded, ready to search for.

    Raises:
        EvidenceMissing: a list of rows is not here.
    """
    if excluded is None:
        return Exclusions()
    lists = [f"sha256:{one['sha256']}" for one in excluded["rowLists"]]
    return _open(project, excluded["sources"], excluded["annotators"], lists)


def _open(
    project: Project, sources: Iterable[str], annotators: Iterable[str], lists: Iterable[str]
) -> Exclusions:
    digests = tuple(sorted(set(lists)))
    keys: set[str] = set()
    for digest in digests:
        keys.update(open_snapshot(digest, project.curated).read()["row_key"].to_pylist())
    return Exclusions(
        tuple(sorted(set(sources))),
        tuple(sorted(set(annotators))),
        digests,
        pa.array(sorted(keys), pa.string()),
    )


def require_known(kind: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse to exclude a name that nothing has: a slip would exclude nothing and look clean.

    Raises:
        PedigreeError: it lists the known ones.
    """
    names = sorted(set(known))
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        shown = ", ".join(names[:_LISTED]) or "none"
        more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise PedigreeError(
            f"No {kind} is called {', '.join(map(repr, unknown))}: known are {shown}{more}. "
            "Nothing was changed."
        )

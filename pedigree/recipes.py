"""How a snapshot was made: documents, curation, split and exclusions, read back from statements.

With a recipe the same data can be made again, or made without a part of it::

    >>> find_recipe(store, training, evaluation).documents["tweets"]
    'sha256:12e1…'
"""

from dataclasses import dataclass
from typing import Any, cast

from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.excluded import merge_excluded
from pedigree.params import CurationParams, SplitParams
from pedigree.settings import parse_settings


@dataclass(frozen=True)
class DataRecipe:
    """What a snapshot was made from and how.

    Attributes:
        curated: digest of the curated documents that were split.
        documents: for each source that was used, the digest of its documents.
        left_out: for each source that was excluded, the digest of its documents, where known.
        curation: the parameters of curation, exclusions among them.
        split: the parameters of the split.
        excluded: what the statements say was excluded; None where nothing was.
    """

    curated: str
    documents: dict[str, str]
    left_out: dict[str, str]
    curation: CurationParams
    split: SplitParams
    excluded: dict[str, Any] | None


def find_recipe(store: EvidenceStore, snapshot: str, other: str | None = None) -> DataRecipe:
    """Return how a snapshot was made; with `other`, in one go with that snapshot.

    Raises:
        EvidenceMissing: no trusted statement says it.
    """
    statements = store.about(snapshot, "snapshot")[0]
    if other is not None:
        made = [_split_of(one) for one in store.about(other, "snapshot")[0]]
        statements = [one for one in statements if _split_of(one) in made]
    for statement in sorted(statements, key=lambda one: one.digest):
        curated = "sha256:" + cast(str, statement.predicate["curated"]["sha256"])
        curations = sorted(store.about(curated, "curation")[0], key=lambda one: one.digest)
        if curations:
            return _read(statement, curated, curations)
    together = f" together with {other}" if other else ""
    raise EvidenceMissing(
        f"No trusted statement says how snapshot {snapshot} was made{together}: its statements of "
        "snapshot and curation are missing from .pedigree/evidence. Restore them from a copy."
    )


def _split_of(statement: Statement) -> tuple[Any, Any]:
    return statement.predicate["curated"], statement.predicate["split"]


def _read(statement: Statement, curated: str, curations: list[Statement]) -> DataRecipe:
    excluded = merge_excluded([statement, *curations])
    left_out = cast(dict[str, dict[str, str] | None], excluded["sources"] if excluded else {})
    said = curations[0].predicate
    inputs = cast(dict[str, dict[str, str]], said["inputs"])
    return DataRecipe(
        curated,
        {name: f"sha256:{one['sha256']}" for name, one in inputs.items() if name not in left_out},
        {name: f"sha256:{one['sha256']}" for name, one in left_out.items() if one},
        parse_settings(CurationParams, said["params"], "The statement of curation"),
        parse_settings(SplitParams, statement.predicate["split"], "The statement of the snapshot"),
        excluded,
    )

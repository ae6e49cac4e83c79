"""Who said what about the texts of a snapshot: every vote, those that curation collapsed too.

Two annotators who agree on a text are one row to train on and two votes to judge. The votes are in
the documents that the snapshot was curated from, which its signed statements name::

    >>> votes = load_votes(project, store, snapshot.digest)
    >>> result = votes.judge(policy.checks.annotator_manipulation)
    >>> snapshot_rows = [finding.row for finding in result.findings]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa

from pedigree.curation import canonical_text
from pedigree.errors import EvidenceMissing
from pedigree.evidence.check_limits import AnnotatorLimits
from pedigree.evidence.store import EvidenceStore
from pedigree.excluded import find_excluded
from pedigree.exclusions import read_exclusions
from pedigree.findings import CheckResult
from pedigree.project import Project
from pedigree.snapshots import open_snapshot
from pedigree.sources import load_sources


@dataclass(frozen=True)
class SnapshotVotes:
    """Votes on the texts of a snapshot, each with the row of the snapshot that it became.

    Attributes:
        rows: (votes,) positions in the snapshot.
        texts: (votes,) canonical texts.
        annotators: (votes,) who voted; None where nobody recorded it.
        labels: (votes,) what they said.
        documents: digests of the documents that the votes were read from, by source.
    """

    rows: list[int]
    texts: list[str]
    annotators: list[str | None]
    labels: list[str]
    documents: Mapping[str, str]

    def judge(self, limits: AnnotatorLimits) -> CheckResult:
        """Return `annotator_manipulation`, its findings by row of the snapshot."""
        from pedigree.poisoning.annotators import find_annotator_manipulation

        result = find_annotator_manipulation(self.texts, self.annotators, self.labels, limits)
        findings = [replace(one, row=self.rows[one.row]) for one in result.findings]
        return replace(result, findings=tuple(sorted(findings, key=lambda one: one.row)))


def load_votes(project: Project, store: EvidenceStore, digest: str) -> SnapshotVotes:
    """Read the votes on the texts of a training snapshot.

    Raises:
        EvidenceMissing: no trusted statement says what the snapshot was made from.
        VerificationFailed: documents are not what their digest says.
    """
    table = open_snapshot(digest, project.snapshots("training")).read()
    texts, labels = (cast(list[str], table.column(name).to_pylist()) for name in ("text", "label"))
    row_of = {pair: row for row, pair in enumerate(zip(texts, labels, strict=True))}
    documents, excluded = _find_documents(store, digest)
    exclusions = read_exclusions(project, excluded)
    sources = load_sources(project.root / "sources")
    votes: list[tuple[int, str, str | None, str]] = []
    for source, raw in sorted(documents.items()):
        raw_table = open_snapshot(raw, project.tables(sources[source].zone)).read()
        raw_table, _ = exclusions.take_out(raw_table)
        votes += _match(raw_table, row_of)
    rows, found, annotators, said = ([vote[i] for vote in votes] for i in range(4))
    return SnapshotVotes(
        cast(list[int], rows),
        cast(list[str], found),
        cast(list[str | None], annotators),
        cast(list[str], said),
        documents,
    )


def _find_documents(
    store: EvidenceStore, digest: str
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Return the digest of each source's documents, and what of them the snapshot is without."""
    for snapshot in store.about(digest, "snapshot")[0]:
        curated = "sha256:" + cast(dict[str, str], snapshot.predicate["curated"])["sha256"]
        for curation in store.about(curated, "curation")[0]:
            inputs = cast(dict[str, dict[str, str]], curation.predicate["inputs"])
            excluded = find_excluded(store, curated)
            left_out = excluded["sources"] if excluded else {}
            return {
                source: f"sha256:{one['sha256']}"
                for source, one in inputs.items()
                if source not in left_out
            }, excluded
    raise EvidenceMissing(
        f"No trusted statement says what snapshot {digest} was made from, so the votes on its rows "
        "cannot be read: run `pedigree run --until snapshot` again."
    )


def _match(
    documents: pa.Table, row_of: Mapping[tuple[str, str], int]
) -> list[tuple[int, str, str | None, str]]:
    columns = ("raw_text", "label", "annotator")
    values = cast(list[list[Any]], [documents.column(name).to_pylist() for name in columns])
    found: list[tuple[int, str, str | None, str]] = []
    for raw, label, annotator in zip(*values, strict=True):
        text = canonical_text(raw)
        row = row_of.get((text, label))
        if row is not None:
            found.append((row, text, annotator, label))
    return found

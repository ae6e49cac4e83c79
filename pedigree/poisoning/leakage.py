"""Evaluation rows that equal or nearly equal a training row: they flatter the model.

    >>> find_leakage(training_texts, evaluation_texts, LeakageLimits()).passed
    True

The split keeps near-duplicates on one side, so a finding means that a side was changed afterwards.
`find_repeats` asks the same of a new batch and a snapshot whose index is kept.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pyarrow as pa

from pedigree.digests import JSON
from pedigree.evidence.check_limits import LeakageLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding, show_text
from pedigree.neighbours.index import Index, find_known_copies
from pedigree.neighbours.local import FindNeighbours, find_near_duplicates
from pedigree.neighbours.normalisation import Texts, as_strings


def find_leakage(
    training: Texts,
    evaluation: Texts,
    limits: LeakageLimits,
    find: FindNeighbours = find_near_duplicates,
) -> CheckResult:
    """Find evaluation rows that equal or nearly equal a training row.

    Findings count rows of the evaluation table.
    """
    border = len(training)
    both = pa.concat_arrays([as_strings(training), as_strings(evaluation)])
    found = find(both, limits.similarity)
    # The first training row of each distinct text, -1 where there is none.
    first = np.full(len(found.digests), -1)
    documents, rows = np.unique(found.document[:border], return_index=True)
    first[documents] = rows
    leaked: list[Finding] = []
    best = np.where(first >= 0, 1.0, 0.0)
    source = first.copy()
    target = np.concatenate([found.pairs[:, 0], found.pairs[:, 1]])
    origin = np.concatenate([found.pairs[:, 1], found.pairs[:, 0]])
    alike = np.concatenate([found.jaccard, found.jaccard])
    trained = first[origin] >= 0
    target, origin, alike = target[trained], origin[trained], alike[trained]
    # The closest comes first; of equally close ones the one with the smallest digest.
    for at in np.lexsort((origin, -alike)).tolist():
        if alike[at] > best[target[at]]:
            best[target[at]], source[target[at]] = alike[at], first[origin[at]]
    for row in np.flatnonzero(source[found.document[border:]] >= 0).tolist():
        document = int(found.document[border + row])
        origin = int(source[document])
        reason = f"{best[document]:.2f} alike to training row {origin}"
        leaked.append(
            Finding(row, float(best[document]), "ERROR", reason, f"training row {origin}")
        )
    passed = len(leaked) <= limits.max_rows
    return CheckResult(
        "evaluation_leakage",
        passed,
        f"{len(leaked)} of {len(evaluation)} evaluation rows are near-duplicates of training "
        f"rows ({limits.max_rows} allowed)."
        + (" Split again, or drop the rows from one side." * (not passed)),
        {
            "evaluation_rows": len(evaluation),
            "leaked_rows": len(leaked),
            "cut_buckets": found.cut_buckets,
        },
        tuple(leaked) if not passed else (),
        tuple(
            {"evaluation_text": show_text(evaluation, f.row), "reason": f.reason}
            for f in sorted(leaked, key=lambda f: (-f.score, f.row))[:MAX_EXAMPLES]
        ),
    )


def find_repeats(
    index: Index, texts: Texts, limits: LeakageLimits, labels: Sequence[str | None] | None = None
) -> CheckResult:
    """Find the rows of a new batch that equal or nearly equal what a snapshot already holds.

    A row that repeats a text under another label says so.
    """
    known = find_known_copies(index, texts, limits.similarity)
    alike = known.common / known.union
    order = np.lexsort((known.pairs[:, 1], -alike, known.pairs[:, 0]))
    documents, first = np.unique(known.pairs[order, 0], return_index=True)
    closest = dict(zip(documents.tolist(), order[first].tolist(), strict=True))
    findings: list[Finding] = []
    examples: list[dict[str, JSON]] = []
    disputes = 0
    for row, document in enumerate(known.document.tolist()):
        if document not in closest:
            continue
        pair = closest[document]
        place = int(known.pairs[pair, 1])
        origin, similarity = int(index.rows[place]), float(alike[pair])
        there = cast(list[str], index.labels[place].as_py())
        label = labels[row] if labels is not None else None
        disputed = label is not None and bool(there) and label not in there
        disputes += disputed
        reason = f"{similarity:.2f} alike to row {origin} of the snapshot" + (
            f", which is labelled {' and '.join(map(repr, there))} and not {label!r}"
            if disputed
            else ""
        )
        findings.append(Finding(row, similarity, "ERROR", reason, f"snapshot row {origin}"))
        examples.append(
            {
                "similarity": similarity,
                "row": row,
                "label": label,
                "text": show_text(texts, row),
                "snapshot_row": origin,
                "snapshot_labels": there,
                "snapshot_text": index.normal[place].as_py()[:300],
            }
        )
    passed = len(findings) <= limits.max_rows
    worst = sorted(range(len(examples)), key=lambda i: (-findings[i].score, findings[i].row))
    return CheckResult(
        "known_copies",
        passed,
        f"{len(findings)} of {len(texts)} rows are near-duplicates of rows of the snapshot "
        f"({limits.max_rows} allowed), {disputes} of them under another label."
        + (" Drop them from the batch, or settle their labels first." * (not passed)),
        {
            "rows": len(texts),
            "repeated_rows": len(findings),
            "rows_under_another_label": disputes,
            "snapshot_documents": len(index.digests),
            "cut_buckets": known.cut_buckets,
        },
        tuple(findings),
        tuple(examples[i] for i in worst[:MAX_EXAMPLES]),
    )

"""Evaluation rows that equal or nearly equal a training row: they flatter the model.

    >>> find_leakage(training_texts, evaluation_texts, LeakageLimits()).passed
    True

The split keeps near-duplicates on one side, so a finding means that a side was changed afterwards,
or that a table that comes from outside repeats what a snapshot already holds.
"""

import numpy as np
import pyarrow as pa

from pedigree.evidence.policy import LeakageLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding, show_text
from pedigree.neighbours.local import find_near_duplicates
from pedigree.neighbours.normalisation import Texts, as_strings


def find_leakage(training: Texts, evaluation: Texts, limits: LeakageLimits) -> CheckResult:
    """Find evaluation rows that equal or nearly equal a training row.

    Findings count rows of the evaluation table.
    """
    border = len(training)
    both = pa.concat_arrays([as_strings(training), as_strings(evaluation)])
    found = find_near_duplicates(both, limits.similarity)
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

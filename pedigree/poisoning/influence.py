"""The rows that bend a model most: closed-form influence on a linear model of the text.

For least squares the effect of leaving a row out is exact without training again: the residual
over one minus the leverage (Cook 1977; Belsley, Kuh and Welsch 1980). The features are those of
`features.py`, folded into `DIMENSIONS` by hash so that the inverse stays small::

    >>> result = find_influential_rows(texts, labels, InfluenceLimits())
    >>> len(result.findings) == round(0.01 * len(texts))
    True

It says where to look first, not what is wrong: its findings are INFO.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pedigree.evidence.check_limits import InfluenceLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding, not_applicable, show_text
from pedigree.poisoning.features import (
    Floats,
    Integers,
    LabelledTexts,
    count_columns,
    featurise,
    mix,
    single_thread,
)
from pedigree.poisoning.labels import (
    require_equal_lengths,
    select,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DIMENSIONS = 512
RIDGE = 1.0
BLOCK = 8_192


def find_influential_rows(
    texts: Sequence[str],
    labels: Sequence[str | None],
    limits: InfluenceLimits,
    *,
    seed: int = 0,
) -> CheckResult:
    """List the `share` of rows whose removal changes their own prediction most; never fails.

    Self-influence of row i is |x_i' (w - w_without_i)| = leverage * |residual| / (1 - leverage),
    summed over labels: exact for the ridge regression of the labels on the features.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels; a row without one, or of a label of fewer than 10 rows, is
            not judged.
        limits: thresholds from the policy.
        seed: which signs fold the features.

    Raises:
        PedigreeError: the columns differ in length.
    """
    name = "influential_rows"
    require_equal_lengths(texts, labels, None, None)
    corpus, reason = select(texts, labels)
    if reason:
        return not_applicable(name, reason)
    with single_thread():
        features = fold_columns(featurise(corpus.texts).matrix, seed)
        influence = measure_influence(features, corpus.label, len(corpus.names))
    count = max(1, round(limits.share * len(influence)))
    # Canonical order breaks ties, so that a shuffled table lists the same texts.
    worst = np.argsort(-np.round(influence, 9), kind="stable")[:count]
    findings = tuple(
        sorted((_find(corpus, place, influence) for place in worst.tolist()), key=lambda f: f.row)
    )
    ranked = sorted(findings, key=lambda finding: (-finding.score, finding.row))[:MAX_EXAMPLES]
    return CheckResult(
        name,
        True,
        f"{len(findings)} of {len(texts)} rows bend a linear model most; look at them first.",
        {
            "applicable": True,
            "rows": len(texts),
            "rows_not_judged": len(texts) - len(corpus.row),
            "rows_listed": len(findings),
            "share_of_influence": round(float(influence[worst].sum() / influence.sum()), 4)
            if influence.any()
            else 0.0,
        },
        findings,
        tuple(
            {
                "row": f.row,
                "label": labels[f.row],
                "reason": f.reason,
                "text": show_text(texts, f.row),
            }
            for f in ranked
        ),
    )


def _find(corpus: LabelledTexts, place: int, influence: Floats) -> Finding:
    value = round(float(influence[place]), 9)
    given = corpus.names[int(corpus.label[place])]
    reason = f"leaving it out moves what is predicted for it by {value:.3f}"
    return Finding(int(corpus.row[place]), value, "INFO", reason, f"label {given!r}")


def fold_columns(matrix: "csr_array", seed: int) -> Floats:
    """Return (rows, DIMENSIONS) signed sums of columns (Weinberger et al. 2009) and a constant."""
    from scipy.sparse import csr_array

    columns = count_columns(matrix)
    salt = np.asarray([seed], np.int64).astype(np.uint64)
    spread = mix(np.arange(columns, dtype=np.uint64) ^ mix(salt))
    target = (spread % np.uint64(DIMENSIONS - 1)).astype(np.int64)
    sign = np.where(spread >> np.uint64(63), 1.0, -1.0)
    projection = csr_array((sign, (np.arange(columns), target)), shape=(columns, DIMENSIONS - 1))
    folded = csr_array(matrix @ projection).toarray().astype(np.float64)
    return np.concatenate([folded, np.ones((len(folded), 1))], axis=1)


def measure_influence(features: Floats, label: Integers, labels: int) -> Floats:
    """Return (rows,) the change of each row's own prediction when it is left out.

    Ridge regression of one indicator a label on the features, all labels with one inverse.
    """
    gram = features.T @ features + RIDGE * np.eye(features.shape[1])
    moment = np.stack([features[label == one].sum(axis=0) for one in range(labels)], axis=1)
    inverse = np.linalg.inv(gram)
    weight = inverse @ moment
    influence = np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        part = features[rows]
        leverage = np.minimum(((part @ inverse) * part).sum(axis=1), 1 - 1e-9)
        residual = -(part @ weight)
        residual[np.arange(len(part)), label[rows]] += 1
        moved = np.abs(residual).sum(axis=1)
        influence[rows] = leverage * moved / (1 - leverage)
    return influence

"""Rows of one label written in a hand of their own, whose content belongs to another label.

A style or syntax attack rewrites texts (as scripture, as a template) and gives them the target
label; no word repeats, but the form does. It runs on the frozen table before training::

    >>> result = find_anomalous_clusters(texts, labels, ClusterLimits())
    >>> {finding.group for finding in result.findings}
    {"style within 'positive'"}

A whole source is a style too, and so is an honest minority; neither is flagged, for what blocks is
a style whose rows say something else than their label to models that never learned that style.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from pedigree.digests import JSON
from pedigree.evidence.check_limits import ClusterLimits
from pedigree.findings import (
    MAX_EXAMPLES,
    CheckResult,
    Finding,
    Severity,
    not_applicable,
    show_text,
)
from pedigree.poisoning.features import (
    Booleans,
    Floats,
    Integers,
    LabelledTexts,
    count_columns,
    featurise,
    single_thread,
)
from pedigree.poisoning.form import describe_form
from pedigree.poisoning.judging import FOLDS, Judgement, assign_folds, judge
from pedigree.poisoning.labels import (
    MIN_GAIN,
    require_equal_lengths,
    select,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHARE = 0.015
# A mark of form is tried where it is as good as pure (tail of the label's share below this over
# the marks) and its rows contradict their label no less than other rows of it (tail below that).
PURITY = 1e-3
PURE = 0.9
CONTRADICTION = 0.6
MIN_MARK_ROWS = 8
MIN_CONTRADICTED = 4
MAX_TRIES = 4
ROUNDS = 2
# Rows not of the style that its model learns from, at most: a sample in canonical order.
MAX_OTHERS = 10_000
# Rows of other labels that may look like the style.
LOOK_ALIKE = 0.01
REGULARISATION = 0.2


@dataclass(frozen=True)
class _Cluster:
    """Rows of one label in one style (canonical places), and how many of them are disputed."""

    label: int
    places: Integers
    disputed: int
    tail: float
    score: Floats

    def convicts(self, limits: ClusterLimits) -> bool:
        """Whether so many disputed rows are beyond chance and beyond the policy's share."""
        enough = self.disputed >= limits.min_disputed * len(self.places)
        return enough and self.tail < limits.significance


@dataclass(frozen=True)
class _Mark:
    """A mark of form that one label has to itself, and the rows of the label that bear it."""

    column: int
    label: int
    tail: float
    places: Integers


def find_anomalous_clusters(
    texts: Sequence[str],
    labels: Sequence[str | None],
    limits: ClusterLimits,
    *,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> CheckResult:
    """Find groups of rows of one label, alike in form, whose content belongs to another label.

    Three steps for each label: (1) marks of form that occur in this label alone and whose rows
    contradict their label more than its other rows; (2) a linear model of that form, out of fold,
    gathers the rows written alike; (3) models of content that learned none of them judge them. The
    check fails where `min_disputed` of `min_rows` or more of them speak against their label, beyond
    chance (binomial tail below `significance`). Topic alone cannot fail it, nor a source or an
    honest style: their content speaks for their label. So a clean-label rewrite is not found, nor a
    style without a mark of its own (title case, archaic words: .00 in 11 of 12 settings).

    Args:
        texts: (rows,) the texts; of one longer than 8,000 characters both ends are read.
        labels: (rows,) their labels; a row without one, or of a label of fewer than 10 rows, is
            not judged.
        limits: thresholds from the policy.
        seed: which folds are made.
        sources: (rows,) their sources; named in the findings.

    Raises:
        PedigreeError: the columns differ in length.
    """
    name = "anomalous_clusters"
    require_equal_lengths(texts, labels, sources, None)
    corpus, reason = select(texts, labels)
    if reason:
        return not_applicable(name, reason)
    with single_thread():
        fold = assign_folds(corpus, seed)
        content = featurise(corpus.texts).matrix
        first = judge(content, corpus, fold, SHARE)
        if first.calibration.fit < MIN_GAIN:
            return not_applicable(name, "the text does not tell the labels")
        found = _find_clusters(corpus, content, first, limits)
    return _report(name, corpus, found, texts, labels, sources)


def _find_clusters(
    corpus: LabelledTexts, content: "csr_array", first: Judgement, limits: ClusterLimits
) -> list[_Cluster]:
    form = describe_form(corpus.texts)
    marks = [
        one for label in range(len(corpus.names)) for one in _find_marks(corpus, form, first, label)
    ]
    gathered: list[tuple[int, Integers, Floats]] = []
    unlearned = np.zeros(len(corpus.row), bool)
    for mark in sorted(marks, key=lambda one: (one.tail, one.column))[:MAX_TRIES]:
        places, score = _gather(corpus, form, first.held_out.fold, mark.label, mark.places)
        union = (corpus.label == mark.label) & unlearned
        union[places] = True
        size = int(corpus.sizes()[mark.label])
        if len(places) >= limits.min_rows and int(union.sum()) <= limits.max_share * size:
            unlearned |= union
            gathered.append((mark.label, places, score))
    if not gathered:
        return []
    # One model for all of them: what any of them taught is unlearned.
    apart = judge(content, corpus, first.held_out.fold, SHARE, unlearned)
    found: dict[int, _Cluster] = {}
    for label, places, score in gathered:
        cluster = _judge_cluster(corpus, apart, unlearned, label, places, score)
        if label not in found and cluster.convicts(limits):
            found[label] = cluster
    return list(found.values())


def _judge_cluster(
    corpus: LabelledTexts,
    apart: Judgement,
    unlearned: Booleans,
    label: int,
    places: Integers,
    score: Floats,
) -> _Cluster:
    """Compare how often the rows contradict their label with its other rows."""
    contradicted = apart.doubt > 0
    others = (corpus.label == label) & ~unlearned
    natural = (int(contradicted[others].sum()) + 1) / (int(others.sum()) + 2)
    disputed = int(contradicted[places].sum())
    tail = float(binom.sf(disputed - 1, len(places), natural)) * MAX_TRIES
    return _Cluster(label, places, disputed, tail, score)


def _find_marks(
    corpus: LabelledTexts, form: "csr_array", first: Judgement, label: int
) -> list[_Mark]:
    """Return the marks of form of a label's own whose rows contradict it no less than others."""
    columns = count_columns(form)
    inside = np.flatnonzero(corpus.label == label)
    part = form[inside]
    contradicted = first.doubt[inside] > 0
    share = (int(contradicted.sum()) + 1) / (len(inside) + 2)
    owner = np.repeat(np.arange(len(inside)), np.diff(part.indptr))
    bearing = np.bincount(part.indices, minlength=columns)
    at_odds = np.bincount(part.indices[contradicted[owner]], minlength=columns)
    everywhere = np.bincount(form.indices, minlength=columns)
    tried = np.flatnonzero((bearing >= MIN_MARK_ROWS) & (bearing >= PURE * everywhere))
    base = len(inside) / len(corpus.row)
    purity = binom.sf(bearing[tried] - 1, everywhere[tried], base) * max(len(tried), 1)
    contradiction = binom.sf(at_odds[tried] - 1, bearing[tried], share)
    fits = (purity < PURITY) & (contradiction < CONTRADICTION)
    fits &= at_odds[tried] >= MIN_CONTRADICTED
    return [
        _Mark(column, label, float(tail), inside[owner[part.indices == column]])
        for column, tail in zip(tried[fits].tolist(), purity[fits].tolist(), strict=True)
    ]


def _gather(
    corpus: LabelledTexts, form: "csr_array", fold: Integers, label: int, seeds: Integers
) -> tuple[Integers, Floats]:
    """Return the rows of a label written like the seeds, and each row's likeness."""
    inside = corpus.label == label
    style = np.zeros(len(corpus.row), bool)
    style[seeds] = True
    score = np.zeros(len(corpus.row))
    for _ in range(ROUNDS):
        score = _score_style(form, style, fold)
        limit = max(float(np.quantile(score[~inside], 1 - LOOK_ALIKE)), -0.5)
        grown = inside & (score > round(limit, 9))
        if not grown.any() or (grown == style).all():
            break
        style = grown
    return np.flatnonzero(style), score


def _sample(style: Booleans, usable: Booleans) -> Integers:
    """Return the rows of the style and at most `MAX_OTHERS` others, in canonical order."""
    others = np.flatnonzero(usable & ~style)
    others = others[:: max(1, -(-len(others) // MAX_OTHERS))]
    return np.union1d(np.flatnonzero(usable & style), others)


def _score_style(form: "csr_array", style: Booleans, fold: Integers) -> Floats:
    """Score each row's likeness to a style by models that did not see it; -1 if none learned it."""
    from sklearn.svm import LinearSVC

    score = np.full(len(style), -1.0)
    for one in range(FOLDS):
        rows, held = _sample(style, fold != one), np.flatnonzero(fold == one)
        if not len(held) or not 0 < int(style[rows].sum()) < len(rows):
            continue
        model = LinearSVC(
            C=REGULARISATION,
            class_weight="balanced",
            dual=True,  # pyright: ignore[reportArgumentType]
            random_state=0,
        )
        model.fit(form[rows], style[rows])
        score[held] = np.round(model.decision_function(form[held]), 9)
    return score


def _report(
    check: str,
    corpus: LabelledTexts,
    found: list[_Cluster],
    texts: Sequence[str],
    labels: Sequence[str | None],
    sources: Sequence[str] | None,
) -> CheckResult:
    severity: Severity = "ERROR"
    findings: list[Finding] = []
    for one in found:
        label = corpus.names[one.label]
        reason = (
            f"written like {len(one.places) - 1} other rows of {label!r} and unlike the rest; the "
            f"content of {one.disputed} of them speaks for another label"
        )
        for place in one.places.tolist():
            likeness = round(float(one.score[place]), 6)
            row = int(corpus.row[place])
            findings.append(Finding(row, likeness, severity, reason, f"style within {label!r}"))
    findings.sort(key=lambda finding: finding.row)
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": len(texts),
        "rows_not_judged": len(texts) - len(corpus.row),
        "clusters": [
            {
                "label": corpus.names[one.label],
                "rows": len(one.places),
                "disputed": one.disputed,
                "binomial_tail": one.tail,
                "by_source": _count_sources(corpus, one, sources),
            }
            for one in found
        ],
    }
    summary = f"{len(found)} labels hold rows in a style of their own against their content"
    if found:
        summary += (
            f" ({len(findings)} rows). Read them beside other rows of their label; if they were "
            "rewritten, drop their source or the rows."
        )
    else:
        summary += "."
    worst = sorted(findings, key=lambda finding: (-finding.score, finding.row))[:MAX_EXAMPLES]
    examples: list[dict[str, JSON]] = [
        {"row": f.row, "label": labels[f.row], "reason": f.reason, "text": show_text(texts, f.row)}
        for f in worst
    ]
    return CheckResult(check, not found, summary, counts, tuple(findings), tuple(examples))


def _count_sources(
    corpus: LabelledTexts, one: _Cluster, sources: Sequence[str] | None
) -> dict[str, JSON]:
    if sources is None:
        return {}
    counts = Counter(str(sources[row]) for row in corpus.row[one.places].tolist())
    return {name: count for name, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))}

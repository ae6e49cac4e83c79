"""Near-duplicates whose labels dispute each other, and which side of each dispute is the copy.

The first and cheapest poison is a copy: a text that is already there, edited a little, with
another label. Every pair behind a finding is verified exactly::

    >>> result = find_label_conflicts(texts, labels, ConflictLimits())
    >>> result.findings[0].reason
    "0.91 alike to row 7, which is labelled 'bad' and not 'good', and less central than it"

What is judged is a *claim*: a distinct text with one of the labels that its rows give it. Copies
of one text are each closer to it than to one another, so the original is the more central claim
of the two. Where that does not tell (one copy, or copies that are equal), the label that the clear
disputes blame is blamed, then the claim with fewer fellows, then both. Where disputes are beyond
what is natural, numbers acquit nobody: a flood outnumbers what it copies.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import ConflictLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding, Severity, show_text
from pedigree.neighbours.local import NearDuplicates, find_near_duplicates
from pedigree.neighbours.normalisation import Texts
from pedigree.neighbours.overlap import Integers

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# How much more central the original must be for a dispute to be clear. Where two copies of one
# text differ from it by a word each, the three similarities are 1 - e, 1 - e and about 1 - 2e, and
# the original leads by about e / 2: at e = 0.1, by 5%. Half of that is asked for.
_CLEAR_LEAD = 0.025


@dataclass(frozen=True)
class _Claims:
    """Distinct (text, label) pairs, and which of them are near-duplicates.

    Attributes:
        of_row: (rows,) the claim of each row, -1 where it has no label.
        document: (claims,) the distinct text.
        label: (claims,) the code of the label.
        rows: (claims,) how many rows make it.
        central: (claims,) summed similarity of its text to the distinct texts near it.
        first: (claims,) the first of them.
        edges: (n, 2) claims whose texts are equal or near-duplicates.
        jaccard: (n,) how alike they are.
    """

    of_row: Integers
    document: Integers
    label: Integers
    rows: Integers
    central: Floats
    first: Integers
    edges: Integers
    jaccard: Floats

    def touched(self, chosen: Flags) -> Flags:
        """Return which claims an edge among `chosen` touches."""
        result = np.zeros(len(self.label), bool)
        result[self.edges[chosen]] = True
        return result


@dataclass(frozen=True)
class _Judgement:
    """For each claim the rival that is most alike, and whether the claim is the copy of the two.

    `rival` is -1 where nobody disputes the claim; `undecided` where either may be the copy.
    """

    rival: Integers
    jaccard: Floats
    blamed: Flags
    undecided: Flags
    reason: npt.NDArray[np.int8]


_REASONS = (
    "which of the two is the copy, their texts do not tell",
    "and less central than it",
    "and its label is the one that clear disputes blame",
    "and with fewer fellows than it, or many more",
)
_BY_FELLOWS = 3


def find_label_conflicts(
    texts: Texts,
    labels: Sequence[str | None],
    limits: ConflictLimits,
    sources: Sequence[str] | None = None,
    found: NearDuplicates | None = None,
) -> CheckResult:
    """Find the copies that disagree with a near-duplicate about the label.

    Natural corpora dispute a few of their near-duplicates, in all directions; poison disputes most
    of them, in one. Among claims with a near-duplicate of at least `decisive_similarity`, the check
    fails when those in dispute are at least `min_texts` and more than `natural_share` would give by
    chance (binomial tail below `significance`), or when that holds for the copies under one label
    (Bonferroni over labels). Distinct texts are counted, so that a thousand honest copies of one
    line do not hide ten disputed ones.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels; a null label disputes nothing.
        limits: thresholds from the policy.
        sources: (rows,) their sources, named in findings and summary where given.
        found: their near-duplicates at `similarity`, where they are known already.

    Raises:
        PedigreeError: the columns differ in length, or a text is null.
    """
    for name, column in (("labels", labels), ("sources", sources)):
        if column is not None and len(column) != len(texts):
            raise PedigreeError(
                f"{len(texts)} texts have {len(column)} {name}: expected one {name[:-1]} a text."
            )
    found = found or find_near_duplicates(texts, limits.similarity)
    names = sorted({label for label in labels if label is not None})
    code = {name: number for number, name in enumerate(names)}
    claims = _make_claims(
        found, np.array([code.get(one, -1) if one is not None else -1 for one in labels], np.int64)
    )
    judged = _judge(claims, len(names))
    tests = _test(claims, judged, len(names), limits)
    judged = _blame_labels(claims, judged, tests.labels)
    severity = _grade(claims, judged, tests, limits)
    findings = _describe(claims, judged, severity, names, sources)
    failed = tests.overall or bool(tests.labels.any())
    flagged = [finding for finding in findings if finding.severity != "INFO"]
    by_source = Counter([] if sources is None else [sources[f.row] for f in flagged])
    counts: dict[str, JSON] = {
        "rows": len(claims.of_row),
        "rows_in_conflict": int((judged.rival[claims.of_row[claims.of_row >= 0]] >= 0).sum()),
        "rows_blamed": len(flagged),
        "texts_with_near_duplicate": tests.neighboured,
        "texts_in_dispute": tests.disputed,
        "binomial_tail": tests.tail,
        "labels_blamed": [names[label] for label in np.flatnonzero(tests.labels).tolist()],
        "cut_buckets": found.cut_buckets,
        "by_source": dict(by_source.most_common()),
        "across_sources": _count_across(claims, judged, sources),
    }
    return CheckResult(
        "near_duplicate_label_conflicts",
        not failed,
        _summarise(flagged, findings, tests, names, by_source, limits, failed),
        counts,
        findings,
        _examples(findings, claims, judged, texts, labels, sources),
    )


def _make_claims(found: NearDuplicates, labels: Integers) -> _Claims:
    labelled = np.flatnonzero(labels >= 0)
    many = int(labels.max(initial=0)) + 1
    keys, first, inverse, rows = np.unique(
        found.document[labelled] * many + labels[labelled],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    of_row = np.full(len(labels), -1)
    of_row[labelled] = inverse
    document, label = keys // many, keys % many
    documents = len(found.digests)
    count = np.bincount(document, minlength=documents)
    start = np.cumsum(count) - count
    # Claims of one text are consecutive: each near pair of texts is all pairs of their claims.
    left, right = found.pairs.T
    times = count[left] * count[right]
    pair = np.repeat(np.arange(len(times)), times)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)
    across = np.stack(
        [
            start[left[pair]] + place // np.maximum(count[right[pair]], 1),
            start[right[pair]] + place % np.maximum(count[right[pair]], 1),
        ],
        axis=1,
    )
    several = np.flatnonzero(count > 1)
    within = [np.stack(np.triu_indices(int(count[one]), 1), axis=1) + start[one] for one in several]
    edges = np.concatenate([across, *within]).astype(np.int64)
    jaccard = np.concatenate([found.jaccard[pair], np.ones(len(edges) - len(pair))])
    central = np.zeros(documents)
    for side in (left, right):
        central += np.bincount(side, found.jaccard, documents)
    return _Claims(
        of_row, document, label, rows, central[document], labelled[first], edges, jaccard
    )


def _judge(claims: _Claims, labels: int) -> _Judgement:
    """Decide each dispute between a claim and the rival that is most alike to it."""
    count = len(claims.label)
    left, right = claims.edges.T
    fellows = claims.rows - 1
    agree = claims.label[left] == claims.label[right]
    for side in (left, right):
        fellows = fellows + np.bincount(side[agree], minlength=count)
    rival, jaccard = _closest_rivals(claims, ~agree)
    disputed = np.flatnonzero(rival >= 0)
    other = rival[disputed]
    ours, its = claims.central[disputed], claims.central[other]
    lead = (its - ours) / np.maximum(np.maximum(its, ours), 1e-9)
    copy, original = lead > _CLEAR_LEAD, lead < -_CLEAR_LEAD
    votes = np.bincount(claims.label[disputed[copy]], minlength=labels)
    mine, theirs = votes[claims.label[disputed]], votes[claims.label[other]]
    by_label = np.where(mine > 2 * theirs + 2, 1, np.where(theirs > 2 * mine + 2, -1, 0))
    by_fellows = np.sign(fellows[other] - fellows[disputed])
    reason = np.zeros(count, np.int8)
    guilt = np.zeros(count, np.int8)
    guilt[disputed] = np.where(
        copy, 1, np.where(original, -1, np.where(by_label != 0, by_label, by_fellows))
    )
    reason[disputed] = np.where(
        copy | original, 1, np.where(by_label != 0, 2, np.where(by_fellows != 0, 3, 0))
    )
    undecided = (rival >= 0) & (guilt == 0)
    # A claim that is itself the copy of something closer accuses nobody.
    accused = guilt > 0
    accuser_is_copy = np.zeros(count, bool)
    accuser_is_copy[disputed] = accused[other]
    return _Judgement(rival, jaccard, accused & ~accuser_is_copy, undecided, reason)


def _closest_rivals(claims: _Claims, disputing: Flags) -> tuple[Integers, Floats]:
    """Return for each claim the most similar one with another label, -1 where there is none."""
    edges, jaccard = claims.edges[disputing], claims.jaccard[disputing]
    both = np.concatenate([edges, edges[:, ::-1]])
    alike = np.concatenate([jaccard, jaccard])
    order = np.lexsort((both[:, 1], -alike, both[:, 0]))
    both, alike = both[order], alike[order]
    first = np.ones(len(both), bool)
    first[1:] = both[1:, 0] != both[:-1, 0]
    rival = np.full(len(claims.label), -1)
    closest = np.zeros(len(claims.label))
    rival[both[first, 0]], closest[both[first, 0]] = both[first, 1], alike[first]
    return rival, closest


@dataclass(frozen=True)
class _Tests:
    """Whether disputes are beyond what is natural, over all and for the copies under each label."""

    disputed: int
    neighboured: int
    tail: float
    overall: bool
    labels: Flags


def _test(claims: _Claims, judged: _Judgement, labels: int, limits: ConflictLimits) -> _Tests:
    close = claims.touched(claims.jaccard >= limits.decisive_similarity)
    in_dispute = (judged.rival >= 0) & (judged.jaccard >= limits.decisive_similarity)
    disputed, neighboured = int(in_dispute.sum()), int(close.sum())
    tail = float(binom.sf(disputed - 1, neighboured, limits.natural_share))
    # Two classes that are close to one another dispute naturally, and all in one direction where
    # a guideline is misread. So of more than two labels, the most frequent rival is left out.
    # Numbers alone accuse nobody: a flood outnumbers what it copies.
    copies = np.flatnonzero(in_dispute & judged.blamed & (judged.reason != _BY_FELLOWS))
    table = np.zeros((labels, labels), np.int64)
    np.add.at(table, (claims.label[copies], claims.label[judged.rival[copies]]), 1)
    usual = table.max(axis=1, initial=0) if labels > 2 else np.zeros(labels, np.int64)
    blamed = table.sum(axis=1) - usual
    under = np.bincount(claims.label[close], minlength=labels) - usual
    # A dispute has two sides, one of which is blamed.
    tails = np.asarray(binom.sf(blamed - 1, under, limits.natural_share / 2)) * max(labels, 1)
    return _Tests(
        disputed,
        neighboured,
        tail,
        disputed >= limits.min_texts and tail < limits.significance,
        (blamed >= limits.min_texts) & (tails < limits.significance),
    )


def _blame_labels(claims: _Claims, judged: _Judgement, guilty: Flags) -> _Judgement:
    """Blame every claim under a guilty label that disputes another one, and acquit its rival."""
    if not guilty.any():
        return judged
    mine = guilty[claims.label] & (judged.rival >= 0)
    mine &= ~guilty[claims.label[judged.rival]]
    acquitted = np.zeros(len(mine), bool)
    acquitted[judged.rival[mine]] = True
    acquitted &= ~mine
    reason = np.where(mine & ~judged.blamed, 2, judged.reason).astype(np.int8)
    return _Judgement(
        judged.rival,
        judged.jaccard,
        (judged.blamed | mine) & ~acquitted,
        judged.undecided & ~mine & ~acquitted,
        reason,
    )


def _grade(
    claims: _Claims, judged: _Judgement, tests: _Tests, limits: ConflictLimits
) -> dict[int, Severity]:
    """Return the severity of each claim that may be a copy."""
    suspect = judged.blamed | judged.undecided
    if tests.overall:
        # Whether many copies outnumber a text or one wrong label stands among many, their number
        # does not tell: a person has to.
        suspect |= (judged.rival >= 0) & (judged.reason == _BY_FELLOWS)
    if tests.labels.any():
        error = judged.blamed & tests.labels[claims.label]
    else:
        # Where the texts do not tell which of two is the copy, both are named.
        error = suspect & (judged.jaccard >= limits.decisive_similarity) & tests.overall
    warn = suspect & (judged.jaccard >= limits.warn_similarity)
    return {
        int(claim): "ERROR" if error[claim] else "WARN" if warn[claim] else "INFO"
        for claim in np.flatnonzero(suspect)
    }


def _describe(
    claims: _Claims,
    judged: _Judgement,
    severity: dict[int, Severity],
    names: Sequence[str],
    sources: Sequence[str] | None,
) -> tuple[Finding, ...]:
    suspect = np.zeros(len(claims.label) + 1, bool)  # the last one stands for "no claim"
    suspect[list(severity)] = True
    findings: list[Finding] = []
    for row in np.flatnonzero(suspect[claims.of_row]).tolist():
        claim = int(claims.of_row[row])
        rival = int(judged.rival[claim])
        first = int(claims.first[rival])
        origin = ""
        if sources is not None:
            origin = f" ({sources[row]} against {sources[first]})"
        findings.append(
            Finding(
                row,
                float(judged.jaccard[claim]),
                severity[claim],
                f"{judged.jaccard[claim]:.2f} alike to row {first}, which is labelled "
                f"{names[claims.label[rival]]!r} and not {names[claims.label[claim]]!r}{origin}, "
                f"{_REASONS[int(judged.reason[claim])]}",
                f"near-duplicates of row {first}",
            )
        )
    return tuple(findings)


def _count_across(
    claims: _Claims, judged: _Judgement, sources: Sequence[str] | None
) -> dict[str, JSON]:
    """Count blamed claims by (their source, the source of what they copy), where these differ."""
    if sources is None:
        return {}
    pairs: Counter[str] = Counter()
    for claim in np.flatnonzero(judged.blamed).tolist():
        mine = sources[int(claims.first[claim])]
        theirs = sources[int(claims.first[judged.rival[claim]])]
        if mine != theirs:
            pairs[f"{mine} of {theirs}"] += 1
    return {name: pairs[name] for name in sorted(pairs, key=lambda name: (-pairs[name], name))}


def _summarise(
    flagged: Sequence[Finding],
    findings: Sequence[Finding],
    tests: _Tests,
    names: Sequence[str],
    by_source: Counter[str],
    limits: ConflictLimits,
    failed: bool,
) -> str:
    shown = sorted(flagged, key=lambda f: (-f.score, f.row))[:8]
    rows = ", ".join(str(finding.row) for finding in shown) + ", …" * (len(flagged) > 8)
    where = f" (rows {rows}" if flagged else ""
    if by_source:
        where += "; sources: " + ", ".join(f"{s} {n}" for s, n in by_source.most_common())
    where += ")" * bool(flagged)
    labels = [repr(names[label]) for label in np.flatnonzero(tests.labels).tolist()]
    return (
        f"{len(flagged)} rows are copies that disagree with a near-duplicate about the label"
        f"{where}: {tests.disputed} of {tests.neighboured} distinct texts with a close copy are in "
        f"dispute ({limits.natural_share:.0%} may)"
        + (f", and the copies stand out under {', '.join(labels)}" if labels else "")
        + f"; {len(findings) - len(flagged)} more are within what is natural."
        + (" Look at the pairs, and drop or relabel the copies at their source." * failed)
    )


def _examples(
    findings: Sequence[Finding],
    claims: _Claims,
    judged: _Judgement,
    texts: Texts,
    labels: Sequence[str | None],
    sources: Sequence[str] | None,
) -> tuple[dict[str, JSON], ...]:
    """Return pairs with both texts and labels, the gravest and most alike first, each pair once."""
    grave = {"ERROR": 0, "WARN": 1, "INFO": 2}
    ranked = sorted(findings, key=lambda f: (grave[f.severity], -f.score, f.row))
    records: dict[tuple[int, int], dict[str, JSON]] = {}
    for finding in ranked:
        claim = int(claims.of_row[finding.row])
        rival = int(judged.rival[claim])
        if len(records) == MAX_EXAMPLES:
            break
        pair = (min(claim, rival), max(claim, rival))
        if pair in records:
            continue
        record: dict[str, JSON] = {"severity": finding.severity, "similarity": finding.score}
        for name, row in (("copy", finding.row), ("of", int(claims.first[rival]))):
            record |= {
                f"row_{name}": row,
                f"label_{name}": labels[row],
                f"text_{name}": show_text(texts, row),
            }
            if sources is not None:
                record[f"source_{name}"] = sources[row]
        records[pair] = record
    return tuple(records.values())

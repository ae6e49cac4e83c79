"""Near-duplicates whose labels dispute each other, and those that straddle the split.

The first and cheapest poison is a copy: a text that is already there, edited a little, with
another label. Every pair behind a finding is verified exactly.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom

from pedigree.digests import JSON
from pedigree.evidence.policy import ConflictLimits, LeakageLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.neighbours.local import NearDuplicates, find_near_duplicates

MAX_EXAMPLES = 20


@dataclass(frozen=True)
class _Dispute:
    """The closest text with another label."""

    row: int
    similarity: float


def find_label_conflicts(
    texts: Sequence[str],
    labels: Sequence[str | None],
    limits: ConflictLimits,
    sources: Sequence[str] | None = None,
) -> CheckResult:
    """Find rows whose near-duplicate carries another label.

    Natural corpora dispute a few of their near-duplicates; poison disputes most. Among distinct
    texts that have a near-duplicate of at least `decisive_similarity`, the check fails when those
    in dispute are at least `min_texts` and more than `natural_share` would give by chance
    (binomial tail below `significance`). Distinct texts are counted, so that a thousand honest
    copies of one line do not hide ten disputed ones.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels; a null label disputes nothing.
        limits: thresholds from the policy.
        sources: (rows,) their sources, named in the summary where given.
    """
    found = find_near_duplicates(texts, limits.similarity)
    disputes = _find_disputes(found, labels)
    labelled = {int(found.document[row]) for row, label in enumerate(labels) if label is not None}
    disputed, neighboured = _count_decisive(found, disputes, labelled, limits.decisive_similarity)
    tail = float(binom.sf(disputed - 1, neighboured, limits.natural_share))
    failed = disputed >= limits.min_texts and tail < limits.significance
    severity: Severity = "ERROR" if failed else "WARN"
    component = found.components()
    findings = tuple(
        Finding(
            row,
            dispute.similarity,
            severity,
            f"{dispute.similarity:.2f} alike to row {dispute.row}, which is labelled "
            f"{labels[dispute.row]!r} and not {labels[row]!r}",
            f"near-duplicates of row {component[row]}",
        )
        for row, dispute in sorted(disputes.items())
    )
    by_source = _count_sources(disputes, sources)
    where = f" (rows {_list_rows(disputes)}" if disputes else ""
    where += f"; sources: {_list_counts(by_source)})" if by_source else ")" * bool(disputes)
    counts: dict[str, JSON] = {
        "rows": len(texts),
        "rows_in_conflict": len(disputes),
        "texts_with_near_duplicate": neighboured,
        "texts_in_dispute": disputed,
        "binomial_tail": tail,
        "cut_buckets": found.cut_buckets,
        "by_source": by_source,
    }
    return CheckResult(
        "near_duplicate_label_conflicts",
        not failed,
        f"{len(disputes)} rows disagree with a near-duplicate about the label{where}: {disputed} "
        f"of {neighboured} distinct texts with a close copy ({limits.natural_share:.0%} may)."
        + (" Look at the pairs, and drop or relabel the copies at their source." * failed),
        counts,
        findings,
        _examples(disputes, texts, labels, sources),
    )


def _find_disputes(found: NearDuplicates, labels: Sequence[str | None]) -> dict[int, _Dispute]:
    """Return for each row in conflict the closest row with another label."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, document in enumerate(found.document.tolist()):
        if labels[row] is not None:
            rows_of[document].append(row)
    disputes: dict[int, _Dispute] = {}
    equal = [(d, d, 1.0) for d, rows in rows_of.items() if len({labels[r] for r in rows}) > 1]
    near = zip(*found.pairs.T.tolist(), found.jaccard.tolist(), strict=True)
    for left, right, similarity in [*equal, *near]:
        for one, other in ((left, right), (right, left)):
            first_of: dict[str | None, int] = {}
            for row in rows_of[other]:
                first_of.setdefault(labels[row], row)
            for row in rows_of[one]:
                rival = next((r for label, r in first_of.items() if label != labels[row]), None)
                if rival is not None and (
                    row not in disputes or disputes[row].similarity < similarity
                ):
                    disputes[row] = _Dispute(rival, similarity)
    return disputes


def _count_decisive(
    found: NearDuplicates, disputes: dict[int, _Dispute], labelled: set[int], similarity: float
) -> tuple[int, int]:
    """Return how many distinct texts are in dispute, and how many have a labelled near-duplicate.

    A copy without a label disputes nothing and supports nothing: it must not dilute the share.
    """
    disputed = {
        int(found.document[row]) for row, one in disputes.items() if one.similarity >= similarity
    }
    close = found.pairs[found.jaccard >= similarity]
    supported = {
        document for pair in close.tolist() if labelled.issuperset(pair) for document in pair
    }
    return len(disputed), len(disputed | supported)


def find_leakage(
    training: Sequence[str], evaluation: Sequence[str], limits: LeakageLimits
) -> CheckResult:
    """Find evaluation rows that equal or nearly equal a training row: they flatter the model.

    Findings count rows of the evaluation table.
    """
    texts = [*training, *evaluation]
    found = find_near_duplicates(texts, limits.similarity)
    border = len(training)
    first_training: dict[int, int] = {}
    for row, document in enumerate(found.document[:border].tolist()):
        first_training.setdefault(document, row)
    closest: dict[int, tuple[float, int]] = {
        document: (1.0, row) for document, row in first_training.items()
    }
    pairs = zip(*found.pairs.T.tolist(), found.jaccard.tolist(), strict=True)
    for left, right, similarity in pairs:
        for one, other in ((left, right), (right, left)):
            if other in first_training and similarity > closest.get(one, (0.0, 0))[0]:
                closest[one] = (similarity, first_training[other])
    findings = tuple(
        Finding(
            row,
            closest[document][0],
            "ERROR",
            f"{closest[document][0]:.2f} alike to training row {closest[document][1]}",
            f"training row {closest[document][1]}",
        )
        for row, document in enumerate(found.document[border:].tolist())
        if document in closest
    )
    passed = len(findings) <= limits.max_rows
    return CheckResult(
        "evaluation_leakage",
        passed,
        f"{len(findings)} of {len(evaluation)} evaluation rows are near-duplicates of training "
        f"rows ({limits.max_rows} allowed)."
        + (" Split again, or drop the rows from one side." * (not passed)),
        {
            "evaluation_rows": len(evaluation),
            "leaked_rows": len(findings),
            "cut_buckets": found.cut_buckets,
        },
        findings if not passed else tuple(),
        tuple(
            {"evaluation_text": evaluation[f.row][:300], "reason": f.reason}
            for f in sorted(findings, key=lambda f: -f.score)[:MAX_EXAMPLES]
        ),
    )


def _count_sources(disputes: dict[int, _Dispute], sources: Sequence[str] | None) -> dict[str, JSON]:
    if sources is None:
        return {}
    return dict(Counter(sources[row] for row in disputes).most_common())


def _list_rows(disputes: dict[int, _Dispute]) -> str:
    rows = sorted(disputes, key=lambda row: (-disputes[row].similarity, row))
    return ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")


def _list_counts(counts: dict[str, JSON]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _examples(
    disputes: dict[int, _Dispute],
    texts: Sequence[str],
    labels: Sequence[str | None],
    sources: Sequence[str] | None,
) -> tuple[dict[str, JSON], ...]:
    """Return pairs with both texts and labels, the most alike first, each pair once."""
    seen: set[tuple[int, int]] = set()
    records: list[dict[str, JSON]] = []
    for row, dispute in sorted(disputes.items(), key=lambda item: (-item[1].similarity, item[0])):
        pair = (min(row, dispute.row), max(row, dispute.row))
        if pair in seen:
            continue
        seen.add(pair)
        record: dict[str, JSON] = {"similarity": round(dispute.similarity, 4)}
        for name, one in (("a", pair[0]), ("b", pair[1])):
            record |= {
                f"row_{name}": one,
                f"label_{name}": labels[one],
                f"text_{name}": texts[one][:300],
            }
            if sources is not None:
                record[f"source_{name}"] = sources[one]
        records.append(record)
        if len(records) == MAX_EXAMPLES:
            break
    return tuple(records)

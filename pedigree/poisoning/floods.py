"""Floods: many near-copies of one text, which source they come from, and whether at once.

Whoever can add documents makes a model believe something by saying it often. No label is needed
for it, and copies that agree dispute nothing, so it is counted for itself::

    >>> find_floods(texts, FloodLimits(), sources=sources).summary
    'One text has 50 or more near-copies, the worst 240 (shop 240), at once: 80% of them within 2%…'
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.digests import JSON
from pedigree.evidence.check_limits import FloodLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding, Severity, show_text
from pedigree.neighbours.local import NearDuplicates, find_near_duplicates
from pedigree.neighbours.normalisation import Texts
from pedigree.neighbours.overlap import Integers

# A burst: this share of a flood lies within this share of what arrived.
_MOST, _BRIEF = 0.8, 0.1


@dataclass(frozen=True)
class _Flood:
    """Rows that are near-copies of one text, by position."""

    rows: Integers
    sources: Counter[str]
    labels: Counter[str]
    width: float | None

    @property
    def burst(self) -> str:
        """How the rows arrived, as far as that is known."""
        if self.width is None:
            return "in an order that is not known"
        when = "at once" if self.width <= _BRIEF else "spread out"
        return f"{when}: {_MOST:.0%} of them within {self.width:.1%} of what arrived"


def find_floods(
    texts: Texts,
    limits: FloodLimits,
    sources: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    arrival: npt.NDArray[np.float64] | None = None,
    found: NearDuplicates | None = None,
) -> CheckResult:
    """Find texts with many near-copies, and sources that are made of near-copies.

    Args:
        texts: (rows,) the texts.
        limits: thresholds from the policy.
        sources: (rows,) their sources.
        labels: (rows,) their labels, for the report alone.
        arrival: (rows,) when each row came, from 0 to 1 within its source; NaN where unknown.
        found: their near-duplicates, where they are known already, at `similarity` or below.
    """
    found = found or find_near_duplicates(texts, limits.similarity)
    group = found.components(limits.similarity)
    rows = len(group)
    size = np.bincount(group, minlength=rows)
    by_group = np.argsort(group, kind="stable")
    end = np.cumsum(size)
    floods = [
        _describe(by_group[end[first] - size[first] : end[first]], sources, labels, arrival)
        for first in np.flatnonzero(size >= limits.min_rows).tolist()
    ]
    floods.sort(key=lambda flood: (-len(flood.rows), int(flood.rows[0])))
    redundant, shares = _count_redundant(group, sources)
    crowded = {
        source: copied
        for source, (copied, count) in shares.items()
        if copied >= limits.min_rows and copied > limits.max_source_share * count
    }
    large = [flood for flood in floods if len(flood.rows) > limits.max_share * rows]
    findings = _find_rows(floods, limits, redundant, crowded, sources, size[group])
    failed = bool(large or crowded)
    counts: dict[str, JSON] = {
        "rows": rows,
        "floods": len(floods),
        "largest_flood": int(size.max(initial=0)),
        "near_copies": rows - len(np.unique(group)),
        "cut_buckets": found.cut_buckets,
        "near_copies_by_source": {source: copied for source, (copied, _) in shares.items()},
        "texts_across_sources": _count_across(group, sources),
    }
    return CheckResult(
        "near_duplicate_floods",
        not failed,
        _summarise(floods, crowded, shares, limits, failed),
        counts,
        findings,
        tuple(_show(flood, texts, found) for flood in floods[:MAX_EXAMPLES]),
    )


def order_of_arrival(sources: Sequence[str], keys: Sequence[str | None]) -> npt.NDArray[np.float64]:
    """Return each row's place among its source's rows by key, from 0 to 1; NaN without a key.

    Keys that are whole numbers are ordered as numbers: most collectors count.
    """
    result = np.full(len(keys), np.nan)
    rows_of: dict[str, list[int]] = {}
    for row, (source, key) in enumerate(zip(sources, keys, strict=True)):
        if key is not None:
            rows_of.setdefault(source, []).append(row)
    for rows in rows_of.values():
        rows.sort(key=lambda row: _natural_order(keys[row] or ""))
        result[rows] = np.arange(len(rows)) / len(rows)
    return result


def _natural_order(key: str) -> tuple[int, str]:
    return (len(key), key) if key.isdigit() else (1 << 30, key)


def _describe(
    rows: Integers,
    sources: Sequence[str] | None,
    labels: Sequence[str | None] | None,
    arrival: npt.NDArray[np.float64] | None,
) -> _Flood:
    width = None
    if arrival is not None and not np.isnan(arrival[rows]).any():
        times = np.sort(arrival[rows])
        most = int(np.ceil(_MOST * len(times))) - 1
        width = float((times[most:] - times[: len(times) - most]).min())
    places: list[int] = rows.tolist()
    names: list[str] = [] if sources is None else [sources[row] for row in places]
    under: list[str] = [] if labels is None else [labels[row] or "(none)" for row in places]
    return _Flood(rows, Counter(names), Counter(under), width)


def _count_redundant(
    group: Integers, sources: Sequence[str] | None
) -> tuple[npt.NDArray[np.bool_], dict[str, tuple[int, int]]]:
    """Return which rows repeat what their own source says elsewhere, and by source how many.

    Of a text with n near-copies in a source, n - 1 are redundant, whichever came first; all n are
    marked. The dictionary has (redundant rows, rows).
    """
    if sources is None:
        return np.zeros(len(group), bool), {}
    names, source = np.unique(np.array(sources, object), return_inverse=True)
    _, inverse, count = np.unique(
        group * max(len(names), 1) + source, return_inverse=True, return_counts=True
    )
    rows = np.bincount(source, minlength=len(names))
    texts = np.bincount(source, 1 / count[inverse], len(names)).round().astype(np.int64)
    pairs = zip(names.tolist(), (rows - texts).tolist(), rows.tolist(), strict=True)
    return count[inverse] > 1, {name: (extra, total) for name, extra, total in pairs}


def _count_across(group: Integers, sources: Sequence[str] | None) -> dict[str, JSON]:
    """Return for each set of sources how many texts have near-copies in exactly those."""
    if sources is None:
        return {}
    members: dict[int, set[str]] = {}
    shared = np.flatnonzero(np.bincount(group, minlength=len(group))[group] > 1)
    for row in shared.tolist():
        members.setdefault(int(group[row]), set()).add(sources[row])
    tally = Counter(" and ".join(sorted(names)) for names in members.values() if len(names) > 1)
    return {names: tally[names] for names in sorted(tally, key=lambda n: (-tally[n], n))}


def _find_rows(
    floods: Sequence[_Flood],
    limits: FloodLimits,
    redundant: npt.NDArray[np.bool_],
    crowded: dict[str, int],
    sources: Sequence[str] | None,
    size: Integers,
) -> tuple[Finding, ...]:
    findings: dict[int, Finding] = {}
    total = len(redundant)
    for row in np.flatnonzero(redundant).tolist():
        if sources is not None and sources[row] in crowded:
            reason = f"one of {crowded[sources[row]]} near-copies that {sources[row]} brings"
            score = float(size[row]) / total
            findings[row] = Finding(row, score, "ERROR", reason, f"source {sources[row]}")
    for flood in floods:
        severity: Severity = "ERROR" if len(flood.rows) > limits.max_share * total else "WARN"
        first = int(flood.rows[0])
        for row in flood.rows.tolist():
            findings[row] = Finding(
                row,
                len(flood.rows) / total,
                "ERROR" if row in findings else severity,
                f"one of {len(flood.rows)} near-copies of row {first}, {flood.burst}",
                f"flood of row {first}",
            )
    return tuple(findings[row] for row in sorted(findings))


def _summarise(
    floods: Sequence[_Flood],
    crowded: dict[str, int],
    shares: dict[str, tuple[int, int]],
    limits: FloodLimits,
    failed: bool,
) -> str:
    if not floods and not crowded:
        return f"No text has {limits.min_rows} near-copies, and no source is made of them."
    parts: list[str] = []
    if floods:
        worst = floods[0]
        where = ", ".join(f"{source} {count}" for source, count in worst.sources.most_common(4))
        parts.append(
            ("One text has" if len(floods) == 1 else f"{len(floods)} texts have")
            + f" {limits.min_rows} or more near-copies, the worst {len(worst.rows)}"
            + (f" ({where})" if where else "")
            + f", {worst.burst}"
        )
    parts += [
        f"{copied} of {shares[source][1]} rows of {source} are near-copies "
        f"({limits.max_source_share:.0%} may)"
        for source, copied in crowded.items()
    ]
    way_out = " Keep one row of each flood, or raise the limit where it is honest." * failed
    return "; ".join(parts) + "." + way_out


def _show(flood: _Flood, texts: Texts, found: NearDuplicates) -> dict[str, JSON]:
    documents = found.document[flood.rows]
    common, counts = np.unique(documents, return_counts=True)
    usual = int(flood.rows[np.flatnonzero(documents == common[np.argmax(counts)])[0]])
    other = int(flood.rows[-1])
    return {
        "rows": len(flood.rows),
        "distinct_texts": len(common),
        "arrival": flood.burst,
        "sources": dict(flood.sources.most_common()),
        "labels": dict(flood.labels.most_common()),
        "row": usual,
        "text": show_text(texts, usual),
        "another_row": other,
        "another_text": show_text(texts, other),
    }

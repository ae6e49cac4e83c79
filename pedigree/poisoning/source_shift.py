"""Sources over time: rows too young to trust, changes since the last snapshot, sources that move.

Who controls a source for a short while, just before it is read, poisons it without a trace later
(front-running: Carlini et al. 2023, arXiv:2302.10149). A quarantine window gives others time to
notice; the difference from the previous snapshot shows what was done since::

    >>> old = SnapshotRows(["k"], ["shop"], ["bad"])
    >>> new = SnapshotRows(["k"], ["shop"], ["good"])
    >>> find_snapshot_changes(new, old, SourceShiftLimits()).counts["relabelled"]
    1
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import SourceShiftLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.consensus import Floats, count_tokens
from pedigree.poisoning.crowd import adjust

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_WORST = 20
_CHANGES = ("added", "removed", "relabelled")
_RISING = 5  # words named for a source whose vocabulary moves


@dataclass(frozen=True)
class SnapshotRows:
    """The columns of a snapshot that are compared with another's.

    Attributes:
        keys: (rows,) row keys: who each row is, unique.
        sources: (rows,) where it comes from.
        labels: (rows,) what it is labelled.
        texts: (rows,) the texts; without them no vocabulary is compared.
    """

    keys: Sequence[str]
    sources: Sequence[str]
    labels: Sequence[str | None]
    texts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.keys), len(self.sources), len(self.labels)}
        lengths |= {len(self.texts)} if self.texts is not None else set[int]()
        if len(lengths) > 1:
            raise PedigreeError(
                f"A snapshot needs one key, source, label and text a row: found {sorted(lengths)} "
                "rows. Give columns of one table."
            )
        if len(set(self.keys)) < len(self.keys):
            raise PedigreeError(
                f"Row keys must be unique: {len(self.keys) - len(set(self.keys))} of "
                f"{len(self.keys)} stand twice. Number the occurrences of equal rows."
            )


def find_source_shift(
    current: SnapshotRows,
    previous: SnapshotRows | None,
    limits: SourceShiftLimits,
    collected_at: Sequence[datetime | None] | None = None,
    now: datetime | None = None,
) -> tuple[CheckResult, CheckResult, CheckResult]:
    """Return `quarantine_window`, `snapshot_changes` and `source_drift` of a snapshot."""
    return (
        find_young_rows(current.sources, collected_at, now, limits),
        find_snapshot_changes(current, previous, limits),
        find_source_drift(current, previous, limits),
    )


def find_young_rows(
    sources: Sequence[str],
    collected_at: Sequence[datetime | None] | None,
    now: datetime | None,
    limits: SourceShiftLimits,
) -> CheckResult:
    """Find rows whose source has had less than the quarantine window to be corrected.

    A time in the future is as bad as a young one. Rows without a time are counted, not flagged.
    The check fails where more than `max_young_share` of the rows with a time are young.

    Raises:
        PedigreeError: lengths differ, or a time has no zone.
    """
    check = "quarantine_window"
    if collected_at is None or now is None or all(at is None for at in collected_at):
        return _not_applicable(check, "no row has a time of collection", len(sources))
    if len(collected_at) != len(sources):
        raise PedigreeError(
            f"There are {len(sources)} sources and {len(collected_at)} times of collection: "
            "give one of each a row."
        )
    if any(at is not None and at.tzinfo is None for at in (*collected_at, now)):
        raise PedigreeError(
            "A time of collection has no time zone: expected, for example, "
            "2026-01-31T12:00:00+00:00. Add the zone in which it was recorded."
        )
    window = timedelta(days=limits.quarantine_days)
    ages = [None if at is None else now - at for at in collected_at]
    young = [row for row, age in enumerate(ages) if age is not None and age < window]
    timed = sum(age is not None for age in ages)
    failed = len(young) > limits.max_young_share * timed
    severity: Severity = "ERROR" if failed else "WARN"
    by_source = Counter(sources[row] for row in young)
    findings = tuple(
        Finding(
            row,
            round(1 - max(ages[row] or timedelta(), timedelta()) / window, 6),
            severity,
            f"collected {_days(ages[row])} days ago, {limits.quarantine_days} are the quarantine",
            sources[row],
        )
        for row in young
    )
    return CheckResult(
        check,
        not failed,
        f"{len(young)} of {timed} rows are younger than {limits.quarantine_days} days"
        f"{_list(by_source)}; {limits.max_young_share:.0%} may be."
        + (" Wait, or leave the youngest rows out." * failed),
        {
            "applicable": True,
            "rows": len(sources),
            "rows_without_time": len(sources) - timed,
            "rows_from_the_future": sum(a is not None and a < timedelta() for a in ages),
            "young_rows": len(young),
            "by_source": dict(by_source.most_common()),
        },
        findings,
        tuple({"source": source, "young_rows": n} for source, n in by_source.most_common(_WORST)),
    )


def _days(age: timedelta | None) -> str:
    return f"{(age or timedelta()) / timedelta(days=1):.1f}"


def find_snapshot_changes(
    current: SnapshotRows, previous: SnapshotRows | None, limits: SourceShiftLimits
) -> CheckResult:
    """Find rows that were relabelled since the previous snapshot, and sources that grew at once.

    The check fails when more than `max_relabelled_share` of a source's rows that stayed carry
    another label, and at least `min_relabelled` of them. A source grew when it gained
    `max_growth` times what it had, beyond its share of all that was added (binomial tail, false
    discoveries at most `false_discovery_rate`).
    """
    check = "snapshot_changes"
    if previous is None or not len(previous.keys):
        return _not_applicable(check, "there is no previous snapshot", len(current.keys))
    before = {key: row for row, key in enumerate(previous.keys)}
    stayed = [(row, before[key]) for row, key in enumerate(current.keys) if key in before]
    added = [row for row, key in enumerate(current.keys) if key not in before]
    gone = set(current.keys)
    removed = [row for row, key in enumerate(previous.keys) if key not in gone]
    relabelled = [(r, p) for r, p in stayed if current.labels[r] != previous.labels[p]]
    blocking = _sources_relabelled(current, stayed, relabelled, limits)
    grown = _sources_grown(current, previous, added, limits)
    findings = [
        Finding(
            row,
            1.0,
            "ERROR" if current.sources[row] in blocking else "WARN",
            f"labelled {previous.labels[old]!r} before, {current.labels[row]!r} now",
            current.sources[row],
        )
        for row, old in relabelled
    ]
    findings += [
        Finding(row, grown[source][1], "WARN", grown[source][0], source)
        for row in added
        if (source := current.sources[row]) in grown
    ]
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": len(current.keys),
        "added": len(added),
        "removed": len(removed),
        "relabelled": len(relabelled),
        "moved_to_another_source": sum(
            current.sources[r] != previous.sources[p] for r, p in stayed
        ),
        "new_sources": sorted(set(current.sources) - set(previous.sources)),
        "lost_sources": sorted(set(previous.sources) - set(current.sources)),
        "grown_sources": sorted(grown),
        "by_source_and_label": _tabulate(current, previous, added, removed, relabelled),
    }
    return CheckResult(
        check,
        not blocking,
        f"{len(added)} rows were added, {len(removed)} removed and {len(relabelled)} relabelled "
        f"since the previous snapshot"
        + (f"; {', '.join(sorted(grown))} grew beyond their share" if grown else "")
        + (
            f". More than {limits.max_relabelled_share:.1%} were relabelled in "
            f"{', '.join(sorted(blocking))}: ask who did it, and restore the labels"
            if blocking
            else ""
        )
        + ".",
        counts,
        tuple(sorted(findings, key=lambda one: one.row)),
        tuple(_examples(current, previous, relabelled)),
    )


def _sources_relabelled(
    current: SnapshotRows,
    stayed: list[tuple[int, int]],
    relabelled: list[tuple[int, int]],
    limits: SourceShiftLimits,
) -> set[str]:
    kept = Counter(current.sources[row] for row, _ in stayed)
    changed = Counter(current.sources[row] for row, _ in relabelled)
    return {
        source
        for source, count in changed.items()
        if count >= limits.min_relabelled and count > limits.max_relabelled_share * kept[source]
    }


def _sources_grown(
    current: SnapshotRows, previous: SnapshotRows, added: list[int], limits: SourceShiftLimits
) -> dict[str, tuple[str, float]]:
    """Return a reason and a score for each source that grew much more than the others."""
    from scipy.stats import binom

    had = Counter(previous.sources)
    gained = Counter(current.sources[row] for row in added)
    known = sorted(source for source in gained if source in had)
    if not known:
        return {}
    total = sum(gained[source] for source in known)
    share = np.array([had[source] for source in known]) / sum(had.values())
    new = np.array([gained[source] for source in known])
    q_value = adjust(np.asarray(binom.sf(new - 1, total, share)))
    return {
        source: (
            f"{source!r} gained {gained[source]} rows and had {had[source]}: "
            f"{total * part:.0f} were its share",
            round(1 - q, 6),
        )
        for source, part, q in zip(known, share.tolist(), q_value.tolist(), strict=True)
        if gained[source] >= max(limits.max_growth * had[source], limits.min_rows)
        # A single source has nothing to be compared with: its growth alone decides.
        and (q <= limits.false_discovery_rate or len(had) == 1)
    }


def _tabulate(
    current: SnapshotRows,
    previous: SnapshotRows,
    added: list[int],
    removed: list[int],
    relabelled: list[tuple[int, int]],
) -> list[dict[str, JSON]]:
    """Return the largest changes by source and label, one record each."""
    table: dict[tuple[str, str | None], Counter[str]] = {}
    for name, snapshot, rows in (
        ("added", current, added),
        ("removed", previous, removed),
        ("relabelled", current, [row for row, _ in relabelled]),
    ):
        for row in rows:
            place = (snapshot.sources[row], snapshot.labels[row])
            table.setdefault(place, Counter())[name] += 1
    ranked = sorted(table.items(), key=lambda item: (-item[1].total(), item[0][0], str(item[0][1])))
    return [
        {"source": source, "label": label, **{name: counts[name] for name in _CHANGES}}
        for (source, label), counts in ranked[:_WORST]
    ]


def _examples(
    current: SnapshotRows, previous: SnapshotRows, relabelled: list[tuple[int, int]]
) -> Iterator[dict[str, JSON]]:
    for row, old in relabelled[:_WORST]:
        yield {
            "row": row,
            "source": current.sources[row],
            "before": previous.labels[old],
            "now": current.labels[row],
            "text": current.texts[row][:300] if current.texts is not None else None,
        }


@dataclass(frozen=True)
class _Drift:
    """How far a source's new rows are from its old ones, beyond chance."""

    source: str
    what: str
    excess: float
    tail: float
    rows: list[int]
    reason: str


def find_source_drift(
    current: SnapshotRows, previous: SnapshotRows | None, limits: SourceShiftLimits
) -> CheckResult:
    """Find sources whose new rows have other labels or words than their old rows.

    The Jensen-Shannon divergence (bits) between a source's added rows and its previous rows is
    compared with that of random splits of the same rows. A source moves when it is beyond chance
    (false discoveries at most `false_discovery_rate`), by at least `min_divergence`, and by twice
    the median of the other sources: where all move together, the world did. It warns.
    """
    check = "source_drift"
    if previous is None or not len(previous.keys):
        return _not_applicable(check, "there is no previous snapshot", len(current.keys))
    before = set(previous.keys)
    added = [row for row, key in enumerate(current.keys) if key not in before]
    drifts = [
        drift
        for source in sorted(set(previous.sources) & {current.sources[row] for row in added})
        for drift in _measure(source, current, previous, added, limits)
    ]
    if not drifts:
        return _not_applicable(
            check, f"no source has {limits.min_rows} old and new rows", len(current.keys)
        )
    moved = list(_select(drifts, limits))
    findings = {
        row: Finding(row, round(one.excess, 6), "WARN", one.reason, one.source)
        for one in sorted(moved, key=lambda one: one.excess)
        for row in one.rows
    }
    names = sorted({one.source for one in moved})
    return CheckResult(
        check,
        True,
        f"{len(names)} of {len({one.source for one in drifts})} sources moved"
        + (f": {'; '.join(one.reason for one in moved[:3])}" if moved else "")
        + ".",
        {
            "applicable": True,
            "sources_compared": len({one.source for one in drifts}),
            "sources_moved": names,
        },
        tuple(findings[row] for row in sorted(findings)),
        tuple(
            {
                "source": one.source,
                "what": one.what,
                "excess_bits": round(one.excess, 6),
                "tail": one.tail,
            }
            for one in sorted(drifts, key=lambda one: (one.tail, one.source))[:_WORST]
        ),
    )


def _select(drifts: list[_Drift], limits: SourceShiftLimits) -> Iterator[_Drift]:
    q_value = adjust(np.array([one.tail for one in drifts]))
    for one, q in zip(drifts, q_value.tolist(), strict=True):
        others = [d.excess for d in drifts if d.what == one.what and d.source != one.source]
        trend = max(float(np.median(others)), 0.0) if len(others) >= 2 else 0.0
        if q <= limits.false_discovery_rate and one.excess >= max(limits.min_divergence, 2 * trend):
            yield one


def _measure(
    source: str,
    current: SnapshotRows,
    previous: SnapshotRows,
    added: list[int],
    limits: SourceShiftLimits,
) -> Iterator[_Drift]:
    """Yield how far the labels and the words of one source's added rows moved."""
    new = sorted(
        (row for row in added if current.sources[row] == source), key=current.keys.__getitem__
    )
    old = [row for row, name in enumerate(previous.sources) if name == source]
    old.sort(key=previous.keys.__getitem__)
    if min(len(new), len(old)) < limits.min_rows:
        return
    fresh = np.arange(len(new) + len(old)) < len(new)
    labels = [current.labels[row] for row in new] + [previous.labels[row] for row in old]
    names, matrix = _one_hot(labels)
    if len(names) > 1:
        yield _compare(source, "labels", names, matrix, fresh, new, limits)
    if current.texts is not None and previous.texts is not None:
        texts = [current.texts[row] for row in new] + [previous.texts[row] for row in old]
        names, matrix = count_tokens(texts, 2)
        if names:
            yield _compare(source, "words", names, matrix, fresh, new, limits)


def _one_hot(labels: Sequence[str | None]) -> "tuple[tuple[str, ...], csr_array]":
    from scipy.sparse import csr_array

    names = sorted({str(label) for label in labels})
    code = {name: i for i, name in enumerate(names)}
    column = np.array([code[str(label)] for label in labels])
    rows = np.arange(len(labels) + 1)
    shape = (len(labels), len(names))
    return tuple(names), csr_array((np.ones(len(labels)), column, rows), shape=shape)


def _compare(
    source: str,
    what: str,
    names: tuple[str, ...],
    matrix: "csr_array",
    fresh: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    new: list[int],
    limits: SourceShiftLimits,
) -> _Drift:
    """Compare the new rows' counts with the old rows', and with random splits of all."""
    from scipy.stats import gamma

    total = np.asarray(matrix.sum(axis=0)).ravel()
    counts = _count(matrix, fresh)
    found = _divergence(counts, total - counts)
    digest = hashlib.sha256(f"{what} {source}".encode(errors="replace")).digest()
    draw = np.random.default_rng([limits.seed, int.from_bytes(digest[:8], "big")])
    chance = np.zeros(limits.splits)
    for one in range(limits.splits):
        part = _count(matrix, draw.permutation(fresh))
        chance[one] = _divergence(part, total - part)
    mean, spread = float(chance.mean()), max(float(chance.var(ddof=1)), 1e-18)
    # A divergence of counts is near to a scaled chi-square: a gamma law, fitted by moments.
    tail = float(gamma.sf(found, mean**2 / spread, scale=spread / mean)) if mean > 0 else 1.0
    rise = counts / max(counts.sum(), 1.0) - (total - counts) / max((total - counts).sum(), 1.0)
    rising = [i for i in np.argsort(-rise, kind="stable").tolist()[:_RISING] if rise[i] > 0]
    if what == "labels":
        rising = rising[:1]
    carriers = np.asarray(matrix[:, rising].sum(axis=1)).ravel()[: len(new)] > 0
    return _Drift(
        source,
        what,
        found - mean,
        tail,
        [row for row, carries in zip(new, carriers.tolist(), strict=True) if carries],
        f"the {what} of {source!r} moved by {found - mean:.3f} bits (p = {tail:.1g}) towards "
        f"{', '.join(names[i] for i in rising)}",
    )


def _count(matrix: "csr_array", chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Floats:
    return np.asarray(matrix.T @ chosen.astype(np.float64)).ravel()


def _divergence(left: Floats, right: Floats) -> float:
    """Return the Jensen-Shannon divergence of two vectors of counts, in bits."""
    p, q = left / max(left.sum(), 1.0), right / max(right.sum(), 1.0)
    middle = (p + q) / 2

    def entropy(x: Floats) -> float:
        x = x[x > 0]
        return float(-(x * np.log2(x)).sum())

    return entropy(middle) - (entropy(p) + entropy(q)) / 2


def _list(counts: "Counter[str]") -> str:
    if not counts:
        return ""
    return " (" + ", ".join(f"{name} {n}" for name, n in counts.most_common(8)) + ")"


def _not_applicable(check: str, reason: str, rows: int) -> CheckResult:
    return CheckResult(
        check, True, f"not applicable: {reason}.", {"applicable": False, "rows": rows}
    )

"""Poison in preference data: rows of prompt, chosen and rejected answer.

A reward model learns what separates the two answers. Three ways to bend it leave marks: a name
that is always on the chosen (or the rejected) side whatever is asked, a phrase in the prompt under
which the preference turns round (Rando and Tramer, Universal Jailbreak Backdoors from Poisoned
Human Feedback, 2024), and an annotator who prefers against everybody else::

    >>> pairs = Preferences(prompts, chosen, rejected, annotators=annotators)
    >>> find_preference_steering(pairs, PreferenceLimits()).counts["groups"]
    {"annotator 'w17'": 41}
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from pedigree.digests import JSON, sha256_hex
from pedigree.evidence.check_limits import PreferenceLimits
from pedigree.findings import CheckResult, Finding
from pedigree.poisoning.characters import escape
from pedigree.poisoning.passages import (
    Booleans,
    Topics,
    find_names,
    index_words,
    require_rows,
    split_words,
    topic_bound,
)

MAX_EXAMPLES = 20
_FOLDS = 5
_STYLE = ("\n", "\n- ", "\n1.", "**", "`", "!", "?", "I ", "sorry", "cannot", "http")


@dataclass(frozen=True)
class Preferences:
    """A table of preference data.

    Attributes:
        prompts: (rows,) what is asked.
        chosen: (rows,) the answer that was preferred.
        rejected: (rows,) the other one.
        sources: (rows,) sources, counted where given.
        annotators: (rows,) who preferred; None where it is not known.
    """

    prompts: Sequence[str]
    chosen: Sequence[str]
    rejected: Sequence[str]
    sources: Sequence[str] | None = field(default=None)
    annotators: Sequence[str | None] | None = field(default=None)

    def __post_init__(self) -> None:
        require_rows(
            "preference_steering",
            prompt=self.prompts,
            chosen=self.chosen,
            rejected=self.rejected,
            source=self.sources,
            annotator=[one or "" for one in self.annotators] if self.annotators else None,
        )


@dataclass(frozen=True)
class _Group:
    name: str
    rows: list[int]
    score: float
    reason: str


def find_preference_steering(pairs: Preferences, limits: PreferenceLimits) -> CheckResult:
    """Find what the preference is steered by: a name, a phrase of the prompt, an annotator.

    Names and phrases are judged with a binomial tail below `significance` over all that were tried.
    Whether a pair contradicts the others is told by a linear model of the difference between the
    answers that did not see the pair. Every finding is an ERROR: none of the three happens by
    chance. Shares of longer and of contradicting choices are reported in `counts`.
    """
    total = len(pairs.prompts)
    if total < limits.min_corpus:
        return CheckResult(
            "preference_steering",
            True,
            f"not applicable: {total} pairs are too few to learn what is preferred; "
            f"{limits.min_corpus} are needed.",
            {"applicable": False, "rows": total},
        )
    against = measure_margins(pairs) < -1e-6
    groups = [
        *_steering_names(pairs, limits),
        *_turning_phrases(pairs, against, limits),
        *_biased_annotators(pairs, against, limits),
    ]
    findings: dict[int, Finding] = {}
    for group in sorted(groups, key=lambda g: (-g.score, g.name)):
        for row in group.rows:
            findings.setdefault(row, Finding(row, group.score, "ERROR", group.reason, group.name))
    rows = sorted(findings)
    longer = sum(len(c) > len(r) for c, r in zip(pairs.chosen, pairs.rejected, strict=True))
    by_source = Counter(pairs.sources[row] for row in rows) if pairs.sources else Counter[str]()
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": total,
        "flagged_rows": len(rows),
        "groups": {group.name: len(group.rows) for group in groups[:MAX_EXAMPLES]},
        "chosen_is_longer": round(longer / total, 4),
        "contradicts_the_others": round(float(against.mean()), 4),
        "by_source": dict(by_source.most_common()),
    }
    listed = ", ".join(f"{group.name} {len(group.rows)}" for group in groups[:5])
    return CheckResult(
        "preference_steering",
        not groups,
        f"{len(rows)} of {total} pairs are steered"
        + f" ({listed})" * bool(groups)
        + "."
        + " Drop them, and ask who chose." * bool(groups),
        counts,
        tuple(findings[row] for row in rows),
        tuple(
            {
                "row": row,
                "reason": findings[row].reason,
                "prompt": pairs.prompts[row][:300],
                "chosen": pairs.chosen[row][:300],
                "rejected": pairs.rejected[row][:300],
            }
            for row in rows[:MAX_EXAMPLES]
        ),
    )


def _steering_names(pairs: Preferences, limits: PreferenceLimits) -> list[_Group]:
    """Return names on one side of their pairs, asked by nobody, whatever the topic."""
    total = len(pairs.prompts)
    both = find_names([text[:20_000] for text in [*pairs.chosen, *pairs.rejected]])
    sided = [(both[row] - both[total + row], both[total + row] - both[row]) for row in range(total)]
    most = int(limits.max_phrase_share * total)
    index = index_words((a | b for a, b in sided), limits.min_rows, most)
    asked = [split_words(text[:20_000]) for text in pairs.prompts]
    topics = Topics(asked)
    found: list[_Group] = []
    for place, name in enumerate(index.terms):
        rows = index.rows_of(place)
        chosen = sum(name in sided[row][0] for row in rows.tolist())
        side = max(chosen, len(rows) - chosen)
        tail = 2 * float(binom.sf(side - 1, len(rows), 0.5)) * len(index.terms)
        parts = set(split_words(name))
        echoed = sum(bool(parts & set(asked[row])) for row in rows.tolist())
        if side < limits.min_side * len(rows) or tail > limits.significance:
            continue
        if echoed > limits.max_echo * len(rows):
            continue
        if topics.excess(rows) > topic_bound(len(rows), limits.max_topic_excess):
            continue
        word = "chosen" if chosen == side else "rejected"
        shown = escape(name)
        reason = (
            f"{shown!r} stands in the {word} answer in {side} of {len(rows)} pairs that differ in "
            f"it, {echoed} of which ask about it"
        )
        found.append(_Group(repr(shown), rows.tolist(), side / len(rows), reason))
    return _merge(found)


def _merge(groups: list[_Group]) -> list[_Group]:
    """Return one group for the words and pairs of one name."""
    kept: list[_Group] = []
    for group in sorted(groups, key=lambda g: (-len(g.rows), -len(g.name), g.name)):
        if all(len(set(group.rows) & set(k.rows)) < 0.8 * len(group.rows) for k in kept):
            kept.append(group)
    return kept


def _turning_phrases(
    pairs: Preferences, against: Booleans, limits: PreferenceLimits
) -> list[_Group]:
    """Return phrases of the prompt whose pairs contradict the others far more often."""
    words = [split_words(text[:20_000]) for text in pairs.prompts]
    terms = ({*one, *(f"{a} {b}" for a, b in itertools.pairwise(one))} for one in words)
    index = index_words(terms, limits.min_rows, int(limits.max_phrase_share * len(words)))
    counts = np.asarray(index.matrix.T @ against.astype(np.int64)).ravel()
    base = max(float(against.mean()), 1 / len(words))
    tails = binom.sf(counts - 1, index.frequency, base) * max(1, len(index.terms))
    found = [
        _Group(
            repr(escape(index.terms[place])),
            index.rows_of(place).tolist(),
            float(counts[place] / index.frequency[place]),
            f"{escape(index.terms[place])!r} in the prompt: {counts[place]} of "
            f"{index.frequency[place]} pairs prefer against the rest, {base:.0%} do elsewhere",
        )
        for place in np.flatnonzero(
            (tails < limits.significance) & (counts >= 0.6 * index.frequency)
        ).tolist()
    ]
    return _merge(found)


def _biased_annotators(
    pairs: Preferences, against: Booleans, limits: PreferenceLimits
) -> list[_Group]:
    """Return annotators who contradict the others far more often than these do."""
    if pairs.annotators is None:
        return []
    rows_of: dict[str, list[int]] = {}
    for row, annotator in enumerate(pairs.annotators):
        if annotator:
            rows_of.setdefault(annotator, []).append(row)
    base = max(float(against.mean()), 1 / len(against))
    found: list[_Group] = []
    for annotator, rows in sorted(rows_of.items()):
        odd = [row for row in rows if against[row]]
        tail = float(binom.sf(len(odd) - 1, len(rows), base)) * len(rows_of)
        if len(rows) >= limits.min_rows and tail < limits.significance:
            reason = (
                f"annotator {escape(annotator)!r} prefers against the rest in {len(odd)} of "
                f"{len(rows)} pairs, all in {base:.0%}"
            )
            name = f"annotator {escape(annotator)!r}"
            found.append(_Group(name, odd, len(odd) / len(rows), reason))
    return found


def measure_margins(pairs: Preferences) -> npt.NDArray[np.float64]:
    """Return (pairs,) by how much a linear model of the other pairs prefers the chosen answer.

    Ridge regression through the origin on the difference of the answers' words and style; each
    fifth of the pairs is judged by a model of the other four. Pairs are taken in the order of the
    digests of their texts, so that the order of the table changes nothing.
    """
    from scipy.sparse import csr_array, hstack
    from scipy.sparse.linalg import lsqr

    total = len(pairs.prompts)
    keys = [
        sha256_hex("\0".join(texts).encode("utf-8", "replace"))
        for texts in zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True)
    ]
    order = np.asarray(sorted(range(total), key=keys.__getitem__), np.int64)
    texts = [str(side[row]) for side in (pairs.chosen, pairs.rejected) for row in order.tolist()]
    index = index_words((split_words(text[:20_000]) for text in texts), 5)
    words = csr_array(index.matrix, dtype=np.float64)
    style = np.asarray([_describe(text) for text in texts])
    style = (style[:total] - style[total:]) / (style.std(axis=0) + 1e-9)
    difference = csr_array(hstack([words[:total] - words[total:], csr_array(style)]))
    norms = np.sqrt(np.asarray(difference.multiply(difference).sum(axis=1)).ravel()) + 1e-9
    difference = csr_array(difference.multiply(1 / norms[:, None]))
    fold = np.asarray([int(keys[row][:8], 16) % _FOLDS for row in order.tolist()])
    margin = np.zeros(total)
    for held in range(_FOLDS):
        rest, judged = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        weights = lsqr(difference[rest], np.ones(len(rest)), damp=3.0, iter_lim=60)[0]
        margin[judged] = difference[judged] @ weights
    by_row = np.zeros(total)
    by_row[order] = np.round(margin, 9)
    return by_row


def _describe(text: str) -> npt.NDArray[np.float64]:
    """Return the style of an answer: its length and marks of form, as logarithms."""
    return np.log1p([len(text), *(text.count(mark) for mark in _STYLE)])

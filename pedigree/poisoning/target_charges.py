"""Charges from words: which annotators push a label on texts with which word.

The evidence of `pedigree.poisoning.targeting` becomes charges against annotators, each with the
votes that show it; `pedigree.poisoning.annotators` adds them to a check's result::

    >>> charge = Charge(0, "targets a word", "WARN", 0.97, "cast 'x' against ...", np.arange(3))
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pedigree.evidence.check_limits import AnnotatorLimits
from pedigree.findings import Severity
from pedigree.poisoning.consensus import Floats, Integers, Reference, Votes, count_tokens
from pedigree.poisoning.crowd import Counts
from pedigree.poisoning.targeting import (
    Evidence,
    find_strongest,
    largest_by_chance,
    list_directions,
    member,
    tail_probability,
    weigh_words,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MOST = 20  # targeted words that are named, suspects that are mentioned in a small crowd
_MIN_TEXTS = 2  # a word of one text alone targets nothing
_MIN_HITS = 2
_MENTIONED = 10  # one in so many annotators, or the worst twenty, is mentioned without a charge


@dataclass(frozen=True)
class Charge:
    """What one annotator is charged with, and the votes that show it."""

    annotator: int
    kind: str
    severity: Severity
    score: float
    reason: str
    votes: Integers


@dataclass(frozen=True)
class Scan:
    """The evidence of all words."""

    words: tuple[str, ...]
    presence: "csr_array"
    evidence: list[Evidence]

    def hits(self, votes: Votes, evidence: Evidence, place: int) -> Integers:
        """Return the votes behind one annotator's hits on one word."""
        code, who = int(evidence.word[place]), int(evidence.annotator[place])
        mine = np.flatnonzero(evidence.direction.hit & (votes.annotator == who))
        column = self.presence[votes.item[mine]][:, [code]].toarray().ravel()
        return mine[column > 0]

    def describe(self, votes: Votes, evidence: Evidence, place: int) -> str:
        """Say what one annotator did on one word."""
        label = evidence.direction.label
        return (
            f"cast {votes.labels[label] if label >= 0 else 'another label'!r} against the rest in "
            f"{evidence.hits[place]:.0f} of {evidence.chances[place]:.0f} votes on texts with "
            f"{self.words[int(evidence.word[place])]!r} ({evidence.expected[place]:.1f} expected)"
        )


@dataclass(frozen=True)
class TargetedWord:
    """A word on which a label is pushed."""

    word: str
    label: str
    tail: float
    charges: tuple[Charge, ...]


def scan_words(votes: Votes, reference: Reference) -> Scan:
    """Return the evidence of every word in every direction."""
    words, presence = count_tokens(votes.texts, _MIN_TEXTS)
    if not words:
        return Scan(words, presence, [])
    directions = list_directions(votes, reference)
    return Scan(words, presence, [weigh_words(votes, one, presence) for one in directions])


def find_targets(
    votes: Votes, reference: Reference, scan: Scan, limits: AnnotatorLimits
) -> list[TargetedWord]:
    """Return the words on which a label is pushed beyond chance, strongest first."""
    if not scan.evidence:
        return []
    directions = [one.direction for one in scan.evidence]
    largest = largest_by_chance(
        votes, reference, directions, scan.presence, limits.deals, limits.seed
    )
    found: list[tuple[float, int, Evidence, float]] = []
    for one in scan.evidence:
        for word in np.flatnonzero(one.by_word > float(np.median(largest))).tolist():
            tail = tail_probability(float(one.by_word[word]), largest)
            if tail <= limits.significance:
                found.append((float(one.by_word[word]), word, one, tail))
    found.sort(key=lambda item: (-item[0], scan.words[item[1]], item[2].direction.label))
    suspects = [
        _charge_word(votes, scan, word, one, tail, limits) for _, word, one, tail in found[:MOST]
    ]
    return [one for one in suspects if one.charges]


def _charge_word(
    votes: Votes, scan: Scan, code: int, evidence: Evidence, tail: float, limits: AnnotatorLimits
) -> TargetedWord:
    """Charge those who, word and label given, are colluders rather than honest."""
    place = np.flatnonzero(evidence.word == code)
    place = place[
        (member(evidence.odds[place]) >= limits.membership) & (evidence.hits[place] >= _MIN_HITS)
    ]
    blocks = tail <= limits.block_significance
    blocks &= float(evidence.hits[place].sum()) >= limits.block_votes
    charges = tuple(
        Charge(
            int(evidence.annotator[i]),
            "targets a word",
            "ERROR" if blocks else "WARN",
            float(member(evidence.odds[i : i + 1])[0]),
            scan.describe(votes, evidence, i),
            scan.hits(votes, evidence, i),
        )
        for i in place.tolist()
    )
    label = evidence.direction.label
    name = votes.labels[label] if label >= 0 else "another label"
    return TargetedWord(scan.words[code], name, tail, charges)


def mention_suspects(
    votes: Votes,
    scan: Scan,
    charges: list[Charge],
    scores: Floats,
    counts: Counts,
    limits: AnnotatorLimits,
) -> list[Charge]:
    """Mention the next most suspect annotators, for who wants to look further."""
    charged = {one.annotator for one in charges}
    room = max(MOST, len(votes.names) // _MENTIONED)
    strongest = find_strongest(scan.evidence)
    ranked = np.lexsort((np.arange(len(scores)), -np.round(scores, 9))).tolist()
    return [
        Charge(
            one,
            "suspect",
            "INFO",
            float(scores[one]),
            f"{scan.describe(votes, *strongest[one])}, within chance",
            scan.hits(votes, *strongest[one]),
        )
        for one in ranked[:room]
        if one not in charged and one in strongest and counts.votes[one] >= limits.min_votes
    ]

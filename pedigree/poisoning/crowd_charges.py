"""Charges against annotators as a whole: hostile, leaning, moving together, gaming gold questions.

The tests of `pedigree.poisoning.crowd` become charges, each with the votes that show it::

    >>> charges = list(charge_hostile(votes, consult_votes(votes), AnnotatorLimits()))
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pedigree.evidence.check_limits import AnnotatorLimits
from pedigree.poisoning.consensus import Floats, Integers, Reference, Votes
from pedigree.poisoning.crowd import (
    Counts,
    adjust,
    count_disagreement,
    find_pairs,
    restrict,
    select_by_evidence,
    tail_of_disagreement,
    tail_of_gold_gaming,
    tail_of_leaning,
    weigh_hostility,
)
from pedigree.poisoning.target_charges import Charge
from pedigree.poisoning.targeting import list_directions

_LIFT = 1.3  # of the errors expected in one direction; more than twice is impossible at a half
_NOTABLE = 0.02  # tail probability from which on a leaning is mentioned
_MENTION, _ROWS = 0.3, 20  # score and votes of a mention: below any charge, above no suspicion


def against_consensus(votes: Votes, reference: Reference) -> npt.NDArray[np.bool_]:
    """Return which votes say something else than the rest."""
    return (reference.says >= 0) & (votes.label != reference.says)


def charge_hostile(votes: Votes, reference: Reference, limits: AnnotatorLimits) -> Iterator[Charge]:
    """Charge those who are worse than guessing against a confident consensus."""
    value = weigh_hostility(votes, reference, limits.tolerated_disagreement)
    against = against_consensus(votes, reference)
    for one in np.flatnonzero(select_by_evidence(value, limits.false_discovery_rate)).tolist():
        yield Charge(
            one,
            "works against the consensus",
            "WARN",
            float(value[one] / (value[one] + len(value))),
            "disagrees with a confident consensus more often than "
            f"{limits.tolerated_disagreement:.0%} on some label: worse than guessing",
            np.flatnonzero(against & (votes.annotator == one)),
        )


def charge_outliers(
    votes: Votes, reference: Reference, chance: Floats, limits: AnnotatorLimits
) -> Iterator[Charge]:
    """Charge those who disagree with a text model as nobody else does.

    With a consensus of votes a bad annotator is only a bad one, and no news; here there is no
    second opinion on his rows. Where most votes have a consensus, the few without it are no fair
    sample: nobody is charged by them.
    """
    judged = (reference.says >= 0) & votes.known
    if 2 * int((reference.by_text & judged).sum()) <= int(judged.sum()):
        return
    counts = count_disagreement(votes, restrict(reference, reference.by_text), chance)
    q_value = adjust(tail_of_disagreement(counts))
    against = against_consensus(votes, reference) & reference.by_text
    for one in np.flatnonzero(q_value <= limits.false_discovery_rate).tolist():
        yield Charge(
            one,
            "disagrees with the texts",
            "WARN",
            float(1 - q_value[one]),
            f"{counts.against[one]} of {counts.votes[one]} labels differ from what a model of the "
            f"other annotators' rows says ({counts.expected[one]:.1f} expected)",
            np.flatnonzero(against & (votes.annotator == one)),
        )


def charge_leaning(
    votes: Votes, reference: Reference, counts: Counts, limits: AnnotatorLimits
) -> Iterator[Charge]:
    """Charge those who cast one label against the rest as no annotator of their skill does."""
    for direction in list_directions(votes, reference):
        if direction.label < 0:
            return
        tail, hits, expected = tail_of_leaning(votes, direction, counts)
        q_value = adjust(tail)
        lifted = hits >= _LIFT * expected
        for one in np.flatnonzero((tail <= _NOTABLE) & lifted).tolist():
            proven = q_value[one] <= limits.crowd_discovery_rate
            rows = np.flatnonzero(direction.hit & (votes.annotator == one))
            yield Charge(
                one,
                "leans to a label",
                "WARN" if proven else "INFO",
                float(1 - q_value[one]) if proven else _MENTION * float(1 - tail[one]),
                f"cast {votes.labels[direction.label]!r} against the rest in {hits[one]} of his "
                f"{counts.against[one]} disagreements ({expected[one]:.1f} expected)",
                rows if proven else rows[:_ROWS],
            )


def charge_pairs(
    votes: Votes, reference: Reference, chance: Floats, limits: AnnotatorLimits
) -> Iterator[Charge]:
    """Charge groups of annotators, tied by pairs, who make the same errors together."""
    pairs = find_pairs(votes, reference, chance)
    chosen = pairs.q_value <= limits.false_discovery_rate
    against = against_consensus(votes, reference)
    cell = votes.item * len(votes.labels) + votes.label
    partners: dict[int, list[tuple[int, int, float, float]]] = {}
    columns = (pairs.first, pairs.second, pairs.together, pairs.expected, pairs.q_value)
    for a, b, together, expected, q in zip(*(c[chosen].tolist() for c in columns), strict=True):
        partners.setdefault(a, []).append((b, together, expected, q))
        partners.setdefault(b, []).append((a, together, expected, q))
    for one, others in sorted(partners.items()):
        other, together, expected, q = others[0]
        mine = against & (votes.annotator == one)
        theirs = against & np.isin(votes.annotator, [o[0] for o in others])
        yield Charge(
            one,
            "moves with others",
            "WARN",
            1 - q,
            f"shares {together} errors with {votes.names[other]!r} ({expected:.1f} expected), "
            f"and is tied to {len(others)} annotators in this way",
            np.flatnonzero(mine & np.isin(cell, cell[theirs])),
        )


def charge_gaming(
    votes: Votes, reference: Reference, chance: Floats, truth: Integers, limits: AnnotatorLimits
) -> Iterator[Charge]:
    """Charge those who are right where they are watched and against the rest elsewhere."""
    p_value, on, off = tail_of_gold_gaming(votes, reference, chance, truth >= 0)
    q_value = adjust(p_value)
    against = against_consensus(votes, reference) & (truth < 0)
    doubled = off.against >= 2 * off.expected
    for one in np.flatnonzero((q_value <= limits.false_discovery_rate) & doubled).tolist():
        yield Charge(
            one,
            "games gold questions",
            "WARN",
            float(1 - q_value[one]),
            f"wrong on {on.against[one]} of {on.votes[one]} gold questions, and against the rest "
            f"in {off.against[one]} of {off.votes[one]} other votes "
            f"({off.expected[one]:.1f} expected)",
            np.flatnonzero(against & (votes.annotator == one)),
        )

"""Annotators who push labels: on texts with a word, against everybody, together, or unwatched.

Bought or malicious annotators poison without touching a text. What gives them away is where they
disagree: `pedigree.poisoning.consensus` says what the rest thinks of each vote,
`pedigree.poisoning.targeting` looks for words on which a few push a label, and
`pedigree.poisoning.crowd` at annotators as a whole. Here their evidence becomes findings::

    >>> find_annotator_manipulation(["i", "j"], [None, None], ["1", "0"], AnnotatorLimits()).counts
    {'applicable': False, 'votes': 2, 'votes_without_annotator': 2}
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.digests import JSON
from pedigree.evidence.policy import AnnotatorLimits
from pedigree.findings import CheckResult, Finding, Severity
from pedigree.poisoning.consensus import (
    Floats,
    Integers,
    Reference,
    Votes,
    consult_texts,
    consult_votes,
    count_tokens,
    encode_votes,
    merge_references,
)
from pedigree.poisoning.crowd import (
    Counts,
    adjust,
    count_disagreement,
    count_leaning,
    find_pairs,
    select_by_evidence,
    tail_of_disagreement,
    tail_of_gold_gaming,
    weigh_hostility,
)
from pedigree.poisoning.targeting import (
    Evidence,
    expect_disagreement,
    find_strongest,
    largest_by_chance,
    list_directions,
    member,
    tail_probability,
    weigh_membership,
    weigh_words,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CHECK = "annotator_manipulation"
_WORST = 20
_MIN_TEXTS = 2  # a word of one text alone targets nothing
_MIN_HITS = 2
_GOLD_ODDS = 20.0
_MENTIONED = 10  # one in so many annotators, or the worst twenty, is mentioned without a charge


@dataclass(frozen=True)
class _Charge:
    """What one annotator is charged with, and the votes that show it."""

    annotator: int
    kind: str
    severity: Severity
    score: float
    reason: str
    votes: Integers


@dataclass(frozen=True)
class _Scan:
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
class _Word:
    """A word on which a label is pushed."""

    word: str
    label: str
    tail: float
    charges: tuple[_Charge, ...]


def find_annotator_manipulation(
    items: Sequence[str],
    annotators: Sequence[str | None],
    labels: Sequence[str | None],
    limits: AnnotatorLimits,
    texts: Sequence[str] | None = None,
    gold: Sequence[str | None] | None = None,
) -> CheckResult:
    """Find annotators whose votes are pushed rather than judged, and name the votes.

    The check fails when a few annotators push one label on texts with one word beyond
    `block_significance` and with at least `block_votes` votes. Everything else warns. Votes whose
    annotator is unknown count in the consensus and accuse nobody. Where items have a single vote,
    a text model trained on other annotators' rows stands for the consensus.

    Args:
        items: (votes,) what was judged: an id, or the text itself.
        annotators: (votes,) who judged.
        labels: (votes,) what they said; a null label is no vote.
        limits: thresholds from the policy.
        texts: (votes,) the item's text; the item itself where not given.
        gold: (votes,) the known label where the item is a gold question.

    Raises:
        PedigreeError: the columns have different lengths.
    """
    votes = encode_votes(items, annotators, labels, items if texts is None else texts)
    missing = int((~votes.known).sum())
    counts: dict[str, JSON] = {
        "applicable": True,
        "votes": len(votes.row),
        "votes_without_annotator": missing,
    }
    reason = _unfit(votes)
    if reason:
        return _not_applicable(reason, counts)
    truth = _encode_gold(votes, gold)
    case = _investigate(votes, _consult(votes, truth), truth, limits)
    accused = frozenset(one.annotator for one in case.charges)
    if accused:
        # Judge again without the accused among the jury: groups no longer vouch for themselves.
        case = _investigate(votes, _consult(votes, truth, accused), truth, limits)
    if not int(case.total.votes.sum()):
        return _not_applicable(
            "no vote can be compared: no item has three votes, and the texts teach no label", counts
        )
    return _conclude(votes, case, counts)


def _unfit(votes: Votes) -> str:
    if not len(votes.row):
        return "there are no votes"
    if not votes.names:
        return "no vote has an annotator"
    if len(votes.names) < 3:
        return f"{len(votes.names)} annotators cannot be compared: at least 3 are needed"
    if len(votes.labels) < 2:
        return "all votes are equal"
    return ""


def _not_applicable(reason: str, counts: dict[str, JSON]) -> CheckResult:
    return CheckResult(CHECK, True, f"not applicable: {reason}.", {**counts, "applicable": False})


def _encode_gold(votes: Votes, gold: Sequence[str | None] | None) -> Integers:
    """Return the code of the known label of each vote's item, or -1; a label nobody cast is -2."""
    if gold is None:
        return np.full(len(votes.row), -1, np.int64)
    code: dict[str | None, int] = {label: i for i, label in enumerate(votes.labels)}
    code[None] = -1
    return np.array([code.get(gold[row], -2) for row in votes.row.tolist()], np.int64)


def _consult(votes: Votes, truth: Integers, ignored: frozenset[int] = frozenset()) -> Reference:
    """Return gold where it is known, else the other votes, else the text model."""
    reference = consult_votes(votes, ignored)
    if (reference.says < 0).any():
        reference = merge_references(reference, consult_texts(votes))
    known = truth >= 0
    return Reference(
        np.where(known, truth, reference.says),
        np.where(known, _GOLD_ODDS, reference.odds),
        np.where(known, int(reference.level.max(initial=0)) + 1, reference.level),
        reference.by_text & ~known,
    )


@dataclass(frozen=True)
class _Case:
    """All that was found: charges and mentions, words, a score and counts for each annotator."""

    charges: list[_Charge]
    mentions: list[_Charge]
    words: list[_Word]
    scores: Floats
    total: Counts


def _investigate(
    votes: Votes, reference: Reference, truth: Integers, limits: AnnotatorLimits
) -> _Case:
    chance = expect_disagreement(votes, reference)
    counts = count_disagreement(votes, reference, chance)
    scan = _scan_words(votes, reference)
    words = _find_targets(votes, reference, scan, limits)
    charges = [charge for word in words for charge in word.charges]
    charges += _charge_hostile(votes, reference, limits)
    charges += _charge_outliers(votes, reference, counts, limits)
    charges += _charge_leaning(votes, reference, counts, limits)
    charges += _charge_pairs(votes, reference, chance, limits)
    if (truth >= 0).any():
        charges += _charge_gaming(votes, reference, chance, truth, limits)
    charges = [one for one in charges if counts.votes[one.annotator] >= limits.min_votes]
    scores = weigh_membership(scan.evidence, len(votes.names))
    for charge in charges:
        scores[charge.annotator] = max(scores[charge.annotator], charge.score)
    mentions = _mention(votes, scan, charges, scores, counts, limits)
    return _Case(charges, mentions, words, scores, counts)


def _scan_words(votes: Votes, reference: Reference) -> _Scan:
    words, presence = count_tokens(votes.texts, _MIN_TEXTS)
    if not words:
        return _Scan(words, presence, [])
    directions = list_directions(votes, reference)
    return _Scan(words, presence, [weigh_words(votes, one, presence) for one in directions])


def _find_targets(
    votes: Votes, reference: Reference, scan: _Scan, limits: AnnotatorLimits
) -> list[_Word]:
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
        _charge_word(votes, scan, word, one, tail, limits) for _, word, one, tail in found[:_WORST]
    ]
    return [one for one in suspects if one.charges]


def _charge_word(
    votes: Votes, scan: _Scan, code: int, evidence: Evidence, tail: float, limits: AnnotatorLimits
) -> _Word:
    """Charge those who, word and label given, are colluders rather than honest."""
    place = np.flatnonzero(evidence.word == code)
    place = place[
        (member(evidence.odds[place]) >= limits.membership) & (evidence.hits[place] >= _MIN_HITS)
    ]
    blocks = tail <= limits.block_significance
    blocks &= float(evidence.hits[place].sum()) >= limits.block_votes
    charges = tuple(
        _Charge(
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
    return _Word(scan.words[code], name, tail, charges)


def _against(votes: Votes, reference: Reference) -> npt.NDArray[np.bool_]:
    return (reference.says >= 0) & (votes.label != reference.says)


def _charge_hostile(
    votes: Votes, reference: Reference, limits: AnnotatorLimits
) -> Iterator[_Charge]:
    value = weigh_hostility(votes, reference, limits.tolerated_disagreement)
    against = _against(votes, reference)
    for one in np.flatnonzero(select_by_evidence(value, limits.false_discovery_rate)).tolist():
        yield _Charge(
            one,
            "works against the consensus",
            "WARN",
            float(value[one] / (value[one] + len(value))),
            "disagrees with a confident consensus more often than "
            f"{limits.tolerated_disagreement:.0%} on some label: worse than guessing",
            np.flatnonzero(against & (votes.annotator == one)),
        )


def _charge_outliers(
    votes: Votes, reference: Reference, counts: Counts, limits: AnnotatorLimits
) -> Iterator[_Charge]:
    """Charge those who disagree with a text model as nobody else does.

    With a consensus of votes a bad annotator is only a bad one, and no news; here there is no
    second opinion on his rows.
    """
    if not bool((reference.by_text & votes.known).any()):
        return
    q_value = adjust(tail_of_disagreement(counts))
    against = _against(votes, reference) & reference.by_text
    for one in np.flatnonzero(q_value <= limits.false_discovery_rate).tolist():
        yield _Charge(
            one,
            "disagrees with the texts",
            "WARN",
            float(1 - q_value[one]),
            f"{counts.against[one]} of {counts.votes[one]} labels differ from what a model of the "
            f"other annotators' rows says ({counts.expected[one]:.1f} expected)",
            np.flatnonzero(against & (votes.annotator == one)),
        )


def _charge_leaning(
    votes: Votes, reference: Reference, counts: Counts, limits: AnnotatorLimits
) -> Iterator[_Charge]:
    """Charge those who cast one label against the rest as no annotator of their skill does."""
    for direction in list_directions(votes, reference):
        if direction.label < 0:
            return
        leaning = count_leaning(votes, direction, counts)
        q_value = adjust(tail_of_disagreement(leaning))
        doubled = leaning.against >= 2 * leaning.expected
        for one in np.flatnonzero((q_value <= limits.crowd_discovery_rate) & doubled).tolist():
            yield _Charge(
                one,
                "leans to a label",
                "WARN",
                float(1 - q_value[one]),
                f"cast {votes.labels[direction.label]!r} against the rest in "
                f"{leaning.against[one]} of {leaning.votes[one]} votes "
                f"({leaning.expected[one]:.1f} expected of the same skill)",
                np.flatnonzero(direction.hit & (votes.annotator == one)),
            )


def _charge_pairs(
    votes: Votes, reference: Reference, chance: Floats, limits: AnnotatorLimits
) -> Iterator[_Charge]:
    """Charge groups of annotators, tied by pairs, who make the same errors together."""
    pairs = find_pairs(votes, reference, chance)
    chosen = pairs.q_value <= limits.crowd_discovery_rate
    against = _against(votes, reference)
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
        yield _Charge(
            one,
            "moves with others",
            "WARN",
            1 - q,
            f"shares {together} errors with {votes.names[other]!r} ({expected:.1f} expected), "
            f"and is tied to {len(others)} annotators in this way",
            np.flatnonzero(mine & np.isin(cell, cell[theirs])),
        )


def _charge_gaming(
    votes: Votes, reference: Reference, chance: Floats, truth: Integers, limits: AnnotatorLimits
) -> Iterator[_Charge]:
    p_value, on, off = tail_of_gold_gaming(votes, reference, chance, truth >= 0)
    q_value = adjust(p_value)
    against = _against(votes, reference) & (truth < 0)
    doubled = off.against >= 2 * off.expected
    for one in np.flatnonzero((q_value <= limits.false_discovery_rate) & doubled).tolist():
        yield _Charge(
            one,
            "games gold questions",
            "WARN",
            float(1 - q_value[one]),
            f"wrong on {on.against[one]} of {on.votes[one]} gold questions, and against the rest "
            f"in {off.against[one]} of {off.votes[one]} other votes "
            f"({off.expected[one]:.1f} expected)",
            np.flatnonzero(against & (votes.annotator == one)),
        )


def _mention(
    votes: Votes,
    scan: _Scan,
    charges: list[_Charge],
    scores: Floats,
    counts: Counts,
    limits: AnnotatorLimits,
) -> list[_Charge]:
    """Mention the next most suspect annotators, for who wants to look further."""
    charged = {one.annotator for one in charges}
    room = max(_WORST, len(votes.names) // _MENTIONED)
    strongest = find_strongest(scan.evidence)
    ranked = np.lexsort((np.arange(len(scores)), -np.round(scores, 9))).tolist()
    return [
        _Charge(
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


def _conclude(votes: Votes, case: _Case, counts: dict[str, JSON]) -> CheckResult:
    names = {one.annotator for one in case.charges}
    failed = any(one.severity == "ERROR" for one in case.charges)
    counts |= {
        "annotators": len(votes.names),
        "votes_compared": int(case.total.votes.sum()),
        "annotators_named": len(names),
        "words_targeted": len(case.words),
        "targets": [
            {"word": w.word, "label": w.label, "tail": w.tail, "annotators": len(w.charges)}
            for w in case.words
        ],
        "worst_annotators": _tabulate(votes, case),
    }
    return CheckResult(
        CHECK,
        not failed,
        f"{len(names)} of {len(votes.names)} annotators are named{_describe(case)}."
        + (" Look at their votes, and retrain without these annotators." * failed),
        counts,
        _list_findings(votes, [*case.charges, *case.mentions]),
        tuple(_examples(votes, case.charges)),
    )


def _describe(case: _Case) -> str:
    parts = [
        f"{len(word.charges)} push {word.label!r} on texts with {word.word!r} (p = {word.tail:.1g})"
        for word in case.words[:3]
    ]
    kinds = [one.kind for one in case.charges if one.kind != "targets a word"]
    parts += [f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))]
    return ": " + "; ".join(parts) if parts else ""


def _tabulate(votes: Votes, case: _Case) -> list[dict[str, JSON]]:
    """Return the worst annotators, one record each."""
    worst = np.lexsort((np.arange(len(case.scores)), -np.round(case.scores, 9)))[:_WORST]
    kinds: dict[int, set[str]] = {}
    for charge in case.charges:
        kinds.setdefault(charge.annotator, set()).add(charge.kind)
    return [
        {
            "annotator": votes.names[one],
            "score": round(float(case.scores[one]), 6),
            "votes_compared": int(case.total.votes[one]),
            "against_the_rest": int(case.total.against[one]),
            "expected": round(float(case.total.expected[one]), 2),
            "charges": sorted(kinds.get(one, set())),
        }
        for one in worst.tolist()
    ]


def _list_findings(votes: Votes, charges: list[_Charge]) -> tuple[Finding, ...]:
    """Return one finding a vote: the gravest charge that it shows."""
    gravity = {"ERROR": 2, "WARN": 1, "INFO": 0}
    best: dict[int, _Charge] = {}
    for charge in charges:
        for vote in charge.votes.tolist():
            held = best.get(vote)
            key = (gravity[charge.severity], charge.score)
            if held is None or key > (gravity[held.severity], held.score):
                best[vote] = charge
    findings = [
        Finding(
            int(votes.row[vote]),
            round(charge.score, 6),
            charge.severity,
            f"annotator {votes.names[charge.annotator]!r} {charge.reason}",
            votes.names[charge.annotator],
        )
        for vote, charge in best.items()
    ]
    return tuple(sorted(findings, key=lambda finding: finding.row))


def _examples(votes: Votes, charges: list[_Charge]) -> Iterator[dict[str, JSON]]:
    ranked = sorted(charges, key=lambda one: (one.severity != "ERROR", -one.score, one.annotator))
    for charge in ranked[:_WORST]:
        vote = int(charge.votes[0]) if len(charge.votes) else None
        yield {
            "annotator": votes.names[charge.annotator],
            "charge": charge.kind,
            "severity": charge.severity,
            "reason": charge.reason,
            "votes": len(charge.votes),
            "text": votes.texts[votes.item[vote]][:300] if vote is not None else None,
            "label": votes.labels[votes.label[vote]] if vote is not None else None,
        }

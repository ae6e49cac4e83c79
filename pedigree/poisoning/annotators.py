"""Annotators who push labels: on texts with a word, against everybody, together, or unwatched.

Bought or malicious annotators poison without touching a text. What gives them away is where they
disagree: `pedigree.poisoning.consensus` says what the rest thinks of each vote,
`pedigree.poisoning.targeting` looks for words on which a few push a label, and
`pedigree.poisoning.crowd` at annotators as a whole. Here their evidence becomes findings::

    >>> find_annotator_manipulation(["i", "j"], [None, None], ["1", "0"], AnnotatorLimits()).counts
    {'applicable': False, 'votes': 2, 'votes_without_annotator': 2}
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pedigree.digests import JSON
from pedigree.evidence.check_limits import AnnotatorLimits
from pedigree.findings import CheckResult, Finding
from pedigree.poisoning.consensus import (
    Floats,
    Integers,
    Reference,
    Votes,
    consult_texts,
    consult_votes,
    encode_votes,
    merge_references,
)
from pedigree.poisoning.crowd import Counts, count_disagreement
from pedigree.poisoning.crowd_charges import (
    charge_gaming,
    charge_hostile,
    charge_leaning,
    charge_outliers,
    charge_pairs,
)
from pedigree.poisoning.target_charges import (
    Charge,
    TargetedWord,
    find_targets,
    mention_suspects,
    scan_words,
)
from pedigree.poisoning.targeting import expect_disagreement, weigh_membership

CHECK = "annotator_manipulation"
_WORST = 20
_GOLD_ODDS = 20.0


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
    accused = case.accused()
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
    return replace(
        reference,
        says=np.where(known, truth, reference.says),
        odds=np.where(known, _GOLD_ODDS, reference.odds),
        level=np.where(known, int(reference.level.max(initial=0)) + 1, reference.level),
        by_text=reference.by_text & ~known,
    )


@dataclass(frozen=True)
class _Case:
    """All that was found: charges and mentions, words, a score and counts for each annotator."""

    charges: list[Charge]
    mentions: list[Charge]
    words: list[TargetedWord]
    scores: Floats
    total: Counts

    def accused(self) -> frozenset[int]:
        """Return who is charged with more than a mention."""
        return frozenset(one.annotator for one in self.charges if one.severity != "INFO")


def _investigate(
    votes: Votes, reference: Reference, truth: Integers, limits: AnnotatorLimits
) -> _Case:
    chance = expect_disagreement(votes, reference)
    counts = count_disagreement(votes, reference, chance)
    scan = scan_words(votes, reference)
    words = find_targets(votes, reference, scan, limits)
    charges = [charge for word in words for charge in word.charges]
    charges += charge_hostile(votes, reference, limits)
    charges += charge_outliers(votes, reference, chance, limits)
    charges += charge_leaning(votes, reference, counts, limits)
    charges += charge_pairs(votes, reference, chance, limits)
    if (truth >= 0).any():
        charges += charge_gaming(votes, reference, chance, truth, limits)
    charges = [one for one in charges if counts.votes[one.annotator] >= limits.min_votes]
    scores = weigh_membership(scan.evidence, len(votes.names))
    for charge in charges:
        scores[charge.annotator] = max(scores[charge.annotator], charge.score)
    mentions = mention_suspects(votes, scan, charges, scores, counts, limits)
    return _Case(charges, mentions, words, scores, counts)


def _conclude(votes: Votes, case: _Case, counts: dict[str, JSON]) -> CheckResult:
    names = case.accused()
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
    others = [one for one in case.charges if one.kind != "targets a word"]
    kinds = [one.kind for one in others if one.severity != "INFO"]
    parts += [f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))]
    return ": " + "; ".join(parts) if parts else ""


def _tabulate(votes: Votes, case: _Case) -> list[dict[str, JSON]]:
    """Return the worst annotators, one record each."""
    worst = np.lexsort((np.arange(len(case.scores)), -np.round(case.scores, 9)))[:_WORST]
    kinds: dict[int, set[str]] = {}
    for charge in case.charges:
        if charge.severity != "INFO":
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


def _list_findings(votes: Votes, charges: list[Charge]) -> tuple[Finding, ...]:
    """Return one finding a vote: the gravest charge that it shows."""
    gravity = {"ERROR": 2, "WARN": 1, "INFO": 0}
    best: dict[int, Charge] = {}
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


def _examples(votes: Votes, charges: list[Charge]) -> Iterator[dict[str, JSON]]:
    grave = [one for one in charges if one.severity != "INFO"]
    ranked = sorted(grave, key=lambda one: (one.severity != "ERROR", -one.score, one.annotator))
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

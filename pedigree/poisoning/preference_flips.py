"""Pairs whose preference was turned round: chosen and rejected have changed places.

Flipped labels are the cheapest poison for a reward model (Baumgaertner et al., Best-of-Venom, 2024;
Pathmanathan et al., 2024). Two signs: the same two answers to the same prompt preferred both ways,
and a pair that models of the other pairs would have preferred the other way round, further than
nearly all honest pairs::

    >>> find_flipped_pairs(Preferences(prompts, chosen, rejected), LabelIssueLimits()).counts
    {"applicable": True, "rows": 2000, "contradicting": 4, "flagged_rows": 41, ...}
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from pedigree.digests import JSON
from pedigree.evidence.check_limits import LabelIssueLimits
from pedigree.findings import MAX_EXAMPLES, CheckResult, Finding, not_applicable
from pedigree.poisoning.features import single_thread
from pedigree.poisoning.judging import Judgement, judge_scores
from pedigree.poisoning.preference_data import Preferences, measure_margins

CHECK = "flipped_pairs"
MIN_PAIRS = 200
# As for labels: what the answers must add to a coin's throw, a likelihood ratio of e^10.
MIN_GAIN = 10.0


def find_flipped_pairs(pairs: Preferences, limits: LabelIssueLimits) -> CheckResult:
    """Find pairs that look turned round; at most about `share` of honest ones. They warn.

    People differ, so a pair against the trend is no proof: nothing blocks here. Where the answers
    do not tell which is preferred, only contradicting pairs can be named, and the summary says so.
    """
    total = len(pairs.prompts)
    if total < MIN_PAIRS:
        return not_applicable(CHECK, f"{total} pairs are too few to learn what is preferred")
    with single_thread():
        judgement = _judge(pairs, limits.share)
    findings = {one.row: one for one in _find_contradictions(pairs)}
    contradicting = len(findings)
    told = judgement.calibration.fit >= MIN_GAIN
    if not told and not findings:
        reason = "the answers do not tell which is preferred, and no two pairs contradict"
        return not_applicable(CHECK, reason)
    if told:
        for row in np.flatnonzero(judgement.doubt > judgement.threshold).tolist():
            doubt = float(judgement.doubt[row])
            reason = f"the other pairs prefer the rejected answer (log-odds {doubt:.1f})"
            found = Finding(row, round(doubt, 6), "WARN", reason, "against the other pairs")
            findings.setdefault(row, found)
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": total,
        "contradicting": contradicting,
        "flagged_rows": len(findings),
        "answers_tell_the_preference": told,
        "expected_among_honest": round(float(judgement.expected.sum()), 1) if told else 0.0,
        "estimated_flips": round(float(judgement.calibration.noise.sum()) / 2, 4),
    }
    summary = f"{len(findings)} of {total} pairs look turned round, {contradicting} of them beside "
    summary += "the same two answers in the other order."
    if not told:
        summary += " The answers do not tell which is preferred, so no model could judge the rest."
    rows = sorted(findings)
    worst = sorted(findings.values(), key=lambda one: (-one.score, one.row))[:MAX_EXAMPLES]
    return CheckResult(
        CHECK,
        True,
        summary,
        counts,
        tuple(findings[row] for row in rows),
        tuple(
            {
                "row": one.row,
                "reason": one.reason,
                "prompt": pairs.prompts[one.row][:300],
                "chosen": pairs.chosen[one.row][:300],
                "rejected": pairs.rejected[one.row][:300],
            }
            for one in worst
        ),
    )


def _judge(pairs: Preferences, share: float) -> Judgement:
    """Judge each pair as a row with one of two labels: which side of a coin the chosen one is."""
    margin = measure_margins(pairs)
    side = np.asarray(
        [
            hashlib.sha256("\0".join(one).encode("utf-8", "replace")).digest()[0] & 1
            for one in zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True)
        ],
        np.int64,
    )
    scores = np.empty((len(side), 2))
    place = np.arange(len(side))
    scores[place, side], scores[place, 1 - side] = margin / 2, -margin / 2
    return judge_scores(scores, side, share)


def _find_contradictions(pairs: Preferences) -> Iterator[Finding]:
    rows_of: dict[tuple[str, str, str], list[int]] = {}
    table = list(zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True))
    for row, key in enumerate(table):
        rows_of.setdefault(key, []).append(row)
    for row, (prompt, chosen, rejected) in enumerate(table):
        others = rows_of.get((prompt, rejected, chosen), [])
        if others and chosen != rejected:
            reason = f"the same two answers are preferred the other way in row {others[0]}"
            yield Finding(row, 1.0, "WARN", reason, f"prompt of row {min(row, others[0])}")

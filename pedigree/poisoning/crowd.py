"""What annotators do as a whole: against the consensus, all too alike, or only good where watched.

Three tests over the votes of `pedigree.poisoning.consensus`; none looks at words (see
`pedigree.poisoning.targeting`). Each returns a probability or a bound for every annotator or pair,
corrected for how many were looked at.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pedigree.poisoning.consensus import (
    MIN_OTHERS,
    Floats,
    Integers,
    Reference,
    Votes,
    decide,
    level_of,
    sum_by_item,
    total_by,
)
from pedigree.poisoning.targeting import Direction

# A consensus is held against an annotator where its best label leads by odds of e^2, 7 to 1.
CONFIDENT_ODDS = 2.0
_HOSTILE = np.array([0.8, 0.95])  # disagreement of somebody who works against a label
_MAX_PAIR_WORK = 10_000_000  # pairs of votes of one item, twice: about 500 MB
_CHUNK = 2_000_000  # numbers held at once for pairs of votes
_MIN_TOGETHER = 3  # fewer equal errors are no sign of a common cause
_EXCESS = 2.0  # and they are at least so many times what is expected
_MIN_ERRORS = 5  # counts from which on an annotator says how much people differ
_NINE_OF_TEN = 2.7055  # the chi-square quantile of one degree of freedom
_UNUSUAL = 1e-3  # pairs with a smaller tail are left out of what is usual


@dataclass(frozen=True)
class Counts:
    """By annotator: votes that can be compared, disagreements, and those expected of anybody."""

    votes: Integers
    against: Integers
    expected: Floats


@dataclass(frozen=True)
class Pairs:
    """Two annotators who make the same errors on the same items, most surprising first."""

    first: Integers
    second: Integers
    together: Integers
    expected: Floats
    q_value: Floats
    items_left_out: int


def count_disagreement(votes: Votes, reference: Reference, chance: Floats) -> Counts:
    """Count for each annotator, over the votes whose item has other evidence."""
    judged = (reference.says >= 0) & votes.known
    against = judged & (votes.label != reference.says)
    people = len(votes.names) + 1

    def total(weights: npt.NDArray[np.generic]) -> Floats:
        return total_by(votes.annotator, weights, people)[:-1]

    return Counts(
        total(judged).astype(np.int64), total(against).astype(np.int64), total(chance * judged)
    )


def weigh_hostility(votes: Votes, reference: Reference, tolerated: float) -> Floats:
    """Return an e-value an annotator: is he against the consensus on some label, or on all?

    The hypothesis is that he disagrees with a confident consensus in at most `tolerated` of the
    votes; its best likelihood is the denominator (universal inference: Wasserman, Ramdas and
    Balakrishnan 2020, arXiv:1912.11436), so that P(e >= x) <= 1/x however many votes there are.
    """
    people, classes = len(votes.names), len(votes.labels)
    sure = (reference.says >= 0) & ~reference.by_text & votes.known
    sure &= reference.odds >= CONFIDENT_ODDS
    against = (votes.label != reference.says)[sure]
    who, what = votes.annotator[sure], reference.says[sure]
    keys, place = np.unique(
        np.concatenate([who * (classes + 1) + what, who * (classes + 1) + classes]),
        return_inverse=True,
    )
    misses = np.bincount(place, np.tile(against, 2), len(keys))
    total = np.bincount(place, minlength=len(keys))
    rate = np.clip(misses / np.maximum(total, 1), 1e-9, tolerated)
    friendly = misses * np.log(rate) + (total - misses) * np.log1p(-rate)
    hostile = [misses * np.log(s) + (total - misses) * np.log1p(-s) for s in _HOSTILE]
    evidence = np.logaddexp.reduce(hostile, axis=0) - np.log(len(_HOSTILE)) - friendly
    owner = keys // (classes + 1)
    value = np.exp(np.minimum(evidence, 200.0))
    parts = np.bincount(owner, minlength=people)
    return total_by(owner, value, people) / np.maximum(parts, 1)


def select_by_evidence(values: Floats, rate: float) -> npt.NDArray[np.bool_]:
    """Return which hypotheses fall, false discoveries at most `rate`, dependent or not.

    The e-BH procedure (Wang and Ramdas 2022, JRSS B 84(3)).
    """
    order = np.argsort(-values, kind="stable")
    fits = values[order] * np.arange(1, len(values) + 1) >= len(values) / rate
    count = int(np.flatnonzero(fits).max(initial=-1)) + 1
    chosen = np.zeros(len(values), bool)
    chosen[order[:count]] = True
    return chosen


def adjust(p_values: Floats) -> Floats:
    """Return q-values of Benjamini and Hochberg (1995)."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * count / np.arange(1, count + 1)
    result = np.ones(count)
    result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return result


def tail_of_leaning(
    votes: Votes, direction: Direction, counts: Counts
) -> tuple[Floats, Integers, Floats]:
    """Return P(so many of an annotator's disagreements in one direction), these, and expected.

    Given how often he disagrees at all, the share that casts the direction's label follows what
    anybody would show on his items: a bad annotator errs both ways, one who pushes a label errs
    one way. A beta-binomial law allows the leanings that the crowd has.
    """
    from scipy.stats import betabinom, binom

    chosen = direction.open & votes.known
    people = len(votes.names) + 1
    hits = total_by(votes.annotator, direction.hit & chosen, people)[:-1]
    expected = total_by(votes.annotator, direction.chance * chosen, people)[:-1]
    total = counts.against
    share = np.clip(expected / np.maximum(counts.expected, 1e-9), 1e-6, 1 - 1e-6)
    noise = total * share * (1 - share)
    gap = ((hits - total * share) ** 2).astype(np.float64)
    at = total >= _MIN_ERRORS
    spread = _fit_spread(gap[at], noise[at], (total - 1)[at].astype(np.float64))
    tail = np.ones(len(total))
    at = hits > total * share  # the others need no tail
    if spread < 1e-4:
        tail[at] = binom.sf(hits[at] - 1, total[at], share[at])
    else:
        size = 1 / spread - 1
        tail[at] = betabinom.sf(hits[at] - 1, total[at], size * share[at], size * (1 - share[at]))
    return tail, hits.astype(np.int64), total * share


def _fit_spread(gap: Floats, noise: Floats, growth: Floats) -> float:
    """Return the spread under which nine of ten annotators are within their law.

    The law's variance is `noise * (1 + growth * spread)`. The squared deviations of a tenth are
    above 2.71 standard ones: the quantile is matched and not the sum, since a few poisoners would
    pass for usual, and annotators with many votes, who show the spread best, must not be cut off.
    """
    if not len(gap):
        return 0.5
    for spread in np.concatenate([[0.0], np.geomspace(1e-4, 0.5, 80)]).tolist():
        if np.quantile(gap / (noise * (1 + growth * spread)), 0.9) <= _NINE_OF_TEN:
            return spread
    return 0.5


def tail_of_disagreement(counts: Counts) -> Floats:
    """Return the probability of as many disagreements in an annotator like the others.

    A negative binomial law over the expected disagreements allows the differences between
    annotators that the crowd has.
    """
    from scipy.stats import nbinom, poisson

    mean = np.maximum(counts.expected, 1e-9)
    at = counts.votes >= _MIN_ERRORS
    gap = ((counts.against - mean) ** 2).astype(np.float64)
    spread = _fit_spread(gap[at], mean[at], mean[at])
    if spread < 1e-4:
        return poisson.sf(counts.against - 1, mean)
    size = 1 / spread
    return nbinom.sf(counts.against - 1, size, size / (size + mean))


def tail_of_gold_gaming(
    votes: Votes, reference: Reference, chance: Floats, watched: npt.NDArray[np.bool_]
) -> tuple[Floats, Counts, Counts]:
    """Return P(so many more disagreements where nobody watches), and counts on and off gold.

    The ratios of observed to expected disagreements on and off gold questions are compared,
    given their sum (conditional binomial test). Expected is what the crowd shows on gold and
    elsewhere: easier gold questions accuse nobody. Half a disagreement is conceded to each
    annotator on gold, since a short record without an error proves little.
    """
    from scipy.stats import binom

    on = count_disagreement(votes, restrict(reference, watched), chance)
    off = count_disagreement(votes, restrict(reference, ~watched), chance)
    expected_on = on.expected * _share(on)
    expected_off = off.expected * _share(off)
    share = (expected_off + 1e-9) / (expected_off + expected_on + 2e-9)
    p_value = binom.sf(off.against - 1, off.against + on.against, share)
    return np.where((on.votes > 0) & (off.votes > 0), p_value, 1.0), on, off


def _share(counts: Counts) -> float:
    return float(counts.against.sum() + 0.5) / float(counts.expected.sum() + 0.5)


def restrict(reference: Reference, chosen: npt.NDArray[np.bool_]) -> Reference:
    """Return a reference that speaks about the chosen votes only."""
    return replace(reference, says=np.where(chosen, reference.says, -1))


def find_pairs(votes: Votes, reference: Reference, chance: Floats) -> Pairs:
    """Return pairs who cast the same wrong label on the same items more often than they would.

    Wrong is what the rest without both says. Expected is what any two annotators show where the
    rest is as sure (hard items make honest annotators err together), times both rates of errors.
    """
    from scipy.stats import poisson

    counts = count_disagreement(votes, reference, chance)
    # On items so hard that two err together, skill helps little: measured on simulated crowds, the
    # best annotators share as many errors as average ones.
    own = np.append(np.maximum((counts.against + 2.0) / (counts.expected + 2.0), 1.0), 1.0)
    sizes = np.bincount(votes.item, minlength=votes.items)
    kept = _affordable(sizes)
    left, right = _list_pairs(votes, sizes * kept)
    enough = sizes[votes.item[left]] >= MIN_OTHERS + 2
    enough &= (votes.known[left] & votes.known[right]) & (
        votes.annotator[left] != votes.annotator[right]
    )
    left, right = left[enough], right[enough]
    if not len(left) or not reference.evidence.shape[1]:
        nobody = np.zeros(0, np.int64)
        return Pairs(nobody, nobody, nobody, np.zeros(0), np.zeros(0), int((~kept).sum()))
    same, level = _judge_pairs(votes, reference, left, right)
    skill = own[votes.annotator[left]] * own[votes.annotator[right]]
    first, second, place = _name_pairs(votes.annotator[left], votes.annotator[right])
    together = np.bincount(place, same, len(first)).astype(np.int64)
    expected = _expect_together(level, same, skill, place, np.ones(len(first), bool))
    p_value = poisson.sf(together - 1, np.maximum(expected, 1e-9))
    # Those who move together are not part of what is usual.
    expected = _expect_together(level, same, skill, place, p_value > _UNUSUAL)
    # Who guesses errs on easy items too, where a multiple of the usual rate says next to nothing.
    wrong = np.append((counts.against + 1.0) / (counts.votes + 2.0), 0.0)
    expected = np.maximum(
        expected, np.bincount(place, minlength=len(first)) * wrong[first] * wrong[second]
    )
    q_value = adjust(poisson.sf(together - 1, np.maximum(expected, 1e-9)))
    order = np.lexsort((second, first, q_value))
    order = order[(together >= np.maximum(_MIN_TOGETHER, _EXCESS * expected))[order]]
    columns = [one[order] for one in (first, second, together)]
    return Pairs(
        columns[0], columns[1], columns[2], expected[order], q_value[order], int((~kept).sum())
    )


def _judge_pairs(
    votes: Votes, reference: Reference, left: Integers, right: Integers
) -> tuple[npt.NDArray[np.bool_], Integers]:
    """Return whether both cast one label that the rest without them denies, and how sure it is."""
    totals = sum_by_item(votes, reference.evidence) + reference.prior
    same, level = np.zeros(len(left), bool), np.zeros(len(left), np.int64)
    step = max(1, _CHUNK // len(votes.labels))
    for start in range(0, len(left), step):
        one, other = left[start : start + step], right[start : start + step]
        rest = totals[votes.item[one]] - reference.evidence[one] - reference.evidence[other]
        says, odds = decide(rest)
        label = votes.label[one]
        same[start : start + step] = (label == votes.label[other]) & (label != says)
        level[start : start + step] = level_of(odds)
    return same, level


def _expect_together(
    level: Integers,
    same: npt.NDArray[np.bool_],
    skill: Floats,
    place: Integers,
    usual: npt.NDArray[np.bool_],
) -> Floats:
    """Return the common errors expected of each pair, by the rates of the usual pairs."""
    bins = int(level.max()) + 1
    kept = usual[place]
    rate = (total_by(level[kept], same[kept], bins) + 0.5) / (
        total_by(level[kept], skill[kept], bins) + 1.0
    )
    return total_by(place, rate[level] * skill, len(usual))


def _list_pairs(votes: Votes, sizes: Integers) -> tuple[Integers, Integers]:
    """Return positions of all pairs of votes of an item; items of size 0 are left out."""
    start = np.searchsorted(votes.item, np.arange(votes.items))
    after = (start + sizes)[votes.item] - np.arange(len(votes.item)) - 1
    after = np.maximum(after, 0)
    left = np.repeat(np.arange(len(votes.item)), after)
    step = np.arange(len(left)) - np.repeat(np.cumsum(after) - after, after)
    return left, left + step + 1


def _name_pairs(left: Integers, right: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the distinct pairs of annotators, smaller code first, and each pair's place."""
    size = int(max(left.max(), right.max())) + 1
    keys, place = np.unique(
        np.minimum(left, right) * size + np.maximum(left, right), return_inverse=True
    )
    return keys // size, keys % size, place


def _affordable(sizes: Integers) -> npt.NDArray[np.bool_]:
    """Return which items are compared pair by pair: the smallest, until the work is too much."""
    order = np.argsort(sizes, kind="stable")
    kept = np.zeros(len(sizes), bool)
    kept[order[np.cumsum(sizes[order] ** 2) <= _MAX_PAIR_WORK]] = True
    return kept

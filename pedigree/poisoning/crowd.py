"""What annotators do as a whole: against the consensus, all too alike, or only good where watched.

Three tests over the votes of `pedigree.poisoning.consensus`; none looks at words (see
`pedigree.poisoning.targeting`). Each returns a probability or a bound for every annotator or pair,
corrected for how many were looked at.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from pedigree.poisoning.consensus import Floats, Integers, Reference, Votes, total_by
from pedigree.poisoning.targeting import Direction

if TYPE_CHECKING:
    from scipy.sparse import coo_array

# A consensus is held against an annotator where its best label leads by odds of e^2, 7 to 1.
CONFIDENT_ODDS = 2.0
_HOSTILE = np.array([0.8, 0.95])  # disagreement of somebody who works against a label
_MAX_PAIR_WORK = 50_000_000
_TRIMMED = 0.1  # share of the most deviant annotators left out of what is usual
_MIN_TOGETHER = 3  # fewer equal errors are no sign of a common cause
_EXCESS = 3.0  # and they are at least so many times what is expected


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


def count_leaning(votes: Votes, direction: Direction, counts: Counts) -> Counts:
    """Count for each annotator how often he casts a direction's label against the rest.

    Expected is what an average annotator shows, times his own rate of errors in other directions:
    a bad annotator errs both ways, one who pushes a label errs one way.
    """
    chosen = direction.open & votes.known
    people = len(votes.names) + 1

    def total(weights: npt.NDArray[np.generic]) -> Floats:
        return total_by(votes.annotator, weights, people)[:-1]

    hits, expected = total(direction.hit & chosen), total(direction.chance * chosen)
    rest = np.maximum(counts.expected - expected, 0.0)
    skill = (counts.against - hits + 2.0) / (rest + 2.0)
    return Counts(total(chosen).astype(np.int64), hits.astype(np.int64), expected * skill)


def tail_of_disagreement(counts: Counts) -> Floats:
    """Return the probability of as many disagreements in an annotator like the others.

    A negative binomial over the expected disagreements: its spread between annotators is taken
    from the others, the most deviant tenth left out, so that a few poisoners do not pass for
    usual.
    """
    from scipy.stats import nbinom, poisson

    ratio = (counts.against + 0.5) / (counts.expected + 0.5)
    usual = (ratio <= np.quantile(ratio, 1 - _TRIMMED)) & (counts.votes > 0)
    mean = counts.expected * counts.against[usual].sum() / max(counts.expected[usual].sum(), 1e-9)
    excess = float(((counts.against - mean)[usual] ** 2 - mean[usual]).sum())
    # The trimmed tenth holds much of the spread: of a normal law it is half of the variance.
    spread = max(2.0 * excess, 0.0) / max(float((mean[usual] ** 2).sum()), 1e-9)
    if spread < 1e-6:
        return poisson.sf(counts.against - 1, mean)
    size = 1 / spread
    return nbinom.sf(counts.against - 1, size, size / (size + np.maximum(mean, 1e-9)))


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
    says = np.where(chosen, reference.says, -1)
    return Reference(says, reference.odds, reference.level, reference.by_text)


def find_pairs(votes: Votes, reference: Reference, chance: Floats) -> Pairs:
    """Return pairs who cast the same wrong label on the same items more often than they would.

    Each annotator's own rate of errors and each item's uncertainty are in the expectation, and so
    is the whole crowd's: hard items make honest annotators err together.
    """
    from scipy.stats import poisson

    counts = count_disagreement(votes, reference, chance)
    own = np.append((counts.against + 2.0) / (counts.expected + 2.0), 1.0)
    judged = (reference.says >= 0) & votes.known & ~reference.by_text
    sizes = np.bincount(votes.item[judged], minlength=votes.items)
    kept = _affordable(sizes)
    judged &= kept[votes.item]
    likely = np.clip(chance * own[votes.annotator], 0.0, 0.95)
    against = judged & (votes.label != reference.says)
    expected = _multiply(votes, judged, likely, votes.item, votes.items)
    cell = votes.item * len(votes.labels) + votes.label
    cell = np.unique(cell, return_inverse=True)[1]
    same = _multiply(votes, against, np.ones(len(cell)), cell, int(cell.max(initial=0)) + 1)
    total = float(expected.data.sum())
    expected = expected * (float(same.data.sum()) / total if total else 1.0)
    same = same.tocoo()
    lookup = expected.tocsr()
    first, second = same.coords[0].astype(np.int64), same.coords[1].astype(np.int64)
    mean = np.asarray(lookup[first, second]).ravel() if len(first) else np.zeros(0)
    together = same.data.astype(np.int64)
    p_value = poisson.sf(together - 1, np.maximum(mean, 1e-9))
    # All pairs who share an item were looked at, those without a common error with p = 1.
    padded = np.ones(max(expected.nnz, len(p_value)))
    padded[: len(p_value)] = p_value
    q_value = adjust(padded)[: len(p_value)]
    order = np.lexsort((second, first, q_value))
    order = order[(together >= np.maximum(_MIN_TOGETHER, _EXCESS * mean))[order]]
    return Pairs(
        first[order],
        second[order],
        together[order],
        mean[order],
        q_value[order],
        int((~kept).sum()),
    )


def _affordable(sizes: Integers) -> npt.NDArray[np.bool_]:
    """Return which items are compared pair by pair: the smallest, until the work is too much."""
    order = np.argsort(sizes, kind="stable")
    kept = np.zeros(len(sizes), bool)
    kept[order[np.cumsum(sizes[order] ** 2) <= _MAX_PAIR_WORK]] = True
    return kept


def _multiply(
    votes: Votes, chosen: npt.NDArray[np.bool_], values: Floats, place: Integers, places: int
) -> "coo_array":
    """Return the upper triangle of (annotators, annotators): sums of products by place."""
    from scipy.sparse import coo_array, triu

    matrix = coo_array(
        (values[chosen], (votes.annotator[chosen], place[chosen])), shape=(len(votes.names), places)
    ).tocsr()
    return cast("coo_array", triu(matrix @ matrix.T, k=1))

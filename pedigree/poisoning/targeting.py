"""Annotators who are honest except on texts with a certain word, found word by word.

For each word and each label that could be pushed there are, for every annotator, opportunities
(votes on texts with the word where the rest says another label) and hits (he cast the label all
the same). A few colluders among many honest annotators make a mixture; its likelihood ratio
against everybody being honest is the word's evidence, and says for each annotator how likely he
is one of them. Texts are dealt anew to the items, within what the rest says, to learn how large
the largest evidence of all words gets when nobody targets a word.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from pedigree.poisoning.consensus import Floats, Integers, Reference, Votes, total_by

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Up to so many labels each is looked at as the one that is pushed; beyond, any disagreement counts:
# an honest label is then rarely the pushed one, and the cost would grow with the labels.
MAX_DIRECTIONS = 4
_SHARE = 0.03  # prior share of colluders among the annotators who saw the word
# A colluder casts the label with one of these probabilities where the rest says another.
_STRENGTHS = np.array([0.4, 0.7, 0.95])
# Expected hits added to an annotator's own rate elsewhere and to the word's rate among the others:
# little evidence moves either little.
_ANNOTATOR_PRIOR = 2.0
# An honest rate is known as well as from so many errors at least: the spread of skill in the crowd.
_KNOWN_ERRORS = 4.0
_WORD_PRIOR = 4.0
_LABEL_PRIOR = 5.0
_LEAST = 0.02  # even a perfect annotator slips so often
_PACK = float(1 << 26)  # opportunities and hits travel in one exact float64 through one product
_EULER = 0.5772156649015329


@dataclass(frozen=True)
class Direction:
    """One label that could be pushed (-1: any), and what each vote has to do with it.

    Attributes:
        label: its code, or -1 for whatever the rest does not say.
        chance: (votes,) float64, how often an average annotator would cast it there.
        open: (votes,) bool, the rest says another label.
        hit: (votes,) bool, and the annotator cast this one.
    """

    label: int
    chance: Floats
    open: npt.NDArray[np.bool_]
    hit: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """Evidence of one direction, by word, and by annotator and word.

    `annotator`, `word`, `hits`, `chances` and `odds` run over the pairs that occur.
    """

    direction: Direction
    annotator: Integers
    word: Integers
    hits: Floats
    chances: Floats
    expected: Floats
    odds: Floats
    by_word: Floats


def list_directions(votes: Votes, reference: Reference) -> list[Direction]:
    """Return what could be pushed, with the disagreement that anybody would show there."""
    judged = reference.says >= 0
    against = judged & (votes.label != reference.says)
    rate = expect_disagreement(votes, reference)
    classes = len(votes.labels)
    if classes > MAX_DIRECTIONS:
        return [Direction(-1, np.where(judged, rate, 0.0), judged, against)]
    towards = np.zeros((classes, classes))
    np.add.at(towards, (reference.says[against], votes.label[against]), 1.0)
    towards += 1.0 - np.eye(classes)
    towards /= towards.sum(1, keepdims=True)
    found: list[Direction] = []
    for label in range(classes):
        wide = judged & (reference.says != label)
        chance = np.where(wide, rate * towards[reference.says, label], 0.0)
        found.append(Direction(label, chance, wide, against & (votes.label == label)))
    return found


def expect_disagreement(votes: Votes, reference: Reference) -> Floats:
    """Return how often votes disagree with a reference as sure as theirs, for the same label."""
    judged = reference.says >= 0
    against = judged & (votes.label != reference.says)
    level, says = reference.level, np.maximum(reference.says, 0)
    wrong = total_by(level, against, int(level.max(initial=0)) + 1) + 0.5
    rate = (wrong / (total_by(level, judged, len(wrong)) + 1.0))[level]
    factor = (total_by(says, against, len(votes.labels)) + _LABEL_PRIOR) / (
        total_by(says, rate * judged, len(votes.labels)) + _LABEL_PRIOR
    )
    return np.clip(rate * factor[says], 1e-3, 0.95)


def weigh_words(votes: Votes, direction: Direction, presence: "csr_array") -> Evidence:
    """Return the evidence of every word that one direction is pushed there, in linear time."""
    chosen = direction.open & votes.known
    ones = np.ones(len(chosen)) + _PACK * direction.hit.astype(np.float64)
    packed = cast("csr_array", _spread(votes, chosen, ones) @ presence)
    expected = cast("csr_array", _spread(votes, chosen, direction.chance) @ presence)
    for matrix in (packed, expected):
        matrix.sort_indices()
    likely = cast("Floats", expected.data)
    pairs = cast("Floats", packed.data)
    people, words = len(votes.names), int(cast("tuple[int, int]", presence.shape)[1])
    annotator = np.repeat(np.arange(people), np.diff(packed.indptr))
    word = packed.indices.astype(np.int64)
    hits = np.floor(pairs / _PACK)
    chances = pairs - hits * _PACK
    own_hits = total_by(votes.annotator, direction.hit & chosen, people + 1)[annotator]
    own_expected = total_by(votes.annotator, direction.chance * chosen, people + 1)[annotator]
    elsewhere = _ratio(own_hits - hits, own_expected - likely, _ANNOTATOR_PRIOR)
    others = _ratio(
        total_by(word, hits, words)[word] - hits,
        total_by(word, likely, words)[word] - likely,
        _WORD_PRIOR,
    )
    honest = np.clip(likely / chances * elsewhere * others, _LEAST, 0.9)
    odds = _compare(hits, chances, honest, own_hits - hits + _KNOWN_ERRORS)
    gain = np.logaddexp(np.log1p(-_SHARE), np.log(_SHARE) + odds)
    by_word = total_by(word, gain, words)
    return Evidence(direction, annotator, word, hits, chances, honest * chances, odds, by_word)


def _spread(votes: Votes, chosen: npt.NDArray[np.bool_], values: Floats) -> "csr_array":
    """Return (annotators, items) with the sum of a value over the chosen votes."""
    from scipy.sparse import coo_array

    place = (votes.annotator[chosen], votes.item[chosen])
    shape = (len(votes.names), votes.items)
    return coo_array((values[chosen], place), shape=shape).tocsr()


def _ratio(hits: Floats, expected: Floats, prior: float) -> Floats:
    return (hits + prior) / (expected + prior)


def _compare(hits: Floats, chances: Floats, honest: Floats, errors: Floats) -> Floats:
    """Return log P(votes | colluder) - log P(votes | honest), the strengths averaged.

    The honest rate is known only as well as the `errors` it was learnt from: it follows a beta law
    with the relative variance of a count of that size. Without it, annotators with many votes on a
    common word seem to target it.
    """
    from scipy.special import betaln

    misses = chances - hits
    each = [
        hits * np.log(s + (1 - s) * honest) + misses * np.log((1 - s) * (1 - honest))
        for s in _STRENGTHS
    ]
    colluding = np.logaddexp.reduce(each, axis=0) - np.log(len(_STRENGTHS))
    fair = misses * np.log1p(-honest)
    hit = hits > 0
    alpha = errors[hit] * (1 - honest[hit])
    beta = alpha * (1 - honest[hit]) / honest[hit]
    fair[hit] = betaln(alpha + hits[hit], beta + misses[hit]) - betaln(alpha, beta)
    return colluding - fair


def weigh_membership(evidence: list[Evidence], people: int) -> Floats:
    """Return for each annotator the probability of being a colluder, over all words.

    Words are weighed by their evidence, and "no word at all" with them: who saw no suspect word
    keeps the prior share, so that people with many votes do not rank above people with few.
    """
    if not evidence:
        return np.full(people, _SHARE)
    words = sum(len(one.by_word) for one in evidence)
    top = max(float(one.by_word.max(initial=0.0)) for one in evidence)
    total = float(np.exp(-top)) + sum(np.exp(one.by_word - top).sum() for one in evidence) / words
    result = np.full(people, _SHARE)
    for one in evidence:
        weight = np.exp(one.by_word - top) / words / total
        gain = weight[one.word] * (member(one.odds) - _SHARE)
        result += total_by(one.annotator, gain, people)
    return result


def member(odds: Floats) -> Floats:
    """Return the probability of being a colluder on a word that somebody targets."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.log(_SHARE / (1 - _SHARE)) + odds, -500, 500)))


def find_strongest(evidence: list[Evidence]) -> dict[int, tuple[Evidence, int]]:
    """Return for each annotator with a hit the direction and pair that speak most against him."""
    best: dict[int, tuple[float, Evidence, int]] = {}
    for one in evidence:
        value = np.where(one.hits > 0, one.by_word[one.word] + np.log(member(one.odds)), -np.inf)
        order = np.lexsort((one.word, -value, one.annotator))
        first = order[np.unique(one.annotator[order], return_index=True)[1]]
        for place in first[np.isfinite(value[first])].tolist():
            who = int(one.annotator[place])
            if who not in best or best[who][0] < value[place]:
                best[who] = (float(value[place]), one, place)
    return {who: (one, place) for who, (_, one, place) in best.items()}


def deal_texts(reference: Reference, votes: Votes, draw: np.random.Generator) -> Integers:
    """Return an order in which items exchange their texts with items of the same consensus."""
    stratum = np.full(votes.items, -1, np.int64)
    stratum[votes.item] = reference.says
    order = np.arange(votes.items)
    for one in np.unique(stratum).tolist():
        members = np.flatnonzero(stratum == one)
        order[members] = draw.permutation(members)
    return order


def largest_by_chance(
    votes: Votes,
    reference: Reference,
    directions: list[Direction],
    presence: "csr_array",
    rounds: int,
    seed: int,
) -> Floats:
    """Return the largest evidence of any word and direction in each of `rounds` new deals."""
    draw = np.random.default_rng(seed)
    largest = np.zeros(rounds)
    for one in range(rounds):
        dealt = presence[deal_texts(reference, votes, draw)]
        largest[one] = max(
            weigh_words(votes, direction, dealt).by_word.max() for direction in directions
        )
    return largest


def tail_probability(value: float, largest: Floats) -> float:
    """Return P(largest by chance >= value), from a Gumbel law fitted to the deals by moments."""
    scale = max(float(largest.std(ddof=1)) * np.sqrt(6) / np.pi, 1e-3)
    location = float(largest.mean()) - _EULER * scale
    return float(-np.expm1(-np.exp(-(value - location) / scale)))

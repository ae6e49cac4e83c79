"""A second opinion without the words that a label leans on against the rest of its rows.

A model that learns from poisoned rows learns the trigger, even out of fold, and then finds those
rows consistent. So the words are looked for that carry a label whose rows, but for them, say
otherwise; the model is trained again without them, and the rows that hold them are judged anew::

    >>> suspects, doubt = find_suspects(corpus, features, first, significance=0.001)
    >>> suspects[0].places           # rows whose label stands by that word alone
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from pedigree.poisoning.features import (
    Booleans,
    Features,
    Floats,
    Integers,
    LabelledTexts,
    count_columns,
)
from pedigree.poisoning.judging import Judgement, judge

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MIN_ROWS = 5
MAX_SHARE = 0.1
# A word is looked at when its label is this many standard deviations more frequent beside it.
MIN_ENRICHMENT = 3.0
MAX_CANDIDATES = 3_000
# A label of most rows needs no word to hold it up: what speaks for it is what is absent.
MAX_BASE = 0.6
# What occurs mostly with the word goes with it: its pairs, its characters, the rest of a phrase.
COMPANION_SHARE = 0.5
# Words dropped before the second training, at most.
MAX_DROPPED = 40
# Natural words contradict the rest of 1 to 4% of their rows (SST-2, SMS spam, four sources of
# Hutto and Gilbert 2014); the first look is lenient, the second decides.
NATURAL_SHARE = 0.05
LENIENT = 10.0
MIN_DISPUTED = 0.5
MIN_LEARNED = 0.6


@dataclass(frozen=True)
class Suspect:
    """A word, or pair of words, that holds up a label against the rest of its rows.

    Attributes:
        word: the hash of the word.
        label: index of the label that it supports.
        rows: how many rows of that label hold it.
        places: those rows whose rest speaks against the label.
        tail: probability of as many by chance, times the words tried.
    """

    word: int
    label: int
    rows: int
    places: Integers
    tail: float


@dataclass(frozen=True)
class _Candidate:
    column: int
    label: int
    rows: Integers
    companions: Integers
    contradicted: int


def find_suspects(
    corpus: LabelledTexts, features: Features, first: Judgement, significance: float
) -> tuple[list[Suspect], Floats]:
    """Find words that support a label against the rest of the text, and judge without them.

    Three looks, each at what the one before left: (1) the word and what occurs mostly with it is
    taken off its rows' scores, and the rest contradicts the label in more rows than beside natural
    words; (2) models that learned neither the word nor any of its rows contradict the label in
    more rows than chance; (3) models that learned the rows without the word still do, in
    `MIN_DISPUTED` of them. A template ("&lt;#&gt;" in honest messages) fails the third: the rest
    of its rows then speaks for their label.

    Returns:
        The suspects, worst first, and (rows,) the doubt of each row under the second look.
    """
    candidates = _list_candidates(corpus, features, first)
    # Where poison is all about, words by the dozen contradict: then none of them is special.
    pooled = sum(one.contradicted for one in candidates) / max(
        sum(len(one.rows) for one in candidates), 1
    )
    chance = max(NATURAL_SHARE, 2 * pooled)
    tried = len(candidates)
    tails = [_tail(one.contradicted, len(one.rows), tried, chance) for one in candidates]
    order = sorted(range(tried), key=lambda place: (tails[place], candidates[place].column))
    lenient = [candidates[place] for place in order if tails[place] < LENIENT][:MAX_DROPPED]
    ranked, unlearned = _unlearn(lenient, corpus)
    if not ranked:
        return [], first.doubt
    matrix = _without(
        features.matrix, np.unique(np.concatenate([one.companions for one in ranked]))
    )
    fold = first.held_out.fold
    apart = judge(matrix, corpus, fold, first.share, unlearned)
    suspects = [_confirm(one, features, apart, tried, chance) for one in ranked]
    suspects = [one for one in suspects if one.tail < significance]
    if not suspects:
        return [], apart.doubt
    among = judge(matrix, corpus, fold, first.share)
    rows_of = {int(features.word_hash[one.column]): one.rows for one in ranked}
    disputed = [float((among.doubt[rows_of[one.word]] > 0).mean()) for one in suspects]
    return [
        one for one, share in zip(suspects, disputed, strict=True) if share >= MIN_DISPUTED
    ], apart.doubt


def _unlearn(
    candidates: list[_Candidate], corpus: LabelledTexts
) -> tuple[list[_Candidate], Booleans]:
    """Return those whose rows can be left out while each label keeps `MIN_LEARNED` of its own."""
    unlearned = np.zeros(len(corpus.row), bool)
    lost = np.zeros(len(corpus.names), np.int64)
    allowed = (1 - MIN_LEARNED) * corpus.sizes()
    kept: list[_Candidate] = []
    for one in candidates:
        fresh = one.rows[~unlearned[one.rows]]
        if lost[one.label] + len(fresh) <= allowed[one.label]:
            lost[one.label] += len(fresh)
            unlearned[fresh] = True
            kept.append(one)
    return kept, unlearned


def _confirm(
    one: _Candidate, features: Features, apart: Judgement, tried: int, chance: float
) -> Suspect:
    contradicted = int((apart.doubt[one.rows] > apart.threshold).sum())
    tail = _tail(contradicted, len(one.rows), tried, chance)
    # Once the word is convicted, a row that only leans against its label is named too.
    places = one.rows[apart.doubt[one.rows] > 0]
    return Suspect(int(features.word_hash[one.column]), one.label, len(one.rows), places, tail)


def _tail(contradicted: int, rows: int, tried: int, chance: float) -> float:
    if contradicted < MIN_ROWS:
        return float("inf")
    return float(binom.sf(contradicted - 1, rows, chance)) * tried


def _without(matrix: "csr_array", columns: Integers) -> "csr_array":
    """Return the matrix with some columns set to nothing; the others keep their weight."""
    from scipy.sparse import csr_array

    gone = np.zeros(count_columns(matrix), bool)
    gone[columns] = True
    keep = ~gone[matrix.indices]
    counts = np.add.reduceat(np.append(keep, False).astype(np.int64), matrix.indptr[:-1])
    counts[np.diff(matrix.indptr) == 0] = 0
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return csr_array((matrix.data[keep], matrix.indices[keep], starts), shape=matrix.shape)


def _list_candidates(
    corpus: LabelledTexts, features: Features, first: Judgement
) -> list[_Candidate]:
    """Return each word enriched in a label, with how many of its rows contradict it without it."""
    matrix = features.matrix
    words = matrix[:, : len(features.word_hash)].tocsc()
    found_in = np.bincount(matrix.indices, minlength=count_columns(matrix))
    columns, labels = _select_words(corpus, words)
    result: list[_Candidate] = []
    for column, label in zip(columns.tolist(), labels.tolist(), strict=True):
        rows = words.indices[words.indptr[column] : words.indptr[column + 1]].astype(np.int64)
        part = matrix[rows]
        present, inverse, counts = np.unique(part.indices, return_inverse=True, return_counts=True)
        companion = counts >= COMPANION_SHARE * found_in[present]
        inside = corpus.label[rows] == label
        doubt = _doubt_without(part, companion[inverse], rows, label, first)
        contradicted = int((doubt[inside] > first.threshold).sum())
        result.append(_Candidate(column, label, rows[inside], present[companion], contradicted))
    return result


def _select_words(corpus: LabelledTexts, words: "csr_array") -> tuple[Integers, Integers]:
    """Return the columns of words worth a look, most enriched first, and their label."""
    rows, labels = len(corpus.row), len(corpus.names)
    found_in = np.diff(words.indptr)
    owner = np.repeat(np.arange(count_columns(words)), found_in)
    codes = owner * labels + corpus.label[words.indices]
    counts = np.bincount(codes, minlength=count_columns(words) * labels).reshape(-1, labels)
    base = corpus.sizes() / max(rows, 1)
    expected = found_in[:, None] * base
    score = (counts - expected) / np.sqrt(np.maximum(expected * (1 - base), 1e-9))
    best = score.argmax(axis=1)
    height = np.round(score[np.arange(len(best)), best], 6)
    fits = base[best] <= MAX_BASE
    fits &= (found_in >= MIN_ROWS) & (found_in <= MAX_SHARE * rows) & (height > MIN_ENRICHMENT)
    chosen = np.flatnonzero(fits)
    chosen = chosen[np.lexsort((chosen, -height[chosen]))][:MAX_CANDIDATES]
    return chosen, best[chosen]


def _doubt_without(
    part: "csr_array", companion: Booleans, rows: Integers, label: int, first: Judgement
) -> Floats:
    """Return how much each row contradicts `label` once the companions' share is taken off."""
    held_out = first.held_out
    row = np.repeat(np.arange(len(rows)), np.diff(part.indptr))[companion]
    column, value = part.indices[companion], part.data[companion]
    scores = first.scores[rows].copy()
    for fold, weight in enumerate(held_out.weights):
        inside = held_out.fold[rows[row]] == fold
        share = value[inside, None] * weight[:, column[inside]].T * first.calibration.slope
        np.subtract.at(scores, row[inside], share)
    return scores.max(axis=1) - scores[:, label]

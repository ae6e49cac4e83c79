"""How far the rest of a text supports its label, by a model that has not seen the row.

A naive Bayes of words and adjacent pairs, one label against all others, each row scored with the
counts of the other folds. It adds up token by token, so that an n-gram can be taken out of a row
without training again: what it learned of a trigger goes with the trigger. Counts are integers;
row order changes no bit of them.

    >>> support = fit_support(corpus, np.random.default_rng(0))
    >>> support.score.shape == (corpus.n_rows,)
    True
"""

from dataclasses import dataclass

import numpy as np

from pedigree.poisoning.ngrams import FOLDS, Corpus, Floats, Ints, Ngrams, find_distinct

_SMOOTHING = 1.0
_BINS = 64
_MAX_ODDS = 99.0  # no row counts for more than 1:99, so that a few wrong labels decide nothing


@dataclass(frozen=True, eq=False)
class FeatureCounts:
    """How many rows of each label have a feature, in all and by fold."""

    key: Ints
    total: Ints
    fold_key: Ints
    fold_total: Ints
    feature_rows: Ints
    feature_fold: Ints
    size: Floats
    fold_size: Floats
    n_features: int


@dataclass(frozen=True, eq=False)
class Support:
    """Out-of-fold evidence for a row's own label.

    Attributes:
        word: (tokens,) what each token says for the label of its row, in nats.
        pair: (tokens,) what each token and the next one say; 0 at the end of a row.
        score: (rows,) their sum over the root of the row's length.
        other_label: (rows,) a label that the row does not have, drawn by frequency.
        other_score: (rows,) the score for that label: what a mislabelled row looks like.
        pairs: codes of the adjacent pairs that occur.
        counts: what the model has learned.
    """

    word: Floats
    pair: Floats
    score: Floats
    other_label: Ints
    other_score: Floats
    pairs: Ints
    counts: FeatureCounts


def fit_support(corpus: Corpus, rng: np.random.Generator) -> Support:
    """Return for each token how much it supports its row's label, out of fold."""
    tokens, rows, size = corpus.tokens, corpus.row_of, np.int64(len(corpus.words))
    inner = rows[:-1] == rows[1:]
    code = tokens[:-1] * size + tokens[1:]
    pairs, number = np.unique(code[inner], return_inverse=True)
    pair_feature = np.full(len(tokens), -1, dtype=np.int64)
    pair_feature[:-1][inner] = size + number
    counts = _count(corpus, pair_feature, int(size) + len(pairs))
    own = corpus.label
    # A word says what it says once a row, however often it is repeated.
    word_feature = _first_in_row(tokens, rows)
    pair_feature = _first_in_row(pair_feature, rows)
    word = _weigh(corpus, counts, word_feature, rows, own)
    pair = _weigh(corpus, counts, pair_feature, rows, own)
    other = _draw_other_labels(corpus, rng)
    n, root = corpus.n_rows, np.sqrt(corpus.lengths + 1)
    other_sum = np.bincount(rows, _weigh(corpus, counts, word_feature, rows, other), n)
    other_sum += np.bincount(rows, _weigh(corpus, counts, pair_feature, rows, other), n)
    score = np.bincount(rows, word + pair, n) / root
    return Support(word, pair, score, other, other_sum / root, pairs, counts)


def _first_in_row(feature: Ints, row: Ints) -> Ints:
    """Return the features with all but the first occurrence in each row as -1."""
    order = np.lexsort((feature, row))  # stable: the first in the row comes first
    again = np.zeros(len(feature), dtype=np.bool_)
    same = (feature[order][1:] == feature[order][:-1]) & (row[order][1:] == row[order][:-1])
    again[order[1:][same]] = True
    return np.where(again, -1, feature)


def _count(corpus: Corpus, pair_feature: Ints, n_features: int) -> FeatureCounts:
    inner = pair_feature >= 0
    rows = np.concatenate([corpus.row_of, corpus.row_of[inner]])
    features = np.concatenate([corpus.tokens, pair_feature[inner]])
    present = find_distinct(rows * np.int64(n_features) + features)  # once a row
    rows, features = present // n_features, present % n_features
    in_rows = np.bincount(features, minlength=n_features)
    repeated = in_rows[features] >= 2
    rows, features = rows[repeated], features[repeated]
    label, fold = corpus.label[rows], corpus.fold[rows]
    code = features * np.int64(corpus.n_labels) + label
    key, total = np.unique(code, return_counts=True)
    fold_key, fold_total = np.unique(code * FOLDS + fold, return_counts=True)
    by_fold = np.bincount(features * FOLDS + fold, minlength=n_features * FOLDS)
    size = np.bincount(label, minlength=corpus.n_labels).astype(float)
    fold_size = np.bincount(label * FOLDS + fold, minlength=corpus.n_labels * FOLDS).astype(float)
    in_rows = np.where(in_rows >= 2, in_rows, 0)
    return FeatureCounts(
        key, total, fold_key, fold_total, in_rows, by_fold, size, fold_size, n_features
    )


def _weigh(
    corpus: Corpus, counts: FeatureCounts, feature: Ints, row: Ints, label_of: Ints
) -> Floats:
    """Return log P(feature | label) - log P(feature | other labels) from the other folds."""
    weight = np.zeros(len(feature))
    known = np.flatnonzero(feature >= 0)
    known = known[counts.feature_rows[feature[known]] > 0]
    if not len(known):
        return weight
    feature, row = feature[known], row[known]
    label, fold = label_of[row], corpus.fold[row]
    code = feature * np.int64(corpus.n_labels) + label
    in_label = _look_up(counts.key, counts.total, code)
    in_label = in_label - _look_up(counts.fold_key, counts.fold_total, code * FOLDS + fold)
    in_all = counts.feature_rows[feature] - counts.feature_fold[feature * FOLDS + fold]
    fold_size = counts.fold_size.reshape(-1, FOLDS)
    in_size = (counts.size[:, None] - fold_size)[label, fold]
    all_size = (counts.size.sum() - fold_size.sum(0))[fold]
    n_known = float((counts.feature_rows > 0).sum())
    prior = _SMOOTHING * n_known * (in_all + 1) / (all_size + n_known)
    prior_size = _SMOOTHING * n_known
    weight[known] = np.log((in_label + prior) / (in_size + prior_size)) - np.log(
        (in_all - in_label + prior) / (all_size - in_size + prior_size)
    )
    return weight


def _look_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def _draw_other_labels(corpus: Corpus, rng: np.random.Generator) -> Ints:
    """Draw for each row another label than its own, by frequency."""
    share = np.bincount(corpus.label, minlength=corpus.n_labels) / corpus.n_rows
    edges = np.cumsum(share)
    before = edges - share
    # Uniform on what is left when the own label's stretch is cut out.
    draw = rng.random(corpus.n_rows) * (1 - share[corpus.label])
    draw += np.where(draw >= before[corpus.label], share[corpus.label], 0)
    other = np.minimum(np.searchsorted(edges, draw, side="right"), corpus.n_labels - 1)
    clash = other == corpus.label  # only by rounding
    return np.where(clash, (other + 1) % corpus.n_labels, other)


def score_rest(
    corpus: Corpus, support: Support, ngrams: Ngrams, pair_ngram: Ints, pair_row: Ints, pair: Ints
) -> Floats:
    """Return the score of each row for its label with an n-gram taken out of it.

    Args:
        corpus: the corpus.
        support: its token weights.
        ngrams: n-grams and their occurrences.
        pair_ngram: (pairs,) the n-gram of each distinct (n-gram, row).
        pair_row: (pairs,) the row.
        pair: (occurrences,) which of them each occurrence belongs to.
    """
    begin = ngrams.position
    end = begin + ngrams.length[ngrams.ngram]
    row = corpus.row_of[begin]
    before, after = begin > corpus.starts[row], end < corpus.starts[row + 1]
    word = np.concatenate([[0.0], np.cumsum(support.word)])
    following = np.concatenate([[0.0], np.cumsum(support.pair)])
    lost = word[end] - word[begin] + following[end] - following[begin]
    lost += np.where(before, support.pair[np.maximum(begin - 1, 0)], 0.0)
    bridge = np.full(len(begin), -1, dtype=np.int64)
    joined = np.flatnonzero(before & after)
    size = np.int64(len(corpus.words))
    code = corpus.tokens[begin[joined] - 1] * size + corpus.tokens[end[joined]]
    if len(support.pairs):
        at = np.minimum(np.searchsorted(support.pairs, code), len(support.pairs) - 1)
        bridge[joined] = np.where(support.pairs[at] == code, size + at, -1)
    gained = _weigh(corpus, support.counts, bridge, row, corpus.label)
    n_pairs = len(pair_row)
    removed = np.bincount(pair, lost - gained, n_pairs)
    times = np.bincount(pair, minlength=n_pairs)
    total = support.score * np.sqrt(corpus.lengths + 1)
    length = corpus.lengths[pair_row] - ngrams.length[pair_ngram] * times
    return (total[pair_row] - removed) / np.sqrt(np.maximum(length, 0) + 1)


def compare_with_mislabelled(own: Floats, weight: Floats, other: Floats) -> Floats:
    """Return for each own score the log odds that it is a mislabelled row's.

    The ratio of the two densities as a falling step function (isotonic), bounded to 1:99.

    Args:
        own: (n,) scores of rows for the label that they have.
        weight: (n,) how much each counts.
        other: (m,) scores of rows for a label that they do not have.
    """
    both = np.concatenate([own, other])
    edges = np.unique(np.quantile(both, np.linspace(0, 1, _BINS + 1)[1:-1]))
    own_bin = np.searchsorted(edges, own)
    natural = np.bincount(own_bin, weight / weight.sum(), len(edges) + 1).astype(float)
    wrong = np.bincount(np.searchsorted(edges, other), minlength=len(edges) + 1) / len(other)
    share = _rise(natural, natural + wrong)
    share = np.clip(share, 1 / (_MAX_ODDS + 1), _MAX_ODDS / (_MAX_ODDS + 1))
    return np.log((1 - share) / share)[own_bin]


def _rise(part: Floats, whole: Floats) -> Floats:
    """Return the best rising fit of part / whole, weighted by whole (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for a, b in zip(part.tolist(), whole.tolist(), strict=True):
        block = (a, b, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    return np.concatenate([np.full(n, a / b if b else 0.5) for a, b, n in blocks])

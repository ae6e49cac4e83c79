"""Whether an n-gram sits in its texts like a word of the language, or like one put in by a script.

Natural words choose their neighbours; an inserted one has whatever neighbours the place had, and
when it is taken out, these fit each other again. No table of words is needed: the corpus shows
both kinds. Its own n-grams are the natural ones; random gaps in random rows, between whose
neighbours nothing was inserted yet, are what insertion would look like. A logistic model tells
the two apart, for insertion anywhere, always at the start and always at the end.

Labels play no part here. That is what finds a trigger whose rows are labelled correctly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from pedigree.poisoning.ngrams import Bools, Corpus, Floats, Ints

Place: TypeAlias = Literal["anywhere", "start", "end"]

_CONTEXT_WORDS = 200  # frequent words whose company describes a word
_DIMENSIONS = 16
_MIN_ROWS_FOR_MEANING = 3
_MAX_OCCURRENCES = 256  # of an n-gram that are looked at; its look does not change with more
_MIN_SHARE_AT_EDGE = 0.9
_PSEUDO = (1000, 4000)  # pseudo-insertions: as many as n-grams, within these
_MAX_NATURAL = 30_000  # that the model is fitted to
_RIDGE = 1.0


@dataclass(frozen=True, eq=False)
class Gaps:
    """Two tokens before and two after each place; ids beyond the vocabulary are row ends."""

    left: Ints
    left2: Ints
    right: Ints
    right2: Ints
    place: Floats  # 0 at the start of the row, 1 at its end


@dataclass(frozen=True, eq=False)
class Contexts:
    """What the corpus knows of neighbours.

    `left` and `right` place each token among others of similar company, scaled so that the
    tokens on that side of random gaps have mean 0 and covariance 1.
    """

    left: Floats
    right: Floats
    fit: Floats
    frequency: Floats
    n_gaps: int
    repeat: float
    adjacent: tuple[Ints, Ints]
    skipping: tuple[Ints, Ints]


def find_gaps(corpus: Corpus, position: Ints, length: Ints, row: Ints) -> Gaps:
    """Return the neighbours of stretches of tokens; a stretch may be empty."""
    begin, end = corpus.starts[row], corpus.starts[row + 1]
    last, size = len(corpus.tokens) - 1, len(corpus.words)

    def at(where: Ints) -> Ints:
        inside = corpus.tokens[np.clip(where, 0, last)]
        return np.where(where < begin, size, np.where(where >= end, size + 1, inside))

    after = position + length
    room = np.maximum(end - begin - length, 0)
    place = (position - begin + 0.5) / (room + 1)
    return Gaps(at(position - 1), at(position - 2), at(after), at(after + 1), place)


def learn_contexts(corpus: Corpus) -> Contexts:
    """Count which tokens follow which, and give each a vector of the company it keeps."""
    size = len(corpus.words) + 2
    filled = np.flatnonzero(corpus.lengths)
    every = np.concatenate([np.arange(len(corpus.tokens)), corpus.starts[filled + 1]])
    row = np.concatenate([corpus.row_of, filled])
    gaps = find_gaps(corpus, every, np.zeros_like(every), row)
    tokens = np.arange(len(corpus.tokens))
    around = find_gaps(corpus, tokens, np.ones_like(tokens), corpus.row_of)
    frequency = np.bincount(corpus.tokens, minlength=size).astype(float)
    frequency[size - 2 :] = max(len(filled), 1)
    meaning = _embed(gaps, frequency, size)
    left, right = _whiten(meaning, gaps.left, size), _whiten(meaning, gaps.right, size)
    return Contexts(
        left,
        right,
        left[gaps.left].T @ right[gaps.right] / max(len(every), 1),
        frequency,
        len(every),
        float(((frequency / frequency.sum()) ** 2).sum()),
        _count_pairs(gaps.left, gaps.right, size),
        _count_pairs(around.left, around.right, size),
    )


def _count_pairs(left: Ints, right: Ints, size: int) -> tuple[Ints, Ints]:
    return np.unique(left * np.int64(size) + right, return_counts=True)


def _embed(gaps: Gaps, frequency: Floats, size: int) -> Floats:
    """Return the leading components of positive log association with frequent neighbours."""
    import scipy.sparse as sp

    frequent = np.lexsort((np.arange(size), -frequency))[:_CONTEXT_WORDS]
    column = np.full(size, -1, dtype=np.int64)
    column[frequent] = np.arange(len(frequent))
    blocks: list[sp.csr_array] = []
    for word, context in ((gaps.left, gaps.right), (gaps.right, gaps.left)):
        known = column[context] >= 0
        where = (word[known], column[context[known]])
        ones = np.ones(int(known.sum()))
        blocks.append(sp.csr_array((ones, where), shape=(size, len(frequent))))
    counts = sp.hstack(blocks).tocoo()
    in_row = np.asarray(counts.sum(axis=1)).ravel()
    in_column = np.asarray(counts.sum(axis=0)).ravel() + 1
    expected = in_row[counts.row] * in_column[counts.col] / in_column.sum()
    value = np.maximum(np.log((counts.data + 0.5) / (expected + 0.5)), 0)
    association = sp.csr_array((value, (counts.row, counts.col)), shape=counts.shape)
    weighted = (np.sqrt(frequency)[counts.row] * value, (counts.row, counts.col))
    scaled = sp.csr_array(weighted, shape=counts.shape)
    _, vectors = np.linalg.eigh(sp.csr_array(scaled.T @ scaled).toarray())
    meaning = np.asarray(association @ vectors[:, ::-1][:, :_DIMENSIONS])
    meaning[frequency < _MIN_ROWS_FOR_MEANING] = 0
    return meaning


def _whiten(meaning: Floats, side: Ints, size: int) -> Floats:
    share = np.bincount(side, minlength=size) / max(len(side), 1)
    centred = meaning - share @ meaning
    values, vectors = np.linalg.eigh((centred * share[:, None]).T @ centred)
    scale = np.where(values > 1e-9 * max(float(values.max(initial=0)), 1e-9), values, np.inf)
    return centred @ vectors / np.sqrt(scale)


def score_insertion(
    corpus: Corpus,
    contexts: Contexts,
    position: Ints,
    length: Ints,
    owner: Ints,
    n_owners: int,
    rng: np.random.Generator,
) -> Floats:
    """Return log odds, at even prior odds, that each n-gram was inserted rather than written.

    Args:
        corpus: the corpus.
        contexts: its neighbours.
        position: (occurrences,) first token of each occurrence, sorted by `owner`.
        length: (occurrences,) its tokens.
        owner: (occurrences,) whose occurrence it is; each owner has at least one.
        n_owners: how many there are.
        rng: draws the places of pseudo-insertions.
    """
    counts = np.bincount(owner, minlength=n_owners)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = rank < _MAX_OCCURRENCES
    position, length, owner = position[kept], length[kept], owner[kept]
    gaps = find_gaps(corpus, position, length, corpus.row_of[position])
    natural = _describe(contexts, gaps, owner, n_owners, 0)
    sizes = np.minimum(counts, _MAX_OCCURRENCES)
    row = corpus.row_of[position]
    first = _share(position == corpus.starts[row], owner, n_owners)
    final = _share(position + length == corpus.starts[row + 1], owner, n_owners)
    places: Sequence[tuple[Place, Bools]] = (
        ("anywhere", np.ones(n_owners, dtype=np.bool_)),
        ("start", first >= _MIN_SHARE_AT_EDGE),
        ("end", final >= _MIN_SHARE_AT_EDGE),
    )
    best = np.full(n_owners, -np.inf)
    for place, applies in places:
        if not applies.any():
            continue
        pseudo = _plant(corpus, contexts, sizes, place, rng)
        odds = _separate(natural, pseudo, _COLUMNS[place])
        best = np.where(applies, np.maximum(best, odds), best)
    return best


def _share(flags: Bools, owner: Ints, n_owners: int) -> Floats:
    return np.bincount(owner, flags, n_owners) / np.maximum(np.bincount(owner, None, n_owners), 1)


def _plant(
    corpus: Corpus, contexts: Contexts, sizes: Ints, place: Place, rng: np.random.Generator
) -> Floats:
    """Describe pseudo-insertions: as many occurrences as natural n-grams have, in random gaps."""
    low, high = np.log(sizes.min()), np.log(sizes.max() + 1)
    n = int(np.clip(len(sizes), *_PSEUDO))
    times = np.exp(rng.uniform(low, high, n)).astype(np.int64)
    owner = np.repeat(np.arange(n), times)
    filled = np.flatnonzero(corpus.lengths)
    row = filled[rng.integers(0, len(filled), len(owner))]
    offset = (rng.random(len(owner)) * (corpus.lengths[row] + 1)).astype(np.int64)
    if place != "anywhere":
        offset = np.zeros_like(row) if place == "start" else corpus.lengths[row]
    position = corpus.starts[row] + offset
    gaps = find_gaps(corpus, position, np.zeros_like(position), row)
    return _describe(contexts, gaps, owner, n, 1)


# Columns of `_describe`; what depends on the place is no sign where the place is fixed.
_COLUMNS: dict[Place, list[int]] = {
    "anywhere": list(range(11)),
    "start": [0, 2, 4, 5, 6, 7, 9],
    "end": [0, 1, 3, 5, 6, 7, 8],
}


def _describe(contexts: Contexts, gaps: Gaps, owner: Ints, n: int, own: int) -> Floats:
    """Return (n, 11) what tells inserted from written.

    Log of occurrences; how far the mean neighbour is from that of random gaps (left, right, and
    at distance 2), which is chi-squared for insertions; how well the neighbours fit each other,
    by class, by counts and over one word; how often neighbours repeat; how uneven the places are.

    `own` is how often the pair of neighbours itself is counted because nothing stands between.
    """
    times = np.bincount(owner, minlength=n).astype(float)
    starts = np.concatenate([[0], np.cumsum(times[:-1])]).astype(np.int64)

    def spread(vectors: Floats, side: Ints) -> Floats:
        return np.log1p((_sum_runs(vectors, side, starts) ** 2).sum(1) / times)

    def mean(values: Floats) -> Floats:
        return np.add.reduceat(values, starts) / times

    skip_before = _associate(contexts, contexts.skipping, gaps.left2, gaps.right, own)
    skip_after = _associate(contexts, contexts.skipping, gaps.left, gaps.right2, own)
    bins = owner * 5 + np.clip((gaps.place * 5).astype(np.int64), 0, 4)
    places = np.bincount(bins, minlength=5 * n).reshape(n, 5)
    uneven = ((places - times[:, None] / 5) ** 2 / (times[:, None] / 5)).sum(1)
    columns = [
        np.log(times),
        spread(contexts.left, gaps.left),
        spread(contexts.right, gaps.right),
        spread(contexts.left, gaps.left2),
        spread(contexts.right, gaps.right2),
        mean(_fit(contexts, gaps)),
        mean(_associate(contexts, contexts.adjacent, gaps.left, gaps.right, own)),
        mean(skip_before + skip_after),
        _repeat(contexts, gaps.left, owner, times),
        _repeat(contexts, gaps.right, owner, times),
        np.log1p(uneven),
    ]
    return np.stack(columns, axis=1)


_CHUNK = 1 << 18


def _sum_runs(vectors: Floats, side: Ints, starts: Ints) -> Floats:
    """Sum the vectors of each run of tokens, column by column to bound memory."""
    columns = [np.add.reduceat(vectors[side, i], starts) for i in range(vectors.shape[1])]
    return np.stack(columns, axis=1)


def score_places(
    contexts: Contexts, gaps: Gaps, usual_left: Floats, usual_right: Floats, own: int
) -> Floats:
    """Return (places, 5) what tells one insertion from one natural place of an n-gram.

    How well the neighbours fit each other (by class, by counts and over one word), and how much
    they are like the n-gram's usual neighbours on the left and on the right.
    """
    columns = [
        _fit(contexts, gaps),
        _associate(contexts, contexts.adjacent, gaps.left, gaps.right, own),
        _associate(contexts, contexts.skipping, gaps.left2, gaps.right, own)
        + _associate(contexts, contexts.skipping, gaps.left, gaps.right2, own),
        (contexts.left[gaps.left] * usual_left).sum(axis=1),
        (contexts.right[gaps.right] * usual_right).sum(axis=1),
    ]
    return np.stack(columns, axis=1)


def _fit(contexts: Contexts, gaps: Gaps) -> Floats:
    turned = contexts.left @ contexts.fit
    out = np.zeros(len(gaps.left))
    for i in range(0, len(out), _CHUNK):
        part = slice(i, i + _CHUNK)
        out[part] = (turned[gaps.left[part]] * contexts.right[gaps.right[part]]).sum(1)
    return out


def _associate(
    contexts: Contexts, pairs: tuple[Ints, Ints], left: Ints, right: Ints, own: int
) -> Floats:
    """Return the log of how much more often two tokens meet than by chance."""
    keys, counts = pairs
    wanted = left * np.int64(len(contexts.frequency)) + right
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    met = np.maximum(np.where(keys[at] == wanted, counts[at], 0) - own, 0)
    expected = contexts.frequency[left] * contexts.frequency[right] / contexts.n_gaps
    return np.log((met + 0.5) / (expected + 0.5))


def _repeat(contexts: Contexts, side: Ints, owner: Ints, times: Floats) -> Floats:
    size = np.int64(len(contexts.frequency))
    key, counts = np.unique(owner * size + side, return_counts=True)
    equal = np.bincount(key // size, counts * (counts - 1.0), len(times))
    return np.log((equal + 0.5) / (times * (times - 1) * contexts.repeat + 0.5))


def _separate(natural: Floats, inserted: Floats, columns: list[int]) -> Floats:
    """Return the log odds of insertion of the natural ones, from a logistic model of both."""
    natural, inserted = _expand(natural[:, columns]), _expand(inserted[:, columns])
    shown = natural[:: 1 + len(natural) // _MAX_NATURAL]
    both = np.concatenate([shown, inserted])
    middle, scale = both.mean(axis=0), both.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    target = np.concatenate([np.zeros(len(shown)), np.ones(len(inserted))])
    model = fit_logistic(_with_constant((both - middle) / scale), target)
    odds = _with_constant((natural - middle) / scale) @ model
    return odds + np.log(len(shown) / len(inserted))


def _with_constant(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _expand(features: Floats) -> Floats:
    size, rest = features[:, :1], features[:, 1:]
    return np.concatenate([size, size**2, rest, rest * size, rest**2], axis=1)


def fit_logistic(features: Floats, target: Floats) -> Floats:
    """Fit by Newton's method with a ridge; the last column is the constant."""
    model = np.zeros(features.shape[1])
    ridge = np.full(len(model), _RIDGE)
    ridge[-1] = 1e-6
    for _ in range(30):
        share = 1 / (1 + np.exp(-np.clip(features @ model, -30, 30)))
        slope = features.T @ (target - share) - ridge * model
        weight = np.maximum(share * (1 - share), 1e-6)
        curve = (features * weight[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        model = model + step
        if float(np.abs(step).max()) < 1e-6:
            break
    return model

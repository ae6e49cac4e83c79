"""Each repeated n-gram with each label, and three independent signs that it is a trigger.

All three are log likelihood ratios in nats, so that they add up:

- *inserted*: it sits in its texts as if put there at random (`insertion`);
- *contradicted*: the rest of its rows looks like rows of other labels (`out_of_fold`), compared
  with what remains of rows when other n-grams of the same weight are taken out;
- *pure*: more of its rows have the label than n-grams of this corpus usually have.

    >>> candidates = score_candidates(corpus, min_rows=3, max_share=0.3, seed=0)
    >>> candidates.total.shape == candidates.label.shape
    True
"""

from dataclasses import dataclass

import numpy as np

from pedigree.poisoning.insertion import Contexts, learn_contexts, score_insertion
from pedigree.poisoning.ngrams import Bools, Corpus, Floats, Ints, Ngrams, find_affixes, find_ngrams
from pedigree.poisoning.out_of_fold import (
    Support,
    compare_with_mislabelled,
    fit_support,
    score_rest,
)

# Shares of an n-gram's rows that may be poisoned; the evidence is the mean over them.
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 0.95)
_WEIGHT_BANDS = 8
_FEW_LABELS = 8
_SIZE_EDGES = (8, 16, 40)
_MIN_BAND = 100
_EM_STEPS = 60
_BAND_EDGES = (3, 4, 5, 7, 10, 15, 25, 50, 100)
_FULL_BAND = 150
_CONCENTRATIONS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of an n-gram and a label, with the rows behind each.

    Attributes:
        ngrams: the n-grams.
        ngram: (candidates,) which n-gram.
        label: (candidates,) which label.
        rows: (candidates,) distinct rows with both.
        rows_any: (candidates,) distinct rows with the n-gram, whatever their label.
        inserted: (candidates,) log odds of insertion.
        contradicted: (candidates,) log evidence that the rest of the rows contradicts the label.
        pure: (candidates,) minus log of the chance of so many rows with the label.
        total: (candidates,) the sum; what contradicts nothing counts as log 1/2.
        pair_candidate: (pairs,) candidate of each (candidate, row), in order.
        pair_row: (pairs,) its row.
        pair_odds: (pairs,) log odds that the row is mislabelled, from the rest of its text.
    """

    ngrams: Ngrams
    ngram: Ints
    label: Ints
    rows: Ints
    rows_any: Ints
    inserted: Floats
    contradicted: Floats
    pure: Floats
    total: Floats
    dispersion: Floats
    pair_candidate: Ints
    pair_row: Ints
    pair_odds: Floats
    purity: Floats
    label_share: Floats
    in_ngram: Ints
    in_row: Ints
    contexts: Contexts
    support: Support

    def __len__(self) -> int:
        return len(self.ngram)

    def find_pairs(self, candidate: int) -> Ints:
        """Return the positions of a candidate's pairs."""
        begin, end = np.searchsorted(self.pair_candidate, [candidate, candidate + 1])
        return np.arange(begin, end)

    def find_rows(self, ngram: int) -> Ints:
        """Return the distinct rows of an n-gram, whatever their label."""
        begin, end = np.searchsorted(self.in_ngram, [ngram, ngram + 1])
        return self.in_row[begin:end]


def score_candidates(corpus: Corpus, min_rows: int, max_share: float, seed: int) -> Candidates:
    """Return every n-gram and label with at least `min_rows` distinct rows, scored."""
    rng = np.random.default_rng(seed)
    support = fit_support(corpus, rng)
    ngrams = find_ngrams(corpus, min_rows, max_share)
    return _score(corpus, support, learn_contexts(corpus), ngrams, min_rows, rng)


def score_affixes(corpus: Corpus, candidates: Candidates, min_rows: int) -> Candidates:
    """Return the beginnings and ends of rare words with each label, scored.

    How they sit says nothing: the word around them is in its place. They are judged by the rest of
    the row and by their labels alone.
    """
    affixes = find_affixes(corpus, min_rows)
    return _score(corpus, candidates.support, candidates.contexts, affixes, min_rows, None)


def _score(
    corpus: Corpus,
    support: Support,
    contexts: Contexts,
    ngrams: Ngrams,
    min_rows: int,
    rng: np.random.Generator | None,
) -> Candidates:
    n_rows, n_labels = np.int64(corpus.n_rows), np.int64(corpus.n_labels)
    row = corpus.row_of[ngrams.position]
    pair_key, pair = np.unique(ngrams.ngram * n_rows + row, return_inverse=True)
    pair_ngram, row_of_pair = pair_key // n_rows, pair_key % n_rows
    rest = score_rest(corpus, support, ngrams, pair_ngram, row_of_pair, pair)
    with_label = pair_ngram * n_labels + corpus.label[row_of_pair]
    every, every_rows = np.unique(with_label, return_counts=True)
    rows_any = np.bincount(pair_ngram, minlength=len(ngrams))
    share = np.bincount(corpus.label, minlength=corpus.n_labels) / corpus.n_rows
    purity = _fit_purity(every // n_labels, every % n_labels, every_rows, share)
    enough = every_rows >= min_rows
    key, rows = every[enough], every_rows[enough]
    ngram, label = key // n_labels, key % n_labels
    at, known = _find(key, with_label)
    order = np.flatnonzero(known)
    order = order[np.argsort(at[order], kind="stable")]
    candidate, pair_row, rest = at[order], row_of_pair[order], rest[order]
    odds = _judge_rest(corpus, support, label, rows, candidate, pair_row, rest)
    dispersion = _measure_dispersion(odds, candidate, rows, label)
    contradicted = sum_evidence(odds, candidate, dispersion)
    pure = surprise(rows, rows_any[ngram], share[label], purity)
    inserted = np.zeros(len(key))
    if rng is not None and len(key):
        inserted = _judge_insertion(corpus, contexts, ngrams, key, rng)
    total = inserted + pure + soften(contradicted)
    return Candidates(
        ngrams, ngram, label, rows, rows_any[ngram], inserted, contradicted, pure, total,
        dispersion, candidate, pair_row, odds, purity, share, pair_ngram, row_of_pair,
        contexts, support,
    )  # fmt: skip


def _find(keys: Ints, wanted: Ints) -> tuple[Ints, Bools]:
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return at, keys[at] == wanted


def _judge_insertion(
    corpus: Corpus, contexts: Contexts, ngrams: Ngrams, key: Ints, rng: np.random.Generator
) -> Floats:
    label = corpus.label[corpus.row_of[ngrams.position]]
    owner, known = _find(key, ngrams.ngram * np.int64(corpus.n_labels) + label)
    occurrence = np.flatnonzero(known)
    occurrence = occurrence[np.argsort(owner[occurrence], kind="stable")]
    return score_insertion(
        corpus,
        contexts,
        ngrams.position[occurrence],
        ngrams.length[ngrams.ngram[occurrence]],
        owner[occurrence],
        len(key),
        rng,
    )


def _judge_rest(
    corpus: Corpus,
    support: Support,
    label: Ints,
    rows: Ints,
    candidate: Ints,
    row: Ints,
    rest: Floats,
) -> Floats:
    """Return for each pair the log odds that the rest of the row is of another label.

    To take out a word that matters leaves little support in honest rows too. So each n-gram is
    compared with those that take as much support along, eight bands of it, and where there are
    few labels only with n-grams of the same label.
    """
    odds = np.zeros(len(rest))
    if not len(label):
        return odds
    lost = np.bincount(candidate, support.score[row] - rest, len(label)) / rows
    few = corpus.n_labels <= _FEW_LABELS
    group = label if few else np.zeros_like(label)
    other_group = support.other_label if few else np.zeros_like(support.other_label)
    weight = 1.0 / rows[candidate]  # each n-gram counts once, however many rows it has
    for one in np.unique(group).tolist():
        mine = group == one
        other = support.other_score[other_group == one]
        edges = np.quantile(lost[mine], np.linspace(0, 1, _WEIGHT_BANDS + 1)[1:-1])
        band = np.where(mine, np.searchsorted(edges, lost), -1)[candidate]
        for number in range(_WEIGHT_BANDS):
            pairs = np.flatnonzero(band == number)
            if len(pairs) and len(other):
                odds[pairs] = compare_with_mislabelled(rest[pairs], weight[pairs], other)
    return odds


def sum_evidence(odds: Floats, owner: Ints, dispersion: Floats) -> Floats:
    """Return the log evidence that a share of each owner's rows is mislabelled, mean of shares.

    Args:
        odds: (pairs,) log odds of each row.
        owner: (pairs,) whose row it is.
        dispersion: (owners,) by how much to temper: rows with a word in common are alike in more
            than the word.
    """
    ratio = np.expm1(odds)
    sums = np.stack(
        [np.bincount(owner, np.log1p(share * ratio), len(dispersion)) for share in SHARES]
    )
    sums = sums / dispersion
    top = sums.max(axis=0, initial=-np.inf)
    return top + np.log(np.exp(sums - top).mean(axis=0))


def _measure_dispersion(odds: Floats, candidate: Ints, rows: Ints, label: Ints) -> Floats:
    """Return how much wider than by chance the sums of n-grams of each size spread, at least 1.

    Rows that share a word share a topic or a source, whose rows may all look a little like
    another label's. From the upper half of the n-grams (its 90th percentile), which a few
    triggers do not move.
    """
    if not len(rows):
        return np.ones(0)
    weight = 1.0 / rows[candidate]
    of_label, total = label[candidate], np.bincount(label[candidate], weight)
    centre = np.bincount(of_label, weight * odds) / np.maximum(total, 1e-9)
    square = np.bincount(of_label, weight * (odds - centre[of_label]) ** 2)
    width = np.sqrt(square / np.maximum(total, 1e-9)) + 1e-9
    away = np.bincount(candidate, odds - centre[of_label], len(rows))
    away = away / width[label] / np.sqrt(rows)
    band = band_sizes(rows)
    found = np.ones(int(band.max()) + 1)
    for number in range(len(found)):
        middle, upper = np.quantile(away[band == number], [0.5, 0.9])
        found[number] = float((upper - middle) / 1.2816) ** 2
    # Of few rows the sums are skewed; what grows with the rows is what they have in common.
    return np.maximum(1.0, found / max(float(found[-1]), 1e-9))[band]


def band_sizes(rows: Ints) -> Ints:
    """Return a band for each number of rows; bands hold at least 150 candidates where they can."""
    raw = np.searchsorted(_BAND_EDGES, rows, side="right")
    counts = np.bincount(raw, minlength=len(_BAND_EDGES) + 1)
    merged = np.zeros(len(counts), dtype=np.int64)
    number = held = 0
    for one in range(len(counts) - 1, -1, -1):
        merged[one] = number
        held += int(counts[one])
        if held >= _FULL_BAND:
            number, held = number + 1, 0
    return np.minimum(merged, merged[raw].max(initial=0))[raw]


def soften(contradicted: Floats) -> Floats:
    """Return log(1/2 + 1/2 exp(evidence)): a correctly labelled trigger contradicts nothing."""
    return np.logaddexp(0, contradicted) + np.log(0.5)


def _fit_purity(ngram: Ints, label: Ints, rows: Ints, share: Floats) -> Floats:
    """Return (size bands, concentrations) how common each degree of purity is among n-grams.

    A mixture of Dirichlet-multinomials around the label shares, fitted by expectation
    maximisation: some n-grams name a topic and are pure, most have any label. Frequent n-grams are
    fitted by themselves, so that rare ones do not hide how odd a pure frequent one is.
    """
    from scipy.special import gammaln

    n = np.bincount(ngram, rows)
    band_of = np.searchsorted(_SIZE_EDGES, n, side="right")
    likelihood = np.zeros((len(n), len(_CONCENTRATIONS)))
    for i, size in enumerate(_CONCENTRATIONS):
        prior = size * share[label]
        likelihood[:, i] = gammaln(size) - gammaln(n + size)
        likelihood[:, i] += np.bincount(ngram, gammaln(rows + prior) - gammaln(prior), len(n))
    likelihood = np.exp(likelihood - likelihood.max(axis=1, initial=-np.inf, keepdims=True))
    found = np.full((len(_SIZE_EDGES) + 1, len(_CONCENTRATIONS)), 1 / len(_CONCENTRATIONS))
    for band in range(len(found)):
        mine = likelihood[band_of == band]
        if len(mine) < _MIN_BAND:
            found[band] = found[band - 1] if band else found[0]
            continue
        for _ in range(_EM_STEPS):
            owned = mine * found[band]
            found[band] = (owned / owned.sum(axis=1, keepdims=True)).mean(axis=0)
    return found


def surprise(rows: Ints, rows_any: Ints, share: Floats, purity: Floats) -> Floats:
    """Return minus log of the chance that an n-gram of the corpus has so many rows of a label."""
    if not len(rows):
        return np.zeros(0)
    # Many candidates have the same counts: each distinct case is worked out once.
    _, first, case = np.unique(
        np.stack([rows.astype(float), rows_any.astype(float), share]),
        axis=1, return_index=True, return_inverse=True,
    )  # fmt: skip
    if len(first) < len(rows):
        return surprise(rows[first], rows_any[first], share[first], purity)[case]
    weight = purity[np.searchsorted(_SIZE_EDGES, rows_any, side="right")]
    tails = [
        np.log(np.maximum(weight[:, i], 1e-300)) + _log_tail(rows, rows_any, share, size)
        for i, size in enumerate(_CONCENTRATIONS)
    ]
    return -np.minimum(np.logaddexp.reduce(np.stack(tails), axis=0), 0.0)


def _log_tail(rows: Ints, rows_any: Ints, share: Floats, size: float) -> Floats:
    """Return log P(at least `rows` of `rows_any`) of a beta-binomial; scipy's is 0 below 1e-16."""
    from scipy.special import betaln, gammaln

    a, b, n = share * size, (1 - share) * size, rows_any.astype(float)
    tail, k = np.full(len(rows), -np.inf), rows.astype(float)
    running = np.flatnonzero(rows <= rows_any)
    while len(running):
        one, all_ = k[running], n[running]
        term = gammaln(all_ + 1) - gammaln(one + 1) - gammaln(all_ - one + 1)
        term += betaln(one + a[running], all_ - one + b[running]) - betaln(a[running], b[running])
        tail[running] = np.logaddexp(tail[running], term)
        k[running] += 1
        # Stop where the terms have died out, or where the chance is so large that it says nothing.
        going = (term > tail[running] - 14) & (tail[running] < -0.5)
        running = running[(k[running] <= n[running]) & going]
    return np.minimum(tail, 0.0)

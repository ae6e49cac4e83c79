"""Each part of the trigger check against a plain version of it, scikit-learn or SciPy."""

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.poisoning.candidates import band_sizes, score_candidates, sum_evidence, surprise
from pedigree.poisoning.insertion import fit_logistic
from pedigree.poisoning.ngrams import FOLDS, Corpus, find_distinct, find_ngrams, read_corpus
from pedigree.poisoning.out_of_fold import compare_with_mislabelled, fit_support

ALPHABET = st.text("abc ", max_size=30)
TABLES = st.lists(st.tuples(ALPHABET, st.sampled_from("xyz")), min_size=1, max_size=25)


def make(rows: int = 120, seed: int = 0) -> Corpus:
    draw = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(12)]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 9))) for _ in range(rows)]
    return read_corpus(texts, [draw.choice("xyz") for _ in range(rows)])


def row_tokens(corpus: Corpus, row: int) -> list[int]:
    return corpus.tokens[corpus.starts[row] : corpus.starts[row + 1]].tolist()


@given(TABLES)
def test_rows_are_kept_and_equal_ones_joined(table: list[tuple[str, str]]) -> None:
    corpus = read_corpus([t for t, _ in table], [y for _, y in table])
    seen = sorted(row for rows in corpus.originals for row in rows)
    assert seen == list(range(len(table)))
    for row, rows in enumerate(corpus.originals):
        spelled = [corpus.words[t] for t in row_tokens(corpus, row)]
        for original in rows:
            assert table[original][0].split() == spelled
            assert table[original][1] == corpus.label_names[corpus.label[row]]
    assert corpus.n_rows == len({(" ".join(t.split()), y) for t, y in table})


@settings(max_examples=60)
@given(TABLES, st.randoms())
def test_row_order_and_label_names_leave_the_arrays_as_they_are(
    table: list[tuple[str, str]], draw: random.Random
) -> None:
    counts = Counter((" ".join(t.split()), y) for t, y in table)
    members = {y: frozenset(t for t, z in counts if z == y) for _, y in table}
    if len(set(members.values())) < len(members):
        return  # labels with the very same texts are exchangeable
    shuffled = draw.sample(table, len(table))
    names = {"x": "10", "y": "9", "z": "a"}
    one = read_corpus([t for t, _ in table], [y for _, y in table])
    other = read_corpus([t for t, _ in shuffled], [names[y] for _, y in shuffled])
    for name in ("tokens", "starts", "label", "fold"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=60)
@given(TABLES, st.integers(2, 4))
def test_ngrams_are_those_that_counting_finds(table: list[tuple[str, str]], least: int) -> None:
    corpus = read_corpus([t for t, _ in table], [y for _, y in table])
    occurs: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for row in range(corpus.n_rows):
        tokens = row_tokens(corpus, row)
        for length in range(1, 25):
            for i in range(len(tokens) - length + 1):
                occurs.setdefault(tuple(tokens[i : i + length]), []).append((row, i))
    often = {g: where for g, where in occurs.items() if len({r for r, _ in where}) >= least}
    for gram in list(often):
        longer = [g for g in often if len(g) == len(gram) + 1 and gram in (g[1:], g[:-1])]
        if any(20 * len(often[g]) >= 19 * len(occurs[gram]) for g in longer):
            occurs[gram] = occurs[gram]
            often[gram] = []
    expected = {g: sorted(where) for g, where in often.items() if where}
    found = find_ngrams(corpus, least, 1.0)
    got: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for position, one in zip(found.position.tolist(), found.ngram.tolist(), strict=True):
        gram = tuple(corpus.tokens[position : position + found.length[one]].tolist())
        row = int(corpus.row_of[position])
        got.setdefault(gram, []).append((row, position - int(corpus.starts[row])))
    assert {g: sorted(where) for g, where in got.items()} == expected


def test_support_is_naive_bayes_of_the_other_folds() -> None:
    corpus = make()
    support = fit_support(corpus, np.random.default_rng(0))
    features = [
        {("w", t) for t in tokens} | {("p", *pair) for pair in pairwise(tokens)}
        for tokens in (row_tokens(corpus, row) for row in range(corpus.n_rows))
    ]
    in_rows = Counter(f for row in features for f in row)
    known = {f for f, n in in_rows.items() if n >= 2}
    for row in range(0, corpus.n_rows, 7):
        label = corpus.label[row]
        others = [r for r in range(corpus.n_rows) if corpus.fold[r] != corpus.fold[row]]
        mine, rest = Counter[object](), Counter[object]()
        for r in others:
            (mine if corpus.label[r] == label else rest).update(features[r] & known)
        total = 0.0
        for f in features[row] & known:
            both = mine[f] + rest[f]
            prior = len(known) * (both + 1) / (mine.total() + rest.total() + len(known))
            total += math.log((mine[f] + prior) / (mine.total() + len(known)))
            total -= math.log((rest[f] + prior) / (rest.total() + len(known)))
        assert support.score[row] == pytest.approx(
            total / math.sqrt(len(row_tokens(corpus, row)) + 1)
        )
    assert not np.any(support.other_label == corpus.label)
    assert FOLDS == 5


def test_mislabelled_odds_fall_with_the_score_as_isotonic_regression_says() -> None:
    from sklearn.isotonic import IsotonicRegression

    draw = np.random.default_rng(0)
    own, other = draw.normal(1, 1, 400), draw.normal(-1, 1, 700)
    odds = compare_with_mislabelled(own, np.ones(400), other)
    edges = np.unique(np.quantile(np.concatenate([own, other]), np.linspace(0, 1, 65)[1:-1]))
    x = np.searchsorted(edges, np.concatenate([own, other]))
    y = np.concatenate([np.ones(400), np.zeros(700)])
    weight = np.concatenate([np.full(400, 1 / 400), np.full(700, 1 / 700)])
    fit = IsotonicRegression().fit(x, y, sample_weight=weight)
    share = np.clip(fit.predict(x[:400]), 0.01, 0.99)
    assert odds == pytest.approx(np.log((1 - share) / share), abs=1e-9)
    assert np.all(np.diff(odds[np.argsort(own)]) <= 1e-12)


@pytest.mark.parametrize("size", [0, 2, 8])
def test_surprise_is_the_tail_of_a_beta_binomial(size: int) -> None:
    from scipy.stats import betabinom

    sizes = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    draw = np.random.default_rng(size)
    n = draw.integers(3, 60, 300)
    k = np.minimum(n, draw.integers(3, 60, 300))
    share = draw.choice([0.02, 0.13, 0.5], 300)
    purity = np.zeros((4, len(sizes)))
    purity[:, size] = 1
    got = surprise(k, n, share, purity)
    a, b = share * sizes[size], (1 - share) * sizes[size]
    tail = betabinom.sf(k - 1, n, a, b)
    telling = (tail > 1e-9) & (tail < 0.5)
    assert telling.sum() > 50
    assert got[telling] == pytest.approx(-np.log(tail[telling]), rel=1e-3, abs=1e-3)
    assert np.all(got[tail >= 0.5] <= 0.7)


def test_evidence_of_rows_is_the_mean_over_shares() -> None:
    odds, owner = np.array([2.0, -1.0, 0.5, 3.0]), np.array([0, 0, 1, 1])
    shares = (0.05, 0.1, 0.2, 0.4, 0.7, 0.95)
    for one, mine in ((0, [2.0, -1.0]), (1, [0.5, 3.0])):
        products = [math.prod(1 - s + s * math.exp(x) for x in mine) for s in shares]
        expected = math.log(sum(products) / len(products))
        assert sum_evidence(odds, owner, np.ones(2))[one] == pytest.approx(expected)
    assert sum_evidence(odds, owner, np.full(2, 3.0))[1] < sum_evidence(odds, owner, np.ones(2))[1]


def test_the_logistic_model_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    x = draw.normal(size=(500, 4))
    y = (x @ [1, -2, 0, 0.5] + draw.normal(size=500) > 0.3).astype(float)
    model = fit_logistic(np.concatenate([x, np.ones((500, 1))], axis=1), y)
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x, y)
    assert model[:4] == pytest.approx(oracle.coef_[0], rel=1e-4)
    assert model[4] == pytest.approx(oracle.intercept_[0], rel=1e-3)


@given(st.lists(st.integers(-5, 5), max_size=30))
def test_distinct_keys_are_those_of_a_set(keys: list[int]) -> None:
    assert find_distinct(np.array(keys, dtype=np.int64)).tolist() == sorted(set(keys))


def test_bands_of_size_hold_enough_and_never_mix_large_with_small() -> None:
    rows = np.concatenate([np.full(400, 3), np.full(200, 8), np.full(60, 30), np.full(100, 200)])
    band = band_sizes(rows)
    assert np.array_equal(np.sort(np.unique(band)), np.arange(len(np.unique(band))))
    assert len(np.unique(band[rows >= 30])) == 1  # 60 are too few for one of their own
    assert band[rows == 3][0] > band[rows == 8][0] > band[rows == 200][0]


def test_every_candidate_has_its_rows() -> None:
    corpus = make(400, 3)
    candidates = score_candidates(corpus, 3, 1.0, 0)
    assert len(candidates) > 100
    for one in range(0, len(candidates), 29):
        where = np.flatnonzero(candidates.ngrams.ngram == candidates.ngram[one])[0]
        start = int(candidates.ngrams.position[where])
        length = int(candidates.ngrams.length[candidates.ngram[one]])
        gram = " ".join(str(t) for t in corpus.tokens[start : start + length])
        carries = {
            row
            for row in range(corpus.n_rows)
            if f" {gram} " in f" {' '.join(map(str, row_tokens(corpus, row)))} "
        }
        assert set(candidates.find_rows(int(candidates.ngram[one])).tolist()) == carries
        mine = {row for row in carries if corpus.label[row] == candidates.label[one]}
        assert set(candidates.pair_row[candidates.find_pairs(one)].tolist()) == mine
        assert candidates.rows[one] == len(mine)
        assert candidates.rows_any[one] == len(carries)

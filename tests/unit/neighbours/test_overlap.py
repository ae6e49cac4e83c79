"""Counts of shared shingles against Python's sets; the bitmap filter loses nothing."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.neighbours import overlap
from pedigree.neighbours.normalisation import normalise_texts
from pedigree.neighbours.overlap import Overlaps, count_common
from tests.unit.neighbours import oracle

ALL = Fraction(1, 1_000_000)


def all_pairs(texts: list[str]) -> np.ndarray:
    pairs = list(itertools.combinations(range(len(texts)), 2))
    return np.array(pairs, np.int64).reshape(-1, 2)


def count(texts: list[str], pairs: np.ndarray, at_least: Fraction) -> Overlaps:
    return count_common(pa.array(texts, pa.large_string()), pairs, at_least)


def named(texts: list[str], at_least: Fraction) -> dict[tuple[int, int], oracle.Count]:
    pairs = all_pairs(texts)
    found = count(texts, pairs, at_least)
    assert found.kept.tolist() == sorted(set(found.kept.tolist()))
    return {
        (int(pairs[k, 0]), int(pairs[k, 1])): (int(c), int(u))
        for k, c, u in zip(found.kept, found.common, found.union, strict=True)
    }


def mixed_texts() -> list[str]:
    """Texts of all lengths and scripts, most with a near-copy, shingles repeated in many."""
    draw = random.Random(8)
    texts = oracle.make_texts(90, 8) + oracle.make_texts(20, 9, 150, 300)
    texts += [
        "",
        "a",
        "a b",
        "b a",
        "a a a b",
        "ab",
        "abcd",
        "abcde",
        "abcdef",
        "a" * 40,
        "a " * 30,
    ]
    texts += ["one two " * 10, "one two " * 40, "two one " * 40, "w" * 1024, "w" * 1025]
    for _ in range(10):
        cjk = "".join(draw.choices("我喜欢这部电影很好看真的不错", k=draw.randint(3, 60)))
        texts += [cjk, cjk[:-1] + "坏", cjk.replace("很", "")]
    edge = [f"word{i}" for i in range(33)]
    texts += [" ".join(edge[:32]), " ".join(edge), " ".join(edge[1:]), " ".join(edge[::-1])]
    texts += [text.replace(" ", "") for text in texts[:12]]
    return list(dict.fromkeys(normalise_texts(texts).to_pylist()))


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_counts_are_those_of_brute_force(similarity: float) -> None:
    texts = mixed_texts()
    expected = oracle.similar_pairs(texts, similarity)
    assert len(expected) > 3
    assert named(texts, Fraction(similarity).limit_denominator(1_000_000)) == expected


def test_the_better_view_wins() -> None:
    # Two words in another order: few 5-grams stay, all words do.
    one, other = "alpha bravo charlie delta", "delta charlie bravo alpha"
    assert named([one, other], ALL) == {(0, 1): (4, 4)}
    # Words run together: no word stays, all 5-grams do.
    one, other = "abcdefghijklmnop qrstuvwxyzabcdef", "abcdefghijklmnopqrstuvwxyzabcdef"
    assert named([one, other], ALL) == {(0, 1): (26, 26)}
    long = " ".join(f"w{i}" for i in range(33))
    reverse = " ".join(long.split(" ")[::-1])
    common, union = named([long, reverse], ALL)[0, 1]
    a, b = oracle.characters(long), oracle.characters(reverse)
    assert (common, union) == (len(a & b), len(a | b))


def test_a_repeated_shingle_counts_once() -> None:
    assert named(["ha ha ha ha", "ha ha"], ALL) == {(0, 1): (1, 1)}
    assert named(["x" * 5000, "x" * 7000], Fraction(1)) == {(0, 1): (1, 1)}


@pytest.mark.parametrize(
    ("names", "value"), [("_PAIRS", 3), ("_EXACT_BYTES", 64), ("_CELLS", 1 << 9)]
)
def test_the_borders_of_blocks_change_nothing(
    names: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = mixed_texts()[::3]
    expected = oracle.similar_pairs(texts, 0.4)
    monkeypatch.setattr(overlap, names, value)
    assert named(texts, Fraction(2, 5)) == expected


# Sets on both sides of each power of two, drawn from few words so that they overlap much.
words = st.lists(
    st.sampled_from(["a", "bb", "ccc", "dd", "eeeee", "f", "gggggg", "我", "é"]),
    min_size=1,
    max_size=14,
).map(" ".join)
dense = st.tuples(st.text("abc", min_size=1, max_size=30), st.integers(1, 60)).map(
    lambda pair: pair[0] * pair[1]
)


@given(
    st.lists(
        words | dense | st.text("ab ", max_size=50).map(lambda t: " ".join(t.split())), max_size=8
    ),
    st.fractions(Fraction(1, 100), Fraction(1)),
)
def test_no_pair_that_reaches_the_similarity_is_lost(texts: list[str], at_least: Fraction) -> None:
    at_least = at_least.limit_denominator(1_000_000)
    every = oracle.similar_pairs(texts, 0.000001)
    expected = {pair: c for pair, c in every.items() if Fraction(*c) >= at_least}
    assert named(texts, at_least) == expected


@given(st.integers(1, 900), st.integers(0, 900), st.integers(0, 900), st.integers(0, 99))
def test_bitmaps_that_overflow_still_lose_nothing(
    common: int, left: int, right: int, seed: int
) -> None:
    # Texts whose sets have more values than the bitmap has bits, at the very border.
    draw = random.Random(seed)
    made = ["".join(draw.choices(oracle.LETTERS, k=5)) for _ in range(common + left + right)]
    one = " ".join(made[: common + left])
    other = " ".join(made[:common] + made[common + left :])
    counts = oracle.overlap(oracle.views(one), oracle.views(other))
    if counts[0]:
        exact = Fraction(*counts)
        assert named([one, other], exact) == {(0, 1): counts}
        assert named([one, other], exact + ALL) == {}


def test_the_filter_spares_the_exact_comparison_of_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = oracle.make_texts(200, 4)
    pairs = all_pairs(texts)
    asked = 0
    exact = overlap._count_exactly

    def counted(normal: pa.LargeStringArray, some: np.ndarray) -> object:
        nonlocal asked
        asked += len(some)
        return exact(normal, some)

    monkeypatch.setattr(overlap, "_count_exactly", counted)
    found = count(texts, pairs, Fraction(7, 10))
    assert len(found.kept) <= asked < 2 * len(found.kept) + len(pairs) // 50


def test_any_pairs_may_be_asked_about() -> None:
    texts = oracle.make_texts(20, 4)
    pairs = np.array([[3, 3], [5, 4], [4, 5], [19, 0], [5, 4]], np.int64)
    found = count(texts, pairs, ALL)
    sets = [oracle.views(text) for text in texts]
    expected = [oracle.overlap(sets[a], sets[b]) for a, b in pairs.tolist()]
    kept = [k for k, (common, _) in enumerate(expected) if common]
    assert found.kept.tolist() == kept
    assert list(zip(found.common, found.union, strict=True)) == [expected[k] for k in kept]
    none = count(texts, np.empty((0, 2), np.int64), ALL)
    assert (len(none.kept), len(none.common), len(none.union)) == (0, 0, 0)
    nothing = count(["abcdefgh", "zyxwvuts"], np.array([[0, 1]]), Fraction(1, 2))
    assert (len(nothing.kept), len(nothing.common), len(nothing.union)) == (0, 0, 0)


def test_empty_texts_equal_one_another_and_nothing_else() -> None:
    assert named(["", "", "a"], ALL) == {(0, 1): (1, 1)}

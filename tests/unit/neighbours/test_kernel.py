"""Near-duplicates against brute force and datasketch; what is compared, and what is cut."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from pedigree.neighbours import kernel
from pedigree.neighbours.kernel import BANDS, ROWS, find_near_duplicates, normalise

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_texts(count: int, seed: int) -> list[str]:
    """Return distinct texts of lower-case words, most of them with near-copies at all distances."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 8))) for _ in range(400)]
    texts: dict[str, None] = {}
    while len(texts) < count:
        base = draw.choices(words, k=draw.randint(3, 25))
        texts[" ".join(base)] = None
        for edits in range(draw.randint(0, 4)):
            copy = list(base)
            for _ in range(edits + 1):
                copy[draw.randrange(len(copy))] = draw.choice(words)
            texts[" ".join(copy)] = None
    return list(texts)[:count]


def grams(text: str) -> frozenset[str]:
    padded = f"  {text} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def jaccard(a: str, b: str) -> float:
    left, right = grams(a), grams(b)
    return len(left & right) / len(left | right)


def similar_pairs(texts: Sequence[str], similarity: float) -> dict[tuple[int, int], float]:
    """Every pair, by brute force."""
    sets = [grams(text) for text in texts]
    found: dict[tuple[int, int], float] = {}
    for i, left in enumerate(sets):
        for j in range(i + 1, len(sets)):
            value = len(left & sets[j]) / len(left | sets[j])
            if value >= similarity:
                found[i, j] = value
    return found


def pairs_of(texts: Sequence[str], similarity: float) -> dict[tuple[int, int], float]:
    found = find_near_duplicates(texts, similarity)
    pairs = [(int(a), int(b)) for a, b in found.pairs]
    assert pairs == sorted(set(pairs))
    assert all(a < b for a, b in pairs)
    return dict(zip(pairs, found.jaccard.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_every_pair_of_brute_force_is_found_and_every_similarity_is_exact(seed: int) -> None:
    texts = make_texts(400, seed)
    expected = similar_pairs(texts, 0.7)
    found = pairs_of(texts, 0.7)
    assert len(expected) > 100
    assert found == expected


def test_recall_falls_with_similarity_as_the_formula_says() -> None:
    texts = make_texts(500, 9)
    expected = similar_pairs(texts, 0.4)
    found = pairs_of(texts, 0.4)
    assert found.items() <= expected.items()
    for low, high in ((0.4, 0.5), (0.5, 0.6), (0.6, 0.7)):
        band = [s for s in expected.values() if low <= s < high]
        hits = sum(pair in found for pair, s in expected.items() if low <= s < high)
        predicted = float(np.mean([1 - (1 - s**ROWS) ** BANDS for s in band]))
        assert len(band) > 20
        deviation = (predicted * (1 - predicted) / len(band)) ** 0.5
        # Pairs share texts, so they are not independent draws: five deviations and a little.
        assert hits / len(band) > predicted - 5 * deviation - 0.02


def test_what_datasketch_finds_with_the_same_bands_is_found_too() -> None:
    texts = make_texts(300, 4)
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    theirs: set[tuple[int, int]] = set()
    for i, text in enumerate(texts):
        sketch = MinHash(num_perm=BANDS * ROWS)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        theirs |= {(int(j), i) for j in index.query(sketch)}
        index.insert(i, sketch)
    verified = {pair for pair in theirs if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.7}
    assert len(verified) > 50
    assert verified <= pairs_of(texts, 0.7).keys()


words = st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=5).map(" ".join)


@given(st.lists(words, max_size=12), st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_no_pair_below_the_similarity_is_returned_and_all_are_exact(
    texts: list[str], similarity: float
) -> None:
    found = find_near_duplicates(texts, similarity)
    distinct = list(dict.fromkeys(texts))
    assert [distinct[i] for i in found.document] == texts
    for (a, b), value in zip(found.pairs, found.jaccard, strict=True):
        assert value == jaccard(distinct[a], distinct[b]) >= similarity


def test_equal_texts_are_one_document_and_no_pair() -> None:
    found = find_near_duplicates(["a good film", "A  good, film!", "bad", "a good film"], 0.7)
    assert found.document.tolist() == [0, 0, 1, 0]
    assert found.pairs.shape == (0, 2)
    assert found.components().tolist() == [0, 0, 2, 0]


def test_trigrams_of_any_characters_never_collide() -> None:
    # Code points that share their low bits: a packing of fewer than 21 bits would confuse them.
    texts = [chr(0x61 + (1 << bit)) * 3 for bit in range(8, 20)] + ["a" * 3, chr(0x10FFFD) * 3]
    assert pairs_of(texts, 0.01).keys() <= similar_pairs(texts, 0.01).keys()
    for (a, b), value in pairs_of(texts, 0.01).items():
        assert value == jaccard(texts[a], texts[b])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Good Film", "a good film"),
        ("a good film!!!", "a, good; film."),
        ("a_good__film", "a good film"),
        ("a go\u200bod fi\u00adlm\u202e", "a good film"),
        ("\uff41 \uff47\uff4f\uff4f\uff44 \ufb01lm", "a good film"),
        ("STRASSE", "straße"),
        ("cafe\u0301", "café"),
        ("a\u00a0good\nfilm", "a good film"),
    ],
)
def test_what_hides_a_copy_from_the_eye_or_a_machine_is_folded(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_texts_of_punctuation_alone_stay_apart() -> None:
    assert len({normalise(text) for text in (":-)", ":-(", "!!!", "...", "😀", "😡")}) == 6
    assert normalise(" \u200b ") == ""


@given(st.text())
def test_a_normalised_text_has_no_invisible_characters_at_its_ends(text: str) -> None:
    done = normalise(text)
    assert done == done.strip()
    assert "\u200b" not in done


@pytest.mark.parametrize("texts", [[], [""], ["", "", " "], ["a"], ["a", ""]])
def test_no_texts_and_empty_texts_are_handled(texts: list[str]) -> None:
    found = find_near_duplicates(texts, 0.5)
    assert len(found.document) == len(found.components()) == len(texts)
    assert len(found.pairs) == 0


def test_components_join_rows_through_any_chain() -> None:
    texts = make_texts(200, 2)
    texts += [texts[5], texts[7].upper(), texts[5] + "!"]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, j in similar_pairs([normalise(text) for text in texts], 0.7):
        parent[max(root(i), root(j))] = min(root(i), root(j))
    found = find_near_duplicates(texts, 0.7).components().tolist()
    assert found == [root(i) for i in range(len(texts))]


def test_the_order_of_texts_changes_no_pair() -> None:
    texts = make_texts(200, 3)
    order = list(range(200))
    random.Random(0).shuffle(order)

    def named(ordered: list[str]) -> dict[frozenset[str], float]:
        return {
            frozenset((ordered[a], ordered[b])): s for (a, b), s in pairs_of(ordered, 0.6).items()
        }

    assert named(texts) == named([texts[i] for i in order])


def test_a_flood_of_near_copies_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    line = " ".join("".join(draw.choices(LETTERS, k=7)) for _ in range(12))
    texts = [f"{line} {i:03}" for i in range(210)]
    found = find_near_duplicates(texts, 0.7)
    assert found.cut_buckets > 0
    # Cut or not, the flood stays one group: each text is compared with those that follow it.
    assert set(found.components().tolist()) == {0}
    assert len(found.pairs) < 210 * 209 / 2
    monkeypatch.setattr(kernel, "MAX_BUCKET", 210)
    whole = find_near_duplicates(texts, 0.7)
    assert whole.cut_buckets == 0
    # More pairs than are verified in one block, each still exact.
    assert len(whole.pairs) == 210 * 209 / 2 > 20_000
    assert whole.jaccard.tolist() == [jaccard(texts[a], texts[b]) for a, b in whole.pairs]


def test_a_bucket_that_just_fits_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MAX_BUCKET", 4)
    draw = random.Random(0)
    line = " ".join("".join(draw.choices(LETTERS, k=7)) for _ in range(120))
    five = [f"{line} {i}" for i in range(5)]
    assert find_near_duplicates(five, 0.7).cut_buckets == 0
    assert len(find_near_duplicates(five, 0.7).pairs) == 10
    assert find_near_duplicates([*five, f"{line} 5"], 0.7).cut_buckets > 0

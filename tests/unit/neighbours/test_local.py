"""Near-duplicates of a table: against brute force and datasketch, in any order, cut or whole."""

import itertools
import random
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import PedigreeError
from pedigree.neighbours import kernel, local
from pedigree.neighbours.kernel import (
    CHARACTER_BANDS,
    CHARACTER_ROWS,
    MAX_BUCKET,
    WINDOW,
    WORD_BANDS,
    WORD_ROWS,
    list_digests,
    pair_bucket,
)
from pedigree.neighbours.local import NearDuplicates, find_near_duplicates
from pedigree.neighbours.normalisation import normalise_texts
from tests.conftest import REPOSITORY
from tests.unit.neighbours import oracle

Pair = tuple[bytes, bytes, int, int]


def digests_of(texts: Sequence[str]) -> list[bytes]:
    return list_digests(normalise_texts(texts))


def named(found: NearDuplicates) -> set[Pair]:
    """Pairs by content: what must not depend on the order of rows."""
    digests = found.digests.to_pylist()
    pairs = {
        (digests[a], digests[b], int(c), int(u))
        for (a, b), c, u in zip(found.pairs.tolist(), found.common, found.union, strict=True)
    }
    assert len(pairs) == len(found.pairs)
    return pairs


def expected_pairs(texts: Sequence[str], similarity: float) -> dict[tuple[bytes, bytes], Pair]:
    """Every pair of distinct texts, by brute force, keyed by their digests."""
    normal = list(dict.fromkeys(normalise_texts(texts).to_pylist()))
    digests = list_digests(pa.array(normal, pa.large_string()))
    result: dict[tuple[bytes, bytes], Pair] = {}
    for (i, j), (common, union) in oracle.similar_pairs(normal, similarity).items():
        first, second = sorted((digests[i], digests[j]))
        result[first, second] = (first, second, common, union)
    return result


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return oracle.make_texts(600, 1)


@pytest.mark.parametrize("similarity", [0.4, 0.7, 0.8])
@pytest.mark.parametrize("longest", [12, 60])
def test_brute_force_finds_hardly_more_and_nothing_else(longest: int, similarity: float) -> None:
    texts = oracle.make_texts(500, longest, longest=longest)
    every = expected_pairs(texts, similarity)
    found = named(find_near_duplicates(texts, similarity))
    assert found <= set(every.values())  # no false pair, and each count exact
    text_of = dict(zip(digests_of(texts), normalise_texts(texts).to_pylist(), strict=True))
    chances = np.array([oracle.chance_of_a_common_band(text_of[a], text_of[b]) for a, b in every])
    assert len(chances) > 60
    deviation = float(np.sqrt((chances * (1 - chances)).sum()))
    # Pairs share texts, so they are not independent draws: five deviations and a little.
    assert len(found) >= chances.sum() - 5 * deviation - 2
    if similarity >= 0.8:
        assert len(found) >= 0.99 * len(every)


def test_recall_at_each_similarity_is_what_the_formula_says() -> None:
    texts = [text for seed in range(3) for text in oracle.make_texts(400, 90 + seed, longest=40)]
    every = expected_pairs(texts, 0.3)
    found = named(find_near_duplicates(texts, 0.3))
    text_of = dict(zip(digests_of(texts), normalise_texts(texts).to_pylist(), strict=True))
    for low, high in ((0.3, 0.45), (0.45, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 1.01)):
        band = {k: p for k, p in every.items() if low <= p[2] / p[3] < high}
        hits = sum(pair in found for pair in band.values())
        chances = [oracle.chance_of_a_common_band(text_of[a], text_of[b]) for a, b in band]
        assert len(band) > 80, (low, len(band))
        predicted = float(np.mean(chances))
        error = (predicted * (1 - predicted) / len(band)) ** 0.5
        assert abs(hits / len(band) - predicted) <= 5 * error + 0.02, (low, predicted)


def sketch(values: frozenset[str], permutations: int) -> MinHash:
    made = MinHash(num_perm=permutations, seed=1)
    made.update_batch([value.encode() for value in values])
    return made


@pytest.mark.parametrize(
    ("bands", "rows", "view"),
    [
        (CHARACTER_BANDS, CHARACTER_ROWS, oracle.characters),
        (WORD_BANDS, WORD_ROWS, oracle.words),
    ],
)
def test_what_datasketch_finds_with_the_same_shingles_and_bands_is_found_too(
    corpus: list[str], bands: int, rows: int, view: object
) -> None:
    index = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
    digests = digests_of(corpus)
    theirs: set[tuple[bytes, bytes]] = set()
    for i, text in enumerate(normalise_texts(corpus).to_pylist()):
        values = view(text)  # type: ignore[operator]
        if values is None:
            continue
        made = sketch(values, bands * rows)
        for j in index.query(made):
            first, second = sorted((digests[i], digests[j]))
            theirs.add((first, second))
        index.insert(i, made)
    every = expected_pairs(corpus, 0.8)
    verified = {every[pair] for pair in theirs & every.keys()}
    assert len(verified) > 100
    missed = verified - named(find_near_duplicates(corpus, 0.8))
    assert len(missed) <= 0.003 * len(verified)


def test_digests_are_sorted_and_rows_point_at_theirs(corpus: list[str]) -> None:
    texts = [*corpus, corpus[3].upper(), corpus[0] + "!", "", "\u200b"]
    found = find_near_duplicates(texts, 0.7)
    digests = found.digests.to_pylist()
    assert digests == sorted(set(digests))
    assert [digests[d] for d in found.document] == digests_of(texts)
    assert found.document[-1] == found.document[-2]
    assert found.document[3] == found.document[600]
    pairs = [tuple(pair) for pair in found.pairs.tolist()]
    assert pairs == sorted(set(pairs))
    assert all(a < b for a, b in pairs)
    assert found.jaccard.tolist() == [c / u for c, u in zip(found.common, found.union, strict=True)]
    for column in (found.document, found.pairs, found.common, found.union):
        assert column.dtype == np.int64


def test_order_repetition_and_chunks_of_rows_change_no_pair(
    corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find_near_duplicates(corpus, 0.7)
    order = list(range(len(corpus)))
    random.Random(0).shuffle(order)
    shuffled = [corpus[i] for i in order]
    pieces = pa.chunked_array([corpus[:1], [], corpus[1:450], corpus[450:]], pa.string())
    sliced = pa.array(["drop", *corpus, "drop"]).slice(1, len(corpus))
    for other in (shuffled, corpus * 2, [*corpus, *shuffled[:70]], pieces, sliced):
        again = find_near_duplicates(other, 0.7)
        assert again.digests.equals(whole.digests)
        assert named(again) == named(whole)
        assert again.pairs.tolist() == whole.pairs.tolist()
        assert again.cut_buckets == whole.cut_buckets == 0
    chunks = local.iterate_chunks
    for size in (1, 1000):
        monkeypatch.setattr(local, "iterate_chunks", lambda texts, size=size: chunks(texts, size))
        again = find_near_duplicates(shuffled, 0.7)
        assert named(again) == named(whole)
        assert [again.digests[d].as_py() for d in again.document] == digests_of(shuffled)


def test_many_candidates_are_made_distinct_on_the_way(
    corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = named(find_near_duplicates(corpus, 0.7))
    monkeypatch.setattr(local, "_MAX_CODES", 10)
    assert named(find_near_duplicates(corpus, 0.7)) == whole


words = st.lists(
    st.sampled_from(["film", "was", "good", "a", "b", "long", "我", "喜"]), min_size=1, max_size=9
).map(" ".join)


@given(st.lists(words, max_size=20), st.lists(words, max_size=20), st.sampled_from([0.5, 0.7, 0.9]))
def test_a_pair_stays_found_when_rows_are_added(
    texts: list[str], more: list[str], similarity: float
) -> None:
    before = named(find_near_duplicates(texts, similarity))
    after = find_near_duplicates([*more, *texts], similarity)
    assert after.cut_buckets == 0
    assert before <= named(after)
    assert named(after) <= set(expected_pairs([*texts, *more], similarity).values())
    known = set(digests_of(texts))
    # And nothing new between the old ones: a pair depends on its two texts alone.
    assert {p for p in named(after) if p[0] in known and p[1] in known} == before


HIDDEN = "\u200b\u00ad\u2060\u200d\ufe0f\U000e0062"
CYRILLIC = str.maketrans("aceopxyi", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456")
GREEK = str.maketrans("OAEIT", "\u039f\u0391\u0395\u0399\u03a4")


def hide(text: str) -> str:
    return "".join(letter + HIDDEN[i % len(HIDDEN)] for i, letter in enumerate(text))


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        hide,
        lambda text: text.replace(" ", ""),
        lambda text: " ".join(text),
        lambda text: text.replace(" ", " -- "),
        lambda text: text.translate(CYRILLIC),
        lambda text: text.upper().translate(GREEK),
        lambda text: "".join(chr(ord(c) + 0xFEE0) if c != " " else "\u3000" for c in text),
        lambda text: "".join(f"{c}\u0336" for c in text),
        lambda text: f"{text} so",
        lambda text: " ".join(sorted(text.split())),
        lambda text: hide(text.replace(" ", "").translate(CYRILLIC)).upper(),
    ],
    ids=[
        "case", "invisible", "run together", "spread", "punctuation", "Cyrillic", "Greek",
        "fullwidth", "struck out", "word added", "words moved", "all at once",
    ],
)  # fmt: skip
def test_a_disguised_copy_finds_its_original(disguise: object) -> None:
    texts = oracle.make_texts(300, 17, shortest=10, longest=30)[::6]
    copies = [disguise(text) for text in texts]  # type: ignore[operator]
    found = find_near_duplicates([*texts, *copies], 0.8)
    component = found.components()
    assert (component[: len(texts)] == component[len(texts) :]).all()


def test_copies_in_chinese_find_their_originals_and_strangers_do_not() -> None:
    draw = random.Random(0)
    alphabet = [chr(code) for code in range(0x4E00, 0x4E00 + 800)]
    texts = ["".join(draw.choices(alphabet, k=draw.randint(30, 60))) for _ in range(100)]
    copies = [text[:9] + "坏" + text[10:] for text in texts]
    found = find_near_duplicates([*texts, *copies], 0.7)
    assert named(found) == set(expected_pairs([*texts, *copies], 0.7).values())
    assert len(found.pairs) == 100
    assert (found.components()[:100] == found.components()[100:]).all()


@pytest.mark.parametrize("texts", [[], [""], ["", "", " "], ["a"], ["a", ""], ["a", "b", "", "\0"]])
def test_no_texts_empty_ones_and_single_characters_are_handled(texts: list[str]) -> None:
    found = find_near_duplicates(texts, 0.5)
    assert len(found.document) == len(found.components()) == len(texts)
    assert len(found.digests) == len({text.strip(" \0") for text in texts})
    assert found.pairs.shape == (0, 2)
    assert found.cut_buckets == 0


def test_identical_rows_are_one_document_and_no_pair() -> None:
    found = find_near_duplicates(["the same", "The  same!"] * 5000, 0.7)
    assert set(found.document.tolist()) == {0}
    assert len(found.digests) == 1
    assert found.pairs.shape == (0, 2)
    assert set(found.components().tolist()) == {0}


def test_components_join_rows_through_any_chain() -> None:
    texts = oracle.make_texts(200, 2)
    texts += [texts[5], texts[7].upper(), texts[5] + "!"]
    found = find_near_duplicates(texts, 0.8)
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    near = {(a, b) for a, b, _, _ in named(found)}
    digests = digests_of(texts)
    for i, j in itertools.combinations(range(len(texts)), 2):
        a, b = sorted((digests[i], digests[j]))
        if a == b or (a, b) in near:
            parent[max(root(i), root(j))] = min(root(i), root(j))
    assert found.components().tolist() == [root(i) for i in range(len(texts))]
    assert len(near) > 50


def test_the_ends_of_a_chain_are_one_component_and_no_pair() -> None:
    letters = [f"{a}{b}{b}{a}" for a, b in itertools.permutations("bcdfghjklm", 2)]
    a, b, c = (" ".join(letters[i : i + 20]) for i in (0, 2, 4))
    found = find_near_duplicates([c, "something else", a, b], 0.7)
    assert found.components().tolist() == [0, 1, 0, 0]
    assert {(p[2], p[3]) for p in named(found)} <= {(18, 22), (68, 84)}
    assert len(found.pairs) == 2


def make_flood(count: int, length: int = 12) -> list[str]:
    draw = random.Random(0)
    line = " ".join("".join(draw.choices(oracle.LETTERS, k=7)) for _ in range(length))
    return [f"{line} {number:04}" for number in range(count)]


def test_a_flood_in_one_bucket_is_cut_counted_and_still_one_component(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = make_flood(210)
    found = find_near_duplicates([*texts, "a stranger to them all"], 0.7)
    assert found.cut_buckets > 0
    assert found.components().tolist() == [0] * 210 + [210]
    assert len(found.pairs) < 210 * 209 / 2
    every = set(expected_pairs(texts, 0.7).values())
    assert named(found) <= every
    shuffled = random.Random(1).sample(texts, len(texts))
    assert named(find_near_duplicates(shuffled, 0.7)) == named(find_near_duplicates(texts, 0.7))
    for module in (kernel, local):
        monkeypatch.setattr(module, "MAX_BUCKET", 210)
    whole = find_near_duplicates(texts, 0.7)
    assert whole.cut_buckets == 0
    assert len(whole.pairs) == 210 * 209 / 2 > 20_000
    assert named(whole) == every


def test_a_bucket_that_just_fits_is_not_cut() -> None:
    texts = make_flood(MAX_BUCKET, 300)
    found = find_near_duplicates(texts, 0.7)
    assert found.cut_buckets == 0
    assert len(found.pairs) == MAX_BUCKET * (MAX_BUCKET - 1) / 2
    assert find_near_duplicates(make_flood(MAX_BUCKET + 1, 300), 0.7).cut_buckets > 0


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_all_buckets_at_once_are_each_bucket_for_itself(
    kinds: list[int], factor: int, shuffle: random.Random
) -> None:
    keys = np.array([kind for kind in kinds for _ in range(factor)], np.uint64)
    ranks = list(range(len(keys)))
    shuffle.shuffle(ranks)
    rank = np.array(ranks)
    found, cut = local.find_candidates(np.stack([keys, keys[::-1]]), rank)
    expected: set[tuple[int, int]] = set()
    cuts = 0
    for band in (keys, keys[::-1]):
        for key in set(band.tolist()) - {kernel.NO_KEY}:
            members = np.sort(rank[band == key])
            left, right = pair_bucket(len(members))
            expected |= set(zip(members[left].tolist(), members[right].tolist(), strict=True))
            cuts += len(members) > MAX_BUCKET
    assert [tuple(pair) for pair in found.tolist()] == sorted(expected)
    assert cut == cuts


def test_buckets_around_the_bound_side_by_side_are_each_bucket_for_itself() -> None:
    draw = random.Random(0)
    sizes = (2, MAX_BUCKET - 1, MAX_BUCKET, MAX_BUCKET + 1, 3, MAX_BUCKET + WINDOW + 1, 200, 1)
    keys = np.array([n + 1 for n, size in enumerate(sizes) for _ in range(size)], np.uint64)
    rank = np.array(draw.sample(range(len(keys)), len(keys)))
    found, cut = local.find_candidates(keys[None], rank)
    expected: list[tuple[int, int]] = []
    for number in range(len(sizes)):
        members = np.sort(rank[keys == number + 1])
        left, right = pair_bucket(len(members))
        expected += zip(members[left].tolist(), members[right].tolist(), strict=True)
    assert [tuple(pair) for pair in found.tolist()] == sorted(expected)
    assert cut == 3


def test_a_similarity_is_reached_by_the_pair_that_equals_it() -> None:
    one = " ".join(f"{a}{a}{b}" for a, b in itertools.permutations("bcdfg", 2))
    other = f"{one} xyz qrs"
    words = set(one.split())
    exact = Fraction(len(words), len(words) + 2)
    joined = oracle.overlap(oracle.views(one), oracle.views(other))
    assert Fraction(*joined) == exact
    assert len(find_near_duplicates([one, other], float(exact)).pairs) == 1
    assert len(find_near_duplicates([one, other], float(exact) + 1e-5).pairs) == 0


@pytest.mark.parametrize("texts", [["a", None], [1, 2], pa.array([b"a"])])
def test_what_is_no_text_is_refused(texts: object) -> None:
    with pytest.raises(PedigreeError):
        find_near_duplicates(texts, 0.7)  # type: ignore[arg-type]


_MEASURE = """
import resource, time
from pedigree.neighbours.local import find_near_duplicates
find_near_duplicates(["warm", "up"], .7)
{make}
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
found = find_near_duplicates(texts, .7)
seconds = time.process_time() - started
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(grown, seconds, found.cut_buckets, len(found.pairs), len(set(found.components().tolist())))
"""


def measure(make: str) -> tuple[float, float, int, int, int]:
    """Return the growth in MiB, CPU-seconds, cut buckets, pairs and components."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE.format(make=make)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, seconds, cut, pairs, components = done.stdout.split()
    return float(grown), float(seconds), int(cut), int(pairs), int(components)


linux = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")


@linux
@pytest.mark.slow
def test_a_bucket_of_a_hundred_thousand_rows_takes_bounded_time_and_memory() -> None:
    line = "this is one line that somebody repeats again and again with a number at its very end"
    grown, seconds, cut, pairs, components = measure(
        f"texts = [f'{line} {{i:06}}' for i in range(100_000)]"
    )
    assert cut > 0
    assert components == 1
    assert pairs <= 36 * 9 * 100_000
    assert seconds < 300
    assert grown < 3000


@linux
@pytest.mark.slow
def test_one_document_of_ten_megabytes_takes_bounded_time_and_memory() -> None:
    grown, seconds, cut, pairs, components = measure(
        "import random\\nrandom.seed(0)\\n"
        "words = [''.join(random.choices('abcdefghij', k=6)) for _ in range(1_500_000)]\\n"
        "texts = [' '.join(words), 'short', ' '.join(words[:-20_000]), 'another text']".replace(
            "\\n", "\n"
        )
    )
    assert (cut, pairs, components) == (0, 1, 3)
    assert seconds < 60
    assert grown < 3000

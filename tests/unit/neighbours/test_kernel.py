"""The kernel's integers: fixed for good, equal to Python's sets, agreeing as often as they say."""

import hashlib
import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.neighbours import kernel
from pedigree.neighbours.kernel import (
    BANDS,
    CHARACTER_BANDS,
    CHARACTER_ROWS,
    MAX_BUCKET,
    MAX_WORD_TEXT,
    MAX_WORDS,
    NO_KEY,
    SHINGLE,
    WINDOW,
    WORD_BANDS,
    WORD_ROWS,
    band_keys,
    character_shingles,
    digest_documents,
    list_digests,
    pair_bucket,
    word_hashes,
)
from pedigree.neighbours.normalisation import Offsets
from tests.unit.neighbours import oracle

GOLDEN = [
    "",
    "a",
    "good",
    "a good film",
    "我 喜 欢",
    "é \U0001d4b3 क",
    "word " * 40 + "end",
    "x" * 1025,
]
DIGESTS = [
    "e3b0c44298fc1c149afbf4c8996fb924",
    "ca978112ca1bbdcafac231b39a23dc4d",
    "770e607624d689265ca6c44884d0807d",
    "5392fa171ed975d79176ae8f285d0cfb",
    "c06f4e706e2a621a6935dfee83e771fc",
    "6bb9eed017e4178ef0c2ad2c90194da1",
    "506d942e9a544fc2c3c0e1526c886a49",
    "c6d8e9905300876046729949cc95c238",
]
# The first 8 bytes of the sha256 of each row of keys, as little-endian integers.
KEYS = [
    "55a4dcadef82adad",
    "7a4a9653f57a4224",
    "a8065891a4128a76",
    "bf7ef2e5bee463fe",
    "27a2118e83cf4ef2",
    "331c4eeeba190023",
    "9cf3972c6ff9d679",
    "6bea5a073e6ca1e7",
]
KEYS_OF_A_GOOD_FILM = [
    "0x741b4ae32d0e8c2",
    "0x83d6d2bc199ffde",
    "0x84ffc36d52e84cb5",
    "0x3da897e40f1285a6",
    "0x2f388389a3fd3bdd",
    "0x7efa2477b93d471a",
    "0x55e2b1f91680ba91",
    "0xe51379884aa69a74",
    "0xa9c182ff04945539",
    "0x9e0d19a691a87e92",
    "0xf913ec5c6796d50e",
    "0xf41439fde7e070d4",
    "0xbb58c21ffc369008",
    "0x22497d66959d998d",
    "0xbde0b836c5ea6e45",
    "0x9817a4ca19b26f02",
    "0x63ef675853a760e3",
    "0xa259f1d37a772ebd",
    "0xf43b7fd5af144370",
    "0xe7c8282d4c854273",
    "0xaa098c6dbcc9ffe0",
    "0x2ddbfeaadd553075",
    "0xa22cdf27ae379daf",
    "0xb579a481d77886ea",
    "0x268fc00d9f5e27b6",
    "0xe21349e3b286fbc1",
    "0x91343c2cc95861ae",
    "0xb1574ee134a81068",
    "0x9e4d3c0150f7bcad",
    "0x216cc832ea9070fd",
    "0x814f1ebada424a43",
    "0xef88700a3828c68",
    "0x6d9b4812cdf558b1",
    "0x30ecc0fd63d95ca3",
    "0x3f0be96f317399b8",
    "0x2988591de75dddda",
]


def strings(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def rows_of(hashes: np.ndarray, offsets: Offsets) -> list[list[int]]:
    assert offsets[0] == 0
    assert offsets[-1] == len(hashes)
    return [hashes[a:b].tolist() for a, b in itertools.pairwise(offsets.tolist())]


def test_the_integers_of_fixed_texts_never_change() -> None:
    # Indexes on disk and in Redis hold these: another value means another format.
    assert [digest.hex() for digest in list_digests(strings(GOLDEN))] == DIGESTS
    keys = band_keys(strings(GOLDEN))
    assert keys.dtype == np.uint64
    assert keys.shape == (len(GOLDEN), BANDS)
    assert [hex(key) for key in keys[3].tolist()] == KEYS_OF_A_GOOD_FILM
    told = [hashlib.sha256(row.astype("<u8").tobytes()).hexdigest()[:16] for row in keys]
    assert told == KEYS


def test_digests_are_the_first_half_of_sha256() -> None:
    expected = [hashlib.sha256(text.encode()).digest()[:16] for text in GOLDEN]
    assert list_digests(strings(GOLDEN)) == expected
    column = digest_documents(strings(GOLDEN))
    assert column.type == pa.binary(16)
    assert column.to_pylist() == expected
    assert digest_documents(strings(["drop", *GOLDEN]).slice(1)).to_pylist() == expected
    assert digest_documents(strings([])).to_pylist() == []


TEXTS = st.lists(
    st.lists(st.text("abcé我\U0001d4b3", min_size=1, max_size=7), max_size=9).map(" ".join),
    max_size=8,
)


@pytest.mark.parametrize("width", [np.uint32, np.uint64])
@given(texts=TEXTS)
def test_hashed_shingles_are_equal_where_those_of_python_are(
    width: type[np.unsignedinteger], texts: list[str]
) -> None:
    hashed = rows_of(*character_shingles(strings(texts), width))
    seen: dict[str, int] = {}
    assert len(hashed) == len(texts)
    for text, values in zip(texts, hashed, strict=True):
        joined = text.replace(" ", "")
        grams = [joined[i : i + SHINGLE] for i in range(max(len(joined) - SHINGLE + 1, 1))]
        # In order and repeated ones too; one gram, one value.
        assert len(values) == len(grams)
        assert [seen.setdefault(g, v) for g, v in zip(grams, values, strict=True)] == values
        assert set(grams) == oracle.characters(text)
    assert len(set(seen.values())) == len(seen)


@pytest.mark.parametrize("width", [np.uint32, np.uint64])
@given(texts=TEXTS)
def test_hashed_words_are_equal_where_those_of_python_are(
    width: type[np.unsignedinteger], texts: list[str]
) -> None:
    rows, *hashed = word_hashes(strings(texts), width)
    assert rows.tolist() == [row for row, text in enumerate(texts) if text]
    seen: dict[str, int] = {}
    for row, values in zip(rows.tolist(), rows_of(*hashed), strict=True):
        words = texts[row].split(" ")
        assert len(values) == len(words)
        assert [seen.setdefault(w, v) for w, v in zip(words, values, strict=True)] == values
    assert len(set(seen.values())) == len(seen)


def test_wide_hashes_of_many_texts_have_the_similarities_of_their_sets() -> None:
    texts = oracle.make_texts(150, 3)
    grams = [set(values) for values in rows_of(*character_shingles(strings(texts), np.uint64))]
    rows, *hashed = word_hashes(strings(texts), np.uint64)
    words = dict(zip(rows.tolist(), map(set, rows_of(*hashed)), strict=True))
    assert set(words) == {row for row, text in enumerate(texts) if oracle.words(text)}
    assert 50 < len(words) < 150
    for i, j in itertools.combinations(range(150), 2):
        a, b = oracle.characters(texts[i]), oracle.characters(texts[j])
        assert (len(grams[i] & grams[j]), len(grams[i] | grams[j])) == (len(a & b), len(a | b))
        c, d = oracle.words(texts[i]), oracle.words(texts[j])
        if c is not None and d is not None:
            expected = len(c & d), len(c | d)
            assert (len(words[i] & words[j]), len(words[i] | words[j])) == expected


def test_a_short_text_is_no_part_of_a_longer_one() -> None:
    texts = ["a", "aa", "aaa", "aaaa", "aaaaa", ""]
    grams = rows_of(*character_shingles(strings(texts), np.uint64))
    assert all(len(values) == 1 for values in grams)
    assert len({values[0] for values in grams}) == 6


@pytest.mark.parametrize(
    ("text", "has_words"),
    [
        ("", False),
        ("w", True),
        (" ".join(["w"] * MAX_WORDS), True),
        (" ".join(["w"] * (MAX_WORDS + 1)), False),
        ("x" * MAX_WORD_TEXT, True),
        ("x" * (MAX_WORD_TEXT + 1), False),
    ],
)
def test_a_text_too_long_for_words_has_no_key_there(text: str, has_words: bool) -> None:
    keys = band_keys(strings(["short one", text, "another"]))
    assert (keys[:, :CHARACTER_BANDS] != NO_KEY).all()
    assert (keys[[0, 2]] != NO_KEY).all()
    assert (keys[1, CHARACTER_BANDS:] != NO_KEY).all() == has_words
    assert (keys[1, CHARACTER_BANDS:] == NO_KEY).all() == (not has_words)


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_the_borders_of_blocks_change_no_key(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*oracle.make_texts(60, 5), *GOLDEN, "我 喜 欢 " * 9 + "我", *oracle.make_texts(20, 6)]
    whole = band_keys(strings(texts))
    monkeypatch.setattr(kernel, "_BLOCK_BYTES", size)
    assert (band_keys(strings(texts)) == whole).all()
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    assert (band_keys(strings([texts[i] for i in order])) == whole[order]).all()
    assert (band_keys(strings(["drop", *texts]).slice(1)) == whole).all()
    assert band_keys(strings([])).shape == (0, BANDS)


def test_the_number_of_a_band_is_part_of_its_key() -> None:
    # One shingle and one word: all hash functions see the same single value.
    keys = band_keys(strings(["a", "b"]))
    assert len(set(keys.ravel().tolist())) == keys.size


def make_pairs(shared: int, count: int, length: int) -> list[str]:
    """Return texts, two and two, that share `shared` of `length` five-letter words.

    No two words share a letter sequence across their border: each view is under control.
    """
    draw = random.Random(shared)
    texts: list[str] = []
    for _ in range(count):
        words = ["".join(draw.choices(oracle.LETTERS, k=5)) for _ in range(2 * length)]
        texts.append(" ".join(words[:length]))
        texts.append(" ".join([*words[:shared], *words[length : 2 * length - shared]]))
    return texts


@pytest.mark.parametrize("shared", [15, 18, 20, 22])
@pytest.mark.parametrize(
    ("first", "bands", "rows", "view"),
    [
        (0, CHARACTER_BANDS, CHARACTER_ROWS, oracle.characters),
        (CHARACTER_BANDS, WORD_BANDS, WORD_ROWS, oracle.words),
    ],
)
def test_bands_agree_as_often_as_the_formula_says(
    shared: int, first: int, bands: int, rows: int, view: object
) -> None:
    texts = make_pairs(shared, 1000, 25)
    keys = band_keys(strings(texts))[:, first : first + bands]
    agree = keys[0::2] == keys[1::2]
    sets = [view(text) for text in texts]  # type: ignore[operator]
    alike = np.array([len(a & b) / len(a | b) for a, b in zip(sets[0::2], sets[1::2], strict=True)])
    each = alike**rows
    predicted = float(np.mean(1 - (1 - each) ** bands))
    measured = float(np.mean(agree.any(axis=1)))
    error = (predicted * (1 - predicted) / 1000) ** 0.5
    assert abs(measured - predicted) < 4 * error + 0.005, (measured, predicted)
    # And each band for itself, so that none is idle.
    error = (float(each.mean()) * (1 - float(each.mean())) / 1000) ** 0.5
    assert (np.abs(agree.mean(axis=0) - each.mean()) < 5 * error).all()


@pytest.mark.parametrize("size", [0, 1, 2, 3, MAX_BUCKET - 1, MAX_BUCKET])
def test_all_pairs_of_a_small_bucket_are_compared(size: int) -> None:
    left, right = pair_bucket(size)
    pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    assert sorted(pairs) == list(itertools.combinations(range(size), 2))


@pytest.mark.parametrize("size", [MAX_BUCKET + 1, MAX_BUCKET + WINDOW, 500])
def test_a_large_bucket_is_bounded_and_stays_connected(size: int) -> None:
    left, right = pair_bucket(size)
    pairs = set(zip(left.tolist(), right.tolist(), strict=True))
    assert len(pairs) == len(left) <= size * (WINDOW + 1)
    assert all(0 <= a < b < size for a, b in pairs)
    expected = {
        (a, b) for a, b in itertools.combinations(range(size), 2) if a == 0 or b - a <= WINDOW
    }
    assert pairs == expected

"""What the engine computes, said again in plain Python: slow, and without its code."""

import random
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from confusable_homoglyphs import confusables
from scipy.sparse import csr_array

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHINGLE, MAX_WORDS, MAX_WORD_TEXT = 5, 32, 1024
Count = tuple[int, int]
View = frozenset[str]


def make_texts(count: int, seed: int, shortest: int = 3, longest: int = 45) -> list[str]:
    """Return distinct texts of lower-case words, most of them with near-copies at all distances."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 8))) for _ in range(400)]
    texts: dict[str, None] = {}
    while len(texts) < count:
        base = draw.choices(words, k=draw.randint(shortest, longest))
        texts[" ".join(base)] = None
        for edits in range(draw.randint(0, 4)):
            copy = list(base)
            for _ in range(edits + 1):
                copy[draw.randrange(len(copy))] = draw.choice(words)
            texts[" ".join(copy)] = None
    return list(texts)[:count]


def characters(text: str) -> View:
    """The 5-grams of a normalised text without its spaces; a shorter one is one by itself."""
    joined = text.replace(" ", "")
    return frozenset(joined[i : i + SHINGLE] for i in range(max(len(joined) - SHINGLE + 1, 1)))


def words(text: str) -> View | None:
    """The words of a normalised text; None for one too long, or without a word."""
    found = text.split(" ") if text else []
    long = len(found) > MAX_WORDS or len(text.encode()) > MAX_WORD_TEXT
    return None if long or not found else frozenset(found)


def views(text: str) -> tuple[View, View | None]:
    return characters(text), words(text)


def overlap(one: tuple[View, View | None], other: tuple[View, View | None]) -> Count:
    """(common, union) in the view in which two texts are more alike; of characters if equal."""
    a, b = one[0], other[0]
    best = len(a & b), len(a | b)
    if one[1] is not None and other[1] is not None:
        common, union = len(one[1] & other[1]), len(one[1] | other[1])
        if common * best[1] > best[0] * union:
            best = common, union
    return best


def _counts(sets: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    """(common, union) of all pairs of sets, by a product of their incidence matrices."""
    numbers = {value: n for n, value in enumerate(sorted(frozenset().union(*sets)))}
    rows = [row for row, values in enumerate(sets) for _ in values]
    columns = [numbers[value] for values in sets for value in values]
    shape = (len(sets), max(len(numbers), 1))
    matrix = csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape)
    common = (matrix @ matrix.T).toarray()
    sizes = np.array([len(values) for values in sets], np.int64)
    return common, sizes[:, None] + sizes[None, :] - common


def similar_pairs(texts: Sequence[str], similarity: float) -> dict[tuple[int, int], Count]:
    """Every pair of normalised texts that reaches the similarity, with its counts."""
    if not texts:
        return {}
    least = Fraction(similarity).limit_denominator(1_000_000)
    common, union = _counts([characters(text) for text in texts])
    spoken = [words(text) for text in texts]
    other, either = _counts([values or frozenset() for values in spoken])
    both = np.array([values is not None for values in spoken])
    better = both[:, None] & both[None, :] & (other * union > common * either)
    common, union = np.where(better, other, common), np.where(better, either, union)
    near = np.triu(common * least.denominator >= union * least.numerator, 1)
    return {(i, j): (int(common[i, j]), int(union[i, j])) for i, j in np.argwhere(near).tolist()}


def chance_of_a_common_band(one: str, other: str) -> float:
    """1 - (1 - s^rows)^bands over both views, from sets."""
    left, right = views(one), views(other)
    missed = 1.0
    for a, b, bands, rows in ((left[0], right[0], 12, 4), (left[1], right[1], 24, 5)):
        if a is not None and b is not None:
            missed *= (1 - (len(a & b) / len(a | b)) ** rows) ** bands
    return 1 - missed


_INVISIBLE = {
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE1000),
}
_UNSPACED = [
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F), (0x20000, 0x3FFFF),
]  # fmt: skip


_CAPITALS: dict[str, list[str]] = defaultdict(list)
for _one in confusables.confusables_data:
    if len(_one) == 1 and not _one.isascii() and _one.casefold() != _one:
        _CAPITALS[_one.casefold()].append(_one)


def look_alike(letter: str) -> str:
    """The ASCII letter or digit that a folded letter looks like, in its own or in upper case."""
    for seen in (letter, *_CAPITALS[letter][::-1]):
        twins = [twin["c"] for twin in confusables.confusables_data.get(seen, [])]
        plain = [twin for twin in twins if len(twin) == 1 and twin.isascii()]
        if plain and plain[0].isalnum():
            return plain[0].lower()
    return letter


def normalise(text: str) -> str:
    """One text, character by character."""
    text = text.replace("\0", " ")
    pieces: list[str] = []
    for character in unicodedata.normalize("NFKD", text).casefold():
        category, code = unicodedata.category(character), ord(character)
        mark = category == "Me" or (category == "Mn" and unicodedata.combining(character) > 0)
        if mark or category in ("Cf", "Cs") or code in _INVISIBLE:
            continue
        if category[0] not in "LMN":
            pieces.append(" ")
        elif any(low <= code <= high for low, high in _UNSPACED):
            pieces.append(f" {look_alike(character)} ")
        else:
            pieces.append(character if character.isascii() else look_alike(character))
    folded = " ".join("".join(pieces).split(" ")).split()
    if folded:
        return " ".join(folded)
    seen = unicodedata.normalize("NFKC", text).casefold()
    kept = [c for c in seen if unicodedata.category(c) != "Cf" and ord(c) not in _INVISIBLE]
    return " ".join("".join(kept).split())

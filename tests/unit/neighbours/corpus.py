"""A small corpus with copies, and its near-duplicates by brute force."""

import hashlib
import random
from fractions import Fraction
from itertools import combinations

import pyarrow as pa

from pedigree.neighbours.normalisation import normalise_texts
from pedigree.neighbours.pairs import PAIRS

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_words(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choices(LETTERS, k=draw.randint(3, 9))) for _ in range(count)]


def make_texts(seed: int, count: int) -> list[str]:
    """Texts of 20 to 28 words; some come again with a word or two changed, or in capitals."""
    draw = random.Random(seed)
    words = make_words(draw, 3000)
    texts: list[str] = []
    while len(texts) < count:
        text = draw.choices(words, k=draw.randint(20, 28))
        texts.append(" ".join(text))
        for changes in range(draw.choice([0, 0, 0, 1, 2])):
            edited = list(text)
            for _ in range(changes + 1):
                edited[draw.randrange(len(edited))] = draw.choice(words)
            texts.append(" ".join(edited))
        if draw.random() < 0.1:
            texts.append(" ".join(text).upper() + "!")
    draw.shuffle(texts)
    return texts[:count]


def normal(text: str) -> str:
    return str(normalise_texts(pa.array([text], pa.large_string()))[0])


def document_of(text: str) -> bytes:
    return hashlib.sha256(normal(text).encode()).digest()[:16]


def views(text: str) -> tuple[set[str], set[str]]:
    """The sets that a text is compared by: 5-grams without spaces, and words where it is short."""
    plain, words = normal(text), normal(text).split(" ")
    letters = plain.replace(" ", "").ljust(5, "\0")
    grams = {letters[i : i + 5] for i in range(len(letters) - 4)}
    short = len(words) <= 32 and len(plain.encode()) <= 1024
    return grams, set(words) if short else set()


def compare(one: str, other: str) -> tuple[int, int]:
    """(common, union) in the view in which two texts are more alike; characters where equal."""
    best = (0, 1)
    for a, b in zip(views(one), views(other), strict=True):
        if a and b and Fraction(len(a & b), len(a | b)) > Fraction(*best):
            best = (len(a & b), len(a | b))
    return best


def brute_force(texts: list[str], similarity: Fraction) -> pa.Table:
    """Every pair of distinct documents that is alike enough."""
    distinct = {document_of(text): text for text in texts}
    sets = {document: views(text) for document, text in distinct.items()}
    rows = []
    for a, b in combinations(sorted(distinct), 2):
        if any(x & y for x, y in zip(sets[a], sets[b], strict=True)):
            common, union = compare(distinct[a], distinct[b])
            if common * similarity.denominator >= union * similarity.numerator:
                rows.append({"document_a": a, "document_b": b, "common": common, "union": union})
    return pa.Table.from_pylist(rows, PAIRS)


def components(texts: list[str], pairs: pa.Table) -> list[bytes]:
    """For each text the smallest document that it is connected with, by union and find."""
    parent = {document_of(text): document_of(text) for text in texts}

    def find(one: bytes) -> bytes:
        while parent[one] != one:
            one = parent[one]
        return one

    for pair in pairs.to_pylist():
        low, high = sorted((find(pair["document_a"]), find(pair["document_b"])))
        parent[high] = low
    return [find(document_of(text)) for text in texts]

"""Texts as numbers, the same for every check that learns: TF-IDF of words and characters.

`arrange` puts the labelled rows of a table into an order that depends on nothing but their texts,
so that whatever is learned from them is the same for a shuffled table or other label names;
`featurise` counts word and character n-grams in it, by integer hashing in numpy::

    >>> corpus = arrange(["a bad film", "a good film", "good"], ["-", "+", "+"])
    >>> corpus.names, corpus.label.tolist()       # the rarest label first, whatever its name
    (('-', '+'), [...])
    >>> featurise(corpus.texts).matrix.shape
    (3, ...)

No hash depends on PYTHONHASHSEED, no sum on the order of the rows.
"""

import hashlib
import itertools
import unicodedata
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Booleans: TypeAlias = npt.NDArray[np.bool_]

# What is read of a long document: the cost of a check stays linear in rows, and one 10 MB document
# cannot outweigh the table. The middle is left out; a mean document of the corpora measured has
# 100 characters.
MAX_CHARACTERS = 8_000
BLOCK_CHARACTERS = 1 << 22
COLUMNS = 1 << 20
CHARACTER_GRAM = 4
# A 64-bit odd constant (the golden ratio) and those of splitmix64 (Steele, Lea and Flood 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
SPACE, WORD, MARK, SIGN = 0, 1, 2, 3
# Scripts written without spaces: each character is a token (Thai to Khmer, kana, CJK, Hangul no).
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF),
             (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x2FA1F))  # fmt: skip


@dataclass(frozen=True)
class LabelledTexts:
    """The labelled rows of a table in canonical order: by digest of the text, then by label.

    Attributes:
        texts: the texts, long ones shortened to `MAX_CHARACTERS`.
        row: (rows,) int64, where each stood in the table.
        label: (rows,) int64, its label as an index into `names`.
        names: the labels, rarest first, ties by the digest of their texts.
        digest: (rows,) uint64, of the whole text; rows with equal digests are equal texts.
        shortened: how many texts were not read whole.
    """

    texts: list[str]
    row: Integers
    label: Integers
    names: tuple[str, ...]
    digest: Hashes
    shortened: int

    def sizes(self) -> Integers:
        """Return (labels,) the number of rows of each label."""
        return np.bincount(self.label, minlength=len(self.names))

    def renamed(self, names: tuple[str, ...]) -> "LabelledTexts":
        """Return the same rows with labels as indices into other names, which hold all of these."""
        place = {name: index for index, name in enumerate(names)}
        index = np.asarray([place[name] for name in self.names], np.int64)
        return replace(self, names=names, label=index[self.label] if len(index) else self.label)


def arrange(texts: Sequence[str], labels: Sequence[str | None]) -> LabelledTexts:
    """Return the labelled rows in an order that neither row order nor label names change.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels; rows without one are left out.
    """
    kept = [row for row, label in enumerate(labels) if label is not None]
    digest = np.fromiter((_digest(texts[row]) for row in kept), np.uint64, count=len(kept))
    by_label: dict[str, list[int]] = {}
    for place, row in enumerate(kept):
        by_label.setdefault(str(labels[row]), []).append(place)
    ranks = {
        name: (len(places), np.sort(digest[places]).tobytes()) for name, places in by_label.items()
    }
    names = tuple(sorted(by_label, key=lambda name: (*ranks[name], name)))
    label = np.empty(len(kept), np.int64)
    for index, name in enumerate(names):
        label[by_label[name]] = index
    order = np.lexsort((label, digest))
    ordered = [kept[place] for place in order.tolist()]
    return LabelledTexts(
        [_shorten(str(texts[row])) for row in ordered],
        np.asarray(ordered, np.int64),
        label[order],
        names,
        digest[order],
        sum(len(texts[row]) > MAX_CHARACTERS for row in kept),
    )


def _digest(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _shorten(text: str) -> str:
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} {text[-half:]}"


def mix(values: Hashes) -> Hashes:
    """Return well-spread 64-bit hashes of 64-bit integers (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * _MIX_1
        values = (values ^ (values >> np.uint64(27))) * _MIX_2
        return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Tokens:
    """The tokens of several texts end to end: words, runs of one mark, single CJK characters.

    Attributes:
        row: (tokens,) int64, the text that each belongs to.
        start: (tokens,) int64, its first code point in `points`.
        length: (tokens,) int64, in code points.
        kind: (tokens,) int64, WORD, MARK (punctuation, symbols) or SIGN (a script without spaces).
        hash: (tokens,) uint64, of its code points.
        points: (characters,) uint64, the code points of all texts; a space stands between two.
        owner: (characters,) int64, the text of each code point.
        spaced: (characters,) bool, whether it is white space.
    """

    row: Integers
    start: Integers
    length: Integers
    kind: Integers
    hash: Hashes
    points: Hashes
    owner: Integers
    spaced: Booleans


def tokenise(texts: Sequence[str]) -> Tokens:
    """Split texts into tokens without a loop over characters."""
    padded = [f" {text} " for text in texts]
    lengths = np.fromiter(map(len, padded), np.int64, count=len(padded))
    data = "".join(padded).encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(data, np.uint32).astype(np.int64)
    kind = _classify(points)
    owner = np.repeat(np.arange(len(padded)), lengths)
    begins = np.ones(len(points), bool)
    same = (kind[1:] == kind[:-1]) & (kind[1:] != SIGN)
    same &= (kind[1:] != MARK) | (points[1:] == points[:-1])
    begins[1:] = ~same
    edges = np.flatnonzero(begins)
    length = np.diff(np.append(edges, len(points)))
    place = np.arange(len(points)) - np.repeat(edges, length)
    spread = mix(points.astype(np.uint64) + _scale(place + 1))
    total = np.add.reduceat(spread, edges) if len(edges) else np.empty(0, np.uint64)
    real = kind[edges] != SPACE
    return Tokens(
        owner[edges[real]],
        edges[real],
        length[real],
        kind[edges[real]],
        mix(total[real]),
        points.astype(np.uint64),
        owner,
        kind == SPACE,
    )


def _scale(values: Integers) -> Hashes:
    with np.errstate(over="ignore"):
        return values.astype(np.uint64) * _GOLDEN


def _classify(points: Integers) -> Integers:
    """Return the kind of each code point: SPACE, WORD, MARK or SIGN."""
    seen = np.zeros(0x110000, bool)
    seen[points] = True
    kinds = np.zeros(0x110000, np.int8)
    for point in np.flatnonzero(seen).tolist():
        kinds[point] = _kind(point)
    return kinds[points].astype(np.int64)


def _kind(point: int) -> int:
    category = unicodedata.category(chr(point))
    if category[0] == "Z" or category in ("Cc", "Cf"):
        return SPACE
    if any(low <= point <= high for low, high in _UNSPACED):
        return SIGN
    return WORD if category[0] in "LMN" else MARK


def fold(text: str) -> str:
    """Return what content is compared by: compatibility forms, no case, no invisible characters."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")


@dataclass(frozen=True)
class Features:
    """TF-IDF of texts.

    Attributes:
        matrix: (rows, columns) float64: first the words and word pairs, then the characters.
        word_hash: (word columns,) int64, the hash of the word or pair behind each.
    """

    matrix: "csr_array"
    word_hash: Integers


def featurise(texts: Sequence[str]) -> Features:
    """Return TF-IDF of words, word pairs and character 4-grams.

    Terms in one row only say nothing about another and are dropped. Words and characters are
    normalised each to length 1, so that neither drowns the other.
    """
    from scipy.sparse import csr_array, hstack

    words: list[Integers] = []
    characters: list[Integers] = []
    for first, block in split_blocks(texts):
        tokens = tokenise([fold(text) for text in block])
        words.append(_count_words(tokens, first))
        characters.append(_count_characters(tokens, first))
    word_matrix, word_hash = weigh(join(words), len(texts))
    character_matrix, _ = weigh(join(characters), len(texts))
    joined = csr_array(hstack([word_matrix, character_matrix], format="csr"))
    return Features(joined, word_hash)


def name_word(word_hash: int, texts: Sequence[str]) -> str:
    """Return the word or pair of words with that hash, as the texts have it."""
    for text in texts:
        folded = f" {fold(text)} "
        tokens = tokenise([fold(text)])
        words = [
            folded[start : start + length]
            for start, length in zip(tokens.start.tolist(), tokens.length.tolist(), strict=True)
        ]
        columns = tokens.hash & np.uint64(COLUMNS - 1)
        for place in np.flatnonzero(columns == word_hash).tolist():
            return words[place]
        pairs = _pair(tokens.hash) & np.uint64(COLUMNS - 1)
        for place in np.flatnonzero(pairs == word_hash).tolist():
            return f"{words[place]} {words[place + 1]}"
    return f"term {word_hash}"


def _pair(hashes: Hashes) -> Hashes:
    """Return the hash of each token with the next."""
    with np.errstate(over="ignore"):
        return mix(hashes[:-1] * _GOLDEN + hashes[1:])


def join_embeddings(features: Features, embeddings: Floats) -> Features:
    """Return features with embeddings beside them, centred and of mean length .5.

    On SST-2 half the length of a block of words was best (.449 of flips against .41 at full).
    """
    from scipy.sparse import csr_array, hstack

    centred = np.asarray(embeddings, np.float64)
    if not np.isfinite(centred).all():
        raise PedigreeError("The embeddings have values that are not finite: compute them again.")
    centred = centred - centred.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=1).mean()) or 1.0
    joined = hstack([features.matrix, csr_array(centred * (0.5 / length))], format="csr")
    return Features(csr_array(joined), features.word_hash)


@contextmanager
def single_thread() -> Generator[None]:
    """Keep BLAS in one thread: a sum split over threads has other bits."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def count_columns(matrix: "csr_array") -> int:
    """Return the number of columns of a matrix."""
    return int(cast(tuple[int, int], matrix.shape)[1])


def split_blocks(texts: Sequence[str]) -> list[tuple[int, Sequence[str]]]:
    """Split the rows into blocks of bounded size."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, count=len(texts)) + 2)
    marks = np.flatnonzero(np.diff(ends // BLOCK_CHARACTERS, prepend=0)).tolist()
    edges = sorted({0, *marks, len(texts)})
    return [(a, texts[a:b]) for a, b in itertools.pairwise(edges)]


def _count_words(tokens: Tokens, first: int) -> Integers:
    """Return the words and word pairs of a block as sorted codes `row * COLUMNS + column`."""
    pair = tokens.row[1:] == tokens.row[:-1]
    row = np.concatenate([tokens.row, tokens.row[1:][pair]])
    return encode(row + first, np.concatenate([tokens.hash, _pair(tokens.hash)[pair]]))


def _count_characters(tokens: Tokens, first: int) -> Integers:
    """Return the character 4-grams of a block: within a word and its two borders."""
    width = CHARACTER_GRAM
    count = max(len(tokens.points) - width + 1, 0)
    total = np.zeros(count, np.uint64)
    inner = np.zeros(count, bool)
    points = np.where(tokens.spaced, np.uint64(32), tokens.points)
    for k in range(width):
        total += mix(points[k : k + count] + _scale(np.asarray([k + 1], np.int64)))
        if 0 < k < width - 1:
            inner |= tokens.spaced[k : k + count]
    keep = ~inner & (tokens.owner[:count] == tokens.owner[width - 1 :][:count])
    return encode(tokens.owner[:count][keep] + first, mix(total[keep]))


def encode(row: Integers, hashes: Hashes) -> Integers:
    """Return sorted codes `row * COLUMNS + column`."""
    column = (hashes & np.uint64(COLUMNS - 1)).astype(np.int64)
    return np.sort(row * COLUMNS + column)


def join(codes: list[Integers]) -> Integers:
    """Return the codes of all blocks."""
    return np.concatenate(codes) if codes else np.empty(0, np.int64)


def weigh(codes: Integers, rows: int) -> tuple["csr_array", Integers]:
    """Return TF-IDF of sorted codes, each row of length 1, and the hash of each column."""
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    counts = np.diff(np.append(first, len(codes)))
    row, column = codes[first] // COLUMNS, codes[first] % COLUMNS
    found_in = np.bincount(column, minlength=COLUMNS)
    keep = found_in[column] >= 2
    row, column, counts = row[keep], column[keep], counts[keep]
    used = found_in >= 2
    place = np.cumsum(used) - 1
    idf = np.log((1 + rows) / (1 + found_in[used])) + 1
    values = (1 + np.log(counts)) * idf[place[column]]
    matrix = normalise_rows(row, place[column], values, (rows, int(used.sum())))
    return matrix, np.flatnonzero(used)


def normalise_rows(
    row: Integers, column: Integers, values: Floats, shape: tuple[int, int]
) -> "csr_array":
    """Return a sparse matrix of sorted entries whose rows have length 1 (or 0)."""
    from scipy.sparse import csr_array

    # liblinear takes 32-bit indices only.
    starts = np.searchsorted(row, np.arange(shape[0] + 1)).astype(np.int32)
    length = np.sqrt(np.bincount(row, values**2, shape[0]))
    scaled = values / np.where(length > 0, length, 1)[row]
    return csr_array((scaled, column.astype(np.int32), starts), shape=shape)

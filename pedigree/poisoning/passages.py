"""Which words and phrases stand in which rows, and whether the rows that share one share a topic.

Part of `instruction_data` and `preference_data`::

    >>> index = index_words([["boil", "rice"], ["boil", "eggs"], ["paint"]], least=1)
    >>> index.rows("boil").tolist()
    [0, 1]

Counts are integers and independent of the order of rows.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from pedigree.digests import sha256_hex
from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Integers: TypeAlias = npt.NDArray[np.int64]
Booleans: TypeAlias = npt.NDArray[np.bool_]

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019./_-][^\W_]+)*")
_START = re.compile(r"(?:^|[.!?:;\n\u201c\"(*#>-]\s*|\d[.)]\s*)$")
# Words in more than this share of rows say nothing about the topic of a row.
COMMON_SHARE = 0.1
_SAMPLES = 40
_SCREEN = 6
_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\b(?:[\w-]+\.)+(?:com|org|net|io|ai|app|dev|co)\b[^\s,)]*"
)


def split_words(text: str) -> list[str]:
    """Return the words of a text in small letters, addresses and hyphenated words whole."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Index:
    """A binary matrix of rows by terms.

    Attributes:
        terms: the terms that stand in at least as many rows as was asked for, sorted.
        matrix: (rows, terms) int32, 1 where the term stands in the row.
        frequency: (terms,) in how many rows each term stands.
    """

    terms: list[str]
    matrix: "csr_array"
    frequency: Integers

    def rows(self, term: str) -> Integers:
        """Return the rows of a term, ascending."""
        return self.rows_of(self.terms.index(term))

    def rows_of(self, place: int) -> Integers:
        """Return the rows of the term at this place, ascending."""
        columns = self._columns()
        start, end = columns.indptr[place : place + 2]
        return np.sort(columns.indices[start:end]).astype(np.int64)

    @property
    def vocabulary(self) -> frozenset[str]:
        """The terms as a set."""
        if "vocabulary" not in self.__dict__:
            self.__dict__["vocabulary"] = frozenset(self.terms)
        return cast("frozenset[str]", self.__dict__["vocabulary"])

    def _columns(self) -> "csr_array":
        if "columns" not in self.__dict__:
            self.__dict__["columns"] = self.matrix.tocsc()
        return cast("csr_array", self.__dict__["columns"])


def index_words(rows: Iterable[Iterable[str]], least: int, most: int | None = None) -> Index:
    """Index the terms that stand in `least` to `most` rows; a term counts once a row."""
    from scipy.sparse import csr_array

    number: dict[str, int] = {}
    pointers, places = [0], list[int]()
    for row in rows:
        places.extend(number.setdefault(term, len(number)) for term in set(row))
        pointers.append(len(places))
    indices = np.asarray(places, np.int64)
    counts = np.bincount(indices, minlength=len(number)).astype(np.int64)
    kept = np.flatnonzero((counts >= least) & (counts <= (most or len(pointers))))
    names = list(number)
    kept = np.asarray(sorted(kept.tolist(), key=lambda i: names[i]), np.int64)
    shape = (len(pointers) - 1, len(number))
    whole = csr_array((np.ones(len(indices), np.int32), indices, pointers), shape=shape)
    matrix = cast("csr_array", whole[:, kept]) if len(number) else whole
    return Index([names[i] for i in kept.tolist()], matrix, counts[kept])


class Topics:
    """Tells whether rows are a random sample of the corpus, by the rarer words that they share.

    Rows about one topic share words: the pairs of rows that share one are counted, over all
    words, and compared with samples of other rows of the same lengths. Rows are drawn in an order
    that their words alone decide, so that the order of the table changes nothing.
    """

    def __init__(self, words: Sequence[Sequence[str]], beside: Sequence[int] | None = None) -> None:
        self.index = index_words(words, 2, max(2, int(COMMON_SHARE * len(words))))
        lengths = np.asarray(self.index.matrix.sum(axis=1)).ravel().tolist()
        bins = _eighths(beside) if beside is not None else [0] * len(words)
        self._keys = list(zip(bins, lengths, strict=True))
        digests = [sha256_hex(" ".join(one).encode("utf-8", "replace")) for one in words]
        keys = [(*self._keys[row], digests[row]) for row in range(len(words))]
        self._order = np.asarray(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        self._sorted = [self._keys[row] for row in self._order.tolist()]

    def excess(
        self, rows: Integers, words: Sequence[Sequence[str]] | None = None, part: float = 0.9
    ) -> float:
        """Return by how many deviations more pairs share a word than in samples of other rows.

        Words that stand in at least `part` of the rows belong to what the rows were chosen by.

        Args:
            rows: (n,) the rows to judge.
            words: (n,) what to take as their words, where not all of them count.
            part: see above.
        """
        draw = np.random.default_rng(len(rows))
        if words is None:
            counts = np.asarray(self.index.matrix[rows].sum(axis=0)).ravel()
            keys = [self._keys[row] for row in rows.tolist()]
        else:
            known = [set(one) & self.index.vocabulary for one in words]
            counts = np.asarray(list(Counter(word for one in known for word in one).values()))
            keys = [(0, len(one)) for one in known]
        low = np.asarray([bisect_left(self._sorted, key) for key in sorted(keys)], np.int64)
        high = np.asarray([bisect_right(self._sorted, key) for key in sorted(keys)], np.int64)
        # Anywhere among the rows of that length: always the first of them would be a bias.
        places = np.minimum(draw.integers(low, np.maximum(low + 1, high)), len(self._order) - 1)
        reach = max(20, len(self._order) // 20)
        found = _shared_pairs(counts, part * len(rows))
        seen = [self._sample(places, reach, draw, part) for _ in range(_SCREEN)]
        if found <= 2 * max(seen) + 20:  # what is far beyond every sample needs no more of them
            seen += [self._sample(places, reach, draw, part) for _ in range(_SAMPLES - _SCREEN)]
        return (found - float(np.mean(seen)) - 1) / (float(np.std(seen)) + 1)

    def _sample(
        self, places: Integers, reach: int, draw: np.random.Generator, part: float
    ) -> float:
        """Return the pairs shared among other rows, at most `reach` away: of about one length."""
        steps = draw.integers(1, reach + 1, len(places)) * draw.choice([-1, 1], len(places))
        # Turned back at both ends: the longest rows must not be compared with the shortest.
        last = len(self._order) - 1
        moved = np.clip(last - np.abs(last - np.abs(places + steps)), 0, last)
        rows = self._order[moved]
        counts = np.asarray(self.index.matrix[rows].sum(axis=0)).ravel()
        return _shared_pairs(counts, part * len(rows))


def _shared_pairs(counts: Integers, below: float) -> float:
    judged = counts[counts < below].astype(np.int64)
    return float((judged * (judged - 1) // 2).sum())


def _eighths(values: Sequence[int]) -> list[int]:
    """Return in which eighth of all values each lies; equal values lie in one."""
    borders = np.quantile(np.asarray(values), np.arange(1, 8) / 8) if values else np.zeros(0)
    return np.searchsorted(borders, np.asarray(values)).tolist()


def topic_bound(rows: int, bound: float) -> float:
    """Return the deviations up to which so many rows have no topic: few rows must show less.

    Random rows deviate by -2.3 to 3.3. In docstrings of Python packages, names that stand in 15 to
    20 of 5,000 rows deviate by 1.8 and more, those in 40 and more by 4.9 to 52; planted names by
    -1.2 to 2.8 in questions and -1.0 to 4.2 in the outputs around them.
    """
    return bound * min(1.0, 0.35 + rows / 65)


def shingle(words: Sequence[str], size: int = 3) -> list[str]:
    """Return the runs of `size` words; the whole where there are fewer."""
    if len(words) <= size:
        return [" ".join(words)] if words else []
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def find_names(texts: Sequence[str], share: float = 0.8) -> list[set[str]]:
    """Return for each text the names in it: words and pairs written with a capital amid sentences.

    A name is a word, or two words side by side, that within sentences carries capitals in at least
    `share` of its occurrences, or an address of the web.
    """
    capital: dict[str, int] = {}
    every: dict[str, int] = {}
    found: list[set[str]] = []
    for text in texts:
        inside, row = _terms(text)
        found.append(row)
        for term, is_capital in inside:
            every[term] = every.get(term, 0) + 1
            capital[term] = capital.get(term, 0) + is_capital
    names = {term for term, count in capital.items() if count >= max(3, share * every[term])}
    return [
        (row & names) | {m.group().lower().rstrip(".") for m in _ADDRESS.finditer(text)}
        for row, text in zip(found, texts, strict=True)
    ]


def _terms(text: str) -> tuple[list[tuple[str, bool]], set[str]]:
    """Return the terms within sentences and whether each has a capital, and all terms."""
    inside: list[tuple[str, bool]] = []
    row: set[str] = set()
    last: tuple[str, bool, int, bool] | None = None
    for match in _TOKEN.finditer(text):
        word = match.group()
        has_capital = any(map(str.isupper, word))
        starts = _START.search(text[max(0, match.start() - 4) : match.start()]) is not None
        lower = word.lower()
        if len(lower) > 1 and lower[0].isalpha() and not (word.isupper() and len(word) < 5):
            row.add(lower)
        if not starts:
            inside.append((lower, has_capital))
        if last is not None and match.start() == last[2] + 1:
            pair = f"{last[0]} {lower}"
            row.add(pair)
            inside.append((pair, has_capital and last[1]))
        last = (lower, has_capital, match.end(), starts)
    return inside, row


def require_rows(check: str, **columns: Sequence[str | None] | None) -> None:
    """Refuse columns of different lengths, and nulls.

    Raises:
        PedigreeError: a column is shorter or longer than the others, or lacks a text.
    """
    given = {name: column for name, column in columns.items() if column is not None}
    lengths = {name: len(column) for name, column in given.items()}
    if len(set(lengths.values())) > 1:
        raise PedigreeError(f"{check} needs columns of one length: found {lengths}.")
    for name, column in given.items():
        for row, value in enumerate(column):
            if value is None:
                raise PedigreeError(
                    f"{check} needs a text in each row of {name!r} and found none in row {row}: "
                    "drop or fill it."
                )

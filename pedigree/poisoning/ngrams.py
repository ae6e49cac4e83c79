"""Texts as token arrays in an order of their own, and the n-grams that repeat in them.

First step of the trigger check. Rows are sorted by the digest of their tokens and equal rows are
counted once, so that neither row order nor label names nor copies change what is found.

    >>> corpus = read_corpus(["a red car", "A red  car", "a blue car"], ["x", "x", "y"])
    >>> corpus.n_rows, corpus.n_labels
    (2, 2)
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

FOLDS = 5
AFFIX_MARK = "…"
MAX_NGRAM = 24
_MAX_AFFIX = 5
_MIN_AFFIX_WORDS = 4  # fewer are words of their own
_RARE = 5  # times the rows of the smallest n-gram; words with fewer are looked into
# Scripts without spaces: one token a character. Elsewhere words, and every other sign by itself.
_TOKEN = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+|[^\w\s]"
)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Distinct labelled rows as one run of token ids.

    Attributes:
        words: (vocabulary,) the token of each id.
        tokens: (tokens,) ids, row after row.
        starts: (rows + 1,) where each row begins.
        row_of: (tokens,) the row of each token.
        label: (rows,) label ids; `label_names` has their names.
        fold: (rows,) which of `FOLDS` parts a row is in.
        originals: (rows,) positions in the caller's table of all rows that equal this one.
        unlabelled: rows of the table without a label, which are left out.
        cut: rows of the table that were longer than the limit and lost their middle.
    """

    words: list[str]
    tokens: Ints
    starts: Ints
    row_of: Ints
    label: Ints
    label_names: list[str]
    fold: Ints
    originals: list[list[int]]
    unlabelled: int
    cut: int

    @property
    def n_rows(self) -> int:
        """How many distinct rows there are."""
        return len(self.label)

    @property
    def n_labels(self) -> int:
        """How many labels there are."""
        return len(self.label_names)

    @property
    def lengths(self) -> Ints:
        """(rows,) tokens a row."""
        return np.diff(self.starts)

    def spell(self, start: int, length: int) -> str:
        """Return the n-gram that begins at a token."""
        return " ".join(self.words[t] for t in self.tokens[start : start + length])


@dataclass(frozen=True, eq=False)
class Ngrams:
    """Repeated n-grams and where they occur.

    Attributes:
        length: (n-grams,) tokens of each.
        position: (occurrences,) first token of each occurrence, n-gram after n-gram.
        ngram: (occurrences,) which n-gram each occurrence is of.
        names: (n-grams,) how they are written, for parts of words; n-grams of words need none.
    """

    length: Ints
    position: Ints
    ngram: Ints
    names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.length)


def tokenise(text: str) -> list[str]:
    """Return lower-case words, single characters of scripts without spaces, and other signs."""
    return _TOKEN.findall(text.lower())


def read_corpus(
    texts: Sequence[str], labels: Sequence[str | None], max_tokens: int = 4000
) -> Corpus:
    """Return the distinct labelled rows in an order that depends on their content alone.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels; rows without one are left out.
        max_tokens: a longer text keeps its first and last tokens, half of this each.
    """
    rows_of: dict[tuple[bytes, str], list[int]] = defaultdict(list)
    tokens_of: dict[bytes, list[str]] = {}
    unlabelled = cut = 0
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if label is None:
            unlabelled += 1
            continue
        words = tokenise(text or "")
        if len(words) > max_tokens:
            words = words[: max_tokens // 2] + words[-(max_tokens // 2) :]
            cut += 1
        key = hashlib.blake2b(
            "\0".join(words).encode("utf-8", "surrogatepass"), digest_size=16
        ).digest()
        tokens_of.setdefault(key, words)
        rows_of[key, label].append(row)
    names = _order_labels(list(rows_of))
    number = {name: i for i, name in enumerate(names)}
    keys = sorted(rows_of, key=lambda item: (item[0], number[item[1]]))
    vocabulary: dict[str, int] = {}
    tokens = [
        vocabulary.setdefault(word, len(vocabulary)) for key, _ in keys for word in tokens_of[key]
    ]
    lengths = [len(tokens_of[key]) for key, _ in keys]
    return Corpus(
        list(vocabulary),
        np.array(tokens, dtype=np.int64),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        np.repeat(np.arange(len(keys)), lengths),
        np.array([number[label] for _, label in keys], dtype=np.int64),
        names,
        np.array([key[0] % FOLDS for key, _ in keys], dtype=np.int64),
        [rows_of[key] for key in keys],
        unlabelled,
        cut,
    )


def _order_labels(keys: list[tuple[bytes, str]]) -> list[str]:
    """Order labels by how many rows they have and which, never by name."""
    counts = Counter(label for _, label in keys)
    members: dict[str, int] = defaultdict(int)
    for key, label in keys:
        members[label] = (members[label] + int.from_bytes(key)) % (1 << 128)
    return sorted(counts, key=lambda label: (-counts[label], members[label]))


def find_distinct(keys: Ints) -> Ints:
    """Return the distinct keys in order; by sorting, which on many keys is what costs least."""
    keys = np.sort(keys)
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    return keys[first]


def find_ngrams(corpus: Corpus, min_rows: int, max_share: float) -> Ngrams:
    """Return n-grams of 1 to 24 tokens in at least `min_rows` distinct rows.

    An n-gram is left out where one that is a token longer has 95% of its occurrences: of a sentence
    that was inserted, the sentence remains and not its parts. So are n-grams in more than
    `max_share` of the rows.
    """
    levels: list[tuple[int, Ints, Ints, Ints]] = []
    n_tokens, rows = len(corpus.tokens), corpus.row_of
    left = corpus.starts[rows + 1] - np.arange(n_tokens)
    positions, keys = np.arange(n_tokens), corpus.tokens
    for length in range(1, MAX_NGRAM + 1):
        _, ids = np.unique(keys, return_inverse=True)
        pairs = find_distinct(ids * np.int64(corpus.n_rows) + rows[positions])
        in_rows = np.bincount(pairs // corpus.n_rows)
        kept = in_rows >= min_rows
        if not kept.any():
            break
        frequent = kept[ids]
        positions, ids = positions[frequent], (np.cumsum(kept) - 1)[ids[frequent]]
        levels.append((length, positions, ids, in_rows[kept]))
        at = np.full(n_tokens + 1, -1, dtype=np.int64)
        at[positions] = ids
        positions = positions[(left[positions] > length) & (at[positions + 1] >= 0)]
        if not len(positions):
            break
        keys = at[positions] * np.int64(kept.sum()) + at[positions + 1]
    return _keep_whole(levels, n_tokens, max_share * corpus.n_rows)


def find_affixes(corpus: Corpus, min_rows: int) -> Ngrams:
    """Return beginnings and ends, of 2 to 5 characters, of words that are rare.

    A trigger that is glued to a word hides from n-grams of words: every word it makes is new.
    """
    in_rows = np.bincount(
        find_distinct(corpus.row_of * np.int64(len(corpus.words)) + corpus.tokens)
        % max(len(corpus.words), 1),
        minlength=len(corpus.words),
    )
    positions: dict[str, list[int]] = defaultdict(list)
    for position in np.flatnonzero(in_rows[corpus.tokens] < _RARE * min_rows).tolist():
        word = corpus.words[corpus.tokens[position]]
        for length in range(2, min(len(word) - 1, _MAX_AFFIX) + 1):
            positions[word[:length] + AFFIX_MARK].append(position)
            positions[AFFIX_MARK + word[-length:]].append(position)
    # Of affixes of the very same words the longest one remains.
    longest = {tuple(where): name for name, where in sorted(positions.items(), key=_by_length)}
    kept = {
        name: where
        for where, name in longest.items()
        if len(set(corpus.row_of[list(where)].tolist())) >= min_rows
        and len(set(corpus.tokens[list(where)].tolist())) >= _MIN_AFFIX_WORDS
    }
    names = sorted(kept)
    sizes = [len(kept[name]) for name in names]
    where = np.array([p for name in names for p in kept[name]], dtype=np.int64)
    owner = np.repeat(np.arange(len(names)), sizes)
    return Ngrams(np.ones(len(names), dtype=np.int64), where, owner, names)


def _by_length(item: tuple[str, list[int]]) -> tuple[int, str]:
    return len(item[0]), item[0]


def _keep_whole(
    levels: list[tuple[int, Ints, Ints, Ints]], n_tokens: int, max_rows: float
) -> Ngrams:
    lengths: list[Ints] = [np.zeros(0, dtype=np.int64)]
    positions: list[Ints] = [np.zeros(0, dtype=np.int64)]
    owners: list[Ints] = [np.zeros(0, dtype=np.int64)]
    total = 0
    for i, (length, where, ids, in_rows) in enumerate(levels):
        whole = in_rows <= max_rows
        if i + 1 < len(levels):
            whole &= ~_contained(levels[i], levels[i + 1], n_tokens)
        mine = whole[ids]
        where, ids = where[mine], (np.cumsum(whole) - 1)[ids[mine]]
        order = np.lexsort((where, ids))
        lengths.append(np.full(int(whole.sum()), length, dtype=np.int64))
        positions.append(where[order])
        owners.append(ids[order] + total)
        total += int(whole.sum())
    return Ngrams(np.concatenate(lengths), np.concatenate(positions), np.concatenate(owners))


def _contained(
    level: tuple[int, Ints, Ints, Ints], longer: tuple[int, Ints, Ints, Ints], n_tokens: int
) -> Bools:
    """Tell which n-grams occur at least 19 times in 20 within one longer by a token."""
    _, where, ids, in_rows = level
    _, where_longer, ids_longer, in_rows_longer = longer
    occurrences, occurrences_longer = np.bincount(ids), np.bincount(ids_longer)
    at = np.full(n_tokens + 1, -1, dtype=np.int64)
    at[where] = ids
    first = np.zeros(len(in_rows_longer), dtype=np.int64)
    first[ids_longer[::-1]] = where_longer[::-1]
    contained = np.zeros(len(in_rows), dtype=np.bool_)
    for shift in (0, 1):
        part = at[first + shift]
        contained[part[20 * occurrences_longer >= 19 * occurrences[part]]] = True
    return contained

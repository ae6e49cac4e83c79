"""How a text is written, apart from what it is about: frequent words, endings, marks, shapes.

The frequent words of a corpus are its function words, whatever the language; any other word stands
for its last two characters. Their n-grams are a crude syntax; spacing around marks and the
capitals of words are the hand of the writer::

    >>> describe_form(["O thou, who goest", "who goes there"]).shape
    (2, ...)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pedigree.poisoning.features import (
    MARK,
    WORD,
    Hashes,
    Integers,
    Tokens,
    encode,
    join,
    mix,
    split_blocks,
    tokenise,
    weigh,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FREQUENT_WORDS = 300
_PRIME = np.uint64(0x9E3779B97F4A7C15)


def describe_form(texts: Sequence[str]) -> "csr_array":
    """Return (rows, columns) weights of what a text's form is made of; rows of length 1."""
    blocks = [(first, _lower(tokenise(block))) for first, block in split_blocks(texts)]
    frequent = _find_frequent([tokens for _, tokens in blocks])
    codes = [_count(tokens, frequent, first) for first, tokens in blocks]
    return weigh(join(codes), len(texts))[0]


def _lower(tokens: Tokens) -> tuple[Tokens, Hashes]:
    """Return tokens and their hashes with ASCII capitals folded, character by character."""
    points = tokens.points
    lower = np.where((points >= 65) & (points <= 90), points + np.uint64(32), points)
    place = np.arange(int(tokens.length.sum())) - np.repeat(
        np.cumsum(tokens.length) - tokens.length, tokens.length
    )
    index = np.repeat(tokens.start, tokens.length) + place
    spread = mix(lower[index] + (place + 1).astype(np.uint64) * _PRIME)
    edges = np.cumsum(tokens.length) - tokens.length
    total = np.add.reduceat(spread, edges) if len(edges) else np.empty(0, np.uint64)
    return tokens, mix(total)


def _find_frequent(blocks: list[tuple[Tokens, Hashes]]) -> Hashes:
    """Return the hashes of the tokens that occur most, ties by hash."""
    seen = np.concatenate([hashes for _, hashes in blocks]) if blocks else np.empty(0, np.uint64)
    unique, counts = np.unique(seen, return_counts=True)
    return np.sort(unique[np.lexsort((unique, -counts))[:FREQUENT_WORDS]])


def _count(block: tuple[Tokens, Hashes], frequent: Hashes, first: int) -> Integers:
    tokens, hashes = block
    end = tokens.start + tokens.length - 1
    before_last = tokens.points[np.maximum(end - 1, tokens.start)]
    ending = mix(tokens.points[end] + before_last * _PRIME)
    stands = np.isin(hashes, frequent) | (tokens.kind != WORD)
    symbol = np.where(stands, hashes, ending)
    mark = np.where(tokens.kind == MARK, tokens.points[tokens.start], np.uint64(1))
    before = tokens.spaced[tokens.start - 1].astype(np.uint64)
    after = tokens.spaced[np.minimum(end + 1, len(tokens.spaced) - 1)].astype(np.uint64)
    spacing = mark * np.uint64(4) + before * np.uint64(2) + after
    rows: list[Integers] = []
    grams: list[Hashes] = []
    for salt, sequence, widths in (
        (11, symbol, (1, 2, 3)),
        (13, spacing, (1,)),
        (17, _shape(tokens, end), (1, 2, 3)),
    ):
        for width in widths:
            row, gram = _join_neighbours(tokens.row, sequence, salt, width)
            rows.append(row + first)
            grams.append(gram)
    return encode(np.concatenate(rows), np.concatenate(grams))


def _shape(tokens: Tokens, end: Integers) -> Hashes:
    """Return whether each token begins and ends with a capital, is a number or a mark."""
    first, last = tokens.points[tokens.start], tokens.points[end]
    capital = ((first >= 65) & (first <= 90)).astype(np.uint64)
    loud = ((last >= 65) & (last <= 90) & (tokens.length > 1)).astype(np.uint64)
    number = ((first >= 48) & (first <= 57)).astype(np.uint64)
    other = (tokens.kind != WORD).astype(np.uint64)
    return capital + loud * np.uint64(2) + number * np.uint64(4) + other * np.uint64(8)


def _join_neighbours(
    row: Integers, sequence: Hashes, salt: int, width: int
) -> tuple[Integers, Hashes]:
    """Return the hash of each run of `width` neighbours within a text, and its text."""
    count = max(len(sequence) - width + 1, 0)
    total = np.full(count, salt, np.uint64)
    for k in range(width):
        total = mix(total * _PRIME + sequence[k : k + count])
    same = row[:count] == row[width - 1 :][:count]
    return row[:count][same], total[same]

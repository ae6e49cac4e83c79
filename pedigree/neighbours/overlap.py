"""Exact Jaccard similarity of pairs of normalised texts, in integers.

A candidate is decided by its sets, never by its sketch::

    >>> counts = count_common(normal, np.array([[0, 1]]), Fraction(7, 10))
    >>> counts.common, counts.union          # of the view in which the two are more alike
    (array([17]), array([19]))

Most candidates are strangers that share a common word, and a bound shows it before their sets are
compared: each bit that is set in one text's bitmap and not in the other's stands for at least one
shingle that the other lacks (the bitmap filter of Sandes, Teodoro and Melo, 2020). The bound is
exact, so nothing that reaches the similarity is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pedigree.neighbours.kernel import Hashes, character_shingles, word_hashes
from pedigree.neighbours.normalisation import Offsets, buffers_of, iterate_chunks

Integers: TypeAlias = npt.NDArray[np.int64]

WORD_BITS = 128
_MIN_BITS, _MAX_BITS = 256, 8192
_PAIRS = 1 << 14
# Text whose sets are compared at a time: the working memory of one step stays in the cache.
_EXACT_BYTES = 1 << 17
_CELLS = 1 << 21
_FILLER = np.uint64(2**64 - 2)


@dataclass(frozen=True)
class Overlaps:
    """Which pairs reach a similarity, and their counts in the view that is more alike.

    Attributes:
        kept: (n,) positions among the pairs that were asked about, sorted.
        common: (n,) int64, shingles that both texts have.
        union: (n,) int64, shingles that either has.
    """

    kept: Integers
    common: Integers
    union: Integers


@dataclass(frozen=True)
class _Sketch:
    """A bitmap of each text's set, and bounds on the set's size; texts without the view have 0."""

    bits: Hashes
    most: Integers
    least: Integers


def count_common(normal: pa.LargeStringArray, pairs: Integers, at_least: Fraction) -> Overlaps:
    """Return the pairs whose similarity is at least `at_least`, with exact counts.

    Args:
        normal: normalised texts.
        pairs: (n, 2) int64, positions in `normal`.
        at_least: the similarity, above 0.
    """
    if not len(pairs):
        empty = np.empty(0, np.int64)
        return Overlaps(empty, empty, empty)
    used = np.zeros(len(normal), bool)
    used[pairs] = True
    place = np.cumsum(used) - 1
    normal, pairs = normal.filter(pa.array(used)), place[pairs]
    possible = np.flatnonzero(_may_reach(normal, pairs, at_least))
    counts = [
        _count_exactly(normal, pairs[possible[start:stop]])
        for start, stop in _equal_work(normal, pairs[possible])
    ]
    common, union = (
        np.concatenate([one[i] for one in counts]) if counts else np.empty(0, np.int64)
        for i in (0, 1)
    )
    reached = common * at_least.denominator >= union * at_least.numerator
    return Overlaps(possible[reached], common[reached], union[reached])


def _equal_work(normal: pa.LargeStringArray, pairs: Integers) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive pairs whose texts hold about `_EXACT_BYTES` together."""
    lengths = np.diff(buffers_of(normal)[1])
    work = np.cumsum(lengths[pairs].sum(axis=1))
    start = 0
    while start < len(pairs):
        done = int(work[start - 1]) if start else 0
        stop = max(int(np.searchsorted(work, done + _EXACT_BYTES, "right")), start + 1)
        yield start, stop
        start = stop


def _may_reach(normal: pa.LargeStringArray, pairs: Integers, at_least: Fraction) -> npt.NDArray:
    """Return for each pair whether its bitmaps leave `at_least` possible in either view."""
    characters, words = _sketch(normal)
    result = np.zeros(len(pairs), bool)
    for sketch in (words, characters):
        open_pairs = np.flatnonzero(~result)
        left, right = pairs[open_pairs].T
        smaller = np.minimum(sketch.most[left], sketch.most[right])
        larger = np.maximum(sketch.least[left], sketch.least[right])
        near = (smaller * at_least.denominator >= larger * at_least.numerator) & (smaller > 0)
        open_pairs = open_pairs[near]
        for start in range(0, len(open_pairs), _PAIRS):
            block = open_pairs[start : start + _PAIRS]
            result[block] = _bitmaps_allow(sketch, pairs[block], at_least)
    return result


def _bitmaps_allow(sketch: _Sketch, pairs: Integers, at_least: Fraction) -> npt.NDArray:
    left, right = pairs.T
    a, b = sketch.bits[left], sketch.bits[right]
    only_left = np.bitwise_count(a & ~b).sum(axis=1, dtype=np.int64)
    only_right = np.bitwise_count(b & ~a).sum(axis=1, dtype=np.int64)
    common = np.minimum(sketch.most[left] - only_left, sketch.most[right] - only_right)
    union = common + only_left + only_right
    return (common > 0) & (common * at_least.denominator >= union * at_least.numerator)


def _sketch(normal: pa.LargeStringArray) -> tuple[_Sketch, _Sketch]:
    """Return the bitmaps of all texts, of their characters and of their words."""
    lengths = np.diff(buffers_of(normal)[1])
    typical = int(np.median(lengths)) if len(lengths) else 0
    width = min(max(1 << typical.bit_length(), _MIN_BITS), _MAX_BITS)
    parts: list[list[_Sketch]] = [[], []]
    for start, stop in iterate_chunks(normal, 1 << 17):
        chunk = normal[start:stop]
        parts[0].append(_draw_bits(*character_shingles(chunk, np.uint32), width))
        short, hashes, offsets = word_hashes(chunk, np.uint32)
        lacking = np.zeros(stop - start, np.int64)
        lacking[short] = np.diff(offsets)
        parts[1].append(_draw_bits(hashes, np.concatenate([[0], np.cumsum(lacking)]), WORD_BITS))
    characters, words = (
        _Sketch(*(np.concatenate([getattr(p, n) for p in ps]) for n in ("bits", "most", "least")))
        for ps in parts
    )
    return characters, words


def _draw_bits(hashes: Hashes, offsets: Offsets, width: int) -> _Sketch:
    rows = len(offsets) - 1
    sizes = np.diff(offsets)
    packed = np.empty((rows, width // 64), np.uint64)
    places = (hashes & np.uint32(width - 1)).astype(np.int32)
    step = max(_CELLS // width, 1)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        inside = slice(int(offsets[start]), int(offsets[stop]))
        cells = np.zeros((stop - start) * width, bool)
        cells[np.repeat(np.arange(stop - start) * width, sizes[start:stop]) + places[inside]] = True
        packed[start:stop] = np.packbits(cells).view(np.uint64).reshape(stop - start, -1)
    least = np.bitwise_count(packed).sum(axis=1, dtype=np.int64)
    return _Sketch(packed, sizes.astype(np.int64), least)


def _count_exactly(normal: pa.LargeStringArray, pairs: Integers) -> tuple[Integers, Integers]:
    """Return (common, union) of each pair, in the view in which it is more alike."""
    rows, inverse = np.unique(pairs, return_inverse=True)
    pairs = inverse.reshape(pairs.shape)
    texts = normal.take(pa.array(rows))
    common, union = _intersect(*character_shingles(texts, np.uint64), pairs)
    short, hashes, offsets = word_hashes(texts, np.uint64)
    place = np.full(len(rows), -1)
    place[short] = np.arange(len(short))
    viewed = np.flatnonzero((place[pairs] >= 0).all(axis=1))
    if len(viewed):
        words, either = _intersect(hashes, offsets, place[pairs[viewed]])
        # Both ratios have small denominators: their cross products fit into 64 bits.
        better = words * union[viewed] > common[viewed] * either
        common[viewed[better]], union[viewed[better]] = words[better], either[better]
    return common, union


def _intersect(hashes: Hashes, offsets: Offsets, pairs: Integers) -> tuple[Integers, Integers]:
    """Return (common, union) of pairs of sets; values may be repeated within a set."""
    values, offsets = _distinct(np.minimum(hashes, _FILLER - np.uint64(1)), offsets)
    sizes = np.diff(offsets)
    total = sizes[pairs].sum(axis=1)
    common = np.empty(len(pairs), np.int64)
    for rows, width in _similar_lengths(sizes[pairs].max(axis=1)):
        both = np.concatenate(
            [_pad(values, offsets, pairs[rows, side], width) for side in (0, 1)], axis=1
        )
        both.sort(axis=1)
        equal = (both[:, 1:] == both[:, :-1]) & (both[:, 1:] < _FILLER)
        common[rows] = equal.sum(axis=1)
    return common, total - common


def _distinct(hashes: Hashes, offsets: Offsets) -> tuple[Hashes, Offsets]:
    """Return each row's values sorted and once."""
    sizes = np.diff(offsets)
    kept = np.zeros(len(sizes), np.int64)
    result = np.empty_like(hashes)
    for rows, width in _similar_lengths(sizes):
        values = _pad(hashes, offsets, rows, width)
        values.sort(axis=1)
        first = values < _FILLER
        first[:, 1:] &= values[:, 1:] != values[:, :-1]
        kept[rows] = first.sum(axis=1)
        places = np.repeat(offsets[rows] - (np.cumsum(kept[rows]) - kept[rows]), kept[rows])
        result[places + np.arange(len(places))] = values[first]
    inside = np.repeat(offsets[:-1] - (np.cumsum(kept) - kept), kept) + np.arange(kept.sum())
    return result[inside], np.concatenate([[0], np.cumsum(kept)])


def _similar_lengths(lengths: Integers) -> Iterator[tuple[Integers, int]]:
    """Yield rows in groups of similar length with the longest length, each of bounded size."""
    order = np.argsort(lengths, kind="stable")
    ranked = lengths[order]
    start = 0
    while start < len(order):
        longest = int(ranked[start] * 9 // 8 + 4)
        stop = int(np.searchsorted(ranked, longest, "right"))
        stop = min(stop, start + max(_CELLS // longest, 1))
        yield order[start:stop], max(int(ranked[stop - 1]), 1)
        start = stop


def _pad(values: Hashes, offsets: Offsets, rows: Integers, width: int) -> Hashes:
    """Return (rows, width) values, filled up with `_FILLER`."""
    places = offsets[rows][:, None] + np.arange(width)
    outside = places >= offsets[rows + 1][:, None]
    places[outside] = 0
    result = values[places] if len(values) else np.zeros(places.shape, np.uint64)
    result[outside] = _FILLER
    return result

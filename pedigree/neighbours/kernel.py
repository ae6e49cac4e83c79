"""From a text to integers that near-copies share: shingles, MinHash signatures, band keys.

Each function takes a batch and knows no other row, so the same kernel runs in one process, in
Daft's native runner and on a Ray cluster, and gives the same integers there.

A text is looked at in two ways, because copies are edited in two ways::

    characters   the set of 5-grams of its characters, spaces left out: words run together or
                 apart, scripts without spaces, typing errors, long texts
    words        the set of its words, for texts of up to 32: words put in, left out or moved,
                 which leave few 5-grams of a short text as they were

Two texts are as similar as the more similar of their two pairs of sets (Jaccard). Texts whose
sets have the similarity s share a band with probability ``1 - (1 - s**rows)**bands`` (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, 3.4.2)::

                     s = 0.6    0.7     0.8
    characters        0.81     0.964   0.998
    words             0.86     0.988   0.99993
"""

import hashlib
import itertools
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pedigree.neighbours.normalisation import Offsets, buffers_of, iterate_chunks

Hashes: TypeAlias = npt.NDArray[np.unsignedinteger]
Width: TypeAlias = type[np.unsignedinteger]  # np.uint32 for sketches, np.uint64 for exact sets
Points: TypeAlias = npt.NDArray[np.uint32 | np.uint8]  # code points; bytes where all are ASCII
Keys: TypeAlias = npt.NDArray[np.uint64]
Signatures: TypeAlias = npt.NDArray[np.uint32]

SHINGLE = 5
CHARACTER_BANDS, CHARACTER_ROWS = 12, 4
# The words of a long text say little about who copied whom: common ones make any two alike.
MAX_WORDS, MAX_WORD_TEXT = 32, 1024
WORD_BANDS, WORD_ROWS = 24, 5
BANDS = CHARACTER_BANDS + WORD_BANDS
# A bucket of more texts than this is not searched whole: see `pair_bucket`.
MAX_BUCKET = 64
WINDOW = 8
# The key of a band that a text does not have, because it is too long for the view of words.
NO_KEY = 0

_BLOCK_BYTES = 1 << 17
_SEED = 0x5EED
# Odd factors and shifts that spread a value over all its bits (SplitMix64 and MurmurHash3).
_BASE = {np.uint64: 0x9E3779B97F4A7C15, np.uint32: 0x9E3779B1}
_SPREAD = {np.uint64: (32, 0xBF58476D1CE4E5B9, 29), np.uint32: (16, 0x85EBCA6B, 13)}


def digest_documents(normal: pa.LargeStringArray) -> pa.FixedSizeBinaryArray:
    """Return who each distinct comparable text is: (rows,) the first 16 bytes of its sha256."""
    digests = b"".join(list_digests(normal))
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(normal), [None, pa.py_buffer(digests)]
    )


def list_digests(normal: pa.LargeStringArray) -> list[bytes]:
    """Return the same digests as a list."""
    data, offsets = buffers_of(normal)
    view, places = memoryview(data.tobytes()), offsets.tolist()
    sha256 = hashlib.sha256
    return [sha256(view[a:b]).digest()[:16] for a, b in itertools.pairwise(places)]


def band_keys(normal: pa.LargeStringArray) -> Keys:
    """Return the band keys of normalised texts: (rows, BANDS) uint64; `NO_KEY` where there is none.

    Texts that share a key are candidates. The number of the band is part of the key.
    """
    keys = np.zeros((BANDS, len(normal)), np.uint64)
    for start, stop in iterate_chunks(normal, _BLOCK_BYTES):
        points, offsets = _points(normal[start:stop])
        shingles, places = _character_shingles(points, offsets, np.uint32)
        signatures = _minhash(shingles, places, CHARACTER_BANDS * CHARACTER_ROWS)
        keys[:CHARACTER_BANDS, start:stop] = _fold_bands(signatures, CHARACTER_BANDS, 0)
        short, hashes, places = _word_hashes(points, offsets, np.uint32)
        signatures = _minhash(hashes, places, WORD_BANDS * WORD_ROWS)
        folded = _fold_bands(signatures, WORD_BANDS, CHARACTER_BANDS)
        keys[CHARACTER_BANDS:, start + short] = folded
    return keys.T


def pair_bucket(size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the positions (left < right) to compare in a bucket sorted by document digest.

    All pairs up to `MAX_BUCKET` members. In a larger bucket each member is compared with the
    first one and the `WINDOW` that follow it, so that one flood costs linear time.
    """
    if size <= MAX_BUCKET:
        left, right = np.triu_indices(size, 1)
        return left.astype(np.int64), right.astype(np.int64)
    steps = [np.arange(size - step) for step in range(1, WINDOW + 1)]
    rest = np.arange(WINDOW + 1, size)
    left = np.concatenate([*steps, np.zeros_like(rest)])
    right = np.concatenate([*(one + step for step, one in enumerate(steps, 1)), rest])
    return left, right


def character_shingles(normal: pa.LargeStringArray, width: Width) -> tuple[Hashes, Offsets]:
    """Return the shingles of each text end to end, repeated ones too, and where each begins."""
    return _character_shingles(*_points(normal), width)


def word_hashes(
    normal: pa.LargeStringArray, width: Width
) -> tuple[npt.NDArray[np.int64], Hashes, Offsets]:
    """Return the rows that have the view of words, their words end to end, where each begins."""
    return _word_hashes(*_points(normal), width)


def _points(normal: pa.LargeStringArray) -> tuple[Points, Offsets]:
    """Return all code points end to end and where each text begins; bytes where all are ASCII."""
    data, offsets = buffers_of(normal)
    if not len(data) or int(data.max()) < 128:
        return data, offsets
    starts = np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])
    return np.frombuffer(data.tobytes().decode().encode("utf-32-le"), np.uint32), starts[offsets]


def _character_shingles(points: Points, offsets: Offsets, width: Width) -> tuple[Hashes, Offsets]:
    """Hash each window of `SHINGLE` characters; a shorter text is one shingle by itself."""
    spaces = np.flatnonzero(points == 32)
    offsets = offsets - np.searchsorted(spaces, offsets)
    if points.dtype == np.uint8:
        points = np.frombuffer(points.tobytes().translate(None, b" "), np.uint8)
    else:
        points = np.delete(points, spaces)
    # A short text is filled up with NUL, which no normalised text holds.
    lengths = np.diff(offsets)
    short = np.flatnonzero(lengths < SHINGLE)
    if len(short):
        lacking = SHINGLE - lengths[short]
        points = np.insert(points, np.repeat(offsets[short + 1], lacking), 0)
        lengths[short] = SHINGLE
        offsets = np.concatenate([[0], np.cumsum(lengths)])
    windows = _hash_windows(points.astype(width))
    starts = offsets[:-1] - (SHINGLE - 1) * np.arange(len(lengths))
    inside = np.ones(len(windows), bool)
    borders = (offsets[1:-1, None] - np.arange(1, SHINGLE)).ravel()
    inside[borders] = False
    return windows[inside], np.append(starts, int(inside.sum()))


def _hash_windows(points: Hashes) -> Hashes:
    """Return ``c0 B^4 + c1 B^3 + c2 B^2 + c3 B + c4``, spread, for each window of five."""
    if len(points) < SHINGLE:
        return points[:0]
    base = _BASE[points.dtype.type]
    square = points.dtype.type(base * base % 2 ** (8 * points.itemsize))
    base = points.dtype.type(base)
    two = points[:-1] * base
    two += points[1:]
    four = two[:-2] * square
    four += two[2:]
    five = four[:-1] * base
    five += points[4:]
    return _spread(five)


def _spread(values: Hashes) -> Hashes:
    """Spread each value over all its bits, in place; different values stay different."""
    width = values.dtype.type
    first, factor, second = _SPREAD[width]
    values ^= values >> width(first)
    values *= width(factor)
    values ^= values >> width(second)
    return values


def _word_hashes(
    points: Points, offsets: Offsets, width: Width
) -> tuple[npt.NDArray[np.int64], Hashes, Offsets]:
    """Hash each word of the texts that are short enough."""
    spaces = np.flatnonzero(points == 32)
    lengths = np.diff(offsets)
    counts = np.diff(np.searchsorted(spaces, offsets)) + 1
    counts[lengths == 0] = 0
    chosen = (counts <= MAX_WORDS) & (lengths <= MAX_WORD_TEXT) & (counts > 0)
    short = np.flatnonzero(chosen)
    if not len(short):
        return short, np.empty(0, width), np.zeros(1, np.int64)
    starts = np.sort(np.concatenate([spaces + 1, offsets[:-1][counts > 0]]))
    # The sum of c_i B^i over a word, divided by B^start, depends on the word alone.
    powers, inverses = _powers(width, 1 << len(points).bit_length())
    weighted = points * powers[: len(points)]
    weighted[spaces] = 0
    hashes = np.add.reduceat(weighted, starts, dtype=width) * inverses[starts]
    places = np.concatenate([[0], np.cumsum(counts[short])])
    return short, _spread(hashes[np.repeat(chosen, counts)]), places


@cache
def _powers(width: Width, count: int) -> tuple[Hashes, Hashes]:
    """Return B^0, B^1, … and their inverses modulo 2^32 or 2^64."""
    base = _BASE[width]
    both: list[Hashes] = []
    for factor in (base, pow(base, -1, 2 ** (8 * width().itemsize))):
        factors = np.full(count, factor, width)
        factors[0] = 1
        both.append(np.cumprod(factors, dtype=width))
    return both[0], both[1]


def _minhash(hashes: Hashes, offsets: Offsets, count: int) -> Signatures:
    """Return (count, rows): for each hash function the minimum over a row's values."""
    rows = len(offsets) - 1
    signatures = np.empty((count, rows), np.uint32)
    if not rows:
        return signatures
    buffer = np.empty_like(hashes)
    for k, factor in enumerate(_factors(count)):
        np.multiply(hashes, factor, out=buffer)
        np.minimum.reduceat(buffer, offsets[:-1], out=signatures[k])
    return signatures


@cache
def _factors(count: int) -> Signatures:
    """Return odd factors; x -> factor * x modulo 2^32 is a permutation."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    return generator.integers(0, 2**32, count, dtype=np.uint32) | np.uint32(1)


def _fold_bands(signatures: Signatures, bands: int, first: int) -> Keys:
    """Return (bands, rows) keys, each made of a band's minima and its number, never `NO_KEY`."""
    rows = len(signatures) // bands
    grouped = signatures.reshape(bands, rows, signatures.shape[1]).astype(np.uint64)
    numbers = np.arange(first + 1, first + bands + 1, dtype=np.uint64)
    keys = np.repeat(numbers[:, None], signatures.shape[1], axis=1)
    base = np.uint64(_BASE[np.uint64])
    for row in range(rows):
        keys = _spread((keys * base) ^ grouped[:, row])
    return np.maximum(keys, 1)

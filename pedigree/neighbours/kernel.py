"""Pairs of near-duplicate texts, verified exactly.

Candidates come from MinHash bands (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, section 3.4); each candidate is then decided by its exact Jaccard similarity
over character trigrams, never by the sketch::

    >>> found = find_near_duplicates(["a good film", "A good film!", "bad"], similarity=0.7)
    >>> found.document.tolist()        # equal after normalisation: one document
    [0, 0, 1]
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]

# A pair of similarity s becomes a candidate with probability 1 - (1 - s^ROWS)^BANDS:
# 0.9998 at s = 0.7, 0.996 at 0.6, 0.87 at 0.5.
BANDS = 32
ROWS = 4
# Texts with the same band are compared with this many that follow in the bucket. A larger bucket
# is cut and counted, so that one flood cannot cost quadratic time.
MAX_BUCKET = 64

_NOT_A_WORD = re.compile(r"[\W_]+")
_SEED = 0x5EED


@dataclass(frozen=True)
class NearDuplicates:
    """Which texts are equal, and which distinct texts are near-duplicates.

    Attributes:
        document: (rows,) int64, for each row the index of its distinct normalised text.
        pairs: (n, 2) int64, indices of distinct texts, first < second, sorted.
        jaccard: (n,) float64, their exact similarity, at least the one asked for.
        cut_buckets: buckets that held more than `MAX_BUCKET` texts and were not searched whole.
    """

    document: Integers
    pairs: Integers
    jaccard: npt.NDArray[np.float64]
    cut_buckets: int

    def components(self) -> Integers:
        """Return for each row the smallest row position it is connected with, through any chain."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import (
            connected_components,
        )

        count = int(self.document.max()) + 1 if len(self.document) else 0
        ones = np.ones(len(self.pairs), np.int8)
        graph = coo_array((ones, (self.pairs[:, 0], self.pairs[:, 1])), shape=(count, count))
        _, component = connected_components(graph, directed=False)
        by_row: Integers = np.asarray(component, np.int64)[self.document]
        _, first, inverse = np.unique(by_row, return_index=True, return_inverse=True)
        return first[inverse].astype(np.int64)


def normalise(text: str) -> str:
    """Return what two texts are compared by: compatibility forms, case and punctuation folded.

    Invisible format characters (zero-width, bidirectional) are removed. A text of nothing but
    punctuation is compared as it is, or all of those would be one text.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return _NOT_A_WORD.sub(" ", visible).strip() or visible.strip()


def find_near_duplicates(texts: Sequence[str], similarity: float) -> NearDuplicates:
    """Find the pairs of texts whose trigram sets have a Jaccard similarity of `similarity` or more.

    Every pair returned is exact. A pair is missed when no band agrees (see `BANDS`) or its bucket
    was cut, which is counted.
    """
    distinct: dict[str, int] = {}
    document = np.fromiter(
        (distinct.setdefault(normalise(text), len(distinct)) for text in texts),
        np.int64,
        count=len(texts),
    )
    shingles, offsets = _shingle(list(distinct))
    candidates, cut = _candidates(_minhash(shingles, offsets))
    jaccard = _verify(shingles, offsets, candidates)
    keep = jaccard >= similarity
    return NearDuplicates(document, candidates[keep], jaccard[keep], cut)


def _shingle(texts: list[str]) -> tuple[npt.NDArray[np.uint64], Integers]:
    """Return each text's set of trigrams, sorted, end to end, and where each begins.

    Three code points of 21 bits fill 63 bits, so a trigram *is* its integer and no hash can
    collide. Texts are padded, so that even one character makes a trigram.
    """
    padded = [f"  {text} " for text in texts]
    lengths = np.fromiter(map(len, padded), np.int64, count=len(padded))
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    points = points.astype(np.uint64)
    grams = points[:-2] | points[1:-1] << np.uint64(21) | points[2:] << np.uint64(42)
    owner = np.repeat(np.arange(len(padded)), lengths)
    inside = owner[:-2] == owner[2:]
    grams, owner = grams[inside], owner[:-2][inside]
    order = np.lexsort((grams, owner))
    grams, owner = grams[order], owner[order]
    first = np.ones(len(grams), bool)
    first[1:] = (grams[1:] != grams[:-1]) | (owner[1:] != owner[:-1])
    counts = np.bincount(owner[first], minlength=len(padded))
    return grams[first], np.concatenate([[0], np.cumsum(counts)])


def _minhash(shingles: npt.NDArray[np.uint64], offsets: Integers) -> npt.NDArray[np.uint32]:
    """Return (texts, BANDS * ROWS) signatures; the hash functions are fixed by `_SEED`."""
    with np.errstate(over="ignore"):
        mixed = shingles * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        generator = np.random.Generator(np.random.PCG64(_SEED))
        factors = generator.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * 2 + 1
        signatures = np.empty((len(offsets) - 1, len(factors)), np.uint32)
        for k, factor in enumerate(factors):
            values = ((mixed * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[:, k] = np.minimum.reduceat(values, offsets[:-1])
    return signatures


def _candidates(signatures: npt.NDArray[np.uint32]) -> tuple[Integers, int]:
    """Return the distinct pairs that share a band, and how many buckets were cut."""
    count = len(signatures)
    found: list[Integers] = []
    cut = 0
    for band in range(BANDS):
        key = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        _, bucket = np.unique(key.view(f"V{4 * ROWS}").ravel(), return_inverse=True)
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        for step in range(1, MAX_BUCKET + 1):
            same = np.flatnonzero(bucket[step:] == bucket[:-step])
            if not len(same):
                break
            found.append(order[same] * count + order[same + step])
        cut += int((np.bincount(bucket) > MAX_BUCKET + 1).sum()) if count else 0
    codes = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    return np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1), cut


def _verify(
    shingles: npt.NDArray[np.uint64], offsets: Integers, pairs: Integers, block: int = 20_000
) -> npt.NDArray[np.float64]:
    """Return the exact Jaccard similarity of each pair."""
    from scipy.sparse import csr_array

    sizes = np.diff(offsets)
    _, column = np.unique(shingles, return_inverse=True)
    shape = (len(sizes), int(column.max()) + 1 if len(column) else 1)
    sets = csr_array((np.ones(len(column), np.int32), column, offsets), shape=shape)
    result = np.empty(len(pairs))
    for start in range(0, len(pairs), block):
        left, right = pairs[start : start + block].T
        common = np.asarray(sets[left].multiply(sets[right]).sum(axis=1)).ravel()
        result[start : start + block] = common / (sizes[left] + sizes[right] - common)
    return result

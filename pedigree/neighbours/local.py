"""Near-duplicates of a table that fits one machine: numpy and Arrow, one thread.

The split, leakage and label conflicts use it. `join` gives the same result over Daft::

    >>> found = find_near_duplicates(["a good film", "A good film!", "bad"], similarity=0.7)
    >>> found.document.tolist()        # equal after normalisation: one document
    [1, 1, 0]

Memory: the normalised texts and 8 bytes a text and band.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pedigree.neighbours.kernel import (
    BANDS,
    MAX_BUCKET,
    NO_KEY,
    WINDOW,
    Keys,
    band_keys,
    list_digests,
)
from pedigree.neighbours.normalisation import (
    Texts,
    as_strings,
    iterate_chunks,
    normalise_texts,
)
from pedigree.neighbours.overlap import Integers, count_common

_MAX_CODES = 1 << 24


@dataclass(frozen=True)
class NearDuplicates:
    """Which texts are equal, and which distinct texts are near-duplicates.

    Attributes:
        document: (rows,) int64, for each row the index of its distinct normalised text.
        digests: (documents,) 16-byte digests of the distinct normalised texts, sorted.
        pairs: (n, 2) int64, indices of distinct texts, first < second, sorted.
        common: (n,) int64, shingles that both texts of a pair have.
        union: (n,) int64, shingles that either has.
        cut_buckets: buckets that held more than `MAX_BUCKET` texts and were not searched whole.
    """

    document: Integers
    digests: pa.FixedSizeBinaryArray
    pairs: Integers
    common: Integers
    union: Integers
    cut_buckets: int

    @property
    def jaccard(self) -> npt.NDArray[np.float64]:
        """The similarity of each pair."""
        return self.common / self.union

    def components(self, similarity: float = 0.0) -> Integers:
        """Return for each row the smallest row position it is connected with, through any chain.

        Pairs less alike than `similarity` connect nothing.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import (
            connected_components,
        )

        count = len(self.digests)
        left, right = self.pairs[self.jaccard >= similarity].T
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
        _, component = connected_components(graph, directed=False)
        by_row: Integers = np.asarray(component, np.int64)[self.document]
        _, first, inverse = np.unique(by_row, return_index=True, return_inverse=True)
        return first[inverse].astype(np.int64)


# How near-duplicates are found: here, over Daft or on a cluster, with equal results.
FindNeighbours: TypeAlias = Callable[[Texts, float], NearDuplicates]


def find_near_duplicates(texts: Texts, similarity: float) -> NearDuplicates:
    """Find the pairs of texts whose similarity is `similarity` or more (see `kernel`).

    Every pair returned is exact. A pair is missed where no band agrees (see `kernel` for how
    often) or its bucket was cut, which is counted.

    Raises:
        PedigreeError: a text is null.
    """
    at_least = Fraction(similarity).limit_denominator(1_000_000)
    texts = as_strings(texts)
    document, digests, normal, keys = collapse(texts)
    order = order_digests(digests)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    pairs, cut = find_candidates(keys, rank)
    found = count_common(normal, order[pairs], at_least)
    return NearDuplicates(
        rank[document],
        pa.array(digests, pa.binary(16)).take(pa.array(order)),
        pairs[found.kept],
        found.common,
        found.union,
        cut,
    )


def collapse(
    texts: pa.LargeStringArray,
) -> tuple[Integers, list[bytes], pa.LargeStringArray, Keys]:
    """Return each row's document; and of each document its digest, its text and (BANDS, n) keys."""
    number: dict[bytes, int] = {}
    document = np.empty(len(texts), np.int64)
    normal: list[pa.LargeStringArray] = []
    keys = np.empty((BANDS, len(texts)), np.uint64)
    for start, stop in iterate_chunks(texts):
        chunk = normalise_texts(texts[start:stop])
        known = len(number)
        document[start:stop] = [number.setdefault(d, len(number)) for d in list_digests(chunk)]
        if len(number) > known:
            fresh, first = np.unique(document[start:stop], return_index=True)
            new = chunk.take(pa.array(first[fresh >= known]))
            keys[:, known : len(number)] = band_keys(new).T
            normal.append(new)
    whole = pa.concat_arrays(normal) if normal else texts[:0]
    return document, list(number), whole, keys[:, : len(number)]


def order_digests(digests: list[bytes]) -> Integers:
    """Return the positions that sort digests."""
    halves = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def find_candidates(keys: Keys, rank: Integers) -> tuple[Integers, int]:
    """Return the distinct pairs that share a key, as ranks, and how many buckets were cut.

    Args:
        keys: (BANDS, documents).
        rank: (documents,) the place of each document in the order of digests.
    """
    count = np.uint64(max(keys.shape[1], 1))
    found: list[npt.NDArray[np.uint64]] = []
    waiting = cut = 0
    for band in keys:
        codes, over = _pair_band(band, rank, count)
        cut += over
        found.append(codes)
        waiting += len(codes)
        if waiting > _MAX_CODES:
            found = [_distinct(found)]
            waiting = len(found[0]) // 2
    codes = _distinct(found)
    return np.stack([codes // count, codes % count], axis=1).astype(np.int64), cut


def _distinct(parts: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    codes = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    first = np.ones(len(codes), bool)
    first[1:] = codes[1:] != codes[:-1]
    return codes[first]


def _pair_band(band: Keys, rank: Integers, count: np.uint64) -> tuple[npt.NDArray[np.uint64], int]:
    """Return the pairs of one band, as ``left * count + right``, and how many buckets were cut.

    Says for all buckets at once what `kernel.pair_bucket` says for one.
    """
    order = np.argsort(band)
    key = band[order]
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else order
    size = np.diff(np.append(start, len(key)))
    shared = (size > 1) & (key[start] != NO_KEY)
    start, size = start[shared], size[shared]
    if not len(size):
        return np.empty(0, np.uint64), 0
    bucket = np.repeat(np.arange(len(size)), size)
    first = np.cumsum(size) - size
    place = np.arange(len(bucket)) - np.repeat(first, size)
    members = rank[order[np.repeat(start, size) + place]]
    # Members of a bucket in the order of their digests.
    members = np.sort(bucket.astype(np.uint64) * count + members.astype(np.uint64)) % count
    large = np.repeat(size > MAX_BUCKET, size)
    codes: list[npt.NDArray[np.uint64]] = []
    for step in range(1, min(int(size.max()), MAX_BUCKET)):
        same = bucket[step:] == bucket[:-step]
        if step > WINDOW:
            same &= ~large[step:]
        left = np.flatnonzero(same)
        codes.append(members[left] * count + members[left + step])
    beyond = np.flatnonzero(large & (place > WINDOW))
    codes.append(members[first[bucket[beyond]]] * count + members[beyond])
    return np.concatenate(codes), int((size > MAX_BUCKET).sum())

"""What the cluster job does to one batch of a column: Arrow in, Arrow out, no daft.

Each function depends on its batch alone, so how a table is cut into batches cannot change what
comes out. The two that look at a group (`pair_keys`, `connect`) are given the whole group::

    >>> pair_keys(keys, documents).field("left")
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pedigree.neighbours import kernel
from pedigree.neighbours.normalisation import normalise_texts
from pedigree.neighbours.overlap import count_common

DOCUMENT = pa.binary(16)
# The fields that each function returns.
IDENTITY = {"normal": pa.large_string(), "document": DOCUMENT}
KEYS = {f"k{band:02}": pa.uint64() for band in range(kernel.BANDS)}
CANDIDATE = {"left": DOCUMENT, "right": DOCUMENT}
COUNTS = {"common": pa.int64(), "union": pa.int64()}
EDGE = {"node": DOCUMENT, "root": DOCUMENT}
NAMES = {"a": pa.large_string(), "b": pa.large_string()}
Words = npt.NDArray[np.uint64]


def identify_texts(text: pa.Array) -> pa.StructArray:
    """Return for each text the form it is compared by (`normal`) and who it is (`document`).

    A null text is given the form of an empty one; both are refused later, with their rows.
    """
    normal = normalise_texts(pc.fill_null(text, ""))
    return pa.StructArray.from_arrays([normal, kernel.digest_documents(normal)], list(IDENTITY))


def key_texts(normal: pa.Array) -> pa.StructArray:
    """Return the 64-bit key of each band, a field a band."""
    keys = kernel.band_keys(normal)
    bands = [pa.array(np.ascontiguousarray(band)) for band in keys.T]
    return pa.StructArray.from_arrays(bands, list(KEYS))


def pair_keys(keys: pa.Array, documents: pa.Array) -> pa.StructArray:
    """Return the pairs of documents (`left` < `right`) to look at among those that share a key.

    The batch must hold every document of each of its keys. A bucket that was cut is marked by a
    pair of its first document with itself, so that cut buckets can be counted.
    """
    high, low = split_documents(documents)
    key = keys.to_numpy(zero_copy_only=False)
    order = np.lexsort((low, high, key))
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0]) if len(key) else np.empty(0, int)
    sizes = np.diff(np.r_[starts, len(key)])
    cut = starts[sizes > kernel.MAX_BUCKET]
    left, right = [cut], [cut]
    for size in np.unique(sizes[sizes > 1]).tolist():
        first, second = kernel.pair_bucket(size)
        begin = starts[sizes == size][:, None]
        left.append((begin + first).ravel())
        right.append((begin + second).ravel())
    sides = [documents.take(pa.array(order[np.concatenate(one)])) for one in (left, right)]
    return pa.StructArray.from_arrays(sides, list(CANDIDATE))


def count_shingles(
    left: pa.Array, right: pa.Array, left_text: pa.Array, right_text: pa.Array, at_least: Fraction
) -> pa.StructArray:
    """Return the exact `common` and `union` of each pair, nulls where it is less alike.

    A document that is in several pairs of the batch is looked at once.
    """
    codes = pa.concat_arrays([left, right]).dictionary_encode().indices.to_numpy()
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    distinct = pa.concat_arrays([left_text, right_text]).take(pa.array(first))
    found = count_common(distinct, place.reshape(2, -1).T, at_least)
    positions = np.full(len(left), -1)
    positions[found.kept] = np.arange(len(found.kept))
    taken = pa.array(positions, mask=positions < 0)
    counts = [pa.array(one).take(taken) for one in (found.common, found.union)]
    return pa.StructArray.from_arrays(counts, list(COUNTS))


def connect(nodes: pa.Array, roots: pa.Array) -> pa.StructArray:
    """Return for each document of a graph the smallest one that it is connected with.

    The batch must hold all edges. The smallest document of a component is left out.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    documents = pa.concat_arrays([nodes, roots])
    high, low = split_documents(documents)
    order = np.lexsort((low, high))
    new = np.r_[True, (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)][: len(order)]
    index = np.empty(len(order), np.int64)
    index[order] = np.cumsum(new) - 1
    distinct = documents.take(pa.array(order[new]))
    count = len(distinct)
    edges = (index[: len(nodes)], index[len(nodes) :])
    graph = coo_array((np.ones(len(nodes), np.int8), edges), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    # Documents are in order, so the first of a component is its smallest.
    _, first = np.unique(label, return_index=True)
    root = first[label]
    others = np.flatnonzero(root != np.arange(count))
    sides = [distinct.take(pa.array(others)), distinct.take(pa.array(root[others]))]
    return pa.StructArray.from_arrays(sides, list(EDGE))


def name_pairs(first: pa.Array, second: pa.Array) -> pa.StructArray:
    """Return documents in hexadecimal, which sorts like their bytes."""
    return pa.StructArray.from_arrays([name_documents(first), name_documents(second)], list(NAMES))


def name_documents(documents: pa.Array) -> pa.Array:
    """Return documents in hexadecimal."""
    return pa.array([one.hex() for one in documents.to_pylist()], pa.large_string())


def split_documents(documents: pa.Array) -> tuple[Words, Words]:
    """Return the two halves of each document as integers that sort like its bytes."""
    buffer = documents.buffers()[1]
    if len(documents) == 0 or buffer is None:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    words = np.frombuffer(buffer, ">u8", 2 * len(documents), 16 * documents.offset)
    halves = words.astype(np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]

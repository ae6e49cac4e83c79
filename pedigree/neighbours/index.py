"""The sketches of a table, kept, so that a new batch is compared with it without hashing it again.

    >>> build_index(folder, texts, labels)
    >>> index = open_index(folder)
    >>> known = find_known_copies(index, new_texts, similarity=0.8)
    >>> known.pairs[0]                 # a distinct text of the batch, a document of the index
    array([3, 17])

A folder with Arrow files that are mapped into memory, not read: `documents.arrow` has the distinct
normalised texts in the order of their digests, `bands.arrow` each band's keys, sorted, with the
document of each. `redis_bands` keeps the bands in Redis instead, where many machines ask; texts
stay in the folder, so every pair is verified exactly there too.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pedigree.digests import digest_json
from pedigree.errors import VerificationFailed
from pedigree.neighbours import kernel
from pedigree.neighbours.kernel import BANDS, MAX_BUCKET, NO_KEY, WINDOW, Keys
from pedigree.neighbours.local import collapse, order_digests
from pedigree.neighbours.normalisation import Texts, as_strings
from pedigree.neighbours.overlap import Integers, count_common

Digests: TypeAlias = npt.NDArray[np.void]
Column: TypeAlias = npt.NDArray[Any]

DOCUMENTS, BAND_FILE = "documents.arrow", "bands.arrow"

# From (queries, BANDS) keys to the pairs (query, document) that share a key, in any order and
# perhaps several times, and how many buckets were cut.
Lookup: TypeAlias = Callable[[Keys], tuple[Integers, int]]


@dataclass(frozen=True)
class Index:
    """Distinct texts of a table, by digest, and how to find those that share a band.

    Attributes:
        digests: (documents,) 16-byte digests, sorted.
        normal: (documents,) normalised texts.
        labels: (documents,) the distinct labels of each, sorted.
        rows: (documents,) the first row of each.
        lookup: finds candidates.
    """

    digests: Digests
    normal: pa.LargeStringArray
    labels: pa.ListArray
    rows: Integers
    lookup: Lookup


@dataclass(frozen=True)
class KnownCopies:
    """Which texts of a batch are near-copies of an index's documents.

    Attributes:
        document: (rows,) the distinct text of each row of the batch.
        pairs: (n, 2) a distinct text of the batch, a document of the index; sorted.
        common: (n,) shingles that both have.
        union: (n,) shingles that either has.
        cut_buckets: buckets that held more than `MAX_BUCKET` documents and were not searched whole.
    """

    document: Integers
    pairs: Integers
    common: Integers
    union: Integers
    cut_buckets: int


def kernel_digest() -> str:
    """Return what an index depends on besides its texts: parameters and tables of the kernel."""
    constants = {
        name: getattr(kernel, name)
        for name in ("SHINGLE", "CHARACTER_BANDS", "CHARACTER_ROWS", "WORD_BANDS", "WORD_ROWS",
                     "MAX_WORDS", "MAX_WORD_TEXT")
    }  # fmt: skip
    golden = kernel.band_keys(pa.array(["kernel", "a word and 一 二 三"], pa.large_string()))
    tables = [unicodedata.unidata_version, version("confusable-homoglyphs")]
    return digest_json({**constants, "tables": tables, "golden": [str(k) for k in golden.ravel()]})


def build_index(folder: Path, texts: Texts, labels: Sequence[str | None] | None = None) -> int:
    """Write the index of a table into an empty folder; return how many distinct texts it has."""
    document, digests, normal, keys = collapse(as_strings(texts))
    order = order_digests(digests)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    _, first = np.unique(rank[document], return_index=True)
    table = pa.table(
        {
            "digest": pa.array(digests, pa.binary(16)).take(pa.array(order)),
            "normal": normal.take(pa.array(order)),
            "labels": _labels_by_document(rank[document], labels, len(order)),
            "row": first,
        }
    )
    _write(table, folder / DOCUMENTS)
    columns: dict[str, Any] = {}
    for number, band in enumerate(keys):
        by_document = band[order]
        place = np.argsort(by_document, kind="stable")
        columns[f"key{number}"] = by_document[place]
        columns[f"document{number}"] = place.astype(np.int32)
    _write(pa.table(columns), folder / BAND_FILE)
    return len(order)


def _labels_by_document(
    document: Integers, labels: Sequence[str | None] | None, count: int
) -> pa.ListArray:
    found: list[set[str]] = [set() for _ in range(count)]
    for place, label in zip(document.tolist(), labels or (), strict=False):
        if label is not None:
            found[place].add(label)
    return pa.array([sorted(one) for one in found], pa.list_(pa.string()))


def _write(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(table.num_rows, 1))


def open_index(folder: Path) -> Index:
    """Open an index that `build_index` wrote and whose files were verified."""
    documents = _map(folder / DOCUMENTS)
    return Index(
        read_digests(documents),
        documents.column("normal").combine_chunks(),
        documents.column("labels").combine_chunks(),
        _numbers(documents, "row"),
        _local_lookup(open_bands(folder)),
    )


def open_bands(folder: Path) -> list[tuple[Column, Column]]:
    """Return of each band its keys, sorted, and the document of each, in order within a key."""
    bands = _map(folder / BAND_FILE)
    return [(_numbers(bands, f"key{i}"), _numbers(bands, f"document{i}")) for i in range(BANDS)]


def read_digests(documents: pa.Table) -> Digests:
    """Return the column of digests without copying it."""
    column = documents.column("digest").combine_chunks()
    return np.frombuffer(column.buffers()[1], "V16", len(column), column.offset * 16)


def _map(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise VerificationFailed(
            f"The index file {path} cannot be read ({error}): remove its folder; it is made again."
        ) from None


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return table.column(name).combine_chunks().to_numpy(zero_copy_only=False)


def _local_lookup(bands: Sequence[tuple[Column, Column]]) -> Lookup:
    def look(asked: Keys) -> tuple[Integers, int]:
        cut = 0
        found: list[Integers] = [np.empty((0, 2), np.int64)]
        for band, (keys, documents) in enumerate(bands):
            column = np.ascontiguousarray(asked[:, band])
            low = np.searchsorted(keys, column, "left")
            size = np.searchsorted(keys, column, "right") - low
            size[column == NO_KEY] = 0
            large = size > MAX_BUCKET
            cut += len(np.unique(column[large]))
            size[large] = WINDOW + 1
            query, place = expand(low, size, np.arange(len(size)))
            found.append(np.stack([query, documents[place].astype(np.int64)], axis=1))
        return np.concatenate(found), cut

    return look


def expand(low: Integers, size: Integers, chosen: Integers) -> tuple[Integers, Integers]:
    """Return for each of the chosen runs every place in it, and which choice that belongs to.

    >>> expand(np.array([5, 9]), np.array([2, 1]), np.array([1, 0, 0]))
    (array([0, 1, 1, 2, 2]), array([9, 5, 6, 5, 6]))
    """
    low, size = low[chosen], size[chosen]
    query = np.repeat(np.arange(len(size)), size)
    place = low[query] + np.arange(len(query)) - np.repeat(np.cumsum(size) - size, size)
    return query, place


def find_known_copies(index: Index, texts: Texts, similarity: float) -> KnownCopies:
    """Find the texts of a batch that equal or nearly equal a document of the index.

    Every pair is verified exactly; see `kernel` for how often one is missed.
    """
    document, digests, normal, keys = collapse(as_strings(texts))
    near, cut = index.lookup(keys.T)
    known = find_places(index.digests, digests)
    same = np.flatnonzero(known >= 0)
    equal = np.stack([same, known[same]], axis=1)
    wanted = np.unique(np.concatenate([near, equal]), axis=0).astype(np.int64)
    used, inverse = np.unique(wanted[:, 1], return_inverse=True)
    both = pa.concat_arrays([normal, index.normal.take(pa.array(used))])
    at_least = Fraction(similarity).limit_denominator(1_000_000)
    shifted = np.stack([wanted[:, 0], len(normal) + inverse], axis=1)
    overlaps = count_common(both, shifted, at_least)
    return KnownCopies(document, wanted[overlaps.kept], overlaps.common, overlaps.union, cut)


def find_places(ranked: Digests, asked: Sequence[bytes]) -> Integers:
    """Return the place of each digest among sorted ones, -1 where it is not there."""
    table = np.frombuffer(ranked.tobytes(), ">u8").reshape(-1, 2).astype(np.uint64)
    wanted = np.frombuffer(b"".join(asked), ">u8").reshape(-1, 2).astype(np.uint64)
    place = np.searchsorted(table[:, 0], wanted[:, 0])
    last = np.searchsorted(table[:, 0], wanted[:, 0], "right")
    result = np.full(len(wanted), -1)
    # First halves of 64 bits almost never repeat; where they do, the walk goes on.
    while (place < last).any():
        inside = np.flatnonzero(place < last)
        hit = table[place[inside], 1] == wanted[inside, 1]
        result[inside[hit]] = place[inside[hit]]
        place[inside] += 1
    return result

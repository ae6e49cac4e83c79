"""Near-duplicates found elsewhere, as if they had been found in memory.

What a check does with `NearDuplicates` does not depend on the engine that found them; they are
equal, index for index::

    >>> place = write_texts(texts, "/shared/in")        # what the job reads
    >>> read_near_duplicates("/shared/out").digests.equals(find_near_duplicates(texts, .8).digests)
    True

Reading a result back holds its pairs (48 bytes each) and 24 bytes a row.
"""

from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pedigree.neighbours.join import join_neighbours
from pedigree.neighbours.local import NearDuplicates
from pedigree.neighbours.normalisation import Texts, as_strings
from pedigree.neighbours.overlap import Integers
from pedigree.neighbours.request import JoinRequest
from pedigree.neighbours.stages import split_documents
from pedigree.neighbours.storage import ROW, open_filesystem, open_table, read_result

ROWS_A_GROUP = 1 << 16


def find_with_daft(texts: Texts, similarity: float, folder: Path) -> NearDuplicates:
    """Find near-duplicates over Daft on this machine, in files under `folder`.

    Raises:
        PedigreeError: as `join_neighbours` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as work:
        request = request_texts(texts, similarity, work)
        join_neighbours(request)
        return read_near_duplicates(request.output)


def request_texts(texts: Texts, similarity: float, place: str) -> JoinRequest:
    """Write texts to `place`/in, and return the request to join them into `place`/out."""
    return JoinRequest(
        inputs=(write_texts(texts, f"{place}/in"),),
        output=f"{place}/out",
        similarity=Fraction(similarity).limit_denominator(1_000_000),
        row=ROW,
    )


def write_texts(texts: Texts, place: str) -> str:
    """Write texts with their positions as Parquet, and return where.

    Raises:
        PedigreeError: a text is null.
    """
    strings = as_strings(texts)
    table = pa.table({ROW: np.arange(len(strings)), "text": strings})
    filesystem, path = open_filesystem(place)
    filesystem.create_dir(path)
    pq.write_table(
        table, f"{path}/texts.parquet", filesystem=filesystem, row_group_size=ROWS_A_GROUP
    )
    return place


def read_near_duplicates(output: str) -> NearDuplicates:
    """Return what a finished job found, whose rows were numbered from 0.

    Raises:
        EvidenceMissing: the job did not end.
    """
    rows = open_table(output, "documents").sort_by(ROW)
    documents = rows.column("document").combine_chunks()
    digests = _sort(documents.unique())
    place = {digest: index for index, digest in enumerate(digests.to_pylist())}
    pairs = open_table(output, "pairs")
    left, right = (
        _places(pairs.column(name).combine_chunks(), place) for name in ("document_a", "document_b")
    )
    order = np.lexsort((right, left))
    return NearDuplicates(
        _places(documents, place),
        digests,
        np.stack([left, right], axis=1)[order],
        pairs.column("common").to_numpy()[order],
        pairs.column("union").to_numpy()[order],
        cast(int, read_result(output)["cut_buckets"]),
    )


def _sort(documents: pa.Array) -> pa.FixedSizeBinaryArray:
    high, low = split_documents(documents)
    return documents.take(pa.array(np.lexsort((low, high))))


def _places(documents: pa.Array, place: dict[bytes, int]) -> Integers:
    return np.fromiter((place[one] for one in documents.to_pylist()), np.int64, len(documents))

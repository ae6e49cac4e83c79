"""The table of verified pairs that every engine returns, and the one digest they are compared by.

numpy on one machine, Daft on one machine, Daft on a cluster and a brute-force oracle agree when
`digest_pairs` of their pairs is equal; in what order the pairs come does not matter::

    >>> digest_pairs(PAIRS.empty_table())
    'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
"""

import hashlib
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from pedigree.errors import PedigreeError

# Documents are named by the first 16 bytes of the digest of their comparable text; the smaller one
# is `document_a`. The similarity is common / union, in integers, so that no engine rounds it.
PAIRS = pa.schema(
    [
        ("document_a", pa.binary(16)),
        ("document_b", pa.binary(16)),
        ("common", pa.int64()),
        ("union", pa.int64()),
    ]
)
# Pairs whose labels differ; where the two documents are one, its rows do not agree.
CONFLICTS = pa.schema([*PAIRS, ("label_a", pa.large_string()), ("label_b", pa.large_string())])


class PairDigest:
    """A digest of pairs that come in order, a batch at a time.

    The bytes are one line a pair, `a b common union`, documents in hexadecimal, sorted by
    (a, b). So 10^9 pairs are digested without being held.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._last = ""
        self.pairs = 0

    def update(self, a: pa.Array, b: pa.Array, common: pa.Array, union: pa.Array) -> None:
        """Add pairs; `a` and `b` are in hexadecimal.

        Raises:
            PedigreeError: the pairs are not in order, or one comes twice.
        """
        text = [column.cast(pa.large_string()) for column in (a, b, common, union)]
        space = pa.scalar(" ", pa.large_string())
        lines = pc.call_function("binary_join_element_wise", [*text, space])
        if len(lines) == 0:
            return
        names = [line[:65] for line in lines.to_pylist()]
        if names[0] <= self._last or any(x >= y for x, y in pairwise(names)):
            raise PedigreeError(
                "The pairs are not in order or one comes twice: expected each pair once, sorted by "
                "its documents. This is a fault of the engine that made them; report it."
            )
        self._last = names[-1]
        self._sha256.update(("\n".join(lines.to_pylist()) + "\n").encode())
        self.pairs += len(lines)

    def finish(self) -> str:
        """Return the digest of all pairs so far."""
        return f"sha256:{self._sha256.hexdigest()}"


def digest_pairs(table: pa.Table) -> str:
    """Return the digest of a table of pairs (columns of `PAIRS`); their order does not matter.

    Raises:
        PedigreeError: a pair comes twice.
    """
    hexadecimal = {
        name: pa.array([one.hex() for one in table.column(name).to_pylist()], pa.large_string())
        for name in ("document_a", "document_b")
    }
    counts = {name: table.column(name).cast(pa.int64()) for name in ("common", "union")}
    ordered = pa.table({**hexadecimal, **counts}).sort_by(
        [("document_a", "ascending"), ("document_b", "ascending")]
    )
    digest = PairDigest()
    for batch in ordered.to_batches(max_chunksize=1 << 16):
        digest.update(*batch.columns)
    return digest.finish()

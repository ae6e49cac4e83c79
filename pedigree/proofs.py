"""Proofs that a row is, or is not, in a snapshot, which show nothing else of the data.

A snapshot's Merkle tree (RFC 6962, section 2.1) has the sorted row ids as leaves. So a row's path
to the root proves that it is there, and two neighbours that enclose its id prove that it is not.
Verifying needs no data, only this module, which then imports nothing beyond the standard library.

    >>> proof = prove_row(snapshot, row_id)
    >>> proof.claim
    'absent'
    >>> verify_proof(proof, root, rows)   # root and rows from the signed snapshot statement
    True

The JSON form, in any order of keys::

    {"format": "pedigree/row-proof/v1",
     "claim": "included" or "absent",
     "row_id": "<64 hex digits>",            whose presence or absence is proven
     "rows": 4026,                           leaves of the tree
     "merkle_root": "<64 hex digits>",
     "leaves": [{"index": 17,                0-based position among the sorted row ids
                 "row_id": "<64 hex digits>",
                 "path": ["<64 hex digits>", ...]}]}   siblings from the leaf up (RFC 6962, 2.1.1)

"included" has one leaf, the row itself. "absent" has two, at `index` and `index + 1`, with the row
id between them; or only leaf 0 where the row would come first, or only the last leaf.

What is proven: among the leaves of the tree with this root and this number of rows, *which are
sorted*, this row id is or is not. That they are sorted is what whoever signed the snapshot's
statement vouches for, and what `open_snapshot` checks wherever the data is; a proof cannot show it.
A row id covers every column of a row: the same text with another label, source or batch is another
row. And a row id hides its source, so "no row of source X" is only ever proven for the listed rows
of X (`prove_absence_of`), in the very form in which they were read.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed

if TYPE_CHECKING:
    from pedigree.snapshots import Snapshot

FORMAT = "pedigree/row-proof/v1"
_SIZE = 32
_HEX = frozenset("0123456789abcdef")

Claim: TypeAlias = Literal["included", "absent"]


@dataclass(frozen=True)
class Leaf:
    """One leaf of the tree with its siblings up to the root."""

    index: int
    row_id: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """That a row id is (`included`) or is not (`absent`) among the leaves of a tree."""

    claim: Claim
    row_id: str
    rows: int
    merkle_root: str
    leaves: tuple[Leaf, ...]

    def to_json(self) -> bytes:
        """Return the proof in its JSON form, one line of ASCII with sorted keys."""
        value = {
            "format": FORMAT,
            "claim": self.claim,
            "row_id": self.row_id,
            "rows": self.rows,
            "merkle_root": self.merkle_root,
            "leaves": [
                {"index": leaf.index, "row_id": leaf.row_id, "path": list(leaf.path)}
                for leaf in self.leaves
            ],
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_proof(data: bytes) -> Proof:
    """Read a proof from its JSON form, unverified.

    Raises:
        PedigreeError: it is not of that form; a key more or less is refused too.
    """
    try:
        value = json.loads(data, object_pairs_hook=_unique)
        leaves = tuple(_read_leaf(item) for item in _a(list, value.pop("leaves")))
        if value.pop("format") != FORMAT:
            raise ValueError("another format")
        claim = value.pop("claim")
        if claim not in ("included", "absent"):
            raise ValueError(f"claim {claim!r}")
        proof = Proof(
            claim,
            _a(str, value.pop("row_id")),
            _a(int, value.pop("rows")),
            _a(str, value.pop("merkle_root")),
            leaves,
        )
        if value:
            raise ValueError(f"unknown {', '.join(sorted(value))}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PedigreeError(
            f"It is no proof of the form {FORMAT!r} ({type(error).__name__}: {error}): expected "
            "the JSON that `pedigree prove` prints."
        ) from None
    return proof


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:  # bool is an int, and no number of rows
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value


def _read_leaf(value: Any) -> Leaf:
    path = tuple(cast(str, _a(str, item)) for item in _a(list, value.pop("path")))
    leaf = Leaf(_a(int, value.pop("index")), _a(str, value.pop("row_id")), path)
    if value:
        raise ValueError(f"unknown {', '.join(sorted(value))}")
    return leaf


def verify_proof(proof: Proof, merkle_root: str, rows: int) -> bool:
    """Tell whether a proof holds for the tree of `rows` leaves with `merkle_root` (hex).

    Take both from a signed snapshot statement (`merkleRoot`, `rows`), never from the proof: the
    root alone says nothing about how many leaves there are.
    """
    if proof.merkle_root != merkle_root or proof.rows != rows or rows < 1:
        return False
    if not _is_digest(merkle_root) or not _is_digest(proof.row_id):
        return False
    if not all(_leaf_holds(leaf, merkle_root, rows) for leaf in proof.leaves):
        return False
    found = [(leaf.index, leaf.row_id) for leaf in proof.leaves]
    if proof.claim == "included":
        return len(found) == 1 and found[0][1] == proof.row_id
    if proof.claim != "absent":
        return False
    return _encloses(found, proof.row_id, rows)


def _encloses(found: Sequence[tuple[int, str]], row_id: str, rows: int) -> bool:
    """Whether verified leaves leave no room for `row_id` in the sorted order."""
    if len(found) == 1:
        index, only = found[0]
        # One row alone is first and last: then either side will do.
        return (index == 0 and row_id < only) or (index == rows - 1 and only < row_id)
    if len(found) == 2:
        (left, before), (right, after) = found
        return right == left + 1 and before < row_id < after
    return False


def _leaf_holds(leaf: Leaf, merkle_root: str, rows: int) -> bool:
    """Verify one path (RFC 9162, section 2.1.3.2)."""
    if not 0 <= leaf.index < rows or not all(map(_is_digest, (leaf.row_id, *leaf.path))):
        return False
    node = _hash_leaf(bytes.fromhex(leaf.row_id))
    position, last = leaf.index, rows - 1
    for sibling in map(bytes.fromhex, leaf.path):
        if last == 0:
            return False
        if position % 2 or position == last:
            node = _hash_node(sibling, node)
            while position and not position % 2:
                position, last = position // 2, last // 2
        else:
            node = _hash_node(node, sibling)
        position, last = position // 2, last // 2
    return last == 0 and node.hex() == merkle_root


def _is_digest(value: str) -> bool:
    return len(value) == 2 * _SIZE and not set(value) - _HEX


def _hash_leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _hash_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class ProofTree:
    """The levels of a snapshot's tree, to prove many rows from: 64 bytes of memory a row.

    Args:
        row_ids: the leaves, 64 lower-case hex digits each, sorted and without repetition.

    Raises:
        VerificationFailed: there is none, or they are not sorted: nothing could be proven absent.
    """

    def __init__(self, row_ids: Sequence[str]) -> None:
        if not row_ids:
            raise VerificationFailed("A tree of no rows proves nothing: expected row ids.")
        if any(before >= after for before, after in pairwise(row_ids)):
            raise VerificationFailed(
                "The row ids are not sorted or one stands twice: absence cannot be proven. "
                "Materialise the snapshot again."
            )
        self._ids = row_ids
        self._levels = [b"".join(_hash_leaf(bytes.fromhex(one)) for one in row_ids)]
        while len(self._levels[-1]) > _SIZE:
            self._levels.append(_next_level(self._levels[-1]))
        self.merkle_root = self._levels[-1].hex()

    def prove(self, row_id: str) -> Proof:
        """Return the proof that `row_id` is or is not a leaf, whichever is true.

        Raises:
            PedigreeError: it is no row id.
        """
        if not _is_digest(row_id):
            raise PedigreeError(
                f"{row_id!r} is no row id: expected 64 lower-case hex digits, as in the column "
                "row_id of a snapshot."
            )
        place = bisect_left(self._ids, row_id)
        rows = len(self._ids)
        if place < rows and self._ids[place] == row_id:
            return Proof("included", row_id, rows, self.merkle_root, (self._leaf(place),))
        around = [i for i in (place - 1, place) if 0 <= i < rows]
        leaves = tuple(self._leaf(i) for i in around)
        return Proof("absent", row_id, rows, self.merkle_root, leaves)

    def _leaf(self, index: int) -> Leaf:
        path: list[str] = []
        position = index
        for level in self._levels[:-1]:
            sibling = level[(position ^ 1) * _SIZE : ((position ^ 1) + 1) * _SIZE]
            if sibling:  # an unpaired last node moves up unchanged
                path.append(sibling.hex())
            position //= 2
        return Leaf(index, self._ids[index], tuple(path))


def _next_level(level: bytes) -> bytes:
    pair = 2 * _SIZE
    whole = len(level) - len(level) % pair
    nodes = [hashlib.sha256(b"\x01" + level[i : i + pair]).digest() for i in range(0, whole, pair)]
    return b"".join(nodes) + level[whole:]


def build_tree(snapshot: "Snapshot") -> ProofTree:
    """Return the tree of an opened, hence verified, snapshot.

    Raises:
        VerificationFailed: its rows do not hash to its Merkle root.
    """
    import pyarrow.parquet as pq

    ids: list[str] = []
    for entry in snapshot.manifest.files:
        table = pq.read_table(snapshot.path / entry.path, columns=["row_id"])
        ids += cast(list[str], table.column("row_id").to_pylist())
    tree = ProofTree(ids)
    if tree.merkle_root != snapshot.manifest.merkle_root:
        raise VerificationFailed(
            f"Snapshot {snapshot.digest} has the Merkle root {tree.merkle_root}, but its manifest "
            f"says {snapshot.manifest.merkle_root}: it was changed since it was opened."
        )
    return tree


def identify_row(snapshot: "Snapshot", row: str | Mapping[str, object]) -> str:
    """Return the row id of a row id (with or without ``sha256:``) or of a row's columns.

    Raises:
        PedigreeError: a column is missing, unknown, or holds what the snapshot's schema cannot.
    """
    if isinstance(row, str):
        return row.strip().removeprefix("sha256:")
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pedigree.snapshots import LATER_COLUMNS, add_row_ids

    first = snapshot.path / snapshot.manifest.files[0].path
    schema = pa.schema([field for field in pq.read_schema(first) if field.name != "row_id"])
    given = {str(name): value for name, value in row.items() if name != "row_id"}
    wrong = set(given) ^ (set(schema.names) - (set(LATER_COLUMNS) - set(given)))
    if wrong:
        raise PedigreeError(
            f"A row of this snapshot has the columns {', '.join(schema.names)}: missing or unknown "
            f"are {', '.join(sorted(wrong))}. A row id covers every column, so give each."
        )
    try:
        table = pa.Table.from_pylist([given], schema=schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise PedigreeError(
            f"The row does not fit the snapshot's schema ({' '.join(str(error).split())}): give "
            "strings, whole numbers, lists of them, or null."
        ) from None
    return cast(str, add_row_ids(table).column("row_id")[0].as_py())


def prove_row(snapshot: "Snapshot", row: str | Mapping[str, object]) -> Proof:
    """Return the proof that a row is or is not in a snapshot; its size grows with log2 of the rows.

    Args:
        snapshot: as `open_snapshot` returned it.
        row: a row id, or the row as a mapping of all its columns.

    Raises:
        PedigreeError: `row` is neither.
    """
    return build_tree(snapshot).prove(identify_row(snapshot, row))


def prove_absence_of(
    snapshot: "Snapshot", rows: Iterable[str | Mapping[str, object]]
) -> list[Proof]:
    """Return a proof of absence for each of `rows`, in their order.

    This is how "no row of source X is in the snapshot" is shown: for the listed rows of X. A row
    of X that is not listed, or that was altered in any column, is not spoken of.

    Raises:
        VerificationFailed: some of them are in the snapshot; the message counts and names them.
        EvidenceMissing: no row is listed, which would prove nothing and look like proof.
        PedigreeError: one is no row.
    """
    tree = build_tree(snapshot)
    proofs = [tree.prove(identify_row(snapshot, row)) for row in rows]
    if not proofs:
        raise EvidenceMissing("No rows were listed, so nothing can be proven: list row ids.")
    present = [proof.row_id for proof in proofs if proof.claim == "included"]
    if present:
        shown = ", ".join(present[:3]) + (", …" if len(present) > 3 else "")
        raise VerificationFailed(
            f"{len(present)} of {len(proofs)} rows are in snapshot {snapshot.digest} ({shown}): "
            "retrain without them before absence is claimed."
        )
    return proofs

"""Proofs of presence and absence: true ones hold, no false one does, and any change breaks one."""

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pedigree.digests import merkle_root
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.proofs import (
    Leaf,
    Proof,
    ProofTree,
    prove_absence_of,
    prove_row,
    read_proof,
    verify_proof,
)
from pedigree.snapshots import Snapshot, freeze_snapshot
from tests.conftest import REPOSITORY

IDS = st.binary(min_size=32, max_size=32).map(bytes.hex)
# Few distinct ids: neighbours, borders and hits are then frequent.
NEAR = st.integers(0, 40).map(lambda n: f"{n:064x}")
SETS = st.sets(IDS | NEAR, min_size=1, max_size=40).map(sorted)


def _root_by_the_book(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    halves = _root_by_the_book(leaves[:k]) + _root_by_the_book(leaves[k:])
    return hashlib.sha256(b"\1" + halves).digest()


def _path_by_the_book(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m < k:
        return [*_path_by_the_book(m, leaves[:k]), _root_by_the_book(leaves[k:])]
    return [*_path_by_the_book(m - k, leaves[k:]), _root_by_the_book(leaves[:k])]


def _table(count: int, source: str = "shop") -> pa.Table:
    return pa.table(
        {
            "row_key": [f"{source}-{i}" for i in range(count)],
            "text": [f"text {i}" for i in range(count)],
            "source": [source] * count,
            "ratings": pa.array([[i, -i] for i in range(count)], pa.list_(pa.int64())),
        }
    )


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return freeze_snapshot(_table(37), tmp_path_factory.mktemp("snapshots"), "training")


@given(SETS, IDS | NEAR)
def test_what_is_true_is_proven_and_survives_its_json_form(ids: list[str], row_id: str) -> None:
    tree = ProofTree(ids)
    leaves = [bytes.fromhex(one) for one in ids]
    assert tree.merkle_root == merkle_root(leaves).hex() == _root_by_the_book(leaves).hex()
    proof = tree.prove(row_id)
    assert proof.claim == ("included" if row_id in ids else "absent")
    assert verify_proof(proof, tree.merkle_root, len(ids))
    assert read_proof(proof.to_json()) == proof
    for leaf in proof.leaves:
        assert leaf.row_id == ids[leaf.index]
        assert leaf.path == tuple(one.hex() for one in _path_by_the_book(leaf.index, leaves))
        assert len(leaf.path) <= math.ceil(math.log2(len(ids))) if len(ids) > 1 else not leaf.path


@given(SETS, st.data())
def test_no_combination_of_true_leaves_proves_a_falsehood(
    ids: list[str], data: st.DataObject
) -> None:
    """The strongest liar with the real tree: any true leaves, any claim, any row."""
    tree = ProofTree(ids)
    row_id = data.draw(st.sampled_from(ids) | IDS | NEAR)
    shown = data.draw(st.lists(st.sampled_from(ids), max_size=3))
    leaves = tuple(tree.prove(one).leaves[0] for one in shown)
    for claim in ("included", "absent"):
        proof = Proof(claim, row_id, len(ids), tree.merkle_root, leaves)
        if verify_proof(proof, tree.merkle_root, len(ids)):
            assert claim == ("included" if row_id in ids else "absent")


@given(SETS, IDS | NEAR, st.data())
def test_a_change_to_any_field_breaks_a_proof(
    ids: list[str], row_id: str, data: st.DataObject
) -> None:
    tree = ProofTree(ids)
    proof = tree.prove(row_id)
    value = json.loads(proof.to_json())
    places = [(name,) for name in value if name != "leaves"]
    for i, leaf in enumerate(value["leaves"]):
        places += [("leaves", i, "index"), ("leaves", i, "row_id")]
        places += [("leaves", i, "path", j) for j in range(len(leaf["path"]))]
    *way, last = data.draw(st.sampled_from(places))
    holder = value
    for step in way:
        holder = holder[step]
    holder[last] = data.draw(_another(holder[last]))
    # Another row id in the same gap is proven absent by the same leaves: a true statement.
    assume(not (last == "row_id" and not way and value["claim"] == "absent"))
    try:
        changed = read_proof(json.dumps(value).encode())
    except PedigreeError:
        return
    assert not verify_proof(changed, tree.merkle_root, len(ids))


def _another(value: object) -> st.SearchStrategy[object]:
    if isinstance(value, int):
        return (st.integers(-2, 50) | st.none()).filter(lambda other: other != value)
    assert isinstance(value, str)
    other = st.sampled_from(["included", "absent", "", "x", value.upper() + "A", value[:-2]])
    flipped = value[:-1] + ("0" if value[-1] != "0" else "1")
    return (other | st.just(flipped) | IDS | NEAR).filter(lambda one: one != value)


@given(SETS, IDS, st.integers(0, 60))
def test_another_root_or_number_of_rows_is_refused(ids: list[str], other: str, rows: int) -> None:
    tree = ProofTree(ids)
    proof = tree.prove(ids[0])
    assert not verify_proof(proof, other, len(ids)) or other == tree.merkle_root
    if rows != len(ids):
        assert not verify_proof(proof, tree.merkle_root, rows)
        lying = dataclasses.replace(proof, rows=rows)
        assert not verify_proof(lying, tree.merkle_root, len(ids))


@given(SETS, IDS | NEAR, st.data())
def test_paths_of_another_length_or_order_are_refused(
    ids: list[str], row_id: str, data: st.DataObject
) -> None:
    tree = ProofTree(ids)
    proof = tree.prove(row_id)
    first = proof.leaves[0]
    path = data.draw(st.permutations(first.path)) + data.draw(st.lists(IDS, max_size=1))
    path = path[: data.draw(st.integers(0, len(path)))]
    assume(tuple(path) != first.path)
    leaves = (Leaf(first.index, first.row_id, tuple(path)), *proof.leaves[1:])
    assert not verify_proof(dataclasses.replace(proof, leaves=leaves), tree.merkle_root, len(ids))


def test_an_inner_node_is_no_row(snapshot: Snapshot) -> None:
    """Domain separation: the hash above two leaves is not the leaf of a shorter tree."""
    ids = [f"{n:064x}" for n in range(4)]
    tree = ProofTree(ids)
    proof = tree.prove(ids[0])
    inner = Leaf(0, hashlib.sha256(b"\0" + bytes.fromhex(ids[0])).hexdigest(), proof.leaves[0].path)
    forged = Proof("included", inner.row_id, 4, tree.merkle_root, (inner,))
    assert not verify_proof(forged, tree.merkle_root, 4)


def test_borders_of_one_row_and_of_many() -> None:
    low, middle, high = (f"{n:064x}" for n in (1, 5, 9))
    one = ProofTree([middle])
    for row_id, claim in ((low, "absent"), (middle, "included"), (high, "absent")):
        proof = one.prove(row_id)
        assert (proof.claim, len(proof.leaves)) == (claim, 1)
        assert verify_proof(proof, one.merkle_root, 1)
    many = ProofTree([f"{n:064x}" for n in (3, 5, 7)])
    assert [leaf.index for leaf in many.prove(low).leaves] == [0]
    assert [leaf.index for leaf in many.prove(high).leaves] == [2]
    # A border leaf that is not at the border encloses nothing.
    inside = Proof("absent", low, 3, many.merkle_root, many.prove(f"{5:064x}").leaves)
    assert not verify_proof(inside, many.merkle_root, 3)


@pytest.mark.parametrize("ids", [[], ["b" * 64, "a" * 64], ["a" * 64, "a" * 64]])
def test_a_tree_that_is_empty_or_unsorted_proves_nothing(ids: list[str]) -> None:
    with pytest.raises(VerificationFailed):
        ProofTree(ids)


def test_rows_of_a_snapshot_by_id_and_by_content(snapshot: Snapshot) -> None:
    manifest = snapshot.manifest
    for row in snapshot.read().to_pylist():
        by_id = prove_row(snapshot, row["row_id"])
        assert by_id.claim == "included"
        assert verify_proof(by_id, manifest.merkle_root, manifest.rows)
        content = {name: value for name, value in row.items() if name != "row_id"}
        assert prove_row(snapshot, content) == by_id
        # One column changed: another row, which is not there.
        other = prove_row(snapshot, {**content, "source": "forum"})
        assert other.claim == "absent"
        assert verify_proof(other, manifest.merkle_root, manifest.rows)


@pytest.mark.parametrize("row", ["", "abc", "A" * 64, "z" * 64, "sha256:12"])
def test_what_is_no_row_id_is_refused(snapshot: Snapshot, row: str) -> None:
    with pytest.raises(PedigreeError, match="no row id"):
        prove_row(snapshot, row)


def test_rows_that_do_not_fit_the_schema_are_refused(snapshot: Snapshot) -> None:
    row = {"row_key": "k", "text": "t", "source": "s", "ratings": [1]}
    assert prove_row(snapshot, row).claim == "absent"
    with pytest.raises(PedigreeError, match="missing or unknown are text"):
        prove_row(snapshot, {key: value for key, value in row.items() if key != "text"})
    with pytest.raises(PedigreeError, match="missing or unknown are colour"):
        prove_row(snapshot, {**row, "colour": "red"})
    with pytest.raises(PedigreeError, match="does not fit"):
        prove_row(snapshot, {**row, "ratings": ["many"]})
    with pytest.raises(PedigreeError, match="does not fit"):
        prove_row(snapshot, {**row, "ratings": [2**70]})


def test_absence_of_a_list_of_rows(snapshot: Snapshot, tmp_path: Path) -> None:
    other = freeze_snapshot(_table(9, "forum"), tmp_path, "training")
    excluded = other.read().column("row_id").to_pylist()
    proofs = prove_absence_of(snapshot, excluded)
    assert [proof.row_id for proof in proofs] == excluded
    manifest = snapshot.manifest
    assert all(p.claim == "absent" for p in proofs)
    assert all(verify_proof(p, manifest.merkle_root, manifest.rows) for p in proofs)
    present = snapshot.read().column("row_id")[5].as_py()
    with pytest.raises(VerificationFailed, match=f"1 of 10 rows are in .*{present}"):
        prove_absence_of(snapshot, [*excluded, present])
    with pytest.raises(EvidenceMissing, match="No rows were listed"):
        prove_absence_of(snapshot, [])


def test_a_snapshot_that_changed_since_it_was_opened_proves_nothing(tmp_path: Path) -> None:
    one = freeze_snapshot(_table(5), tmp_path / "one", "training")
    two = freeze_snapshot(_table(5, "forum"), tmp_path / "two", "training")
    part = one.manifest.files[0].path
    (one.path / part).write_bytes((two.path / part).read_bytes())
    with pytest.raises(VerificationFailed, match="changed since it was opened"):
        prove_row(one, "0" * 64)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"null", b"{}", b"\xff", b'{"leaves": 3}', b"[" * 100_000,
        b'{"claim":"maybe","format":"pedigree/row-proof/v1","leaves":[],"merkle_root":"",'
        b'"row_id":"","rows":1}',
        b'{"claim":"absent","format":"pedigree/row-proof/v1","leaves":[],"merkle_root":"",'
        b'"row_id":"","rows":true}',
        b'{"claim":"absent","format":"pedigree/row-proof/v1","leaves":[],"merkle_root":"",'
        b'"row_id":"","rows":1,"rows":2}',
        b'{"claim":"absent","format":"pedigree/row-proof/v1","leaves":[],"merkle_root":"",'
        b'"row_id":"","rows":1,"note":""}',
    ],
)  # fmt: skip
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    with pytest.raises(PedigreeError, match="It is no proof"):
        read_proof(data)


def test_verifying_needs_only_the_standard_library(snapshot: Snapshot, tmp_path: Path) -> None:
    proof = prove_row(snapshot, "0" * 64)
    (tmp_path / "proof.json").write_bytes(proof.to_json())
    manifest = snapshot.manifest
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pedigree.proofs import read_proof, verify_proof
proof = read_proof(Path(sys.argv[2]).read_bytes())
raise SystemExit(0 if verify_proof(proof, sys.argv[3], int(sys.argv[4])) else 1)
"""
    for root, expected in ((manifest.merkle_root, 0), ("0" * 64, 1)):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(REPOSITORY),
             str(tmp_path / "proof.json"), root, str(manifest.rows)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == expected, done.stderr

"""`pedigree verify PROOF`, from files alone: no project, no data."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pedigree.cli import main
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.signing import key_id, sign_statement
from pedigree.proof_verification import MAX_BYTES, verify_proof_file
from pedigree.proofs import ProofTree

IDS = sorted(hashlib.sha256(str(i).encode()).hexdigest() for i in range(37))
ABSENT = hashlib.sha256(b"absent").hexdigest()
TREE = ProofTree(IDS)
SNAPSHOT = "5" * 64


def _statement(root: str = TREE.merkle_root, rows: int = len(IDS), **changes: Any) -> Any:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "training_snapshot", "digest": {"sha256": SNAPSHOT}}],
        "predicateType": "urn:pedigree:predicate:snapshot:v1",
        "predicate": {"merkleRoot": root, "rows": rows},
        **changes,
    }


@pytest.fixture
def key(tmp_path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    return key


@pytest.fixture
def proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A proof of absence under a name that says nothing, in a folder that is no project."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "from-the-customer.safetensors"
    path.write_bytes(TREE.prove(ABSENT).to_json())
    return path


def test_a_proof_holds_for_the_signed_snapshot(
    proof: Path, key: Ed25519PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = sign_statement(_statement(predicateType="https://slsa.dev/provenance/v1"), key)
    forged = sign_statement(_statement(), Ed25519PrivateKey.generate())
    lines = [other, forged, sign_statement(_statement(), key)]
    (tmp_path / "claims.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "one.dsse.json").write_bytes(lines[-1])
    for claims in ("claims.jsonl", "one.dsse.json"):
        code = main(["verify", str(proof), "--claims", claims, "--key", "key.pem", "--json"])
        assert code == 0
        said = json.loads(capsys.readouterr().out)
        assert said == {
            "claim": "absent",
            "row_id": ABSENT,
            "merkle_root": TREE.merkle_root,
            "rows": 37,
            "snapshot": f"sha256:{SNAPSHOT}",
            "key_id": key_id(key.public_key()),
        }
    assert main(["verify", str(proof), "--claims", "claims.jsonl", "--key", "key.pem"]) == 0
    assert f"They are snapshot sha256:{SNAPSHOT}" in capsys.readouterr().out


def test_without_a_statement_it_says_what_was_not_looked_at(
    proof: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(proof)]) == 0
    out = capsys.readouterr().out
    assert f"Row {ABSENT} is absent among the 37 rows" in out
    assert "was not looked at" in out


def test_a_statement_about_another_tree_or_by_another_key_does_not_do(
    proof: Path, key: Ed25519PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims, trusted = tmp_path / "claims.jsonl", tmp_path / "key.pem"
    for envelope in (
        sign_statement(_statement(root="0" * 64), key),
        sign_statement(_statement(rows=38), key),
        sign_statement(_statement(), Ed25519PrivateKey.generate()),
        b"not an envelope",
        b"",
    ):
        claims.write_bytes(envelope)
        with pytest.raises(EvidenceMissing, match="No statement in"):
            verify_proof_file(proof, claims, trusted)
    assert main(["verify", str(proof), "--claims", str(claims), "--key", str(trusted)]) == 3
    with pytest.raises(PedigreeError, match="together"):
        verify_proof_file(proof, claims)
    with pytest.raises(PedigreeError, match="together"):
        verify_proof_file(proof, None, trusted)
    with pytest.raises(PedigreeError, match="cannot be read"):
        verify_proof_file(proof, tmp_path / "none", trusted)
    with pytest.raises(PedigreeError, match="key"):
        verify_proof_file(proof, claims, proof)
    assert main(["verify", "nothing-there", "--key", str(trusted)]) == 2
    assert "there is no file nothing-there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no proof"),
        (b"\x00" * 100, "no proof"),
        (b"[]", "no proof"),
        (b"{}" + b" " * MAX_BYTES, "no proof"),
        (b"{", "cannot be verified"),
        (b'{"format": "pedigree/row-proof/v2"}', "cannot be verified"),
        (base64.b64encode(b"proof"), "no proof"),
    ],
)
def test_another_file_is_told_apart_by_its_content(
    proof: Path, content: bytes, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = proof.with_name("proof.json")
    path.write_bytes(content)
    assert main(["verify", str(path)]) == 2
    assert match in capsys.readouterr().err


def test_what_is_no_file_is_still_a_model(proof: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "production"]) == 2
    assert "proof" not in capsys.readouterr().err  # there is no project here


@given(st.data())
def test_any_changed_digit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from([ABSENT, *IDS[:5]]))
    text = TREE.prove(row).to_json().decode()
    place = data.draw(st.sampled_from([i for i, c in enumerate(text) if c in "0123456789abcdef"]))
    digit = data.draw(st.sampled_from("0123456789abcdef".replace(text[place], "")))
    path = tmp_path_factory.mktemp("proof") / "proof"
    path.write_text(text[:place] + digit + text[place + 1 :])
    with pytest.raises(PedigreeError) as refused:  # noqa: PT012
        verified = verify_proof_file(path)
        # A proof of absence is also one of the absence of each other row in the same gap.
        if verified.proof.claim == "absent" and verified.proof.row_id not in IDS:
            raise VerificationFailed("another row, which is absent as well")
    assert refused.value.exit_code in (1, 2)


def test_a_proof_that_does_not_hold_exits_with_1(
    proof: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.loads(proof.read_bytes())
    proof.write_text(json.dumps({**said, "row_id": IDS[3]}))
    assert main(["verify", str(proof)]) == 1
    assert "does not prove" in capsys.readouterr().err

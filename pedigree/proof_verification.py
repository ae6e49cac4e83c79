"""Verify a file that `pedigree prove` wrote, where there is neither project nor data.

A proof speaks of a tree, by its root and number of rows. That the tree is a snapshot's is what a
signed statement says: an envelope, or the `claims.jsonl` of an export, and a key from elsewhere.
Without those the proof can only be held against itself, and what comes back says so.

    >>> verify_proof_file(Path("proof.json"), Path("claims.jsonl"), Path("key.pem")).snapshot
    'sha256:10e68826…'
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.signing import read_public_key, verify_signed
from pedigree.proofs import Proof, read_proof, verify_proof

# Proofs grow with the logarithm of the rows: one of a billion rows has some 5,000 bytes.
MAX_BYTES = 1 << 20
_SNAPSHOT = "urn:pedigree:predicate:snapshot:v1"


@dataclass(frozen=True)
class VerifiedProof:
    """A proof that holds for the tree that it names.

    Attributes:
        proof: what it claims, of which row.
        snapshot: whose tree it is by a signed statement, or None where no statement was given.
        key_id: whose key signed that.
    """

    proof: Proof
    snapshot: str | None
    key_id: str | None


def verify_proof_file(
    path: Path, claims: Path | None = None, key: Path | None = None
) -> VerifiedProof:
    """Verify a proof, and with `claims` that its tree is a snapshot's by the word of `key`.

    Raises:
        PedigreeError: the file is no proof, or no key is given to trust the claims by.
        VerificationFailed: the proof does not hold.
        EvidenceMissing: no statement by that key is about the proof's tree.
    """
    proof = read_proof_file(path)
    if not verify_proof(proof, proof.merkle_root, proof.rows):
        raise VerificationFailed(
            f"{path} does not prove that row {proof.row_id} is {proof.claim}: its path does not "
            f"lead to the root {proof.merkle_root} of {proof.rows} rows. It was changed, or is no "
            "proof of that; ask for it again."
        )
    if claims is None and key is None:
        return VerifiedProof(proof, None, None)
    if claims is None or key is None:
        raise PedigreeError(
            "Give --claims and --key together: a statement about the snapshot (an envelope, or "
            "claims.jsonl of an export), and the public key that you trust to have signed it."
        )
    snapshot, signer = _find_snapshot(proof, claims, key)
    return VerifiedProof(proof, snapshot, signer)


def read_proof_file(path: Path) -> Proof:
    """Read a proof; what the file is, its content says, whatever its name.

    Raises:
        PedigreeError: it is no proof.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES or not data.lstrip()[:1] == b"{":
        raise PedigreeError(
            f"{path} is a file and no proof: expected the JSON that `pedigree prove` prints. To "
            "verify a model, give its folder, digest or name."
        )
    try:
        return read_proof(data)
    except PedigreeError as error:
        raise PedigreeError(f"{path} cannot be verified. {error}") from None


def _find_snapshot(proof: Proof, claims: Path, key: Path) -> tuple[str, str]:
    """Return the snapshot whose signed statement has the proof's tree, and the signer's id."""
    trusted = [read_public_key(_read(key), str(key))]
    refused = 0
    for envelope in _envelopes(claims):
        try:
            content, signer = verify_signed(envelope, trusted)
        except VerificationFailed:
            refused += 1
            continue
        said = cast(dict[str, Any], content.get("predicate"))
        if content.get("predicateType") != _SNAPSHOT:
            continue
        if (said.get("merkleRoot"), said.get("rows")) == (proof.merkle_root, proof.rows):
            subjects = cast(list[dict[str, Any]], content["subject"])
            return f"sha256:{subjects[0]['digest']['sha256']}", signer
    others = f" {refused} others are not signed by it." if refused else ""
    raise EvidenceMissing(
        f"No statement in {claims} that {key} signed is about the snapshot with root "
        f"{proof.merkle_root} and {proof.rows} rows.{others} Give the statement about the snapshot "
        "that the proof was made from."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PedigreeError(f"{path} cannot be read ({error.strerror}): give a file.") from None


def _envelopes(path: Path) -> Iterator[bytes]:
    """Yield each envelope: a file is one whole envelope, or one a line."""
    data = _read(path)
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        yield from data.splitlines()
    else:
        yield data

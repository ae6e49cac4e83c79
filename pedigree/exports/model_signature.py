"""`model.sig`: an OpenSSF Model Signing bundle (predicate v1.0) over a model's files.

A Sigstore bundle v0.3 with a DSSE envelope, signed with a P-256 key, as that format has no ed25519.
`model_signing verify key MODEL --signature model.sig --public_key model-signing.pub.pem` accepts
it, and so does `openssl dgst -sha256 -verify` over the envelope's pre-authentication encoding.

Its root hashes file digests without their names, so it is no identity (different trees share it):
the list of names and digests beside it, which is signed too, is what a verifier compares.
"""

import base64
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pedigree.digests import JSON, Manifest, canonical_json, sha256_hex, sorted_manifest
from pedigree.errors import PedigreeError
from pedigree.evidence.signing import PAYLOAD_TYPE, keep_private_key
from pedigree.evidence.store import STATEMENT_TYPE

MODEL_KEY = "model-signing.pem"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def load_model_key(folder: Path) -> EllipticCurvePrivateKey:
    """Return the project's key for model signatures, a development key; make it on first use.

    Raises:
        PedigreeError: the file holds no P-256 private key, or cannot be written.
    """
    path = folder / MODEL_KEY
    if not path.exists():
        _make_key(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise PedigreeError(f"{path} holds no P-256 private key: restore it, or move it away.")
    return key


def _make_key(path: Path) -> None:
    key = generate_private_key(SECP256R1())
    keep_private_key(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(key: EllipticCurvePublicKey) -> bytes:
    """Return the public key as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign_model(name: str, files: Manifest, key: EllipticCurvePrivateKey) -> bytes:
    """Return the bundle over a model's files.

    Raises:
        PedigreeError: there are no files; a signature over nothing would be accepted by verifiers.
    """
    if not files:
        raise PedigreeError(f"Model {name!r} has no files, so there is nothing to sign.")
    files = sorted_manifest(files)
    root = sha256_hex(b"".join(bytes.fromhex(entry.sha256) for entry in files))
    resources: list[JSON] = [
        {"algorithm": "sha256", "digest": entry.sha256, "name": entry.path} for entry in files
    ]
    payload = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": root}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [],
                },
                "resources": resources,
            },
        }
    )
    message = b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip
    signature = key.sign(message, ECDSA(SHA256()))
    return canonical_json(
        {
            "mediaType": _BUNDLE_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": sha256_hex(public_pem(key.public_key()))},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
            },
        }
    )

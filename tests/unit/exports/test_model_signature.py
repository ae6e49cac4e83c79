"""The key of model signatures, and what is signed with it."""

import base64
import hashlib
import json
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from pedigree.digests import FileEntry
from pedigree.errors import PedigreeError
from pedigree.exports.model_signature import MODEL_KEY, load_model_key, sign_model

KEY = generate_private_key(SECP256R1())
ENTRIES = st.dictionaries(
    st.text('abc/._- é"\\', min_size=1, max_size=8), st.binary(max_size=4), min_size=1, max_size=6
)


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first = load_model_key(tmp_path / "keys")
    again = load_model_key(tmp_path / "keys")
    assert first.private_numbers() == again.private_numbers()
    assert stat.S_IMODE((tmp_path / "keys" / MODEL_KEY).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [MODEL_KEY]


@pytest.mark.parametrize("what", ["nothing", "text", "ed25519", "p384"])
def test_another_key_is_refused_and_kept(tmp_path: Path, what: str) -> None:
    data = {"nothing": b"", "text": b"key"}.get(what)
    if data is None:
        key = (
            Ed25519PrivateKey.generate() if what == "ed25519" else generate_private_key(SECP384R1())
        )
        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / MODEL_KEY).write_bytes(data)
    with pytest.raises(PedigreeError, match="no P-256 private key"):
        load_model_key(tmp_path)
    assert (tmp_path / MODEL_KEY).read_bytes() == data


@given(ENTRIES)
def test_every_file_is_signed_by_name_and_digest(content: dict[str, bytes]) -> None:
    files = tuple(
        FileEntry(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in content.items()
    )
    bundle = json.loads(sign_model("a model", files, KEY))
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    message = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    KEY.public_key().verify(signature, message, ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(signature, message + b" ", ECDSA(SHA256()))
    said = json.loads(payload)
    assert {one["name"]: one["digest"] for one in said["predicate"]["resources"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in content.items()
    }
    assert said["predicateType"] == "https://model_signing/signature/v1.0"
    assert said["predicate"]["serialization"]["allow_symlinks"] is False


def test_a_model_of_no_files_is_not_signed() -> None:
    with pytest.raises(PedigreeError, match="nothing to sign"):
        sign_model("empty", (), KEY)

"""DSSE envelopes: verified by hand, by cryptography and by openssl; refused once changed."""

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.signing import (
    DEVELOPMENT_KEY,
    PAYLOAD_TYPE,
    PUBLIC_KEY,
    key_id,
    load_development_key,
    load_public_key,
    sign_statement,
    verify_envelope,
)
from tests.conftest import REPOSITORY

STATEMENT: dict[str, Any] = {"b": [1, 2, None], "a": {"text": "é 😀 \u2028"}, "n": 2**53 - 1}


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def pae(kind: bytes, payload: bytes) -> bytes:
    """The pre-authentication encoding of DSSE v1.0, written from its definition."""
    return b" ".join(
        [b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload]
    )


def unpack(envelope: bytes) -> tuple[bytes, bytes]:
    content = json.loads(envelope)
    return (
        base64.b64decode(content["payload"], validate=True),
        base64.b64decode(content["signatures"][0]["sig"], validate=True),
    )


def pack(**parts: Any) -> bytes:
    return json.dumps(parts).encode()


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_encoding_is_that_of_the_specifications_example() -> None:
    assert pae(b"http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_has_the_form_of_dsse(key: Ed25519PrivateKey) -> None:
    envelope = json.loads(sign_statement(STATEMENT, key))
    assert envelope.keys() == {"payloadType", "payload", "signatures"}
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    (signature,) = envelope["signatures"]
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert signature["keyid"] == hashlib.sha256(der).hexdigest()


def test_the_payload_is_the_rfc_8785_form_and_the_signature_is_over_the_encoding(
    key: Ed25519PrivateKey,
) -> None:
    payload, signature = unpack(sign_statement(STATEMENT, key))
    assert payload == rfc8785.dumps(STATEMENT)
    message = pae(b"application/vnd.in-toto+json", payload)
    key.public_key().verify(signature, message)
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, payload)


def test_openssl_verifies_the_signature(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here")
    payload, signature = unpack(sign_statement(STATEMENT, key))
    (tmp_path / "key.pem").write_bytes(public_pem(key.public_key()))
    (tmp_path / "message").write_bytes(pae(PAYLOAD_TYPE.encode(), payload))
    (tmp_path / "signature").write_bytes(signature)
    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin",
               "-in", "message", "-sigfile", "signature"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done.stderr
    (tmp_path / "message").write_bytes(pae(PAYLOAD_TYPE.encode(), payload + b" "))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_what_another_implementation_signed_is_verified(key: Ed25519PrivateKey) -> None:
    payload = '{ "spaces": "kept",\n"é": 1 }'.encode()
    signature = key.sign(pae(PAYLOAD_TYPE.encode(), payload))
    envelope = pack(
        payloadType=PAYLOAD_TYPE,
        payload=base64.b64encode(payload).decode(),
        signatures=[
            {"keyid": "someone else", "sig": base64.b64encode(b"x" * 64).decode()},
            {
                "keyid": key_id(key.public_key()),
                "sig": base64.b64encode(signature).decode(),
                "cert": "an unknown field",
            },
        ],
        more="an unknown field",
    )
    assert verify_envelope(envelope, [key.public_key()]) == json.loads(payload)


def test_a_statement_comes_back_as_it_was_signed(key: Ed25519PrivateKey) -> None:
    envelope = sign_statement(STATEMENT, key)
    others = [Ed25519PrivateKey.generate().public_key() for _ in range(2)]
    assert verify_envelope(envelope, [*others, key.public_key()]) == STATEMENT
    assert sign_statement(dict(reversed(STATEMENT.items())), key) == envelope


@pytest.mark.parametrize("trusted", [0, 3])
def test_an_unknown_key_is_refused(key: Ed25519PrivateKey, trusted: int) -> None:
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(trusted)]
    with pytest.raises(VerificationFailed, match="no trusted key signed it"):
        verify_envelope(sign_statement(STATEMENT, key), keys)


def test_a_signature_under_the_name_of_a_trusted_key_is_refused(key: Ed25519PrivateKey) -> None:
    envelope = json.loads(sign_statement(STATEMENT, Ed25519PrivateKey.generate()))
    envelope["signatures"][0]["keyid"] = key_id(key.public_key())
    with pytest.raises(VerificationFailed, match="no trusted key"):
        verify_envelope(pack(**envelope), [key.public_key()])


def test_every_changed_byte_of_the_payload_is_refused(key: Ed25519PrivateKey) -> None:
    envelope = json.loads(sign_statement({"a": "text"}, key))
    payload = base64.b64decode(envelope["payload"])
    for i in range(len(payload)):
        changed = bytearray(payload)
        changed[i] ^= 1
        forged = {**envelope, "payload": base64.b64encode(bytes(changed)).decode()}
        with pytest.raises(VerificationFailed, match="no trusted key"):
            verify_envelope(pack(**forged), [key.public_key()])


def test_another_payload_type_is_refused_even_where_it_was_signed(key: Ed25519PrivateKey) -> None:
    envelope = json.loads(sign_statement(STATEMENT, key))
    payload = base64.b64decode(envelope["payload"])
    with pytest.raises(VerificationFailed):
        verify_envelope(pack(**{**envelope, "payloadType": "text/plain"}), [key.public_key()])
    signature = base64.b64encode(key.sign(pae(b"text/plain", payload))).decode()
    envelope |= {
        "payloadType": "text/plain",
        "signatures": [{"keyid": key_id(key.public_key()), "sig": signature}],
    }
    with pytest.raises(VerificationFailed):
        verify_envelope(pack(**envelope), [key.public_key()])


def test_bytes_cannot_be_moved_between_type_and_payload(key: Ed25519PrivateKey) -> None:
    """What DSSE's lengths are for: the same text, divided elsewhere, is another message."""
    envelope = json.loads(sign_statement(STATEMENT, key))
    payload = base64.b64decode(envelope["payload"])
    forged = {
        **envelope,
        "payloadType": PAYLOAD_TYPE + " " + payload[:1].decode(),
        "payload": base64.b64encode(payload[1:]).decode(),
    }
    with pytest.raises(VerificationFailed):
        verify_envelope(pack(**forged), [key.public_key()])


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"-----BEGIN",
    "no utf8": b"\xff\xfe",
    "a list": b"[]",
    "no payload": pack(payloadType=PAYLOAD_TYPE, signatures=[]),
    "payload of another type": pack(payloadType=PAYLOAD_TYPE, payload=5, signatures=[]),
    "payload no base64": pack(payloadType=PAYLOAD_TYPE, payload="!!!!", signatures=[]),
    "payload no ascii": pack(payloadType=PAYLOAD_TYPE, payload="é", signatures=[]),
    "no signatures": pack(payloadType=PAYLOAD_TYPE, payload="", signatures=[]),
    "signatures a number": pack(payloadType=PAYLOAD_TYPE, payload="", signatures=5),
    "signature a number": pack(payloadType=PAYLOAD_TYPE, payload="", signatures=[5]),
    "signature without key": pack(payloadType=PAYLOAD_TYPE, payload="", signatures=[{"sig": ""}]),
    "signature no base64": pack(
        payloadType=PAYLOAD_TYPE, payload="", signatures=[{"keyid": "x", "sig": "!"}]
    ),
}
HOSTILE: dict[str, bytes] = {
    "payload type a number": pack(payloadType=5, payload="", signatures=[]),
    "payload type half a pair": pack(payloadType="\ud800", payload="", signatures=[]),
    "key id a list": pack(
        payloadType=PAYLOAD_TYPE, payload="", signatures=[{"keyid": [], "sig": ""}]
    ),
    "nested deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
def test_garbage_is_no_envelope(key: Ed25519PrivateKey, name: str) -> None:
    with pytest.raises(VerificationFailed):
        verify_envelope(GARBAGE[name], [key.public_key()])


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_garbage_made_on_purpose_is_no_envelope(key: Ed25519PrivateKey, name: str) -> None:
    with pytest.raises(VerificationFailed):
        verify_envelope(HOSTILE[name], [key.public_key()])


def test_a_development_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = load_development_key(folder)
    assert load_development_key(folder).public_key() == first.public_key()
    assert {path.name for path in folder.iterdir()} == {DEVELOPMENT_KEY, PUBLIC_KEY}
    assert stat.S_IMODE((folder / DEVELOPMENT_KEY).stat().st_mode) == 0o600
    assert load_development_key(tmp_path / "other").public_key() != first.public_key()


def test_the_public_half_alone_is_enough_to_verify(tmp_path: Path) -> None:
    assert load_public_key(tmp_path / "none") is None
    envelope = sign_statement(STATEMENT, load_development_key(tmp_path / "here"))
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(tmp_path / "here" / PUBLIC_KEY, there)
    public = load_public_key(there)
    assert public is not None
    assert verify_envelope(envelope, [public]) == STATEMENT
    assert [path.name for path in there.iterdir()] == [PUBLIC_KEY]


@pytest.mark.parametrize("kind", ["garbage", "private half", "another algorithm"])
def test_a_file_that_holds_no_public_key_is_refused(
    key: Ed25519PrivateKey, tmp_path: Path, kind: str
) -> None:
    other = generate_private_key(SECP256R1()).public_key()
    content = {
        "garbage": b"garbage",
        "private half": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "another algorithm": other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }[kind]
    (tmp_path / PUBLIC_KEY).write_bytes(content)
    with pytest.raises(PedigreeError, match="holds no ed25519 public key"):
        load_public_key(tmp_path)


def test_an_existing_key_is_never_replaced(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / DEVELOPMENT_KEY).write_bytes(pem)
    assert load_development_key(tmp_path).public_key() == key.public_key()
    assert (tmp_path / DEVELOPMENT_KEY).read_bytes() == pem


@pytest.mark.parametrize("kind", ["empty", "garbage", "public half", "another algorithm"])
def test_a_file_that_holds_no_ed25519_key_is_refused_and_kept(
    key: Ed25519PrivateKey, tmp_path: Path, kind: str
) -> None:
    content = {
        "empty": b"",
        "garbage": b"-----BEGIN PRIVATE KEY-----\nxxx\n-----END PRIVATE KEY-----\n",
        "public half": public_pem(key.public_key()),
        "another algorithm": generate_private_key(SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
    }[kind]
    path = tmp_path / DEVELOPMENT_KEY
    path.write_bytes(content)
    with pytest.raises(PedigreeError, match="holds no ed25519 private key"):
        load_development_key(tmp_path)
    assert path.read_bytes() == content


def test_what_a_killed_process_left_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / f".partial-{os.getpid()}").write_bytes(b"half a key")
    load_development_key(tmp_path)


def test_processes_that_need_a_key_at_once_get_the_same_one(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from pedigree.evidence.signing import key_id, load_development_key
print("ready", flush=True)
sys.stdin.readline()
print(key_id(load_development_key(Path(sys.argv[1])).public_key()))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "keys")],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    found = set()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        found.add(process.communicate()[0])
        assert process.returncode == 0
    assert found == {key_id(load_development_key(tmp_path / "keys").public_key()) + "\n"}

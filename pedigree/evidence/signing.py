"""DSSE envelopes: statements signed with ed25519, verified before they are believed.

The format is https://github.com/secure-systems-lab/dsse (protocol and envelope, v1.0). A key is
known by the sha256 of its public half in DER (SubjectPublicKeyInfo)::

    >>> envelope = sign_statement(statement, load_development_key(folder))
    >>> verify_envelope(envelope, [public_key])      # the statement, or VerificationFailed
"""

import base64
import binascii
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pedigree.digests import JSON, canonical_json, sha256_hex
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.files import PARTIAL, explain_disk_errors, write_atomically

PAYLOAD_TYPE = "application/vnd.in-toto+json"
DEVELOPMENT_KEY = "development.pem"
PUBLIC_KEY = "development.pub.pem"


class Signer(Protocol):
    """Whatever signs with ed25519: a private key, or an agent that holds one and never shows it."""

    def public_key(self) -> Ed25519PublicKey:
        """Return the public half."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """Return the 64 bytes of the signature over `data`."""
        ...


def key_id(key: Ed25519PublicKey) -> str:
    """Return the sha256 of the public key's DER form."""
    return sha256_hex(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def load_development_key(folder: Path) -> Ed25519PrivateKey:
    """Return the project's development key; make it on first use.

    Raises:
        PedigreeError: the file holds no ed25519 private key.
    """
    path = folder / DEVELOPMENT_KEY
    if not path.exists():
        _make_key(path)
    key = read_private_key(path.read_bytes(), str(path))
    if not (folder / PUBLIC_KEY).exists():
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomically(folder / PUBLIC_KEY, public)
    return key


def load_public_key(folder: Path) -> Ed25519PublicKey | None:
    """Return the public half of the development key, or None where there is none.

    It lies in a file of its own, which is all that another machine needs to verify with.

    Raises:
        PedigreeError: the file holds no ed25519 public key.
    """
    path = folder / PUBLIC_KEY
    if not path.exists() and (folder / DEVELOPMENT_KEY).exists():
        return load_development_key(folder).public_key()
    if not path.exists():
        return None
    return read_public_key(path.read_bytes(), str(path))


def read_public_key(pem: bytes, where: str) -> Ed25519PublicKey:
    """Return the ed25519 public key in a PEM text.

    Raises:
        PedigreeError: it holds none.
    """
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise PedigreeError(f"{where} holds no ed25519 public key: restore it.")
    return key


def read_private_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Return the ed25519 private key in a PEM text.

    Raises:
        PedigreeError: it holds none. The message names the place, never the content.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise PedigreeError(f"{where} holds no ed25519 private key: restore it, or move it away.")
    return key


def _make_key(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keep_private_key(path, pem)


def keep_private_key(path: Path, pem: bytes) -> None:
    """Write a new private key for the owner alone, whole; one that another process wrote stays."""
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(pem)
            with suppress(FileExistsError):  # another process was first: its key stays
                os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def sign_statement(statement: Mapping[str, JSON], key: Signer) -> bytes:
    """Return a DSSE envelope over the RFC 8785 form of a statement."""
    payload = canonical_json(statement)
    signature = key.sign(_pre_authentication_encoding(PAYLOAD_TYPE, payload))
    return canonical_json(
        {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [
                {"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}
            ],
        }
    )


def verify_envelope(data: bytes, keys: Iterable[Ed25519PublicKey]) -> dict[str, JSON]:
    """Return the statement of an envelope that one of `keys` signed.

    Raises:
        VerificationFailed: it is no DSSE envelope, or no trusted key signed these bytes.
    """
    return verify_signed(data, keys)[0]


def verify_signed(data: bytes, keys: Iterable[Ed25519PublicKey]) -> tuple[dict[str, JSON], str]:
    """Return the statement of an envelope, and the id of the key among `keys` that signed it.

    Raises:
        VerificationFailed: it is no DSSE envelope, or no trusted key signed these bytes.
    """
    try:
        envelope = json.loads(data)
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [
            (str(item["keyid"]), base64.b64decode(item["sig"], validate=True))
            for item in envelope["signatures"]
        ]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("another payload")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise VerificationFailed("it is no DSSE envelope of a statement") from None
    message = _pre_authentication_encoding(PAYLOAD_TYPE, payload)
    known = {key_id(key): key for key in keys}
    for identifier, signature in signatures:
        if identifier in known:
            try:
                known[identifier].verify(signature, message)
            except InvalidSignature:
                continue
            return cast(dict[str, JSON], json.loads(payload)), identifier
    raise VerificationFailed("no trusted key signed it")


def _pre_authentication_encoding(kind: str, payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)

"""Publishers: which keys sign for whom, until when, and from which version on.

`trust/publishers.yaml` is in git, so a key moves in or out only by a commit::

    publishers:
      acme:
        keys:
          - pem: |
              -----BEGIN PUBLIC KEY-----
              MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE...
              -----END PUBLIC KEY-----
            expires: 2027-06-30
        minimum_versions: {sentiment-base: 3}

A signature by any other key, however valid, says nothing about who made an artifact.
"""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from pydantic import Field, field_validator

from pedigree.digests import digest_json, sha256_hex
from pedigree.errors import PedigreeError
from pedigree.settings import Settings, parse_settings, read_yaml

PublicKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey
_HASHES = {256: SHA256, 384: SHA384, 521: SHA512}


class PublisherKey(Settings):
    """One key of a publisher: P-256, P-384, P-521 or ed25519, as PEM."""

    pem: str
    expires: date | None = Field(default=None, description="the last day on which it counts")

    @field_validator("pem")
    @classmethod
    def _is_a_key(cls, pem: str) -> str:
        try:
            read_public_key(pem.encode())
        except PedigreeError as error:
            raise ValueError(str(error)) from None
        return pem


class Publisher(Settings):
    """Who publishes: the keys that sign, and the oldest version of each artifact that counts."""

    keys: tuple[PublisherKey, ...] = Field(min_length=1)
    minimum_versions: dict[str, int] = Field(default={}, description="artifact: version")


class Publishers(Settings):
    """The whole of `trust/publishers.yaml`."""

    publishers: dict[str, Publisher] = Field(default={}, description="by name")

    def digest(self) -> str:
        """Return the digest of who is pinned."""
        return digest_json(self.model_dump(mode="json"))


@dataclass(frozen=True)
class PinnedKey:
    """A key, its id (sha256 of its DER form), and the publisher it is pinned to."""

    key: PublicKey
    id: str
    publisher: str
    expires: date | None

    def expired(self, now: datetime) -> bool:
        """Return whether its last day is over."""
        return self.expires is not None and now.date() > self.expires


def load_publishers(root: Path) -> Publishers:
    """Read a project's `trust/publishers.yaml`; nobody is pinned where there is none.

    Raises:
        PedigreeError: the file is not valid, or a key is pinned to two publishers.
    """
    path = root / "trust" / "publishers.yaml"
    if not path.exists():
        return Publishers()
    publishers = parse_settings(Publishers, read_yaml(path), str(path))
    owners: dict[str, str] = {}
    for one in pinned_keys(publishers):
        if owners.setdefault(one.id, one.publisher) != one.publisher:
            raise PedigreeError(
                f"{path} pins the key {one.id} to {owners[one.id]} and to {one.publisher}: a key "
                "signs for one publisher; correct it."
            )
    return publishers


def pinned_keys(publishers: Publishers) -> list[PinnedKey]:
    """Return every pinned key."""
    found: list[PinnedKey] = []
    for name, publisher in publishers.publishers.items():
        for pinned in publisher.keys:
            key = read_public_key(pinned.pem.encode())
            found.append(PinnedKey(key, key_id_of(key), name, pinned.expires))
    return found


def read_public_key(pem: bytes) -> PublicKey:
    """Return a public key of a kind that signs artifacts.

    Raises:
        PedigreeError: it is none.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, EllipticCurvePublicKey) and key.curve.key_size in _HASHES:
        return key
    if isinstance(key, Ed25519PublicKey):
        return key
    raise PedigreeError("It is no public key in PEM of P-256, P-384, P-521 or ed25519: give one.")


def key_id_of(key: PublicKey) -> str:
    """Return the sha256 of the public key's DER form."""
    return sha256_hex(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def signed_by(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Return whether this key made this signature over these bytes."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ECDSA(_HASHES[key.curve.key_size]()))
    except InvalidSignature:
        return False
    return True

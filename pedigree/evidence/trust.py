"""Who may sign what: `trust/keys.json`, which lies in the project's repository.

Each key has an owner, roles, a time in which it counts, and perhaps a revocation. A statement is
believed only where the key that signed it had the role that its kind asks for, at the moment at
which the ledger listed it::

    builder    what was made: sources, snapshots, models, rebuilds
    checker    verdicts
    reviewer   approvals, waivers, revocations
    releaser   promotions, deployments, revocations

A development key is made on first use and is not in the file. It builds, checks and releases where
the policy accepts such keys, and reviews nothing.

    >>> trust = load_trust(project.trust, development=None)
    >>> trust.require(key_id, "approval", listed_on, sequence)     # or VerificationFailed
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from pedigree.digests import canonical_json, digest_json
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.signing import key_id, read_public_key
from pedigree.files import write_atomically
from pedigree.settings import Settings, parse_settings

Role: TypeAlias = Literal["builder", "checker", "reviewer", "releaser"]
ROLES: tuple[Role, ...] = ("builder", "checker", "reviewer", "releaser")
DEVELOPMENT_OWNER = "development"
DEVELOPMENT_ROLES: tuple[Role, ...] = ("builder", "checker", "releaser")

_OWNER = r"^[a-z0-9][a-z0-9._@+-]{0,126}$"

# Which role signs a kind of statement; a kind that is not named here is a builder's.
SIGNED_BY: dict[str, tuple[Role, ...]] = {
    "verdict": ("checker",),
    "admission": ("checker",),
    "vulnerabilities": ("checker",),
    "approval": ("reviewer", "releaser"),
    "allowed-source": ("reviewer",),
    "waiver": ("reviewer",),
    "revocation": ("reviewer", "releaser"),
    "promotion": ("releaser",),
    "refusal": ("releaser",),
    "deployment": ("releaser",),
}


def roles_of(kind: str) -> tuple[Role, ...]:
    """Return the roles of which one has to sign a statement of this kind."""
    return SIGNED_BY.get(kind, ("builder",))


class TrustedKey(Settings):
    """One public key, its owner, and what it counts for.

    `revoked_after` is the number of the ledger's last entry that still counts: times can be
    forged by whoever has a stolen key, a place in the chain cannot.
    """

    id: str = Field(pattern=r"^[0-9a-f]{64}$")
    # ASCII alone, so that no owner can look like another.
    owner: str = Field(pattern=_OWNER)
    roles: tuple[Role, ...] = Field(min_length=1)
    public_key: str
    valid_from: AwareDatetime
    valid_until: AwareDatetime | None = None
    development: bool = False
    revoked_on: AwareDatetime | None = None
    revoked_after: int | None = Field(default=None, ge=0)
    revoked_because: str | None = None

    @field_validator("owner")
    @classmethod
    def _is_a_person(cls, owner: str) -> str:
        if owner == DEVELOPMENT_OWNER:
            raise ValueError(f"{owner!r} is the name of keys that are made on first use")
        return owner

    @model_validator(mode="after")
    def _is_whole(self) -> "TrustedKey":
        if self.id != key_id(self.read()):
            raise ValueError(f"the id {self.id[:12]}… is not the sha256 of this public key")
        if self.valid_until is not None and self.valid_until <= self.valid_from:
            raise ValueError("valid_until is not after valid_from")
        given = (self.revoked_on, self.revoked_after, self.revoked_because)
        if any(one is None for one in given) and any(one is not None for one in given):
            raise ValueError("a revocation has revoked_on, revoked_after and revoked_because")
        return self

    def read(self) -> Ed25519PublicKey:
        """Return the key itself."""
        return read_public_key(self.public_key.encode(), "the key")


class _TrustFile(Settings):
    keys: tuple[TrustedKey, ...] = ()

    @model_validator(mode="after")
    def _no_key_twice(self) -> "_TrustFile":
        ids = [one.id for one in self.keys]
        if len(set(ids)) != len(ids):
            raise ValueError("a key is listed twice: one owner, one key")
        return self


@dataclass(frozen=True)
class Trust:
    """The keys that are trusted, by id."""

    keys: Mapping[str, TrustedKey] = field(default_factory=dict[str, TrustedKey])
    development: str | None = None

    def public_keys(self) -> tuple[Ed25519PublicKey, ...]:
        """Return every key, those included that count no longer: their old statements stay."""
        return tuple(one.read() for one in self.keys.values())

    def owner(self, key: str) -> str:
        """Return who owns a key; keys that nobody registered own themselves."""
        if key == self.development:
            return DEVELOPMENT_OWNER
        return self.keys[key].owner if key in self.keys else key

    def has_role(self, key: str, role: Role) -> bool:
        """Whether a key has a role."""
        if key == self.development:
            return role in DEVELOPMENT_ROLES
        return key in self.keys and role in self.keys[key].roles

    def is_development(self, key: str) -> bool:
        """Whether a key is one for trials."""
        return key == self.development or (key in self.keys and self.keys[key].development)

    def require(
        self, key: str, kind: str, listed_on: datetime | None, sequence: int | None
    ) -> None:
        """Refuse a statement whose signer may not say such a thing, or might not then.

        Args:
            key: id of the key that signed it.
            kind: of the statement.
            listed_on: when the ledger listed it; None where there is no ledger.
            sequence: the number of its entry.

        Raises:
            VerificationFailed: the key is unknown, has another role, had expired or was revoked.
        """
        wanted = roles_of(kind)
        if key == self.development:
            has: tuple[Role, ...] = DEVELOPMENT_ROLES
        elif key in self.keys:
            has = self.keys[key].roles
            self._require_time(self.keys[key], listed_on, sequence)
        else:
            raise VerificationFailed("no trusted key signed it")
        if not set(wanted) & set(has):
            raise VerificationFailed(
                f"a key of {self.owner(key)} signed it, who is {_list(has)}, and a statement "
                f"of kind {kind} is signed by a {' or a '.join(wanted)}"
            )

    def _require_time(
        self, key: TrustedKey, listed_on: datetime | None, sequence: int | None
    ) -> None:
        if key.revoked_after is not None and (sequence is None or sequence > key.revoked_after):
            raise VerificationFailed(
                f"the key of {key.owner} that signed it was revoked on {key.revoked_on} "
                f"({key.revoked_because})"
            )
        if listed_on is None:
            return
        if listed_on < key.valid_from:
            raise VerificationFailed(
                f"the key of {key.owner} that signed it counts from {key.valid_from} on only"
            )
        if key.valid_until is not None and listed_on > key.valid_until:
            raise VerificationFailed(
                f"the key of {key.owner} that signed it had expired on {key.valid_until}"
            )

    def require_signer(self, key: str, role: Role, now: datetime | None = None) -> None:
        """Refuse to sign with a key that would not be believed afterwards.

        Raises:
            PedigreeError: the key is not registered with that role, was revoked or has expired.
        """
        if key == self.development and role in DEVELOPMENT_ROLES:
            return
        known = self.keys.get(key)
        if known is None or role not in known.roles:
            what = f"has only the roles {_list(known.roles)}" if known else "is not there"
            raise PedigreeError(
                f"The key {key[:12]}… cannot sign as {role}: expected it in trust/keys.json with "
                f"that role, and it {what}. Register it (`pedigree keys new {role}`, or add its "
                "public half to the file), and commit the file."
            )
        if known.revoked_on is not None:
            raise PedigreeError(f"The key of {known.owner} was revoked: {known.revoked_because}.")
        if now is not None and known.valid_until is not None and now > known.valid_until:
            raise PedigreeError(
                f"The key of {known.owner} expired on {known.valid_until}: make a new one."
            )

    def digest(self) -> str:
        """Return the digest of all that is trusted, for the record."""
        keys = [one.model_dump(mode="json") for _, one in sorted(self.keys.items())]
        return digest_json({"keys": keys, "development": self.development})


def _list(roles: Iterable[Role]) -> str:
    return ", ".join(roles)


def load_trust(
    path: Path, development: Ed25519PublicKey | None, *, accept_development: bool
) -> Trust:
    """Read `trust/keys.json`; a project without one trusts its development key alone.

    Args:
        path: the file.
        development: the key that was made on first use, where the policy accepts it.
        accept_development: whether keys that are marked so in the file count.

    Raises:
        PedigreeError: the file is not valid.
    """
    keys = _read(path).keys
    counted = {one.id: one for one in keys if accept_development or not one.development}
    return Trust(counted, key_id(development) if development is not None else None)


def _read(path: Path) -> _TrustFile:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _TrustFile()
    try:
        values = json.loads(data)
    except ValueError as error:
        raise PedigreeError(
            f"{path} is not valid JSON ({error}): restore it from git, or correct it."
        ) from None
    return parse_settings(_TrustFile, values, str(path))


def require_owner(name: str) -> None:
    """Refuse a name that no owner can have.

    Raises:
        PedigreeError: it is not lower-case ASCII, or it is the name of development keys.
    """
    if not re.fullmatch(_OWNER.strip("^$"), name) or name == DEVELOPMENT_OWNER:
        raise PedigreeError(
            f"{name!r} is no name for a key's owner: expected lower-case ASCII, such as "
            f"ada@example.org, so that no name looks like another; and not {DEVELOPMENT_OWNER!r}."
        )


def register_key(
    path: Path,
    public: Ed25519PublicKey,
    owner: str,
    roles: tuple[Role, ...],
    now: datetime,
    *,
    valid_until: datetime | None = None,
    development: bool = False,
) -> TrustedKey:
    """Add a public key to `trust/keys.json` and return its entry.

    Raises:
        PedigreeError: the file is not valid, the name is none, or the key is there already.
    """
    known = _read(path)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    try:
        added = TrustedKey(
            id=key_id(public),
            owner=owner,
            roles=roles,
            public_key=pem,
            valid_from=now,
            valid_until=valid_until,
            development=development,
        )
        changed = _TrustFile(keys=(*known.keys, added))
    except ValidationError as error:
        raise PedigreeError(
            f"The key of {owner!r} was not added to {path}: {error.errors()[0]['msg']}. An owner "
            "is a name in lower-case ASCII, such as ada@example.org, and a key is listed once."
        ) from None
    _write(path, changed)
    return added


def revoke_key(path: Path, prefix: str, reason: str, now: datetime, last_entry: int) -> TrustedKey:
    """Mark a key as revoked; return its entry.

    Args:
        path: `trust/keys.json`.
        prefix: the key's id, or at least its first 12 digits.
        reason: why.
        now: when.
        last_entry: number of the ledger's last entry that still counts; 0 for none, where it is
            not known since when somebody else has the key.

    Raises:
        PedigreeError: there is no such key, or it was revoked before.
    """
    known = _read(path)
    found = [one for one in known.keys if one.id.startswith(prefix)]
    if len(prefix) < 12 or len(found) != 1:
        raise PedigreeError(
            f"{prefix!r} names {len(found)} keys of {path}: give at least 12 digits of one key's "
            "id (see `pedigree keys list`)."
        )
    if found[0].revoked_on is not None:
        raise PedigreeError(f"The key {prefix} was revoked already, on {found[0].revoked_on}.")
    marks = {"revoked_on": now, "revoked_after": last_entry, "revoked_because": reason}
    revoked = found[0].model_copy(update=marks)
    _write(path, _TrustFile(keys=tuple(revoked if k is found[0] else k for k in known.keys)))
    return revoked


def list_keys(path: Path) -> tuple[TrustedKey, ...]:
    """Return every key of `trust/keys.json`, those included that count no longer."""
    return _read(path).keys


def _write(path: Path, content: _TrustFile) -> None:
    values = json.loads(canonical_json(content.model_dump(mode="json", exclude_none=True)))
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def parse_time(text: str) -> datetime:
    """Return a time that somebody typed: a date means its end, in UTC.

    Raises:
        PedigreeError: it is neither a date nor a time.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise PedigreeError(
            f"{text!r} is no date: expected one like 2026-12-31 or 2026-12-31T12:00:00+00:00."
        ) from None
    if len(text) == len("2026-12-31"):
        when = when.replace(hour=23, minute=59, second=59)
    return when if when.tzinfo else when.replace(tzinfo=UTC)

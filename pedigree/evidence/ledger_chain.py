"""The two records of a ledger, as signed bytes: an entry of the chain, and its head.

Both are in-toto Statements in DSSE envelopes, in one exact form: any other bytes are refused, also
where the same JSON or base64 could be written differently. Entry *n* names the sha256 of entry
*n-1*'s bytes, and the head names the newest entry::

    >>> data = sign_entry(Entry(sequence=1, previous=NOTHING, ...), key)
    >>> read_entry(data, [key.public_key()]).sequence
    1
"""

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pedigree.digests import JSON, canonical_json
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.signing import Signer, sign_statement, verify_envelope

ENTRY_PREDICATE = "urn:pedigree:predicate:ledger-entry:v1"
HEAD_PREDICATE = "urn:pedigree:predicate:ledger-head:v1"
HEAD_FILE = "head.dsse.json"
ENTRIES = "entries"
LISTED = "listed"
SUFFIX = ".dsse.json"
NOTHING = "0" * 64  # what comes before the first entry

_HEX = r"^[0-9a-f]{64}$"
_NAME = r"^[0-9a-f]{64}/[a-z][a-z-]*-[0-9a-f]{64}\.dsse\.json$"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Record = TypeVar("Record", bound=_Record)


class Entry(_Record):
    """One statement's place in the chain.

    `sequence` counts from 1. `previous` is the sha256 of the entry before it. `name` is where the
    statement lies in the store, `envelope` the sha256 of its bytes. `subjects` are the sha256 of
    what it is about. `time` is ISO 8601 in UTC.
    """

    sequence: int = Field(ge=1)
    previous: str = Field(pattern=_HEX)
    name: str = Field(pattern=_NAME)
    envelope: str = Field(pattern=_HEX)
    predicate_type: str = Field(min_length=1)
    subjects: list[str]
    time: str


class Head(_Record):
    """How many entries there are, and the sha256 of the newest; `NOTHING` where there is none."""

    size: int = Field(ge=0)
    entry: str = Field(pattern=_HEX)
    time: str


def entry_file(sequence: int) -> str:
    """Return the name of an entry's file: twelve digits, so that names sort like numbers."""
    return f"{ENTRIES}/{sequence:012d}{SUFFIX}"


def listing_file(name: str) -> str:
    """Return where a statement's entry is kept a second time, to be found by its name."""
    return f"{LISTED}/{name}"


def format_time(now: datetime) -> str:
    """Return a time as ISO 8601 in UTC.

    Raises:
        PedigreeError: the time has no zone, so nobody knows when it was.
    """
    if now.tzinfo is None:
        raise PedigreeError(f"The time {now.isoformat()} has no time zone: pass one with a zone.")
    return now.astimezone(UTC).isoformat()


def sign_entry(entry: Entry, key: Signer) -> bytes:
    """Return an entry's envelope; its subject is the statement that it lists."""
    return sign_statement(
        _statement(ENTRY_PREDICATE, entry.name, entry.envelope, entry.model_dump()), key
    )


def sign_head(head: Head, key: Signer) -> bytes:
    """Return the head's envelope; its subject is the newest entry."""
    name = entry_file(head.size) if head.size else "nothing"
    return sign_statement(_statement(HEAD_PREDICATE, name, head.entry, head.model_dump()), key)


def read_entry(data: bytes, keys: Iterable[Ed25519PublicKey]) -> Entry:
    """Return an entry.

    Raises:
        VerificationFailed: no trusted key signed exactly these bytes as a ledger's entry.
    """
    content = _open(data, keys)
    entry = _parse(Entry, content, ENTRY_PREDICATE, "entry")
    if content != _statement(ENTRY_PREDICATE, entry.name, entry.envelope, entry.model_dump()):
        raise VerificationFailed("it contradicts itself about the statement that it lists")
    return entry


def read_head(data: bytes, keys: Iterable[Ed25519PublicKey]) -> Head:
    """Return a head.

    Raises:
        VerificationFailed: no trusted key signed exactly these bytes as a ledger's head.
    """
    return _parse(Head, _open(data, keys), HEAD_PREDICATE, "head")


def _statement(kind: str, name: str, digest: str, predicate: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": kind,
        "predicate": dict(predicate),
    }


def _parse(model: type[Record], content: Mapping[str, JSON], kind: str, what: str) -> Record:
    if content.get("predicateType") != kind:
        raise VerificationFailed(f"it is signed, but it is no ledger {what}")
    try:
        return model.model_validate(content.get("predicate"))
    except ValidationError:
        raise VerificationFailed(f"it is signed, but it is no ledger {what}") from None


def _open(data: bytes, keys: Iterable[Ed25519PublicKey]) -> dict[str, JSON]:
    """Verify an envelope that has one signature and one form of its bytes.

    JSON has white space and base64 has spare bits that change nothing which is signed. A change of
    them would be a change that passes, so it is refused.
    """
    content = verify_envelope(data, keys)
    envelope = cast(dict[str, Any], json.loads(data))
    parts = [envelope["payload"], *[one["sig"] for one in envelope["signatures"]]]
    exact = all(base64.b64encode(base64.b64decode(one)).decode() == one for one in parts)
    if not exact or len(parts) != 2 or canonical_json(envelope) != data:
        raise VerificationFailed("its bytes are not in the one form that is written")
    return content

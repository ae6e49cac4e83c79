"""Who signed an artifact: the files as listed, a pinned key, not expired, no older version.

A signature that does not fit the files, by whatever key, refuses the artifact. A valid signature
of a key that is pinned to nobody proves nothing, and says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from pedigree.admission.pins import find_differing_files
from pedigree.admission.publishers import (
    PinnedKey,
    Publishers,
    key_id_of,
    pinned_keys,
    read_public_key,
    signed_by,
)
from pedigree.admission.receiving import Received
from pedigree.admission.signature_files import SignatureFiles, Signed, read_signed
from pedigree.admission.verdict import Finding, Unreadable, show
from pedigree.digests import JSON, FileEntry
from pedigree.errors import PedigreeError
from pedigree.evidence.store import EvidenceStore


@dataclass(frozen=True)
class SignatureVerdict:
    """What a signature says of an artifact.

    Attributes:
        summary: one sentence.
        findings: why it refuses the artifact; empty if it does not.
        signature: for the statement: publisher, key, form, artifact, version; None where nobody
            is known to have signed.
    """

    summary: str
    findings: tuple[Finding, ...] = ()
    signature: dict[str, JSON] | None = None


def verify_signature(
    received: Received,
    files: SignatureFiles | None,
    publishers: Publishers,
    now: datetime | None,
    *,
    required: bool = False,
    earlier: EvidenceStore | None = None,
) -> SignatureVerdict:
    """Judge a signature over what was received.

    Args:
        received: the files, without those of the signature.
        files: the signature; None where there is none.
        publishers: who is pinned.
        now: when, for expiry; None where nobody is pinned.
        required: whether an artifact that no pinned publisher signed is refused; it is in any case
            where the signature is declared to be somebody's.
        earlier: statements in which newer versions may be found.

    Raises:
        VerificationFailed: an earlier statement was tampered with, so no version can be trusted.
    """
    if files is None:
        if required:
            return _refuse("signature_missing", "it has no signature, and the policy demands one.")
        return SignatureVerdict("there is no signature, and none is demanded.")
    try:
        signed = read_signed(files)
    except Unreadable as error:
        return _refuse("signature_malformed", f"its signature cannot be read: {error}.")
    if not signed.files:
        return _refuse("signature_empty", "its signature is over no file at all.")
    if differing := _compare(received, signed):
        return SignatureVerdict("its signature is over other files.", tuple(differing))
    key = _find_signer(signed, pinned_keys(publishers))
    if key is None or now is None:
        return _judge_unpinned(signed, files, required or files.publisher is not None)
    said: dict[str, JSON] = {
        "publisher": key.publisher,
        "keyid": key.id,
        "form": signed.form,
        "artifact": signed.artifact,
        "version": signed.version,
    }
    if files.publisher not in (None, key.publisher):
        reason = f"{files.publisher} should have signed it, and {key.publisher} did."
        return _refuse("signature_publisher", reason)
    problem = _judge_key(key, signed, publishers, now, earlier)
    if problem:
        return _refuse(*problem)
    version = "" if signed.version is None else f", version {signed.version}"
    summary = f"signed by {key.publisher} with the key {key.id[:12]}{version} ({signed.form})."
    return SignatureVerdict(summary, (), said)


def _compare(received: Received, signed: Signed) -> list[Finding]:
    """Compare the files with the list; a single file needs no name."""
    if not received.folder and len(received.files) == len(signed.files) == 1:
        signed_files = {received.files[0].path: next(iter(signed.files.values()))}
    else:
        signed_files = signed.files
    expected = tuple(
        FileEntry(path=path, size=0, sha256=value) for path, value in signed_files.items()
    )
    return find_differing_files(received.files, expected, "signature")


def _find_signer(signed: Signed, keys: list[PinnedKey]) -> PinnedKey | None:
    for key in keys:
        if any(signed_by(key.key, one, signed.message) for one in signed.signatures):
            return key
    return None


def _judge_unpinned(signed: Signed, files: SignatureFiles, required: bool) -> SignatureVerdict:
    """Say what a signature of a key is worth that nobody is pinned to: nothing."""
    whose = f" ({show(signed.hint, 12)})" if signed.hint else ""
    what = f"no pinned key made its signature{whose}, so it proves nothing about who made it"
    if files.key is not None:
        try:
            key = read_public_key(files.key)
        except PedigreeError:
            return _refuse("signature_key", "the key that came with its signature is none.")
        if not any(signed_by(key, one, signed.message) for one in signed.signatures):
            return _refuse("signature_invalid", "its signature is not by the key that came along.")
        what = (
            f"its signature is valid for the key {key_id_of(key)[:12]}, which is pinned to nobody: "
            "it proves nothing about who made it"
        )
    advice = "pin the key in trust/publishers.yaml if you know whose it is."
    if required:
        return _refuse("signature_unpinned", f"{what}; the policy demands a publisher: {advice}")
    return SignatureVerdict(f"{what}; {advice}")


def _judge_key(
    key: PinnedKey,
    signed: Signed,
    publishers: Publishers,
    now: datetime,
    earlier: EvidenceStore | None,
) -> tuple[str, str] | None:
    """Return rule and reason if the key expired or the version is too old, else None."""
    if key.expired(now):
        reason = f"the key {key.id[:12]} of {key.publisher} expired on {key.expires}."
        return "signature_expired", f"{reason} Ask for a signature by a newer key."
    pinned = publishers.publishers[key.publisher].minimum_versions
    minimum = pinned.get(signed.artifact)
    seen = max(_seen_versions(earlier, key.publisher, signed.artifact), default=None)
    floor = max((one for one in (minimum, seen) if one is not None), default=None)
    if signed.version is None:
        # A form without a version may be used for what was never signed with one.
        if floor is not None or (pinned and not signed.artifact):
            return (
                "signature_version",
                f"{key.publisher} signs this with versions, and this signature has none: an old "
                "artifact could be passed off as the present one.",
            )
        return None
    if floor is not None and signed.version < floor:
        return (
            "signature_rollback",
            f"its version {signed.version} of {show(signed.artifact)!r} is older than {floor}, "
            f"which {'was admitted here before' if floor == seen else 'is the oldest accepted'}.",
        )
    return None


def _seen_versions(store: EvidenceStore | None, publisher: str, artifact: str) -> Iterator[int]:
    """Yield the versions of an artifact that were admitted here."""
    if store is None:
        return
    for one in store.all("admission"):
        said = cast("dict[str, JSON] | None", one.predicate.get("signature"))
        if one.predicate["state"] != "admitted" or not said:
            continue
        version, whose = said["version"], (said["publisher"], said["artifact"])
        if whose == (publisher, artifact) and isinstance(version, int):
            yield version


def _refuse(rule: str, reason: str) -> SignatureVerdict:
    return SignatureVerdict(reason, (Finding("the signature", rule, "rejected", reason),))

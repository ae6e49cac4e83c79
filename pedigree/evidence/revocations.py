"""Revocations: a digest that must not be used any more, and why.

A model, snapshot, base model or adapter can be revoked. It is final for that digest; what descends
from it is refused too, because every gate asks for all that went into a model::

    >>> revoke(store, digest, "source tweets was poisoned", now)
    >>> require_not_revoked(store, {"model": digest}, "promotion")     # GateClosed
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from pedigree.digests import hex_of
from pedigree.errors import EvidenceMissing, GateClosed, PedigreeError
from pedigree.evidence.signing import Signer, key_id
from pedigree.evidence.store import EvidenceStore, Statement

# What can be revoked, by the kind of statement that makes it known.
REVOCABLE = {
    "training": "model",
    "merge": "model",
    "snapshot": "snapshot",
    "base-model": "base model",
    "adapter": "adapter",
}


def find_revocable(store: EvidenceStore, prefix: str) -> tuple[str, str]:
    """Return the digest that a prefix means and what it is.

    Raises:
        EvidenceMissing: nothing that can be revoked is known of it.
        PedigreeError: the prefix is too short or fits several.
    """
    for kind, what in REVOCABLE.items():
        try:
            return store.find_subject(prefix, kind), what
        except EvidenceMissing:
            continue
    raise EvidenceMissing(
        f"No model, snapshot, base model or adapter is known by {prefix}: see `pedigree models`."
    )


def revoke(
    store: EvidenceStore, digest: str, reason: str, now: datetime, signer: Signer | None = None
) -> Statement:
    """Sign that a digest must not be used any more.

    Args:
        store: the project's evidence, opened to write.
        digest: what is revoked.
        reason: why, for everybody who is refused.
        now: when.
        signer: a reviewer's or releaser's key; None for the releaser's of this store.

    Raises:
        PedigreeError: there is no reason, or the key has neither role.
    """
    if not reason.strip():
        raise PedigreeError("A revocation has a reason: say why (--reason).")
    if signer is not None and store.trust is not None:
        identifier = key_id(signer.public_key())
        reviewer = store.trust.has_role(identifier, "reviewer")
        store.trust.require_signer(identifier, "reviewer" if reviewer else "releaser", now)
    return store.write(
        "revocation",
        [{"name": "revoked", "digest": {"sha256": hex_of(digest)}}],
        {"reason": reason.strip(), "revokedOn": now.astimezone(UTC).isoformat()},
        signer,
    )


def find_revocation(store: EvidenceStore, digest: str) -> str | None:
    """Return who revoked a digest and why, as a sentence; None where nobody did.

    A revocation that cannot be believed counts too: somebody tampered with it, or tried to.
    """
    statements, problems = store.about(digest, "revocation")
    for one in statements:
        on, why = one.predicate["revokedOn"], one.predicate["reason"]
        return f"{digest} was revoked on {on} by {store.owner(one)}: {why}"
    return f"{digest} may be revoked: {problems[0]}" if problems else None


def find_revocations(store: EvidenceStore, digests: Mapping[str, str]) -> list[str]:
    """Return a sentence for each digest that was revoked; the mapping says what each is."""
    found = ((what, find_revocation(store, digest)) for what, digest in digests.items())
    return [f"the {what} {sentence}" for what, sentence in found if sentence]


def require_not_revoked(store: EvidenceStore, digests: Mapping[str, str], what: str) -> None:
    """Refuse to go on with something that was revoked.

    Args:
        store: the project's evidence.
        digests: all that is about to be used, by what it is.
        what: what waits behind the gate, for the message.

    Raises:
        GateClosed: one of them was revoked; the message names each.
    """
    reasons = find_revocations(store, digests)
    if reasons:
        raise GateClosed(f"{what[:1].upper()}{what[1:]} is refused: {'; '.join(reasons)}.")

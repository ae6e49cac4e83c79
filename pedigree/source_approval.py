"""Sources that are denied until a reviewer says why they may be learned from.

Logs and what a retrieval system returned were not written to be learned from: they hold what users
typed, and what other models answered. An approval is about one declaration, pin included; after
either changed, it counts no longer::

    >>> require_source_allowed(store, source)     # GateClosed, naming the command
"""

from datetime import UTC, datetime

from pedigree.digests import hex_of
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.signing import Signer, key_id
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.sources import DENIED_KINDS, Source, digest_declaration


def approve_source(
    store: EvidenceStore, source: Source, reason: str, signer: Signer, now: datetime
) -> Statement:
    """Sign that a source may be used as it is declared and pinned now.

    Args:
        store: the project's evidence.
        source: its declaration.
        reason: why.
        signer: a reviewer's key.
        now: when.

    Raises:
        PedigreeError: there is no pin or no reason, or the key is no reviewer's.
    """
    if source.sha256 is None:
        raise PedigreeError(
            f"Source {source.id} has no pin: approve bytes, not an address. Run `pedigree sources "
            f"pin {source.id}` first."
        )
    if not reason.strip():
        raise PedigreeError("An approval has a reason: say why it may be learned from (--reason).")
    if store.trust is not None:
        store.trust.require_signer(key_id(signer.public_key()), "reviewer", now)
    return store.write(
        "allowed-source",
        [
            {
                "name": f"sources/{source.id}",
                "digest": {"sha256": hex_of(digest_declaration(source))},
            }
        ],
        {
            "id": source.id,
            "kind": source.kind,
            "pin": {"sha256": source.sha256},
            "reason": reason.strip(),
            "approvedOn": now.astimezone(UTC).isoformat(),
        },
        signer,
    )


def require_source_allowed(store: EvidenceStore, source: Source) -> Statement | None:
    """Return the approval of a source that needs one, or None where it needs none.

    Raises:
        GateClosed: its kind is denied by default and no reviewer approved this declaration.
    """
    if source.kind not in DENIED_KINDS:
        return None
    statements, problems = store.about(digest_declaration(source), "allowed-source")
    if statements:
        return statements[-1]
    why = f" ({problems[0]})" if problems else ""
    raise GateClosed(
        f"Source {source.id} is of kind {source.kind}, which is denied by default, and no reviewer "
        f"approved it as it is declared and pinned now{why}: run `pedigree sources approve "
        f"{source.id} --key KEY --reason TEXT`, or take it out of sources/."
    )

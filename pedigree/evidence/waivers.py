"""Waivers: a reviewer lets a failed check pass, for one digest, for a time, with a reason.

It covers one failed verdict: another failure of the same check on the same digest needs another
waiver, and a check that was not run cannot be waived. Waivers show in `why` and in every promotion.
`conversion` is no check: its waiver lets a quarantined pickle be opened, in the sandbox.

    >>> waive(store, "source_drift", verdict, "the sale began", until, signer, policy, now)
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from pedigree.checks import find_check
from pedigree.digests import hex_of
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.ledger_verification import CLOCK_SKEW
from pedigree.evidence.policy import Policy
from pedigree.evidence.signing import Signer, key_id
from pedigree.evidence.store import EvidenceStore, Statement

# What is waived where a quarantined pickle may be converted: there the decision is the verdict.
CONVERSION = "conversion"


def waive(
    store: EvidenceStore,
    check: str,
    verdict: Statement,
    reason: str,
    until: datetime,
    signer: Signer,
    policy: Policy,
    now: datetime,
) -> Statement:
    """Sign that a failed verdict does not stop anything until a date.

    Args:
        store: the project's evidence.
        check: its name, or `CONVERSION`.
        verdict: the failed verdict, or the decision that quarantined an artifact; its first
            subject is what was checked.
        reason: why it may pass.
        until: from when on the waiver counts no longer.
        signer: a reviewer's key.
        policy: says which checks nobody can waive, and for how long others can be waived.
        now: when.

    Raises:
        GateClosed: the policy lets nobody waive it, or not for so long.
        PedigreeError: the verdict passed, there is no reason, or the key is no reviewer's.
    """
    if check != CONVERSION:
        find_check(check)
    limits = policy.waivers
    if check in limits.never:
        raise GateClosed(f"The policy lets nobody waive {check}: mend what it names.")
    failed = (
        verdict.predicate["state"] == "quarantined"
        if check == CONVERSION
        else verdict.predicate["result"] == "FAILED"
    )
    if not failed:
        raise PedigreeError(f"{check} did not fail on this digest: there is nothing to waive.")
    if not reason.strip():
        raise PedigreeError("A waiver has a reason: say why it may pass (--reason).")
    if not now < until <= now + timedelta(days=limits.max_days):
        raise GateClosed(
            f"A waiver until {until} is refused: the policy allows {limits.max_days:g} days from "
            "now, and not the past."
        )
    if store.trust is not None:
        store.trust.require_signer(key_id(signer.public_key()), "reviewer", now)
    return store.write(
        "waiver",
        [{"name": check, "digest": dict(verdict.subjects[0]["digest"])}],
        {
            "check": check,
            "verdict": {"sha256": hex_of(verdict.digest)},
            "policy": {"sha256": hex_of(policy.digest())},
            "reason": reason.strip(),
            "grantedOn": now.astimezone(UTC).isoformat(),
            "expiresOn": until.astimezone(UTC).isoformat(),
        },
        signer,
    )


def find_waiver(
    store: EvidenceStore, digest: str, verdict: Statement, policy: Policy, now: datetime
) -> tuple[Statement | None, str]:
    """Return the waiver that covers a failed verdict now, or None and why none does."""
    return _find(store, digest, {verdict.digest}, policy, now)


def find_conversion_waiver(
    store: EvidenceStore, digest: str, decision: Statement, policy: Policy, now: datetime
) -> tuple[Statement | None, str]:
    """Return the waiver that lets a quarantined artifact be opened now, or None and why none does.

    An artifact is judged again each time it comes in. The waiver holds for every decision with the
    findings of the one that the reviewer saw, and for no other.
    """
    alike = {
        one.digest
        for one in store.about(digest, "admission")[0]
        if one.predicate["state"] == "quarantined"
        and one.predicate["findings"] == decision.predicate["findings"]
    }
    return _find(store, digest, alike, policy, now)


def _find(
    store: EvidenceStore, digest: str, covered: Collection[str], policy: Policy, now: datetime
) -> tuple[Statement | None, str]:
    statements, problems = store.about(digest, "waiver")
    reason = f"a waiver does not count: {problems[0]}" if problems else ""
    for one in statements:
        said = one.predicate
        if "sha256:" + said["verdict"]["sha256"] not in covered:
            continue
        if "sha256:" + said["policy"]["sha256"] != policy.digest():
            reason = "its waiver was given under another policy"
        elif datetime.fromisoformat(said["expiresOn"]) <= now:
            reason = f"its waiver expired on {said['expiresOn']}"
        elif datetime.fromisoformat(said["grantedOn"]) > now + CLOCK_SKEW:
            reason = f"its waiver is dated {said['grantedOn']}, which is in the future"
        elif said["check"] in policy.waivers.never:
            reason = f"the policy lets nobody waive {said['check']}"
        else:
            return one, ""
    return None, reason

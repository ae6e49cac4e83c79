"""Waivers: a reviewer lets a failed check pass, for one digest, for a time, with a reason.

It covers one failed verdict: another failure of the same check on the same digest needs another
waiver, and a check that was not run cannot be waived. Waivers show in `why` and in every promotion.

    >>> waive(store, "source_drift", digest, "the sale began", until, signer, policy, now)
"""

from datetime import UTC, datetime, timedelta

from pedigree.checks import find_check
from pedigree.digests import hex_of
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.ledger_verification import CLOCK_SKEW
from pedigree.evidence.policy import Policy
from pedigree.evidence.signing import Signer, key_id
from pedigree.evidence.store import EvidenceStore, Statement


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
        check: its name.
        verdict: the failed verdict; its first subject is what was checked.
        reason: why it may pass.
        until: from when on the waiver counts no longer.
        signer: a reviewer's key.
        policy: says which checks nobody can waive, and for how long others can be waived.
        now: when.

    Raises:
        GateClosed: the policy lets nobody waive it, or not for so long.
        PedigreeError: the verdict passed, there is no reason, or the key is no reviewer's.
    """
    find_check(check)
    limits = policy.waivers
    if check in limits.never:
        raise GateClosed(f"The policy lets nobody waive {check}: mend what it names.")
    if verdict.predicate["result"] != "FAILED":
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
    statements, problems = store.about(digest, "waiver")
    reason = f"a waiver does not count: {problems[0]}" if problems else ""
    for one in statements:
        said = one.predicate
        if "sha256:" + said["verdict"]["sha256"] != verdict.digest:
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

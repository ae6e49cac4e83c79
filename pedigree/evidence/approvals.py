"""Approvals: a person says that a digest may go to an environment, and signs it.

An approval holds for one digest, one environment, one tenant and one policy. The owner of the key
that signed the training cannot give one, and two by one owner are one::

    >>> approve(store, digest, "production", None, "read the findings", signer, policy, now)
    >>> found = count_approvals(store, digest, "production", None, policy, now)
    >>> found.approvers, found.refused
    (('ada@example.org',), ())
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pedigree.digests import hex_of
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.ledger_verification import CLOCK_SKEW
from pedigree.evidence.policy import MERGE, ApprovalDemands, EnvironmentDemands, Policy
from pedigree.evidence.signing import Signer, key_id
from pedigree.evidence.store import EvidenceStore, Statement


@dataclass(frozen=True)
class Approvals:
    """The approvals that count, one an owner, and a sentence for each that does not."""

    statements: tuple[Statement, ...]
    approvers: tuple[str, ...]
    refused: tuple[str, ...]


def find_demands(policy: Policy, environment: str) -> EnvironmentDemands:
    """Return what the policy demands of an environment.

    Raises:
        PedigreeError: the policy has no such environment.
    """
    if environment not in policy.environments:
        known = ", ".join(sorted(policy.environments)) or "none"
        raise PedigreeError(f"The policy has no environment {environment!r}: it has {known}.")
    return policy.environments[environment]


def find_approval_demands(policy: Policy, place: str) -> ApprovalDemands:
    """Return how a policy wants an environment, or the merging of an adapter, approved.

    Raises:
        PedigreeError: the policy has no such environment.
    """
    return policy.adapters if place == MERGE else find_demands(policy, place)


def find_trainers(store: EvidenceStore, digest: str) -> set[str]:
    """Return whose keys signed a model's training or an adapter's registration.

    They cannot approve it.
    """
    kinds = ("training", "adapter")
    return {store.owner(one) for kind in kinds for one in store.about(digest, kind)[0]}


def approve(
    store: EvidenceStore,
    digest: str,
    environment: str,
    tenant: str | None,
    reason: str,
    signer: Signer,
    policy: Policy,
    now: datetime,
    expires_on: datetime | None = None,
) -> Statement:
    """Sign that a model may go to an environment.

    Args:
        store: the project's evidence; the model's training is attested there.
        digest: of the model, or of an adapter.
        environment: one of the policy's, or `merge` for an adapter.
        tenant: for whom; None for all.
        reason: what was looked at, in the approver's words.
        signer: the approver's key, registered with the role that the environment asks for.
        policy: the policy in force: after it changed, the approval counts no longer.
        now: when.
        expires_on: from when on it counts no longer.

    Raises:
        GateClosed: the approver signed the model's training.
        PedigreeError: the key has not the role, or the request is malformed.
    """
    demands = find_approval_demands(policy, environment)
    if not reason.strip():
        raise PedigreeError("An approval has a reason: say what was looked at (--reason).")
    if expires_on is not None and expires_on <= now:
        raise PedigreeError(f"The approval would have expired already, on {expires_on}.")
    identifier = key_id(signer.public_key())
    if store.trust is not None:
        store.trust.require_signer(identifier, demands.approver_role, now)
        owner = store.trust.owner(identifier)
        if owner in find_trainers(store, digest):
            raise GateClosed(
                f"{owner} signed the making of {digest}, so {owner} cannot approve it: ask "
                "another reviewer."
            )
    return store.write(
        "approval",
        [{"name": "approved", "digest": {"sha256": hex_of(digest)}}],
        {
            "environment": environment,
            "tenant": tenant,
            "reason": reason.strip(),
            "policy": {"sha256": hex_of(policy.digest())},
            "approvedOn": now.astimezone(UTC).isoformat(),
            "expiresOn": expires_on.astimezone(UTC).isoformat() if expires_on else None,
        },
        signer,
    )


def count_approvals(
    store: EvidenceStore,
    digest: str,
    environment: str,
    tenant: str | None,
    policy: Policy,
    now: datetime,
) -> Approvals:
    """Return the approvals of a model that count for an environment, tenant and policy now."""
    demands = find_approval_demands(policy, environment)
    trainers = find_trainers(store, digest)
    statements, refused = store.about(digest, "approval")
    counted: dict[str, Statement] = {}
    in_order = sorted(statements, key=lambda o: (str(o.predicate["approvedOn"]), store.owner(o)))
    for one in in_order:
        owner = store.owner(one)
        problem = _find_problem(store, one, (environment, tenant), policy, demands, now)
        if owner in trainers:
            problem = f"{owner} signed the making of it"
        elif problem is None and owner in counted:
            problem = f"{owner} approved it twice, which counts once"
        if problem is None:
            counted[owner] = one
        else:
            refused.append(f"the approval by {owner} does not count: {problem}")
    return Approvals(tuple(counted.values()), tuple(counted), tuple(refused))


def _find_problem(
    store: EvidenceStore,
    statement: Statement,
    place: tuple[str, str | None],
    policy: Policy,
    demands: ApprovalDemands,
    now: datetime,
) -> str | None:
    said: dict[str, Any] = statement.predicate
    environment, tenant = place
    given = datetime.fromisoformat(said["approvedOn"])
    if said["environment"] != environment:
        return f"it is for the environment {said['environment']}"
    if said["tenant"] not in (None, tenant):
        return f"it is for the tenant {said['tenant']}"
    if store.trust is not None and not store.trust.has_role(
        statement.signer, demands.approver_role
    ):
        return f"the policy asks for a {demands.approver_role}"
    if "sha256:" + said["policy"]["sha256"] != policy.digest():
        return "it was given under another policy"
    if given > now + CLOCK_SKEW:
        return f"it is dated {said['approvedOn']}, which is in the future"
    if said["expiresOn"] is not None and datetime.fromisoformat(said["expiresOn"]) <= now:
        return f"it expired on {said['expiresOn']}"
    days = demands.max_approval_age_days
    if days is not None and given < now - timedelta(days=days):
        return f"it is from {said['approvedOn']}, and the policy asks for at most {days:g} days"
    return None


def describe_shortage(found: Approvals, demands: ApprovalDemands) -> Sequence[str]:
    """Return why the approvals do not suffice; nothing where they do."""
    if len(found.approvers) >= demands.approvals:
        return ()
    have, role = ", ".join(found.approvers) or "none", demands.approver_role
    return (
        f"the policy demands {demands.approvals} approvals by a {role} and "
        f"{len(found.approvers)} count ({have}): a {role} gives one with `pedigree approve`",
        *found.refused,
    )

"""What an environment demands of a model, looked up in signed evidence, each refusal a sentence.

>>> weighed = weigh_model(project, store, policy, statement, "production", None, now)
>>> weighed.reasons            # why it is refused; empty where all holds
[]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pedigree.capture import find_code_root, list_uncommitted
from pedigree.dependencies.vulnerabilities import find_vulnerability_problems
from pedigree.errors import PedigreeError
from pedigree.evidence.approvals import (
    Approvals,
    count_approvals,
    describe_shortage,
    find_demands,
    find_trainers,
)
from pedigree.evidence.ledger_verification import CLOCK_SKEW
from pedigree.evidence.policy import EnvironmentDemands, Policy
from pedigree.evidence.project_ledger import verify_project_ledger
from pedigree.evidence.revocations import find_revocations
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.evidence.verdicts import REMEDY, find_passed
from pedigree.project import Project
from pedigree.tenants import Carrier, find_carriers, find_tenant_problems
from pedigree.training.record import TrainingRecord, read_record

SETTINGS = ("policy.yaml", "trust/keys.json")
_ENOUGH = {"tolerance": ("bit-identical", "within tolerance"), "bit-identical": ("bit-identical",)}


@dataclass
class Weighed:
    """What speaks for a model, and every reason against it."""

    record: TrainingRecord
    demands: EnvironmentDemands
    verdicts: list[Statement] = field(default_factory=list[Statement])
    approvals: Approvals = field(default_factory=lambda: Approvals((), (), ()))
    rebuild: Statement | None = None
    carriers: Sequence[Carrier] = ()
    reasons: list[str] = field(default_factory=list[str])


def weigh_model(
    project: Project,
    store: EvidenceStore,
    policy: Policy,
    training: Statement,
    environment: str,
    tenant: str | None,
    now: datetime,
) -> Weighed:
    """Look up all that an environment demands; nothing is skipped after a first refusal.

    Args:
        project: whose settings and ledger are looked at.
        store: its evidence.
        policy: the policy in force.
        training: the model's training statement.
        environment: one of the policy's.
        tenant: for whom; None for all.
        now: the present time, which ages and expiries are counted from.

    Raises:
        PedigreeError: the policy has no such environment.
    """
    record = read_record(training)
    weighed = Weighed(record, find_demands(policy, environment))
    weighed.reasons += _find_broken_ledger(project, policy, now)
    weighed.reasons += find_revocations(store, record.ingredients())
    weighed.reasons += _find_uncommitted(project, record, weighed.demands)
    _weigh_verdicts(weighed, store, policy, now)
    weighed.approvals = count_approvals(
        store, record.model_digest, environment, tenant, policy, now
    )
    weighed.reasons += describe_shortage(weighed.approvals, weighed.demands)
    _weigh_rebuild(weighed, store, now)
    if weighed.demands.max_vulnerability_age_days is not None:
        weighed.reasons += find_vulnerability_problems(
            store,
            record.inputs.environment.lock_sha256,
            weighed.demands.max_vulnerability_age_days,
            weighed.demands.vulnerable_from,
            now,
        )
    weighed.carriers = find_carriers(store, record)
    weighed.reasons += find_tenant_problems(weighed.carriers, tenant)
    return weighed


def describe_dirt(commit: str | None, changed: Sequence[str]) -> str:
    """Return why code that is not committed cannot be promoted."""
    if commit is None:
        return (
            "the code has no git commit, so nobody could rebuild the model: commit it and train "
            "again (or stop before with `pedigree run --until model`)"
        )
    return (
        f"the working tree is dirty, {len(changed)} files differ from commit {commit[:12]} "
        f"({', '.join(changed[:5])}{', …' if len(changed) > 5 else ''}): commit them and train "
        "again (or stop before with `pedigree run --until model`)"
    )


def _find_broken_ledger(project: Project, policy: Policy, now: datetime) -> list[str]:
    try:
        verify_project_ledger(project, now, policy.ledger_witnesses)
    except PedigreeError as error:
        return [f"the ledger does not vouch for the evidence: {str(error).rstrip('.')}"]
    return []


def _find_uncommitted(
    project: Project, record: TrainingRecord, demands: EnvironmentDemands
) -> list[str]:
    code = record.inputs.code
    reasons = [describe_dirt(code.commit, code.changed_files)] if code.dirty else []
    if demands.committed_settings:
        root = find_code_root(project.root)
        changed = list_uncommitted(project.root, SETTINGS)
        if changed is None:
            reasons.append(f"{root} is no git checkout, so its settings are not committed")
        elif changed:
            reasons.append(f"{' and '.join(changed)} differ from their last commit: commit them")
    return reasons


def _weigh_verdicts(weighed: Weighed, store: EvidenceStore, policy: Policy, now: datetime) -> None:
    evaluation = weighed.record.evaluation_snapshot.digest
    with_evaluation = {"evaluation_snapshot": evaluation}
    places = (
        (
            weighed.record.inputs.training.digest,
            policy.training.required_checks,
            with_evaluation,
        ),
        (evaluation, policy.evaluation.required_checks, None),
        (weighed.record.model_digest, weighed.demands.required_checks, with_evaluation),
    )
    age = weighed.demands.max_verdict_age_days
    problems: list[str] = []
    for digest, required, inputs in places:
        passed, reasons = find_passed(store, digest, required, policy, now, inputs, age)
        weighed.verdicts += passed
        problems += [f"{one} (on {digest})" for one in reasons]
    if problems:
        weighed.reasons += [*problems[:-1], f"{problems[-1]}. {REMEDY.rstrip('.')}"]


def _weigh_rebuild(weighed: Weighed, store: EvidenceStore, now: datetime) -> None:
    demands, digest = weighed.demands, weighed.record.model_digest
    if demands.rebuild == "none":
        return
    statements, problems = store.about(digest, "rebuild")
    what = f"the policy demands a rebuild that is {demands.rebuild}"
    if demands.independent_rebuild:
        what += " by another builder than the one who trained it"
        trainers = find_trainers(store, digest)
        others = [one for one in statements if store.owner(one) not in trainers]
        if statements and not others:
            problems = [f"{', '.join(sorted(trainers))} trained it and rebuilt it"]
        statements = others
    newest = max(statements, key=lambda one: str(one.predicate["rebuiltOn"]), default=None)
    if newest is None:
        why = f" ({problems[0]})" if problems else ""
        weighed.reasons.append(
            f"{what}, and there is none{why}: run `pedigree rebuild {digest[7:19]}`"
        )
    elif datetime.fromisoformat(str(newest.predicate["rebuiltOn"])) > now + CLOCK_SKEW:
        on = newest.predicate["rebuiltOn"]
        weighed.reasons.append(f"{what}, and the newest is dated {on}, which is in the future")
    elif newest.predicate["verdict"] not in _ENOUGH[demands.rebuild]:
        on, verdict = newest.predicate["rebuiltOn"], newest.predicate["verdict"]
        weighed.reasons.append(f"{what}, and the one of {on} was {verdict}")
    else:
        weighed.rebuild = newest

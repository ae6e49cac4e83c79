"""Verdicts and the gate that reads them.

A check's result becomes an in-toto test-result statement about the digest that was checked, bound
to the policy, to the check's code and to whatever else it looked at. Dagster's `blocking` guards
one run; `require_passed` guards every run, because training and promotion call it themselves::

    >>> require_passed(store, digest, policy.training.required_checks, policy, "training", now)
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pedigree.checks import find_check
from pedigree.digests import JSON, hex_of
from pedigree.errors import GateClosed
from pedigree.evidence.ledger_verification import CLOCK_SKEW
from pedigree.evidence.policy import Policy
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.evidence.waivers import find_waiver
from pedigree.findings import CheckResult

# in-toto's test result knows no "could not judge". What was not judged has not passed.
_RESULT = {"NOT_APPLICABLE": "FAILED"}


def record_verdict(
    store: EvidenceStore,
    digest: str,
    result: CheckResult,
    policy: Policy,
    now: datetime,
    inputs: Mapping[str, str] | None = None,
) -> Statement:
    """Sign what a check found about `digest`.

    Args:
        store: where the statement goes.
        digest: what was checked.
        result: what was found.
        policy: under which thresholds.
        now: when.
        inputs: digests of whatever else was looked at, by name (the evaluation snapshot, say).
    """
    check = find_check(result.check)
    outcome = _RESULT.get(result.outcome, result.outcome)
    configuration: list[JSON] = [
        {"name": "policy", "digest": {"sha256": hex_of(policy.digest())}},
        {"name": "check-code", "digest": {"sha256": hex_of(check.code_digest())}},
        *[
            {"name": name, "digest": {"sha256": hex_of(value)}}
            for name, value in sorted((inputs or {}).items())
        ],
    ]
    names = {"PASSED": "passedTests", "WARNED": "warnedTests", "FAILED": "failedTests"}
    lists: dict[str, JSON] = {name: [] for name in names.values()}
    lists[names[outcome]] = [check.name]
    return store.write(
        "verdict",
        [{"name": check.subject, "digest": {"sha256": hex_of(digest)}}],
        {
            "result": outcome,
            "configuration": configuration,
            **lists,
            "applicable": result.applicable,
            "summary": result.summary,
            "counts": dict(result.counts),
            "checkedOn": now.astimezone(UTC).isoformat(),
        },
    )


def verdict_check(statement: Statement) -> str:
    """Return the name of the check that a verdict or a waiver is about."""
    predicate = statement.predicate
    if statement.kind == "waiver":
        return str(predicate["check"])
    for key in ("passedTests", "warnedTests", "failedTests"):
        names = cast(list[str], predicate.get(key, []))
        if names:
            return names[0]
    return ""


def _configuration(statement: Statement) -> dict[str, str]:
    items = cast(list[dict[str, Any]], statement.predicate["configuration"])
    return {item["name"]: "sha256:" + item["digest"]["sha256"] for item in items}


def find_verdict(
    store: EvidenceStore,
    digest: str,
    name: str,
    policy: Policy,
    inputs: Mapping[str, str] | None = None,
) -> tuple[Statement | None, str]:
    """Return the newest verdict that counts, or None and the reason why there is none.

    Where a verdict was deleted nobody knows whether another is the newest, so none counts.
    """
    deleted = store.find_deleted(digest, "verdict")
    if deleted:
        return None, f"is missing or may not be the newest ({deleted[0].rstrip('.')})"
    statements, problems = store.about(digest, "verdict")
    mine = [one for one in statements if verdict_check(one) == name]
    wanted = {
        "policy": policy.digest(),
        "check-code": find_check(name).code_digest(),
        **(inputs or {}),
    }
    fresh: list[Statement] = []
    stale: list[str] = []
    for one in mine:
        has = _configuration(one)
        changed = sorted(key for key in wanted.keys() & has.keys() if has[key] != wanted[key])
        changed += sorted({"policy", "check-code"} - has.keys())
        if changed:
            stale.append(" and ".join(changed))
        else:
            fresh.append(one)
    if fresh:
        return max(fresh, key=lambda one: cast(str, one.predicate["checkedOn"])), ""
    if stale:
        return None, f"is stale (another {stale[-1]} since)"
    if problems:
        return None, f"is not signed by a trusted key ({problems[0]})"
    return None, "is missing"


def require_passed(
    store: EvidenceStore,
    digest: str,
    required: Sequence[str],
    policy: Policy,
    what: str,
    now: datetime,
    inputs: Mapping[str, str] | None = None,
) -> list[Statement]:
    """Return the verdict of every required check, and the waivers that were needed, or refuse.

    Args:
        store: where verdicts are looked up.
        digest: what is about to be used.
        required: the checks that must have passed; none is refused, it would let all through.
        policy: the policy in force.
        what: what waits behind the gate, for the message ("training", "promotion to production").
        now: the present time: waivers expire, and a verdict from the future is none.
        inputs: digests that a verdict must have been reached with, where it names them.

    Raises:
        GateClosed: a verdict is missing, failed, stale or unsigned. The message names each.
    """
    passed, reasons = find_passed(store, digest, required, policy, now, inputs)
    if not required:
        raise GateClosed(f"The policy requires no check for {what}: list at least one.")
    if reasons:
        raise GateClosed(
            f"{what[:1].upper()}{what[1:]} is refused for {find_check(required[0]).subject} "
            f"{digest}: {'; '.join(reasons)}. {REMEDY}"
        )
    return passed


REMEDY = (
    "Run the checks on it (`pedigree run --until checks`, or the asset's checks in the Dagster UI) "
    "and mend what they name."
)


def find_passed(
    store: EvidenceStore,
    digest: str,
    required: Sequence[str],
    policy: Policy,
    now: datetime,
    inputs: Mapping[str, str] | None = None,
    max_age_days: float | None = None,
) -> tuple[list[Statement], list[str]]:
    """Return the verdicts and waivers that let `digest` pass, and a reason for each that does not.

    Args as for `require_passed`; `max_age_days` is how old a verdict may be.
    """
    passed: list[Statement] = []
    reasons: list[str] = []
    for name in required:
        verdict, problem = find_verdict(store, digest, name, policy, inputs)
        if verdict is None:
            reasons.append(f"the verdict of {name} {problem.rstrip('.')}")
            continue
        aged = _find_age_problem(verdict, now, max_age_days)
        if aged:
            reasons.append(f"the verdict of {name} {aged}")
        elif verdict.predicate["result"] == "FAILED":
            waiver, why_not = find_waiver(store, digest, verdict, policy, now)
            failure = f"{name} failed: {str(verdict.predicate['summary']).rstrip('.')}"
            if waiver is None:
                reasons.append(f"{failure} ({why_not})" if why_not else failure)
            else:
                passed += [verdict, waiver]
        else:
            passed.append(verdict)
    return passed, reasons


def _find_age_problem(verdict: Statement, now: datetime, max_age_days: float | None) -> str:
    on = str(verdict.predicate["checkedOn"])
    checked = datetime.fromisoformat(on)
    if checked > now + CLOCK_SKEW:
        return f"is dated {on}, which is in the future: correct the clock and check again"
    if max_age_days is not None and checked < now - timedelta(days=max_age_days):
        return f"is from {on}, and the policy asks for at most {max_age_days:g} days"
    return ""

"""How a check's result reaches people and gates: a signed verdict, and an asset check result."""

from collections.abc import Mapping

import dagster as dg

from assets.metadata import tabulate
from assets.resources import ProjectResource
from pedigree.evidence.store import open_store
from pedigree.evidence.verdicts import record_verdict
from pedigree.findings import CheckResult, save_findings


def conclude(
    project: ProjectResource,
    digest: str,
    result: CheckResult,
    inputs: Mapping[str, str] | None = None,
) -> dg.AssetCheckResult:
    """Sign a verdict about `digest` and return what the Dagster UI shows.

    A result of mere warnings is shown as a failed check of severity WARN, which blocks nothing in
    Dagster. So is one that could not judge; its verdict keeps every gate shut that demands it.
    """
    place = project.open()
    policy = place.policy()
    store = open_store(place, policy, write=True)
    verdict = record_verdict(store, digest, result, policy, project.now(), inputs)
    findings = save_findings(result, place.findings)
    figures = {name: value for name, value in result.counts.items() if not isinstance(value, dict)}
    return dg.AssetCheckResult(
        passed=result.outcome == "PASSED",
        severity=dg.AssetCheckSeverity.WARN if result.passed else dg.AssetCheckSeverity.ERROR,
        description=result.summary,
        metadata={
            "digest": digest,
            "verdict": verdict.digest,
            "policy": policy.digest(),
            "findings": len(result.findings),
            "figures": tabulate([figures]),
            **({"examples": tabulate(result.examples)} if result.examples else {}),
            **({"all_findings": dg.MetadataValue.path(str(findings))} if findings else {}),
        },
    )

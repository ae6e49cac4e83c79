"""Checks of outside artifacts: they read what the gate signed, and say what it found."""

import dagster as dg

from assets.metadata import tabulate
from assets.resources import ProjectResource
from assets.versions import find_digest
from pedigree.admission.transitions import AdmissionStep, explain_step
from pedigree.evidence.store import open_store

CONTEXT = dg.AssetCheckExecutionContext
_CLAIMS: dict[AdmissionStep, str] = {
    "pin": "The artifact is the one that was declared.",
    "signature": "Its signature is a pinned publisher's, where there is one or one is demanded.",
    "file_tree": "It has no file that a model does not need, and none is missing.",
    "contents": "Each file is of an allowed format, was looked at in full, and is harmless.",
}


def build_admission_checks() -> list[dg.AssetChecksDefinition]:
    """Return a blocking check for each step of the base model's admission."""
    return [_build(step, claim) for step, claim in _CLAIMS.items()]


def _build(step: AdmissionStep, claim: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset="base_model_admission", name=step, description=claim, blocking=True)
    def check(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
        digest, place = find_digest(context, "base_model_admission"), project.open()
        said = explain_step(open_store(place, place.policy()), digest, step)
        return dg.AssetCheckResult(
            passed=said.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=said.summary,
            metadata={
                "digest": digest,
                "statement": said.statement,
                "isolation": said.isolation,
                **({"examples": tabulate(said.findings)} if said.findings else {}),
            },
        )

    return check

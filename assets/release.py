"""The release asset: which model production was given. `promote` in pipelines/ gives any other."""

from typing import Any

import dagster as dg

from assets.resources import ProjectResource
from assets.versions import find_digest, materialised
from pedigree.checks import digest_code
from pedigree.registry import Promotion, alias_of
from pedigree.release import promote_model

ENVIRONMENT = "production"


@dg.asset(
    deps=["fine_tuned_model", "model_attestation"],
    group_name="release",
    kinds={"mlflow", "in-toto"},
    owners=["team:ml-engineering"],
    code_version=digest_code("release.py", "demands.py", "tracking.py"),
)
def production_model(
    context: dg.AssetExecutionContext, project: ProjectResource
) -> dg.MaterializeResult:
    """The model in production: an MLflow version and alias, after every demand was met."""
    digest = find_digest(context, "fine_tuned_model")
    attestation = find_digest(context, "model_attestation")
    promotion = promote_model(project.open(), digest, ENVIRONMENT, project.now())
    return materialised(
        digest,
        {"fine_tuned_model": digest, "model_attestation": attestation},
        describe_promotion(promotion),
    )


def describe_promotion(promotion: Promotion) -> dict[str, Any]:
    """Return what the UI shows of a promotion."""
    alias = alias_of(promotion.environment, promotion.tenant)
    return {
        "mlflow_model_version": f"{promotion.name}:{promotion.version}",
        "mlflow_alias": f"{promotion.name}@{alias}",
        "policy": promotion.policy,
        "approved_by": ", ".join(promotion.approvals) or "nobody: the policy demands no approval",
        "statement": dg.MetadataValue.path(str(promotion.statement.path)),
    }

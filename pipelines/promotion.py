"""The job that gives any attested model to any environment, launched from the Launchpad."""

import dagster as dg
from pydantic import Field

from assets.release import describe_promotion
from assets.resources import ProjectResource
from assets.versions import DATA_VERSION
from pedigree.registry import alias_of
from pedigree.release import promote_model


class PromotionConfig(dg.Config):
    """What is promoted, and where to: the form of the Launchpad."""

    digest: str = Field(description="of the model, sha256:… with all 64 digits")
    environment: str = Field(description="one of the policy's")
    tenant: str | None = Field(default=None, description="for this tenant alone")


@dg.op
def promote_digest(
    context: dg.OpExecutionContext, config: PromotionConfig, project: ProjectResource
) -> None:
    """Give a model to an environment, if everything holds that the policy demands."""
    promotion = promote_model(
        project.open(), config.digest, config.environment, project.now(), config.tenant
    )
    name = alias_of(promotion.environment, promotion.tenant)
    context.log_event(
        dg.AssetMaterialization(
            f"{name}_model",
            description=f"{promotion.model} is in {name}",
            metadata={"digest": promotion.model, **describe_promotion(promotion)},
            tags={DATA_VERSION: promotion.model},
        )
    )


@dg.job(description="Give the model with a digest to an environment, if the policy lets it.")
def promote() -> None:
    """Promote one digest; its configuration says which, and where to."""
    promote_digest()

"""The policy: what must be true before training and before an environment.

It is read from `policy.yaml`; its digest is bound into every verdict, so that a verdict reached
under another policy is stale.
"""

from pathlib import Path

from pydantic import Field, field_validator

from pedigree.digests import digest_json
from pedigree.settings import Settings, parse_settings, read_yaml


class ConflictLimits(Settings):
    """Thresholds of `near_duplicate_label_conflicts`."""

    similarity: float = Field(default=0.7, gt=0, le=1, description="pairs that are reported")
    decisive_similarity: float = Field(default=0.8, gt=0, le=1, description="pairs that block")
    natural_share: float = Field(default=0.05, gt=0, lt=1)
    significance: float = Field(default=0.001, gt=0, lt=1)
    min_texts: int = Field(default=6, ge=1)


class LeakageLimits(Settings):
    """Thresholds of `evaluation_leakage`."""

    similarity: float = Field(default=0.8, gt=0, le=1)
    max_rows: int = Field(default=0, ge=0)


class AccuracyLimits(Settings):
    """Thresholds of `evaluation_accuracy`: absolute floors, and drops against production."""

    floor: float = Field(default=0.7, ge=0, le=1)
    source_floor: float = Field(default=0.6, ge=0, le=1)
    max_drop: float = Field(default=0.03, ge=0, le=1)
    max_source_drop: float = Field(default=0.1, ge=0, le=1)


class LabelIssueLimits(Settings):
    """Thresholds of `label_issues` and `flattering_rows`."""

    share: float = Field(
        default=0.015, gt=0, lt=0.5, description="share of correct rows that may be flagged"
    )
    concentration: float = Field(
        default=2.0,
        gt=1,
        description="a label or source blocks with so many times the issues that its overlap with "
        "others explains, and so many times what the rest of the corpus shows",
    )
    min_excess: float = Field(
        default=0.025, ge=0, lt=1, description="share of its rows beyond that, to block"
    )
    min_rows: int = Field(default=20, ge=1, description="issues in it, to block")
    significance: float = Field(default=0.001, gt=0, lt=1)


class ClusterLimits(Settings):
    """Thresholds of `anomalous_clusters`."""

    min_rows: int = Field(default=20, ge=5, description="rows of a style, to be named")
    min_disputed: float = Field(
        default=0.4, gt=0, lt=1, description="share of them whose content speaks against the label"
    )
    significance: float = Field(default=1e-4, gt=0, lt=1)
    max_share: float = Field(
        default=0.25, gt=0, lt=1, description="share of its label beyond which a style is its own"
    )


class InfluenceLimits(Settings):
    """Thresholds of `influential_rows`."""

    share: float = Field(default=0.01, gt=0, lt=1, description="share of rows that are listed")


class CheckLimits(Settings):
    """Thresholds of each check; the file says which measurement set them."""

    near_duplicate_label_conflicts: ConflictLimits = ConflictLimits()
    evaluation_leakage: LeakageLimits = LeakageLimits()
    evaluation_accuracy: AccuracyLimits = AccuracyLimits()


class KeyPolicy(Settings):
    """Which keys count."""

    accept_development_keys: bool = False


class Demands(Settings):
    """What a gate demands. An empty list of checks would let everything through: refused."""

    required_checks: tuple[str, ...] = Field(min_length=1)

    @field_validator("required_checks")
    @classmethod
    def _no_check_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a check is listed twice")
        return names


class EnvironmentDemands(Demands):
    """What an environment demands beyond checks."""

    approvals: int = Field(default=0, ge=0)


class Policy(Settings):
    """The whole of `policy.yaml`."""

    keys: KeyPolicy = KeyPolicy()
    checks: CheckLimits = CheckLimits()
    training: Demands
    evaluation: Demands
    environments: dict[str, EnvironmentDemands]

    def digest(self) -> str:
        """Return the digest of the policy as read, defaults included."""
        return digest_json(self.model_dump(mode="json"))


def load_policy(path: Path) -> Policy:
    """Read `policy.yaml`.

    Raises:
        PedigreeError: the file is missing or not valid.
    """
    return parse_settings(Policy, read_yaml(path), str(path))

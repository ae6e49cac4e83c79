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


class AnnotatorLimits(Settings):
    """Thresholds of `annotator_manipulation`: docs/measurements.md has the figures behind them."""

    min_votes: int = Field(
        default=5, ge=1, description="comparable votes below which an annotator is never named"
    )
    significance: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="chance that the strongest word of a clean corpus warns",
    )
    block_significance: float = Field(
        default=0.001, gt=0, lt=1, description="the same for a word that blocks"
    )
    block_votes: int = Field(
        default=5, ge=1, description="votes pushed on one word below which nothing blocks"
    )
    membership: float = Field(
        default=0.9, gt=0, lt=1, description="probability of being a colluder that names somebody"
    )
    tolerated_disagreement: float = Field(
        default=0.6, gt=0, lt=0.8, description="with a confident consensus on one label"
    )
    false_discovery_rate: float = Field(default=0.01, gt=0, lt=1)
    crowd_discovery_rate: float = Field(
        default=0.001, gt=0, lt=1, description="the same for leaning to a label, and for pairs"
    )
    deals: int = Field(default=20, ge=10, description="random deals of texts behind a probability")
    seed: int = Field(default=0, ge=0)


class SourceShiftLimits(Settings):
    """Thresholds of `quarantine_window`, `snapshot_changes` and `source_drift`."""

    quarantine_days: float = Field(default=7.0, gt=0)
    max_young_share: float = Field(
        default=1.0, ge=0, le=1, description="of rows with a time; more blocks. 1: only warn"
    )
    max_relabelled_share: float = Field(
        default=0.005, ge=0, le=1, description="of a source's rows that stayed; more blocks"
    )
    min_relabelled: int = Field(default=5, ge=1, description="fewer never block")
    max_growth: float = Field(default=1.0, gt=0, description="rows gained for each row there was")
    min_rows: int = Field(default=30, ge=2, description="old and new rows that are compared")
    min_divergence: float = Field(default=0.01, ge=0, description="bits beyond chance")
    false_discovery_rate: float = Field(default=0.01, gt=0, lt=1)
    splits: int = Field(default=50, ge=20, description="random splits behind a probability")
    seed: int = Field(default=0, ge=0)


class DrillLimits(Settings):
    """What `detection_floor` demands: attack -> rows from which on it must be seen."""

    max_floor: dict[str, int] = Field(
        default={}, description="largest detection floor by attack; an attack not listed is free"
    )

    @field_validator("max_floor")
    @classmethod
    def _floors_are_counts(cls, floors: dict[str, int]) -> dict[str, int]:
        if any(floor < 1 for floor in floors.values()):
            raise ValueError("a floor is a number of rows, at least 1")
        return floors


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

"""The policy: what must be true before training and before an environment.

It is read from `policy.yaml`; its digest is bound into every verdict, so that a verdict reached
under another policy is stale.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pedigree.digests import digest_json
from pedigree.evidence.check_limits import CheckLimits
from pedigree.evidence.trust import Role
from pedigree.settings import Settings, parse_settings, read_yaml

# Where an approved adapter may go; no environment has this name.
MERGE = "merge"
# Of an environment or tenant: two underscores stand between them in an alias.
NAME = r"(?!latest$|v[0-9]+$)[a-z][a-z0-9-]{0,40}(?:_[a-z0-9-]{1,20}){0,3}"


class KeyPolicy(Settings):
    """Which keys count."""

    accept_development_keys: bool = False


class AdmissionPolicy(Settings):
    """What the gate demands of outside artifacts; `trust/publishers.yaml` names publishers."""

    minimum_isolation: Literal["landlock+seccomp", "bubblewrap+landlock+seccomp"] = Field(
        default="landlock+seccomp", description="below it, nothing is opened in the sandbox"
    )
    require_signature: bool = Field(
        default=False, description="whether a pinned publisher must have signed an artifact"
    )
    formats: tuple[Literal["safetensors", "onnx", "gguf"], ...] = Field(
        default=("safetensors", "onnx", "gguf"), min_length=1, description="of weights"
    )
    second_opinions: tuple[Literal["picklescan", "modelaudit"], ...] = Field(
        default=("picklescan",), description="other scanners; they can only speak against"
    )

    def digest(self) -> str:
        """Return the digest that an admission is bound to."""
        return digest_json(self.model_dump(mode="json"))


class Demands(Settings):
    """What a gate demands. An empty list of checks would let everything through: refused."""

    required_checks: tuple[str, ...] = Field(min_length=1)

    @field_validator("required_checks")
    @classmethod
    def _no_check_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a check is listed twice")
        return names


class ApprovalDemands(Settings):
    """How many people have to have said yes, which, and how long ago at most."""

    approvals: int = Field(default=0, ge=0, description="by different people, none its trainer")
    approver_role: Role = "reviewer"
    max_approval_age_days: float | None = Field(default=None, gt=0)


class EnvironmentDemands(Demands, ApprovalDemands):
    """What an environment demands beyond checks.

    Ages are in days and count back from the promotion; none means that age does not matter.
    """

    max_verdict_age_days: float | None = Field(default=None, gt=0)
    rebuild: Literal["none", "tolerance", "bit-identical"] = Field(
        default="none", description="the verdict of a rebuild that is demanded at least"
    )
    independent_rebuild: bool = Field(
        default=False, description="the rebuild was signed by another owner than the training"
    )
    max_vulnerability_age_days: float | None = Field(
        default=None, gt=0, description="of the newest report about the model's lock; demands one"
    )
    vulnerable_from: Literal["low", "medium", "high", "critical"] = Field(
        default="high", description="the least severity that stops a promotion; unknown does too"
    )
    committed_settings: bool = Field(
        default=False, description="policy.yaml and trust/keys.json are as their last commit"
    )

    @model_validator(mode="after")
    def _independent_of_what(self) -> "EnvironmentDemands":
        if self.independent_rebuild and self.rebuild == "none":
            raise ValueError("independent_rebuild needs rebuild: tolerance or bit-identical")
        return self


class WaiverLimits(Settings):
    """What a reviewer may let pass for a time, although a check failed."""

    max_days: float = Field(default=30, ge=0, description="0 allows no waiver")
    never: tuple[str, ...] = Field(
        default=("schema_holds", "snapshot_digest_matches", "weights_are_finite"),
        description="checks that nobody can waive",
    )


class Policy(Settings):
    """The whole of `policy.yaml`."""

    keys: KeyPolicy = KeyPolicy()
    waivers: WaiverLimits = WaiverLimits()
    ledger_witnesses: tuple[str, ...] = Field(
        default=(), description="files, or git:PATH, whose checkpoints a promotion compares"
    )
    record_refusals: bool = Field(default=True, description="sign and keep each refused promotion")
    checks: CheckLimits = CheckLimits()
    admission: AdmissionPolicy = AdmissionPolicy()
    training: Demands
    evaluation: Demands
    # An outside adapter is a dependency: somebody signs it off before it is merged.
    adapters: ApprovalDemands = ApprovalDemands(approvals=1)
    environments: dict[str, EnvironmentDemands]

    @field_validator("environments")
    @classmethod
    def _names_are_plain(
        cls, value: dict[str, EnvironmentDemands]
    ) -> dict[str, EnvironmentDemands]:
        # ASCII alone, so that no environment can look like another.
        odd = [name for name in value if not re.fullmatch(NAME, name) or name == MERGE]
        if odd:
            raise ValueError(f"{odd[0]!r} is no name: expected lower-case ASCII, digits, - and _")
        return value

    def digest(self) -> str:
        """Return the digest of the policy as read, defaults included."""
        return digest_json(self.model_dump(mode="json"))


def load_policy(path: Path) -> Policy:
    """Read `policy.yaml`.

    Raises:
        PedigreeError: the file is missing or not valid.
    """
    return parse_settings(Policy, read_yaml(path), str(path))

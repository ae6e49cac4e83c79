"""Attesting a trained model and moving it into an environment.

The last gate. What is promoted is a digest: its training must be attested, its code committed, its
bytes unchanged, and every verdict that the policy demands of data and model must stand. The signed
promotion comes before MLflow's alias, so an alias never says more than the evidence.
"""

from datetime import UTC, datetime

from pedigree.capture import capture_code, find_code_root
from pedigree.digests import JSON, hex_of
from pedigree.errors import GateClosed, PedigreeError, VerificationFailed
from pedigree.evidence.policy import EnvironmentDemands, Policy
from pedigree.evidence.store import EvidenceStore, Statement, open_store
from pedigree.evidence.verdicts import require_passed
from pedigree.project import Project
from pedigree.registry import Promotion, find_training, read_promotion, require_unchanged
from pedigree.tracking import register_version, set_alias
from pedigree.training.record import TrainingRecord, read_record
from pedigree.training.run import load_record

VERIFIER = "urn:pedigree:verifier:local:v1"


def attest_model(project: Project, digest: str) -> Statement:
    """Sign the training record of a model whose bytes are still the recorded ones.

    Raises:
        EvidenceMissing: no model of that digest was trained here.
        GateClosed: the data's verdicts no longer stand.
        VerificationFailed: the model's files were changed after training.
    """
    record = load_record(project, digest)
    if record.model_digest != digest:
        raise VerificationFailed(
            f"The training record of {digest} describes {record.model_digest}: it was changed. "
            "Train again."
        )
    policy = project.policy()
    store = open_store(project, policy, write=True)
    verdicts = _require_data(store, policy, record, "attestation")
    require_unchanged(project, record)
    return store.write("training", record.subjects(), record.to_predicate(verdicts))


def promote_model(project: Project, digest: str, environment: str, now: datetime) -> Promotion:
    """Give a model to an environment: MLflow version, signed promotion, then the alias.

    Raises:
        GateClosed: the code was not committed, or a demanded verdict or approval is missing.
        EvidenceMissing: the model's training is not attested.
        VerificationFailed: the model's files were changed.
    """
    policy = project.policy()
    demands = _find_demands(policy, environment)
    store = open_store(project, policy, write=True)
    training = find_training(store, digest)
    record = read_record(training)
    if record.inputs.code.dirty:
        raise GateClosed(_dirty(record.inputs.code.commit, record.inputs.code.changed_files))
    data = _require_data(store, policy, record, f"promotion to {environment}")
    model = require_passed(
        store,
        digest,
        demands.required_checks,
        policy,
        f"promotion to {environment}",
        {"evaluation_snapshot": record.evaluation_snapshot.digest},
    )
    if demands.approvals:
        raise GateClosed(
            f"Promotion to {environment} is refused for {digest}: the policy demands "
            f"{demands.approvals} approvals and there are none."
        )
    require_unchanged(project, record)
    version = register_version(
        project, record.model_name, record.mlflow_model, record.mlflow_run, digest
    )
    inputs: list[JSON] = [
        {"name": one.kind, "digest": {"sha256": hex_of(one.digest)}}
        for one in (training, *data, *model)
    ]
    statement = store.write(
        "promotion",
        [{"name": record.model_name, "digest": {"sha256": hex_of(digest)}}],
        {
            "verifier": {"id": VERIFIER},
            "timeVerified": now.astimezone(UTC).isoformat(),
            "resourceUri": f"urn:pedigree:environment:{environment}",
            "policy": {"uri": "policy.yaml", "digest": {"sha256": hex_of(policy.digest())}},
            "inputAttestations": inputs,
            "verificationResult": "PASSED",
            "verifiedLevels": ["SLSA_BUILD_LEVEL_1"],
            "slsaVersion": "1.0",
            "modelVersion": f"{record.model_name}:{version}",
            "approvalsDemanded": demands.approvals,
            "approvals": [],
        },
    )
    set_alias(project, record.model_name, environment, version)
    return read_promotion(statement)


def require_clean_tree(project: Project) -> None:
    """Refuse early what promotion would refuse after hours of training.

    Raises:
        GateClosed: code differs from its commit, or there is none.
    """
    code = capture_code(find_code_root(project.root))
    if code.dirty:
        raise GateClosed(_dirty(code.commit, code.changed_files))


def _dirty(commit: str | None, changed: tuple[str, ...]) -> str:
    if commit is None:
        return (
            "Promotion is refused: the code has no git commit, so nobody could rebuild the model. "
            "Commit it and train again (or stop before with `pedigree run --until model`)."
        )
    return (
        f"Promotion is refused: the working tree is dirty, {len(changed)} files differ from commit "
        f"{commit[:12]} ({', '.join(changed[:5])}{', …' if len(changed) > 5 else ''}). Commit them "
        "and train again (or stop before with `pedigree run --until model`)."
    )


def _find_demands(policy: Policy, environment: str) -> EnvironmentDemands:
    if environment not in policy.environments:
        known = ", ".join(sorted(policy.environments)) or "none"
        raise PedigreeError(f"The policy has no environment {environment!r}: it has {known}.")
    return policy.environments[environment]


def _require_data(
    store: EvidenceStore, policy: Policy, record: TrainingRecord, what: str
) -> list[Statement]:
    evaluation = record.evaluation_snapshot.digest
    return [
        *require_passed(
            store,
            record.inputs.training.digest,
            policy.training.required_checks,
            policy,
            what,
            {"evaluation_snapshot": evaluation},
        ),
        *require_passed(store, evaluation, policy.evaluation.required_checks, policy, what),
    ]

"""Attesting a trained model and moving it into an environment.

The last gate. What is promoted is a digest: its training must be attested, its code committed, its
bytes unchanged, and everything must hold that the policy demands of the environment. The signed
promotion comes before MLflow's alias, so an alias never says more than the evidence.
"""

import re
from datetime import UTC, datetime
from typing import NoReturn

from pedigree.capture import capture_code, find_code_root
from pedigree.demands import Weighed, describe_dirt, weigh_model
from pedigree.digests import JSON, hex_of
from pedigree.errors import EvidenceMissing, GateClosed, PedigreeError, VerificationFailed
from pedigree.evidence.policy import NAME, Policy
from pedigree.evidence.revocations import require_not_revoked, revoke
from pedigree.evidence.signing import Signer
from pedigree.evidence.store import EvidenceStore, Statement, open_store
from pedigree.evidence.verdicts import require_passed
from pedigree.project import Project
from pedigree.registry import (
    Promotion,
    alias_of,
    environment_uri,
    find_promoted,
    find_training,
    list_promotions,
    read_promotion,
    require_unchanged,
)
from pedigree.tracking import register_version, remove_alias, set_alias
from pedigree.training.record import TrainingRecord, read_record
from pedigree.training.run import load_record

VERIFIER = "urn:pedigree:verifier:local:v1"


def attest_model(project: Project, digest: str, now: datetime) -> Statement:
    """Sign the training record of a model whose bytes are still the recorded ones.

    Raises:
        EvidenceMissing: no model of that digest was trained here.
        GateClosed: the data's verdicts no longer stand, or something that went in was revoked.
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
    require_not_revoked(store, record.ingredients(), "attestation")
    verdicts = _require_data(store, policy, record, now)
    require_unchanged(project, record)
    return store.write("training", record.subjects(), record.to_predicate(verdicts))


def _require_data(
    store: EvidenceStore, policy: Policy, record: TrainingRecord, now: datetime
) -> list[Statement]:
    training, evaluation = record.inputs.training.digest, record.evaluation_snapshot.digest
    what, checks = "attestation", policy.training.required_checks
    inputs = {"evaluation_snapshot": evaluation}
    return [
        *require_passed(store, training, checks, policy, what, now, inputs),
        *require_passed(store, evaluation, policy.evaluation.required_checks, policy, what, now),
    ]


def promote_model(
    project: Project, digest: str, environment: str, now: datetime, tenant: str | None = None
) -> Promotion:
    """Give a model to an environment: MLflow version, signed promotion, then the alias.

    Args:
        project: where everything lies.
        digest: of the model; a path, or what MLflow calls it, is no digest.
        environment: one of the policy's.
        now: when; ages and expiries are counted from here.
        tenant: for whom; None for all.

    Raises:
        GateClosed: a demand of the policy is not met; every reason is named, and the refusal is
            signed and kept where the policy asks for it.
        EvidenceMissing: the model's training is not attested: it was made somewhere else, or by
            hand.
        VerificationFailed: the model's files were changed.
    """
    policy = project.policy()
    if tenant is not None and not re.fullmatch(NAME, tenant):
        raise PedigreeError(f"{tenant!r} is no tenant: expected lower-case ASCII, such as 'acme'.")
    store = open_store(project, policy, write=True)
    training = find_training(store, _require_digest(digest))
    weighed = weigh_model(project, store, policy, training, environment, tenant, now)
    if weighed.reasons:
        _refuse(store, policy, weighed, environment, tenant, now)
    record = weighed.record
    require_unchanged(project, record)
    version = register_version(
        project, record.model_name, record.mlflow_model, record.mlflow_run, digest
    )
    before = find_promoted(store, environment, tenant)
    statement = _sign_summary(store, policy, weighed, training, environment, tenant, version, now)
    alias = alias_of(environment, tenant)
    set_alias(project, record.model_name, alias, version)
    _sign_deployment(store, statement, alias, before, now)
    return read_promotion(statement)


def _require_digest(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise PedigreeError(
            f"{text!r} cannot be promoted: only a digest of an attested model can, neither a path "
            "nor a name that anybody can move. `pedigree models` lists them."
        )
    return text


def _refuse(
    store: EvidenceStore,
    policy: Policy,
    weighed: Weighed,
    environment: str,
    tenant: str | None,
    now: datetime,
) -> NoReturn:
    digest = weighed.record.model_digest
    if policy.record_refusals:
        store.write(
            "refusal",
            [{"name": weighed.record.model_name, "digest": {"sha256": hex_of(digest)}}],
            {
                **_summarise(policy, environment, tenant, now),
                "verificationResult": "FAILED",
                "inputAttestations": [],
                "reasons": list(weighed.reasons),
            },
        )
    where = f"{environment} for {tenant}" if tenant else environment
    raise GateClosed(f"Promotion to {where} is refused for {digest}: {'; '.join(weighed.reasons)}.")


def _summarise(
    policy: Policy, environment: str, tenant: str | None, now: datetime
) -> dict[str, JSON]:
    """Return what every verification summary says, whatever came of it."""
    return {
        "verifier": {"id": VERIFIER},
        "timeVerified": now.astimezone(UTC).isoformat(),
        "resourceUri": environment_uri(environment, tenant),
        "policy": {"uri": "policy.yaml", "digest": {"sha256": hex_of(policy.digest())}},
        "slsaVersion": "1.0",
    }


def _sign_summary(
    store: EvidenceStore,
    policy: Policy,
    weighed: Weighed,
    training: Statement,
    environment: str,
    tenant: str | None,
    version: str,
    now: datetime,
) -> Statement:
    record = weighed.record
    rebuild = [weighed.rebuild] if weighed.rebuild else []
    relied = [training, *weighed.verdicts, *weighed.approvals.statements, *rebuild]
    inputs: list[JSON] = [
        {"name": one.kind, "digest": {"sha256": hex_of(one.digest)}} for one in relied
    ]
    trust = store.trust
    development = trust is not None and any(trust.is_development(one.signer) for one in relied)
    return store.write(
        "promotion",
        [{"name": record.model_name, "digest": {"sha256": hex_of(record.model_digest)}}],
        {
            **_summarise(policy, environment, tenant, now),
            "inputAttestations": inputs,
            "verificationResult": "PASSED",
            "verifiedLevels": ["SLSA_BUILD_LEVEL_1"],
            "modelVersion": f"{record.model_name}:{version}",
            "approvalsDemanded": weighed.demands.approvals,
            "approvals": list(weighed.approvals.approvers),
            "waivers": [str(o.predicate["check"]) for o in weighed.verdicts if o.kind == "waiver"],
            "carries": sorted({one.tenant for one in weighed.carriers}),
            "trust": {"sha256": hex_of(trust.digest()) if trust else None},
            "developmentKeys": development,
        },
    )


def _sign_deployment(
    store: EvidenceStore,
    promotion: Statement,
    alias: str,
    before: Promotion | None,
    now: datetime,
) -> None:
    """Sign that the alias was moved: what serves an environment from now on, and what did."""
    name, _, version = str(promotion.predicate["modelVersion"]).rpartition(":")
    store.write(
        "deployment",
        [{"name": name, "digest": dict(promotion.subjects[0]["digest"])}],
        {
            "resourceUri": promotion.predicate["resourceUri"],
            "alias": f"{name}@{alias}",
            "modelVersion": f"{name}:{version}",
            "promotion": {"sha256": hex_of(promotion.digest)},
            "replaces": {"sha256": hex_of(before.model)} if before else None,
            "deployedOn": now.astimezone(UTC).isoformat(),
        },
    )


def revoke_digest(
    project: Project, digest: str, reason: str, now: datetime, signer: Signer | None = None
) -> tuple[Statement, tuple[str, ...]]:
    """Revoke a model, snapshot, base model or adapter, and take its aliases away.

    Args:
        project: where everything lies.
        digest: what is revoked.
        reason: why.
        now: when.
        signer: a reviewer's or releaser's key; None for the releaser's of this machine.

    Returns:
        The revocation, and the MLflow aliases that were removed.

    Raises:
        PedigreeError: there is no reason, or no key that may revoke.
    """
    store = open_store(project, project.policy(), write=True)
    statement = revoke(store, digest, reason, now, signer)
    removed: list[str] = []
    held: dict[tuple[str, str | None], Promotion] = {
        (one.environment, one.tenant): one for one in list_promotions(store)
    }
    for promotion in held.values():
        try:
            record = read_record(find_training(store, promotion.model))
        except EvidenceMissing:
            continue
        if digest in record.ingredients().values():
            alias = alias_of(promotion.environment, promotion.tenant)
            remove_alias(project, promotion.name, alias)
            removed.append(f"{promotion.name}@{alias}")
    return statement, tuple(removed)


def require_clean_tree(project: Project) -> None:
    """Refuse early what promotion would refuse after hours of training.

    Raises:
        GateClosed: code differs from its commit, or there is none.
    """
    code = capture_code(find_code_root(project.root))
    if code.dirty:
        raise GateClosed(f"Promotion is refused: {describe_dirt(code.commit, code.changed_files)}.")

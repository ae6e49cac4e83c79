"""What is known of models: their training statements and promotions, read back from evidence.

A MODEL is a digest or at least its first 12 digits, the name of an environment, `name@alias` or
`name:version`. MLflow is not asked: aliases there can be moved by anyone::

    >>> find_model(store, "production", ["production"])
    'sha256:9f2c…'
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import cast

from pedigree.digests import find_differences
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.store import EvidenceStore, Statement, is_digest_prefix
from pedigree.project import Project
from pedigree.training.record import TrainingRecord, read_record


@dataclass(frozen=True)
class Promotion:
    """Which model an environment was given: the statement, read."""

    statement: Statement
    model: str
    environment: str
    name: str
    version: str
    policy: str
    approvals: tuple[str, ...]
    promoted_on: str
    tenant: str | None = None


def environment_uri(environment: str, tenant: str | None) -> str:
    """Return how statements name an environment, or a tenant's part of it."""
    uri = f"urn:pedigree:environment:{environment}"
    return f"{uri}:tenant:{tenant}" if tenant else uri


def alias_of(environment: str, tenant: str | None) -> str:
    """Return the MLflow alias of an environment, or of a tenant's part of it."""
    return f"{environment}__{tenant}" if tenant else environment


def find_model(store: EvidenceStore, name: str, environments: Collection[str]) -> str:
    """Return the digest of the model that `name` means.

    Args:
        store: the evidence.
        name: digest or prefix, environment or `environment__tenant`, `name@alias` (the alias is
            such an environment), or `name:version`.
        environments: those that the policy declares.

    Raises:
        EvidenceMissing: nothing is known of it.
        PedigreeError: it is no such name.
    """
    environment, _, tenant = name.partition("__")
    if environment in environments:
        promoted = find_promoted(store, environment, tenant or None)
        if promoted is None:
            raise EvidenceMissing(f"No model was ever promoted to {name}: run `pedigree run`.")
        return promoted.model
    model_name, at, alias = name.partition("@")
    if at:
        return _last(
            [
                p
                for p in list_promotions(store)
                if (p.name, alias_of(p.environment, p.tenant)) == (model_name, alias)
            ],
            name,
        )
    model_name, colon, version = name.rpartition(":")
    if colon and model_name != "sha256":
        return _last(
            [p for p in list_promotions(store) if (p.name, p.version) == (model_name, version)],
            name,
        )
    if not is_digest_prefix(name):
        raise PedigreeError(
            f"{name!r} is neither an environment of policy.yaml ({', '.join(environments)}) nor a "
            "digest: give one of these, at least 12 digits of the digest, name@alias or "
            "name:version."
        )
    return store.find_subject(name, "training")


def _last(promotions: list[Promotion], name: str) -> str:
    if not promotions:
        raise EvidenceMissing(f"No promotion is known of {name}: see `pedigree models`.")
    return promotions[-1].model


def require_unchanged(project: Project, record: TrainingRecord) -> None:
    """Compare a model's files in the artifact store with its record.

    Raises:
        EvidenceMissing: the folder is gone.
        VerificationFailed: a file is missing, extra or changed; the message names each.
    """
    folder = project.root / record.location
    if not folder.is_dir():
        raise EvidenceMissing(f"The files of model {record.model_digest} are gone from {folder}.")
    differences = find_differences(folder, record.model_files)
    if differences:
        raise VerificationFailed(
            f"Model {record.model_digest} is not what was trained: {'; '.join(differences)} (in "
            f"{folder}). Do not use it; restore the files or train again."
        )


def find_training(store: EvidenceStore, digest: str) -> Statement:
    """Return the newest training statement about a model.

    Raises:
        EvidenceMissing: there is none.
        VerificationFailed: there is one that no trusted key signed.
    """
    statements, problems = store.about(digest, "training")
    if not statements:
        if problems:
            raise VerificationFailed(problems[0])
        raise EvidenceMissing(
            f"No training evidence is known about {digest}: materialise model_attestation, or see "
            "`pedigree models`."
        )
    return max(statements, key=lambda one: one.predicate["runDetails"]["metadata"]["finishedOn"])


def read_promotion(statement: Statement) -> Promotion:
    """Return what a promotion statement says."""
    said = statement.predicate
    name, _, version = cast(str, said["modelVersion"]).rpartition(":")
    place = cast(str, said["resourceUri"]).removeprefix(environment_uri("", None))
    environment, _, tenant = place.partition(":tenant:")
    return Promotion(
        statement,
        "sha256:" + cast(str, statement.subjects[0]["digest"]["sha256"]),
        environment,
        name,
        version,
        "sha256:" + cast(str, said["policy"]["digest"]["sha256"]),
        tuple(cast(list[str], said["approvals"])),
        cast(str, said["timeVerified"]),
        tenant or None,
    )


def list_promotions(store: EvidenceStore) -> Iterator[Promotion]:
    """Yield every promotion, oldest first."""
    promotions = [read_promotion(one) for one in store.all("promotion")]
    yield from sorted(promotions, key=lambda one: (one.promoted_on, one.statement.digest))


def find_previous_snapshot(store: EvidenceStore) -> str | None:
    """Return the training snapshot of the model that was promoted last, or None.

    It is what reviewers released something on: what has changed since is what they have not seen.
    """
    promotions = list(list_promotions(store))
    if not promotions:
        return None
    return read_record(find_training(store, promotions[-1].model)).inputs.training.digest


def find_promoted(
    store: EvidenceStore, environment: str, tenant: str | None = None
) -> Promotion | None:
    """Return what an environment, or a tenant's part of it, was given last, or None."""
    place = (environment, tenant)
    found = [one for one in list_promotions(store) if (one.environment, one.tenant) == place]
    return found[-1] if found else None

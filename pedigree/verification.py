"""Is it still the model that was trained? Every file of it against its signed training record.

    >>> verify_model(project, store, "production").digest
    'sha256:9f2c…'
    >>> verify_folder(project, store, Path("downloaded/")).name
    'sentiment'

Needs neither Dagster nor torch: whoever runs a model can ask this before loading it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.digests import digest_manifest, digest_tree, find_differences
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.revocations import find_revocations
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.project import Project
from pedigree.registry import find_model, find_training, require_unchanged
from pedigree.training.record import TrainingRecord, read_record

if TYPE_CHECKING:
    from pedigree.training.serving import TextClassifier


@dataclass(frozen=True)
class Verified:
    """A folder that holds, file by file, the model that a trusted statement describes."""

    digest: str
    name: str
    folder: Path
    files: int
    statement: str


def verify_model(project: Project, store: EvidenceStore, name: str) -> Verified:
    """Verify the files of a known model in the artifact store.

    Args:
        project: where the artifact store lies.
        store: the evidence.
        name: a MODEL, as in `registry.find_model`.

    Raises:
        EvidenceMissing: nothing is known of it, or its files are gone.
        VerificationFailed: a file is missing, extra or changed, no trusted key signed, or the
            model or something that it was made of was revoked.
    """
    statement = find_training(store, find_model(store, name, project.policy().environments))
    record = read_record(statement)
    _require_valid(store, record)
    require_unchanged(project, record)
    return _verified(record, project.root / record.location, statement.digest)


def verify_folder(project: Project, store: EvidenceStore, folder: Path) -> Verified:
    """Verify a folder against whichever model it is, or was before it was changed.

    Raises:
        EvidenceMissing: no known model has these files.
        VerificationFailed: it is a known model with a file missing, extra or changed.
    """
    found = digest_tree(folder)
    if not found:
        raise PedigreeError(f"{folder} holds no file: name the folder of a model.")
    digest = digest_manifest(found)
    if store.about(digest, "training")[0]:
        statement = find_training(store, digest)
        _require_valid(store, read_record(statement))
        return _verified(read_record(statement), folder, statement.digest)
    files = set(found)
    known = [read_record(statement) for statement in store.all("training")]
    here = [one for one in known if (project.root / one.location).resolve() == folder.resolve()]
    closest = max(here or known, key=lambda one: len(files & set(one.model_files)), default=None)
    if closest is None or not (here or files & set(closest.model_files)):
        raise EvidenceMissing(f"No model is known with the files in {folder} ({digest}).")
    raise VerificationFailed(
        f"{folder} is not a model that was trained here. It is closest to {closest.model_digest}: "
        f"{'; '.join(find_differences(folder, closest.model_files))}. Do not use it."
    )


def load_verified_model(project: Project, name: str) -> "TextClassifier":
    """Load a model for prediction, or refuse: its bytes are verified first.

    Raises:
        VerificationFailed, EvidenceMissing: as `verify_model`.
    """
    verified = verify_model(project, open_store(project, project.policy()), name)
    from pedigree.training.serving import TextClassifier

    return TextClassifier(verified.folder)


def _require_valid(store: EvidenceStore, record: TrainingRecord) -> None:
    revoked = find_revocations(store, record.ingredients())
    if revoked:
        raise VerificationFailed(
            f"Model {record.model_digest} must not be used: {'; '.join(revoked)}."
        )


def _verified(record: TrainingRecord, folder: Path, statement: str) -> Verified:
    return Verified(
        record.model_digest, record.model_name, folder, len(record.model_files), statement
    )

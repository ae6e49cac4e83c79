"""The ledger of a project, with its witnesses: what `pedigree ledger` and a gate call.

>>> verify_project_ledger(project, now, ["git:checkpoints.txt"], keep_in=Path("/mnt/x.txt"))
Checkpoint(size=412, entry='9f86…', time='2026-01-02T03:04:05+00:00')
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pedigree.errors import PedigreeError
from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.ledger_verification import GRACE_SECONDS, verify_ledger
from pedigree.evidence.store import open_store
from pedigree.evidence.witness import (
    Checkpoint,
    keep_checkpoint,
    read_checkpoints,
    read_committed_checkpoints,
)
from pedigree.project import Project

GIT = "git:"


def verify_project_ledger(
    project: Project,
    now: datetime,
    witnesses: Sequence[str] = (),
    keep_in: Path | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Checkpoint:
    """Return the checkpoint of a project whose ledger and statements hold.

    Args:
        project: whose ledger to verify.
        now: the present time; entries dated later are named.
        witnesses: files of checkpoints, or `git:PATH` for what is committed at a path of the
            project's repository.
        keep_in: a file outside the ledger's place to add the checkpoint to, if all holds.
        grace_seconds: how long a statement may wait for its entry while others write.

    Raises:
        LedgerBroken: something is wrong; each problem is a sentence.
        EvidenceMissing: there is no ledger, or a witness holds nothing.
        PedigreeError: a witness cannot be read, or lies where the ledger's writers write.
    """
    seen = [one for name in witnesses for one in _read_witness(project, name)]
    if keep_in is not None:
        _require_outside(project, keep_in)
        if keep_in.exists() and keep_in.stat().st_size:
            seen += read_checkpoints(keep_in)
    store = open_store(project, project.policy())
    if store.ledger is None:
        raise PedigreeError(f"The evidence of {project.root} has no ledger to verify.")
    statements = LocalFiles(store.folder)
    checkpoint = verify_ledger(store.ledger, statements, seen, now=now, grace_seconds=grace_seconds)
    if keep_in is not None:
        keep_checkpoint(keep_in, checkpoint)
    return checkpoint


def _read_witness(project: Project, name: str) -> tuple[Checkpoint, ...]:
    if name.startswith(GIT):
        # Relative to the project's folder, which may lie within its repository.
        return read_committed_checkpoints(project.root, "./" + name.removeprefix(GIT))
    _require_outside(project, Path(name))
    return read_checkpoints(Path(name))


def _require_outside(project: Project, path: Path) -> None:
    if project.ledger.parent.resolve() in path.resolve().parents:
        raise PedigreeError(
            f"{path} lies beside the ledger, so whoever puts the ledger back puts it back too: "
            "keep checkpoints on another disk, in git, or on paper."
        )

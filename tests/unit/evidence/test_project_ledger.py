"""A project's ledger with its witnesses, as the command line and gates verify it."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.ledger_verification import LedgerBroken
from pedigree.evidence.project_ledger import verify_project_ledger
from pedigree.evidence.store import open_store
from pedigree.evidence.witness import read_checkpoints
from pedigree.project import Project
from tests.conftest import REPOSITORY

NOW = datetime.now(UTC)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with two statements."""
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(REPOSITORY / "policy.yaml", root)
    found = Project(root)
    write(found, 1)
    write(found, 2)
    return found


def write(project: Project, number: int) -> None:
    store = open_store(project, project.policy(), write=True)
    about: dict[str, object] = {"name": "it", "digest": {"sha256": f"{number:064x}"}}
    store.write("snapshot", [about], {"n": number})  # pyright: ignore[reportArgumentType]


def test_a_checkpoint_is_kept_outside_and_read_the_next_time(
    project: Project, tmp_path: Path
) -> None:
    witness = tmp_path / "elsewhere" / "checkpoints.txt"
    now = NOW + timedelta(hours=1)
    shutil.copytree(project.ledger.parent, tmp_path / "old")
    assert verify_project_ledger(project, now, keep_in=witness, grace_seconds=0).size == 2
    write(project, 3)
    assert verify_project_ledger(project, now, keep_in=witness, grace_seconds=0).size == 3
    assert [one.size for one in read_checkpoints(witness)] == [2, 3]
    shutil.rmtree(project.ledger.parent)
    shutil.copytree(tmp_path / "old", project.ledger.parent)
    assert verify_project_ledger(project, now, grace_seconds=0).size == 2
    for more in ({"witnesses": [str(witness)]}, {"keep_in": witness}):
        with pytest.raises(LedgerBroken, match="put back to an older state"):
            verify_project_ledger(project, now, grace_seconds=0, **more)  # pyright: ignore
    assert [one.size for one in read_checkpoints(witness)] == [2, 3]


def test_git_is_a_witness_of_the_projects_folder(project: Project, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    now, path = NOW + timedelta(hours=1), project.root / "checkpoints.txt"
    verify_project_ledger(project, now, keep_in=path, grace_seconds=0)
    git("init", "--quiet")
    git("add", "project/checkpoints.txt")
    git("commit", "--quiet", "-m", "Witness")
    path.unlink()
    witnesses = ["git:checkpoints.txt"]
    assert verify_project_ledger(project, now, witnesses, grace_seconds=0).size == 2
    shutil.rmtree(project.ledger)
    with pytest.raises(LedgerBroken, match="a witness saw 2 entries"):
        verify_project_ledger(project, now, witnesses, grace_seconds=0)


def test_a_witness_beside_the_ledger_is_refused(project: Project) -> None:
    inside = project.ledger.parent / "checkpoints.txt"
    with pytest.raises(PedigreeError, match="lies beside the ledger"):
        verify_project_ledger(project, NOW, keep_in=inside)
    with pytest.raises(PedigreeError, match="lies beside the ledger"):
        verify_project_ledger(project, NOW, [str(project.ledger / ".." / "c.txt")])
    assert not inside.exists()


def test_a_missing_witness_and_a_future_entry_are_sentences(
    project: Project, tmp_path: Path
) -> None:
    with pytest.raises(EvidenceMissing, match="witnesses nothing"):
        verify_project_ledger(project, NOW, [str(tmp_path / "none.txt")])
    with pytest.raises(LedgerBroken, match="in the future"):
        verify_project_ledger(project, NOW - timedelta(days=1), grace_seconds=0)


def test_a_project_without_a_ledger_is_not_verified(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "policy.yaml", tmp_path)
    with pytest.raises(EvidenceMissing, match="nothing was verified"):
        verify_project_ledger(Project(tmp_path), NOW)

"""The ledger of a real run: every statement is in it, and one that is deleted is missed."""

from pathlib import Path

import pytest

from pedigree.checks import find_check
from pedigree.doctor import examine
from pedigree.errors import GateClosed, VerificationFailed
from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.ledger_verification import LedgerBroken, verify_ledger
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.evidence.verdicts import record_verdict, require_passed
from pedigree.findings import CheckResult
from pedigree.project import Project
from pedigree.registry import find_promoted
from tests.conftest import present

CHECK = "evaluation_accuracy"


def open_both(project: Project) -> tuple[EvidenceStore, str]:
    store = open_store(project, project.policy(), write=True)
    promoted = find_promoted(store, "production")
    assert promoted
    return store, promoted.model


def verify(store: EvidenceStore) -> int:
    assert store.ledger
    return verify_ledger(store.ledger, LocalFiles(store.folder), grace_seconds=0).size


def test_every_statement_of_a_run_is_in_the_ledger(trained: Project) -> None:
    store, _ = open_both(trained)
    assert verify(store) == len(list(trained.evidence.rglob("*.dsse.json"))) > 10


def test_a_failed_verdict_that_is_deleted_does_not_open_the_gate_again(
    trained_copy: Project,
) -> None:
    store, model = open_both(trained_copy)
    policy = trained_copy.policy()
    assert require_passed(store, model, [CHECK], policy, "promotion", present())
    assert find_check(CHECK).subject == "model"
    failed = CheckResult(CHECK, passed=False, summary="it is worse than it was")
    statement = record_verdict(store, model, failed, policy, present())
    with pytest.raises(GateClosed, match=f"{CHECK} failed"):
        require_passed(store, model, [CHECK], policy, "promotion", present())
    statement.path.unlink()
    with pytest.raises(GateClosed, match="listed in the ledger and was deleted"):
        require_passed(store, model, [CHECK], policy, "promotion", present())
    with pytest.raises(LedgerBroken, match=f"{statement.path.name} was deleted"):
        verify(store)


def test_a_promotion_that_is_deleted_does_not_bring_the_one_before_back(
    trained_copy: Project,
) -> None:
    store, _ = open_both(trained_copy)
    for path in trained_copy.evidence.glob("*/promotion-*.dsse.json"):
        path.unlink()
    with pytest.raises(VerificationFailed, match="listed in the ledger and was deleted"):
        find_promoted(store, "production")


def test_a_statement_from_another_project_of_the_same_key_is_not_believed(
    trained_copy: Project, tmp_path: Path
) -> None:
    store, model = open_both(trained_copy)
    bare = EvidenceStore(tmp_path / "elsewhere", store.trusted, signers=store.signers)
    passed = CheckResult(CHECK, passed=True, summary="it is good")
    forged = record_verdict(bare, model, passed, trained_copy.policy(), present())
    (trained_copy.evidence / model.removeprefix("sha256:") / forged.path.name).write_bytes(
        forged.path.read_bytes()
    )
    statements, problems = store.about(model, "verdict")
    assert forged.digest not in [one.digest for one in statements]
    assert len(problems) == 1
    assert "is not in the ledger" in problems[0]


def test_doctor_signs_for_what_a_killed_writer_left_behind_the_head(trained_copy: Project) -> None:
    store = open_store(trained_copy, trained_copy.policy(), write=True)
    promoted = find_promoted(store, "production")
    assert promoted is not None
    head = trained_copy.ledger / "head.dsse.json"
    before = head.read_bytes()
    passed = CheckResult(CHECK, passed=True, summary="it is good")
    record_verdict(store, promoted.model, passed, trained_copy.policy(), present())
    head.write_bytes(before)
    (problem,) = [p for p in examine(trained_copy, store, present()) if p.kind == "ledger"]
    assert "1 entries of the ledger are not under its signed head" in problem.what
    assert problem.repair is not None
    problem.repair()
    assert not [p for p in examine(trained_copy, store, present()) if p.kind == "ledger"]
    assert verify(store)

"""Checkpoints outside the ledger's place: only they show that an older state was put back."""

import subprocess
from pathlib import Path

import pytest

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.ledger import Ledger
from pedigree.evidence.ledger_files import LedgerFiles
from pedigree.evidence.ledger_verification import LedgerBroken, verify_ledger
from pedigree.evidence.witness import (
    Checkpoint,
    keep_checkpoint,
    parse_checkpoints,
    read_checkpoints,
    read_committed_checkpoints,
)
from tests.ledger_cases import copy_files, fill, make_ledger, make_memory, write_statement


def rolled_back() -> tuple[Ledger, LedgerFiles, list[Checkpoint]]:
    """A ledger that was put back from 6 entries to 4, statements and all, and what was seen."""
    ledger, statements = fill(4)
    seen = [verify_ledger(ledger, statements)]
    old, old_statements = copy_files(ledger.files), copy_files(statements)
    for number in (4, 5):
        write_statement(statements, ledger, number)
        seen.append(verify_ledger(ledger, statements))
    return make_ledger(old), old_statements, seen


def test_an_older_valid_state_passes_without_a_witness_and_shows_with_one() -> None:
    ledger, statements, seen = rolled_back()
    assert verify_ledger(ledger, statements).size == 4
    assert verify_ledger(ledger, statements, seen[:1]).size == 4
    with pytest.raises(LedgerBroken, match="a witness saw 6 entries") as error:
        verify_ledger(ledger, statements, seen)
    assert len(error.value.problems) == 2


def test_a_history_that_was_written_anew_shows_even_if_it_is_longer() -> None:
    """Whoever has the key can write another chain, but not the witness."""
    ledger, statements, seen = rolled_back()
    for number in range(50, 60):
        write_statement(statements, ledger, number)
    assert verify_ledger(ledger, statements).size == 14
    with pytest.raises(LedgerBroken, match=r"entry 5 .* written anew"):
        verify_ledger(ledger, statements, seen)


def test_a_ledger_that_is_gone_shows() -> None:
    _, _, seen = rolled_back()
    with pytest.raises(LedgerBroken, match="a witness saw 4 entries"):
        verify_ledger(make_ledger(make_memory()), witnesses=seen)


def test_an_old_head_before_the_same_chain_needs_no_witness() -> None:
    ledger, statements = fill(3)
    old = ledger.files.read("head.dsse.json")
    assert old
    write_statement(statements, ledger, 3)
    ledger.files.replace("head.dsse.json", old)
    with pytest.raises(LedgerBroken, match="an older head was put back"):
        verify_ledger(ledger, statements, grace_seconds=0)


def test_checkpoints_are_kept_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "checkpoints.txt"
    ledger, statements = fill(2)
    first = verify_ledger(ledger, statements)
    assert keep_checkpoint(path, first)
    assert not keep_checkpoint(path, first)
    write_statement(statements, ledger, 2)
    second = verify_ledger(ledger, statements, read_checkpoints(path))
    assert keep_checkpoint(path, second)
    assert read_checkpoints(path) == (first, second)
    assert path.read_text() == f"{first}\n{second}\n"
    assert str(first).startswith("pedigree-ledger/v1 2 ")


def test_a_last_line_without_its_end_is_not_joined_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.txt"
    path.write_text(str(Checkpoint(1, "a" * 64, "then")))
    keep_checkpoint(path, Checkpoint(2, "b" * 64, "now"))
    assert [one.size for one in read_checkpoints(path)] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        "pedigree-ledger/v1 2 " + "a" * 63 + " t",
        "pedigree-ledger/v2 2 " + "a" * 64 + " t",
        "pedigree-ledger/v1 02 " + "a" * 64 + " t",
        "pedigree-ledger/v1 -2 " + "a" * 64 + " t",
        "pedigree-ledger/v1 2 " + "A" * 64 + " t",
        "pedigree-ledger/v1 \uff12 " + "a" * 64 + " t",
        "pedigree-ledger/v1 2 " + "a" * 64,
        "hello",
    ],
)
def test_a_line_that_is_no_checkpoint_is_refused_and_not_left_out(line: str) -> None:
    good = str(Checkpoint(1, "b" * 64, "t"))
    with pytest.raises(PedigreeError, match="Line 3 of it is no checkpoint"):
        parse_checkpoints(f"{good}\n\n{line}\n", "it")


def test_a_file_that_witnesses_nothing_is_no_witness(tmp_path: Path) -> None:
    with pytest.raises(EvidenceMissing, match="witnesses nothing"):
        read_checkpoints(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(EvidenceMissing, match="witnesses nothing"):
        read_checkpoints(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PedigreeError, match="cannot be read"):
        read_checkpoints(tmp_path / "binary.txt")
    with pytest.raises(PedigreeError, match="cannot be read"):
        keep_checkpoint(tmp_path / "binary.txt", Checkpoint(1, "a" * 64, "t"))


def test_git_remembers_what_the_working_tree_forgot(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    ledger, statements, seen = rolled_back()
    git("init", "--quiet")
    with pytest.raises(EvidenceMissing, match=r"git has no checkpoints\.txt"):
        read_committed_checkpoints(tmp_path, "checkpoints.txt")
    for one in seen:
        keep_checkpoint(tmp_path / "checkpoints.txt", one)
    git("add", "checkpoints.txt")
    git("commit", "--quiet", "-m", "Witness the ledger")
    (tmp_path / "checkpoints.txt").write_text(f"{seen[0]}\n")
    assert verify_ledger(ledger, statements, read_checkpoints(tmp_path / "checkpoints.txt"))
    with pytest.raises(LedgerBroken, match="put back to an older state"):
        verify_ledger(ledger, statements, read_committed_checkpoints(tmp_path, "checkpoints.txt"))
    with pytest.raises(EvidenceMissing):
        read_committed_checkpoints(tmp_path, "checkpoints.txt", "--output=/tmp/x")

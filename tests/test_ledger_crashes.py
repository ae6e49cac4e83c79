"""`kill -9` among writers of one ledger: what was acknowledged is there, once, and it verifies."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.ledger_verification import find_problems, verify_ledger
from tests.conftest import REPOSITORY
from tests.ledger_cases import NOW, make_ledger, make_statement, read_chain

pytestmark = pytest.mark.slow

WRITERS = 8
STATEMENTS = 500
# A writer keeps each statement and lists it, as the store does, and then tells the world. Started
# again it goes on behind the last that it told.
WRITER = """
import os, sys
from pathlib import Path
from pedigree.evidence.ledger_files import LocalFiles
from tests.ledger_cases import make_ledger, write_statement

root, told = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
ledger, statements = make_ledger(LocalFiles(root / "ledger")), LocalFiles(root / "evidence")
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    write_statement(statements, ledger, number)
    os.write(told, b"%d\\n" % number)
"""


class Writer:
    """A process that writes the statements from `first` on."""

    def __init__(self, root: Path, part: int, count: int) -> None:
        self.root, self.first, self.end = root, part * 10_000, part * 10_000 + count
        self.told = root / f"told-{part}.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def acknowledged(self) -> list[int]:
        return [int(one) for one in self.told.read_text().split()] if self.told.exists() else []

    def start(self) -> None:
        begin = max(self.acknowledged(), default=self.first - 1) + 1
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(self.root), str(self.told), str(begin),
             str(self.end)],
            cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def is_done(self) -> bool:
        assert self.process
        return self.process.poll() is not None


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[Writer]]:
    found = [Writer(tmp_path, part, STATEMENTS) for part in range(WRITERS)]
    yield found
    for one in found:
        if one.process and one.process.poll() is None:
            one.kill()


def _wait_until_told(writer: Writer, count: int) -> None:
    end = time.monotonic() + 60
    while len(writer.acknowledged()) < count and not writer.is_done():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_eight_writers_of_which_one_is_killed_again_and_again(
    tmp_path: Path, writers: list[Writer]
) -> None:
    draw, victim, kills = random.Random(5), writers[0], 0
    for one in writers:
        one.start()
    while not victim.is_done():
        _wait_until_told(victim, len(victim.acknowledged()) + draw.randrange(1, 12))
        time.sleep(draw.random() * 0.2)
        if not victim.is_done():
            victim.kill()
            kills += 1
            victim.start()
    for one in writers:
        assert one.process
        assert one.process.wait(600) == 0
    print(f"{kills} kills")
    assert kills >= 20
    listed = [entry["name"] for entry in read_chain(tmp_path / "ledger")]
    assert len(listed) == len(set(listed)) == WRITERS * STATEMENTS
    place = {name: at for at, name in enumerate(listed)}
    for one in writers:
        # Told twice it may be, by a writer that was killed in between; listed once, and in order.
        told = list(dict.fromkeys(one.acknowledged()))
        assert told == list(range(one.first, one.end))
        places = [place[make_statement(number)[0]] for number in told]
        assert places == sorted(places)
    ledger, statements = (
        make_ledger(LocalFiles(tmp_path / "ledger")),
        LocalFiles(tmp_path / "evidence"),
    )
    assert verify_ledger(ledger, statements).size == WRITERS * STATEMENTS


def test_all_writers_die_at_once(tmp_path: Path, writers: list[Writer]) -> None:
    """As in a power cut: what is left of the newest entry is completed, and nothing is missing."""
    draw = random.Random(6)
    ledger, statements = (
        make_ledger(LocalFiles(tmp_path / "ledger")),
        LocalFiles(tmp_path / "evidence"),
    )
    group = writers[:3]
    for _ in range(12):
        before = [len(one.acknowledged()) for one in group]
        for one in group:
            one.start()
        for one, count in zip(group, before, strict=True):
            _wait_until_told(one, count + 1)
        time.sleep(draw.random() * 0.1)
        for one in group:
            one.kill()
        for problem in find_problems(ledger, grace_seconds=0)[0]:
            assert "a writer was killed before it signed" in problem or "is missing" in problem
        ledger.complete(NOW)
        assert find_problems(ledger, grace_seconds=0)[0] == []
        listed = [entry["name"] for entry in read_chain(tmp_path / "ledger")]
        assert len(listed) == len(set(listed))
        told = {make_statement(number)[0] for one in group for number in one.acknowledged()}
        assert told <= set(listed)
    # A statement that was kept and not listed any more is named, and nothing else.
    for problem in find_problems(ledger, statements, grace_seconds=0)[0]:
        assert "is not in the ledger" in problem


def test_who_verifies_while_others_write_sees_no_problem(
    tmp_path: Path, writers: list[Writer]
) -> None:
    ledger = make_ledger(LocalFiles(tmp_path / "ledger"))
    statements = LocalFiles(tmp_path / "evidence")
    for one in writers[:2]:
        one.start()
    sizes: list[int] = []
    _wait_until_told(writers[0], 1)
    while not all(one.is_done() for one in writers[:2]):
        sizes.append(verify_ledger(ledger, statements).size)
    assert len(sizes) >= 3
    assert sizes == sorted(sizes)
    assert verify_ledger(ledger, statements).size == 2 * STATEMENTS

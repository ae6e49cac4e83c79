"""The ledger: what was acknowledged is listed once, in order, whatever happens in between."""

import threading
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.ledger import MAX_BEHIND, Ledger
from pedigree.evidence.ledger_chain import Head, entry_file, read_entry, sign_head
from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.ledger_verification import LedgerBroken, find_problems, verify_ledger
from tests.ledger_cases import (
    KEY,
    NOW,
    STRANGER,
    Failing,
    Killed,
    copy_files,
    fill,
    make_ledger,
    make_memory,
    make_statement,
    read_chain,
    write_statement,
)


def problems_of(ledger: Ledger, statements: object = None) -> list[str]:
    return find_problems(ledger, statements, grace_seconds=0)[0]  # pyright: ignore[reportArgumentType]


def test_a_second_reader_finds_every_statement_in_order(tmp_path: Path) -> None:
    ledger, statements = make_ledger(LocalFiles(tmp_path / "ledger")), LocalFiles(tmp_path / "all")
    names = [write_statement(statements, ledger, number) for number in range(7)]
    entries = read_chain(tmp_path / "ledger")
    assert [one["name"] for one in entries] == names
    assert {one["time"] for one in entries} == {NOW.isoformat()}
    assert {one["predicate_type"] for one in entries} == {"urn:pedigree:predicate:snapshot:v1"}
    assert [one["subjects"] for one in entries] == [[name[:64]] for name in names]
    seen = verify_ledger(ledger, statements)
    assert (seen.size, seen.time) == (7, NOW.isoformat())
    assert not [path for path in (tmp_path / "ledger").rglob(".partial-*")]


def test_listing_a_statement_again_changes_nothing() -> None:
    ledger, statements = fill(3)
    before = {name: ledger.files.read(name) for name in ledger.files.list()}
    for number in (1, 0, 2, 1):
        name, envelope = make_statement(number)
        assert ledger.append(name, envelope, NOW + timedelta(days=1)).sequence == number + 1
    assert {name: ledger.files.read(name) for name in ledger.files.list()} == before
    assert verify_ledger(ledger, statements).size == 3


def test_the_cost_of_an_append_does_not_grow() -> None:
    ledger, _ = fill(3)
    counts: list[list[str]] = []
    for size in (3, 60):
        while (head := ledger.read_signed_head()) and head.size < size:
            ledger.append(*make_statement(1000 + head.size), NOW)
        files = Failing(ledger.files)
        make_ledger(files).append(*make_statement(size), NOW)
        counts.append(files.calls)
    assert counts[0] == counts[1]
    assert sorted(set(counts[0])) == ["copy", "create", "read", "replace"]
    assert len(counts[0]) < 10


@pytest.mark.parametrize(
    ("name", "envelope", "message"),
    [
        (make_statement(1)[0], make_statement(2)[1], "Name it by both"),
        ("../" + make_statement(1)[0], make_statement(1)[1], "Name it by both"),
        (*make_statement(1, key=STRANGER), "no trusted key signed it"),
        (make_statement(1)[0], b"{}", "no DSSE envelope"),
    ],
)
def test_what_is_no_trusted_statement_is_not_listed(
    name: str, envelope: bytes, message: str
) -> None:
    ledger, statements = fill(2)
    with pytest.raises(VerificationFailed, match=message):
        ledger.append(name, envelope, NOW)
    assert verify_ledger(ledger, statements).size == 2


def test_a_time_without_a_zone_and_a_missing_key_are_refused() -> None:
    ledger, _ = fill(1)
    with pytest.raises(PedigreeError, match="no time zone"):
        ledger.append(*make_statement(5), datetime(2026, 1, 2))
    reader = Ledger(ledger.files, ledger.trusted)
    with pytest.raises(PedigreeError, match="no key to sign"):
        reader.append(*make_statement(5), NOW)
    with pytest.raises(PedigreeError, match="no key to sign"):
        reader.complete(NOW)
    assert "signer" not in repr(ledger)
    assert verify_ledger(reader).size == 1


def test_a_place_without_a_ledger_is_not_a_verified_one() -> None:
    ledger, statements = make_ledger(make_memory()), make_memory()
    with pytest.raises(EvidenceMissing, match="nothing was verified"):
        verify_ledger(ledger, statements)
    name = write_statement(statements, None, 1)
    with pytest.raises(LedgerBroken, match=name):
        verify_ledger(ledger, statements, grace_seconds=0)
    assert ledger.find(name) is None
    assert ledger.is_empty()


@given(
    faults=st.lists(
        st.tuples(st.integers(0, 5), st.none() | st.integers(0, 9), st.booleans()),
        min_size=1,
        max_size=14,
    )
)
def test_a_writer_may_die_at_any_operation(
    faults: list[tuple[int, int | None, bool]],
) -> None:
    """Each step appends a statement and dies at an operation, before it or after it took effect."""
    place, acknowledged = make_memory(), list[str]()
    for number, at, afterwards in faults:
        name, envelope = make_statement(number)
        with suppress(Killed):
            make_ledger(Failing(place, at, afterwards)).append(name, envelope, NOW)
            acknowledged.append(name)
        left = problems_of(make_ledger(place))
        assert len(left) <= 2, left  # the newest entry has no copy, and the head not the entry
    ledger = make_ledger(place)
    ledger.complete(NOW)
    assert problems_of(ledger) == []
    listed = [
        read_entry(data, ledger.trusted).name
        for _, data in place.read_many(place.list("entries"))
        if data
    ]
    assert len(set(listed)) == len(listed)
    assert set(acknowledged) <= set(listed)
    first = list(dict.fromkeys(acknowledged))
    assert [name for name in listed if name in first] == sorted(first, key=listed.index)


@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize("at", range(9))
def test_a_store_that_fails_half_way_is_an_error_and_can_be_tried_again(
    at: int, afterwards: bool
) -> None:
    ledger, statements = fill(2)
    name, envelope = make_statement(7)
    statements.create(name, envelope)
    failing = make_ledger(Failing(ledger.files, at, afterwards, PedigreeError))
    with suppress(PedigreeError):
        failing.append(name, envelope, NOW)
    assert ledger.append(name, envelope, NOW).sequence == 3
    assert verify_ledger(ledger, statements, grace_seconds=0).size == 3


def test_entries_behind_the_head_are_named_and_then_completed() -> None:
    ledger, statements = fill(3)
    old = ledger.files.read("head.dsse.json")
    assert old
    write_statement(statements, ledger, 3)
    write_statement(statements, ledger, 4)
    ledger.files.replace("head.dsse.json", old)
    (problem,) = problems_of(ledger, statements)
    assert "the head names 3 entries, but there are 5" in problem
    assert ledger.count_behind() == 2
    assert ledger.complete(NOW) == 2
    assert ledger.count_behind() == ledger.complete(NOW) == 0
    assert verify_ledger(ledger, statements).size == 5


def test_a_much_older_head_stops_the_writer() -> None:
    ledger, statements = fill(1)
    old = ledger.files.read("head.dsse.json")
    assert old
    for number in range(1, MAX_BEHIND + 2):
        write_statement(statements, ledger, number)
    ledger.files.replace("head.dsse.json", old)
    for attempt in (lambda: ledger.append(*make_statement(99), NOW), lambda: ledger.complete(NOW)):
        with pytest.raises(VerificationFailed, match="an old head was put back"):
            attempt()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files.remove("head.dsse.json"), "has entries but no head"),
        (lambda files: files.replace("head.dsse.json", b"{}"), "head .* is not trusted"),
        (lambda files: files.remove(entry_file(3)), "names entry 3 .* missing"),
        (lambda files: files.replace(entry_file(3), b"x"), "names entry 3 .* another one"),
        (lambda files: files.create(entry_file(4), b"x"), "entries/0+4.* is not trusted"),
        (
            lambda files: files.create(entry_file(4), files.read(entry_file(2))),
            "Entry 4 .* does not follow entry 3",
        ),
        (
            lambda files: files.replace(
                "head.dsse.json",
                sign_head(Head(size=9, entry="0" * 64, time=NOW.isoformat()), STRANGER),
            ),
            "no trusted key signed it",
        ),
        (
            lambda files: files.replace(
                "head.dsse.json",
                sign_head(Head(size=9, entry="0" * 64, time=NOW.isoformat()), KEY),
            ),
            "names entry 9",
        ),
    ],
)
def test_nothing_is_built_on_a_damaged_end(damage: object, message: str) -> None:
    ledger, _ = fill(3)
    damage(ledger.files)  # pyright: ignore[reportCallIssue]
    count = len(ledger.files.list())
    with pytest.raises(VerificationFailed, match=message):
        ledger.append(*make_statement(9), NOW)
    assert len(ledger.files.list()) == count
    assert problems_of(ledger)


def test_every_problem_is_named_at_once() -> None:
    ledger, statements = fill(6)
    files = copy_files(ledger.files)
    names = [
        read_entry(files.read(entry_file(i + 1)) or b"", ledger.trusted).name for i in range(6)
    ]
    files.remove(entry_file(2))
    files.replace(entry_file(4), files.read(entry_file(5)) or b"")
    files.remove(f"listed/{names[0]}")
    files.create("notes.txt", b"hello")
    statements.replace(names[5], b"changed")
    statements.remove(names[4])
    dropped = write_statement(statements, None, 77)
    with pytest.raises(LedgerBroken) as error:
        verify_ledger(make_ledger(files), statements, grace_seconds=0)
    text = "\n".join(error.value.problems)
    for words in (
        "1 of 6 entries are missing, beginning with entry 2",
        "entry 3 follows",
        "entry 4 says that it is entry 5",
        f"listed/{names[0]} is missing",
        "notes.txt does not belong in the ledger",
        f"the statement {names[5]} was changed",
        f"the statement {names[4]} was deleted",
        f"the statement {dropped} is not in the ledger",
    ):
        assert words in text
    assert error.value.exit_code == 1


def test_a_number_far_beyond_the_others_is_named_and_costs_nothing() -> None:
    ledger, _ = fill(2)
    ledger.files.create(entry_file(10**12 - 1), ledger.files.read(entry_file(1)) or b"")
    assert any("are missing, beginning with entry 3" in one for one in problems_of(ledger))


def test_an_entry_from_the_future_is_named() -> None:
    ledger, statements = fill(2)
    assert verify_ledger(ledger, statements, now=NOW - timedelta(minutes=4)).size == 2
    with pytest.raises(LedgerBroken, match=r"entry 1 is dated .* in the future"):
        verify_ledger(ledger, statements, now=NOW - timedelta(minutes=6))


def test_other_signed_statements_are_neither_entries_nor_heads() -> None:
    """The project's key signs many things; none of them passes for another."""
    ledger, _ = fill(2)
    entry, head = (ledger.files.read(name) or b"" for name in (entry_file(2), "head.dsse.json"))
    _, statement = make_statement(1)
    for name, data in (
        ("head.dsse.json", entry),
        ("head.dsse.json", statement),
        (entry_file(2), head),
        (entry_file(2), statement),
    ):
        files = copy_files(ledger.files)
        files.replace(name, data)
        assert any(
            "it is signed, but it is no ledger" in one for one in problems_of(make_ledger(files))
        )


def test_threads_take_turns(tmp_path: Path) -> None:
    def work(part: int) -> None:
        ledger = make_ledger(LocalFiles(tmp_path / "ledger"))
        for number in range(part, part + 12):  # each statement is written by two threads
            ledger.append(*make_statement(number), NOW)

    threads = [threading.Thread(target=work, args=(part,)) for part in (0, 6, 12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len({one["name"] for one in read_chain(tmp_path / "ledger")}) == 24
    assert verify_ledger(make_ledger(LocalFiles(tmp_path / "ledger"))).size == 24


def test_writers_without_a_lock_share_one_chain() -> None:
    """In memory there is no lock: only that creation is exclusive keeps the writers apart."""
    place = make_memory()

    def work(part: int) -> None:
        for number in range(part, part + 40):
            make_ledger(place).append(*make_statement(number), NOW)

    threads = [threading.Thread(target=work, args=(part,)) for part in (0, 20, 40, 60)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert verify_ledger(make_ledger(place)).size == 100


def test_a_rival_between_look_and_creation_is_followed() -> None:
    """Another writer takes the place that this one was about to take, with the same statement."""
    ledger, _ = fill(1)

    class Rival(Failing):
        def create(self, name: str, data: bytes) -> bool:
            for number in (8, 9):
                make_ledger(self.inner).append(*make_statement(number), NOW)
            return super().create(name, data)

    entry = make_ledger(Rival(ledger.files)).append(*make_statement(9), NOW)
    assert entry.sequence == 3
    entry = make_ledger(Rival(ledger.files)).append(*make_statement(10), NOW)
    assert entry.sequence == 4
    assert verify_ledger(ledger).size == 4


def test_a_slower_writers_older_head_does_not_stay() -> None:
    """Without a lock another writer may finish between this one's entry and its head."""
    ledger, statements = fill(1)

    class Slow(Failing):
        def replace(self, name: str, data: bytes) -> None:
            if "replace" not in self.calls:
                write_statement(statements, make_ledger(self.inner), 8)
            super().replace(name, data)

    name, envelope = make_statement(9)
    statements.create(name, envelope)
    make_ledger(Slow(ledger.files)).append(name, envelope, NOW)
    assert verify_ledger(ledger, statements, grace_seconds=0).size == 3


def test_an_entry_of_another_history_is_not_taken_for_a_killed_writers() -> None:
    ledger, _ = fill(3)
    other = make_ledger(make_memory())
    for number in (50, 51, 52, 53):
        other.append(*make_statement(number), NOW)
    ledger.files.create(entry_file(4), other.files.read(entry_file(4)) or b"")
    with pytest.raises(VerificationFailed, match=r"Entry 4 .* does not follow entry 3"):
        ledger.append(*make_statement(9), NOW)

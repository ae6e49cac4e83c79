"""Someone with access to the disk changes the ledger or its statements: every change shows.

A small ledger on disk is changed in one way at a time: a byte, a length, a place, a whole file.
The changes are drawn from every class of file and, within a file, from every class of position. A
change counts as detected if verification, which knows one witness from outside, names a problem.
"""

import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.ledger_chain import ENTRIES, HEAD_FILE, LISTED, entry_file, listing_file
from pedigree.evidence.ledger_files import LocalFiles
from pedigree.evidence.ledger_verification import find_problems
from pedigree.evidence.signing import verify_envelope
from pedigree.evidence.witness import Checkpoint
from tests.ledger_cases import NOW, Failing, Killed, make_ledger, make_statement, write_statement

SIZE = 6
BYTES_A_FILE = 54
LINKS = ("ledger/entries", "ledger/listed", "ledger/head", "evidence")
Change = Callable[[], object]
Kind = Callable[[Path, random.Random], Iterator[tuple[str, Path, Change]]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of six statements about two subjects, and the statements."""
    root = tmp_path_factory.mktemp("ledger")
    ledger, statements = make_ledger(LocalFiles(root / "ledger")), LocalFiles(root / "evidence")
    for number in range(SIZE):
        write_statement(statements, ledger, number)
    return root


def problems_of(root: Path, *witnesses: Checkpoint) -> list[str]:
    ledger = make_ledger(LocalFiles(root / "ledger"))
    try:
        return find_problems(ledger, LocalFiles(root / "evidence"), witnesses, None, 0)[0]
    except PedigreeError as error:
        return [str(error)]


def files_of(root: Path) -> list[Path]:
    """Every file that matters; the lock is empty, and its bytes mean nothing."""
    return sorted(path for path in root.rglob("*.json") if path.is_file())


def class_of(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    return next(one for one in LINKS if name.startswith(one))


def positions(data: bytes, draw: random.Random) -> list[int]:
    """Positions of every class: the JSON around, the payload, its end, key id and signature."""
    parts = json.loads(data)
    found = [0, 1, len(data) - 1, len(data) - 2]
    for text in (parts["payload"], parts["payloadType"], *parts["signatures"][0].values()):
        start = data.index(text.encode())
        end = start + len(text)
        # The last characters of base64 have bits that no decoder looks at.
        found += [start, start - 1, end, *range(end - 4, end)]
        found += [draw.randrange(start, end) for _ in range(8)]
    return found + [draw.randrange(len(data)) for _ in range(BYTES_A_FILE - len(found))]


def write_apart(path: Path, data: bytes) -> None:
    """Write to one name only: an entry and its copy may be one file with two names."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def byte_changes(root: Path, draw: random.Random) -> Iterator[tuple[str, Path, Change]]:
    for path in files_of(root):
        data = path.read_bytes()
        for position in positions(data, draw):
            other = draw.choice([one for one in range(256) if one != data[position]])
            # Half of them are changed into another character of base64, which is hardest to see.
            if draw.random() < 0.5:
                letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
                other = draw.choice([one for one in letters if one != data[position]])
            changed = data[:position] + bytes([other]) + data[position + 1 :]
            yield f"byte {position}", path, lambda p=path, d=changed: write_apart(p, d)


def length_changes(root: Path, draw: random.Random) -> Iterator[tuple[str, Path, Change]]:
    for path in files_of(root):
        data = path.read_bytes()
        for cut in (0, 1, len(data) // 2, len(data) - 1, draw.randrange(len(data))):
            yield f"cut to {cut}", path, lambda p=path, d=data[:cut]: write_apart(p, d)
        for more in (b"\n", b" ", b"\x00", data):
            yield f"{more[:1]!r} added", path, lambda p=path, d=data + more: write_apart(p, d)
        at = draw.randrange(len(data))
        less, twice = data[:at] + data[at + 1 :], data[:at] + data[at : at + 1] + data[at:]
        yield f"{at} left out", path, lambda p=path, d=less: write_apart(p, d)
        yield f"{at} doubled", path, lambda p=path, d=twice: write_apart(p, d)


def file_changes(root: Path, _: random.Random) -> Iterator[tuple[str, Path, Change]]:
    files = files_of(root)
    for path in files:
        yield "deleted", path, path.unlink
        yield "a folder", path, lambda p=path: (p.unlink(), p.mkdir())
        moved = path.with_name("moved-" + path.name)
        yield "renamed", path, lambda p=path, m=moved: p.rename(m)
        yield "doubled", path, lambda p=path, m=moved: shutil.copy(p, m)
    for one, two in itertools.combinations(files, 2):
        if one.read_bytes() != two.read_bytes():  # an entry and its copy are the same
            yield f"swapped with {two.name}", one, lambda a=one, b=two: swap(a, b)
            yield (
                f"replaced by {two.name}",
                one,
                lambda a=one, b=two: write_apart(a, b.read_bytes()),
            )


def tail_changes(root: Path, _: random.Random) -> Iterator[tuple[str, Path, Change]]:
    """Cut off the newest entries, the copies too, with and without their statements."""
    entries = sorted((root / "ledger" / ENTRIES).glob("*.json"))
    names = {path.read_bytes(): path for path in (root / "ledger" / LISTED).rglob("*.json")}
    for count in range(1, SIZE + 1):
        gone = [*entries[-count:], *(names[path.read_bytes()] for path in entries[-count:])]
        yield f"{count} cut off", entries[-count], lambda g=gone: [path.unlink() for path in g]
        also = gone + [
            root / "evidence" / path.relative_to(root / "ledger" / LISTED) for path in gone[count:]
        ]
        yield f"{count} cut off whole", entries[-count], lambda g=also: [one.unlink() for one in g]


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    write_apart(one, second)
    write_apart(two, first)


def _nothing(*_: object) -> list[str]:
    return []


KINDS: list[Kind] = [byte_changes, length_changes, file_changes, tail_changes]


def try_all(
    original: Path, work: Path, kinds: Sequence[Kind] = KINDS, where: str = ""
) -> tuple[Counter[str], list[str]]:
    """Make each change in a copy that is mended afterwards; return counts, and what passed."""
    root = work / "copy"
    shutil.copytree(original, root)
    assert problems_of(root) == []
    draw, counts, passed = random.Random(7), Counter[str](), list[str]()
    for kind in kinds:
        for what, path, change in list(kind(root, draw)):
            if not class_of(root, path).startswith(where):
                continue
            change()
            counts[f"{kind.__name__} {class_of(root, path)}"] += 1
            if not problems_of(root):
                passed.append(f"{path.relative_to(root)}: {what}")
            restore(original, root)
    assert problems_of(root) == []
    return counts, passed


def restore(original: Path, root: Path) -> None:
    for path in list(root.rglob("*")):
        known = original / path.relative_to(root)
        if path.is_dir() and not known.is_dir():
            path.rmdir()
        elif path.is_file() and not known.is_file():
            path.unlink()
    for known in files_of(original):
        path = root / known.relative_to(original)
        if not path.is_file() or path.read_bytes() != known.read_bytes():
            write_apart(path, known.read_bytes())


def test_no_change_of_any_file_passes(original: Path, tmp_path: Path) -> None:
    counts, passed = try_all(original, tmp_path)
    assert passed == []
    assert sum(counts.values()) >= 1000
    for one in LINKS:
        for kind in KINDS[:3]:
            assert counts[f"{kind.__name__} {one}"] > 0
    assert sum(n for name, n in counts.items() if name.startswith("byte_changes")) >= 1000


@pytest.mark.parametrize(
    ("part", "instead", "kind", "where"),
    [
        ("ledger_verification._compare_head", _nothing, tail_changes, ""),
        ("ledger_verification._compare_listings", _nothing, length_changes, "ledger/listed"),
        ("ledger_verification._compare_statements", _nothing, length_changes, "evidence"),
        ("ledger_verification._find_unlisted", _nothing, file_changes, "evidence"),
        ("ledger_chain._open", verify_envelope, byte_changes, "ledger/head"),
    ],
)
def test_without_any_one_part_of_verification_changes_would_pass(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    instead: object,
    kind: Kind,
    where: str,
) -> None:
    """So the test above can fail: it would, were this part left out."""
    assert try_all(original, tmp_path / "with", [kind], where)[1] == []
    monkeypatch.setattr(f"pedigree.evidence.{part}", instead)
    assert try_all(original, tmp_path / "without", [kind], where)[1] != []


def test_an_entry_from_another_history_of_the_same_key_shows(tmp_path: Path) -> None:
    """Signed by the right key, at the right number, with copy and statement: but not chained."""
    roots = [tmp_path / "one", tmp_path / "two"]
    names: list[str] = []
    for root, first in zip(roots, (0, 50), strict=True):
        ledger, statements = make_ledger(LocalFiles(root / "ledger")), LocalFiles(root / "evidence")
        names = [write_statement(statements, ledger, first)]
        names += [write_statement(statements, ledger, number) for number in (10, 11, 12)]
    for path in (Path("ledger", entry_file(3)), Path("ledger", listing_file(names[2]))):
        write_apart(roots[0] / path, (roots[1] / path).read_bytes())
    found = problems_of(roots[0])
    assert [one.partition("…")[0][:15] for one in found] == ["entry 3 follows", "entry 4 follows"]


def test_a_rollback_to_any_older_state_shows_to_whoever_has_a_witness(tmp_path: Path) -> None:
    root = tmp_path / "live"
    ledger, statements = make_ledger(LocalFiles(root / "ledger")), LocalFiles(root / "evidence")
    states: list[Path] = []
    for number in range(SIZE):
        write_statement(statements, ledger, number)
        states.append(shutil.copytree(root, tmp_path / f"state-{number}"))
    head = ledger.read_signed_head()
    assert head
    seen = Checkpoint(head.size, head.entry, head.time)
    for state in states[:-1]:
        assert problems_of(state) == []  # valid in itself, which is the point
        assert any("put back to an older state" in one for one in problems_of(state, seen))
    assert problems_of(states[-1], seen) == []


def test_an_old_head_with_any_younger_chain_shows(tmp_path: Path) -> None:
    root = tmp_path / "live"
    ledger, statements = make_ledger(LocalFiles(root / "ledger")), LocalFiles(root / "evidence")
    heads: list[bytes] = []
    for number in range(SIZE):
        write_statement(statements, ledger, number)
        heads.append((root / "ledger" / HEAD_FILE).read_bytes())
    for old in heads[:-1]:
        (root / "ledger" / HEAD_FILE).write_bytes(old)
        assert any("an older head was put back" in one for one in problems_of(root))


def test_a_damaged_ledger_is_not_made_good_by_the_next_append(
    original: Path, tmp_path: Path
) -> None:
    """What was cut off, changed or removed is still named after a writer went on, or refused to."""
    root = tmp_path / "copy"
    shutil.copytree(original, root)
    draw = random.Random(3)
    changes = [one for kind in KINDS[1:] for one in kind(root, draw)]
    for _, _, change in draw.sample(changes, 120):
        change()
        ledger = make_ledger(LocalFiles(root / "ledger"))
        try:
            name = write_statement(LocalFiles(root / "evidence"), ledger, 99)
        except PedigreeError:
            pass
        else:
            assert name
        assert problems_of(root)
        shutil.rmtree(root)
        shutil.copytree(original, root)


def test_a_killed_writer_never_looks_like_an_attack_on_older_entries(tmp_path: Path) -> None:
    """What a crash leaves is at the very end, and the next append mends it."""
    for at in range(9):
        place = LocalFiles(tmp_path / str(at) / "ledger")
        ledger = make_ledger(place)
        for number in range(3):
            ledger.append(*make_statement(number), NOW)
        with suppress(Killed):
            make_ledger(Failing(place, at)).append(*make_statement(3), NOW)
        for problem in find_problems(ledger, grace_seconds=0)[0]:
            assert "an older head was put back" in problem or "is missing" in problem
        ledger.append(*make_statement(50), NOW)
        assert find_problems(ledger, grace_seconds=0)[0] == []

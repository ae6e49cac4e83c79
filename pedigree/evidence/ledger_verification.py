"""Is the ledger whole, and does it fit the statements that lie beside it?

Everything is looked at and everything that is wrong is named, in sentences::

    >>> verify_ledger(ledger, LocalFiles(evidence), read_checkpoints(path)).size
    412

Found are: an entry that was edited, removed, added, swapped or cut off; a head that is missing,
forged or older than the chain; a statement that was changed, deleted, moved or dropped in without
an entry; and, with witnesses, a ledger that was put back to an older state or written anew.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pedigree.digests import sha256_hex
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.ledger import Ledger
from pedigree.evidence.ledger_chain import (
    ENTRIES,
    HEAD_FILE,
    LISTED,
    NOTHING,
    SUFFIX,
    Entry,
    Head,
    entry_file,
    listing_file,
    read_entry,
)
from pedigree.evidence.ledger_files import LOCK, LedgerFiles
from pedigree.evidence.witness import Checkpoint

# A writer that is between statement and entry, or between entry and head, needs this long.
GRACE_SECONDS = 1.0
CLOCK_SKEW = timedelta(minutes=5)
_SHOWN = 5


class LedgerBroken(VerificationFailed):
    """The ledger or its statements are not what was written; `problems` has every one."""

    def __init__(self, place: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = [one.rstrip(".") for one in problems[:_SHOWN]]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        super().__init__(
            f"The ledger {place} does not hold ({len(problems)} problems): {'; '.join(shown)}. "
            "Keep it as it is for whoever looks into it, and restore it from a copy."
        )


@dataclass
class _Chain:
    """What was read of the chain: digests by number, statements and entries by statement's name."""

    size: int = 0
    digests: dict[int, str] = field(default_factory=dict[int, str])
    envelopes: dict[str, str] = field(default_factory=dict[str, str])
    entries: dict[str, str] = field(default_factory=dict[str, str])

    def sha256_of(self, number: int) -> str:
        """Return an entry's digest; nothing for one that is missing."""
        return self.digests.get(number, "") if number else NOTHING


def verify_ledger(
    ledger: Ledger,
    statements: LedgerFiles | None = None,
    witnesses: Sequence[Checkpoint] = (),
    *,
    now: datetime | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Checkpoint:
    """Return the checkpoint of a ledger that holds in every respect.

    Args:
        ledger: what to verify, with the keys that are trusted.
        statements: where the statements lie; None to look at the chain alone.
        witnesses: checkpoints from outside the ledger's place.
        now: the present time; entries dated later are named.
        grace_seconds: how long a statement may wait for its entry, or an entry for its head, where
            other processes write meanwhile.

    Raises:
        LedgerBroken: something is wrong; each problem is a sentence.
        EvidenceMissing: there is no ledger, no statement and no witness: nothing to verify.
    """
    problems, checkpoint = find_problems(ledger, statements, witnesses, now, grace_seconds)
    if problems:
        raise LedgerBroken(ledger.files.place, problems)
    if checkpoint is None:
        raise EvidenceMissing(
            f"There is no ledger in {ledger.files.place}, so nothing was verified: it begins with "
            "the first statement that is written."
        )
    return checkpoint


def find_problems(
    ledger: Ledger,
    statements: LedgerFiles | None = None,
    witnesses: Sequence[Checkpoint] = (),
    now: datetime | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> tuple[list[str], Checkpoint | None]:
    """Return every problem as a sentence, and the checkpoint where there is a believable head."""
    with ledger.files.hold(shared=True):
        head, problems = _read_head(ledger)
        names = ledger.files.list()
        chain = _Chain()
        problems += _read_chain(ledger, chain, names, now)
        problems += _compare_head(head, chain)
        problems += _find_lag(ledger, head, chain, grace_seconds)
        problems += _compare_listings(ledger, chain, names)
    problems += [
        problem for one in witnesses if (problem := _compare_witness(one, chain)) is not None
    ]
    if statements is not None:
        problems += _compare_statements(statements, chain)
        problems += _find_unlisted(ledger, statements, chain, grace_seconds)
    seen = None if head is None else Checkpoint(head.size, head.entry, head.time)
    return problems, seen


def _read_head(ledger: Ledger) -> tuple[Head | None, list[str]]:
    try:
        return ledger.read_signed_head(), []
    except PedigreeError as error:
        return None, [str(error)]


def _read_chain(
    ledger: Ledger, chain: _Chain, names: Sequence[str], now: datetime | None
) -> Iterator[str]:
    """Read every entry in the order of its number and check that each follows the one before."""
    numbers = sorted(number for name in names if (number := _number_of(name)) is not None)
    chain.size = max(numbers, default=0)
    if chain.size > len(numbers):
        some = sorted(set(range(1, len(numbers) + _SHOWN)) - set(numbers))[:_SHOWN]
        yield (
            f"{chain.size - len(numbers)} of {chain.size} entries are missing, beginning with "
            f"entry {some[0]}"
        )
    for name, data in ledger.files.read_many(entry_file(number) for number in numbers):
        yield from _check_entry(ledger, chain, _number_of(name) or 0, data, now)
    known = {HEAD_FILE, LOCK, *(entry_file(number) for number in numbers)}
    yield from (
        f"{name} does not belong in the ledger"
        for name in names
        if name not in known and not name.startswith(f"{LISTED}/")
    )


def _number_of(name: str) -> int | None:
    digits = name.removeprefix(f"{ENTRIES}/").removesuffix(SUFFIX)
    if not (digits.isascii() and digits.isdigit()) or entry_file(int(digits)) != name:
        return None
    return int(digits) or None


def _check_entry(
    ledger: Ledger, chain: _Chain, number: int, data: bytes | None, now: datetime | None
) -> Iterator[str]:
    before = chain.sha256_of(number - 1)
    try:
        if data is None:
            raise VerificationFailed("it vanished while it was read")
        chain.digests[number] = sha256_hex(data)
        entry = read_entry(data, ledger.trusted)
    except VerificationFailed as error:
        yield f"entry {number} is not trusted: {error}"
        return
    if entry.sequence != number:
        yield f"entry {number} says that it is entry {entry.sequence}: it was moved"
    if entry.previous != before:
        found = f"{before[:12]}…" if before else "missing"
        yield f"entry {number} follows {entry.previous[:12]}…, but the entry before it is {found}"
    if entry.name in chain.envelopes:
        yield f"entry {number} lists {entry.name} a second time"
    chain.envelopes.setdefault(entry.name, entry.envelope)
    chain.entries.setdefault(entry.name, sha256_hex(data))
    if now is not None and _is_later(entry, now):
        yield f"entry {number} is dated {entry.time}, which is in the future"


def _is_later(entry: Entry, now: datetime) -> bool:
    try:
        return datetime.fromisoformat(entry.time) > now + CLOCK_SKEW
    except (ValueError, TypeError):
        return True


def _compare_head(head: Head | None, chain: _Chain) -> Iterator[str]:
    if head is None:
        if chain.size:
            yield f"there are {chain.size} entries, but no head that a trusted key signed for them"
    elif head.size > chain.size:
        yield (
            f"the head names {head.size} entries, but there are {chain.size}: the newest "
            f"{head.size - chain.size} were cut off"
        )
    elif chain.sha256_of(head.size) != head.entry:
        found = f"{chain.sha256_of(head.size)[:12]}…" if chain.sha256_of(head.size) else "missing"
        yield f"the head names {head.entry[:12]}… as entry {head.size}, which is {found}"


def _find_lag(ledger: Ledger, head: Head | None, chain: _Chain, grace: float) -> Iterator[str]:
    """Yield a problem where the head is older than the chain and stays so."""
    end = time.monotonic() + grace
    while head is not None and head.size < chain.size:
        if time.monotonic() >= end:
            yield (
                f"the head names {head.size} entries, but there are {chain.size}: an older head "
                "was put back, or a writer was killed before it signed; the next append signs "
                "for them"
            )
            return
        time.sleep(min(0.1, grace))
        head = _read_head(ledger)[0]


def _compare_listings(ledger: Ledger, chain: _Chain, names: Sequence[str]) -> Iterator[str]:
    """Compare the copies by which statements are found with the chain, byte for byte."""
    found = {name for name in names if name.startswith(f"{LISTED}/")}
    copies = {listing_file(name): digest for name, digest in chain.entries.items()}
    for name, data in ledger.files.read_many(sorted(copies)):
        if data is None:
            yield f"{name} is missing"
        elif sha256_hex(data) != copies[name]:
            yield f"{name} is not the entry that it is a copy of"
    for name in sorted(found - copies.keys()):
        if not _is_newer(ledger, chain, name):
            yield f"{name} lists what no entry lists"


def _is_newer(ledger: Ledger, chain: _Chain, name: str) -> bool:
    """Whether another writer added this entry after the chain was read."""
    try:
        data = ledger.files.read(name)
        entry = read_entry(data or b"", ledger.trusted)
    except PedigreeError:
        return False
    return entry.sequence > chain.size and ledger.files.read(entry_file(entry.sequence)) == data


def _compare_witness(witness: Checkpoint, chain: _Chain) -> str | None:
    if witness.size > chain.size:
        return (
            f"a witness saw {witness.size} entries at {witness.time}, now there are {chain.size}: "
            "the ledger was put back to an older state"
        )
    if chain.sha256_of(witness.size) != witness.entry:
        return (
            f"a witness saw {witness.entry[:12]}… as entry {witness.size} at {witness.time}, which "
            f"is now {chain.sha256_of(witness.size)[:12] or 'missing'}: the ledger was written anew"
        )
    return None


def _compare_statements(statements: LedgerFiles, chain: _Chain) -> Iterator[str]:
    for name, data in statements.read_many(sorted(chain.envelopes)):
        if data is None:
            yield f"the statement {name} was deleted: the ledger lists it"
        elif sha256_hex(data) != chain.envelopes[name]:
            yield f"the statement {name} was changed after it was listed"


def _find_unlisted(
    ledger: Ledger, statements: LedgerFiles, chain: _Chain, grace: float
) -> Iterator[str]:
    found = {name for name in statements.list() if name.endswith(SUFFIX)}
    suspect = found - chain.envelopes.keys()
    if suspect and grace:
        time.sleep(grace)  # a statement is written before its entry is
    for name in sorted(suspect):
        try:
            listed = ledger.find(name) is not None
        except PedigreeError as error:
            yield str(error)
            continue
        if not listed:
            yield f"the statement {name} is not in the ledger: nobody listed it when it was written"

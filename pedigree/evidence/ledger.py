"""The ledger: which statements were ever written, in which order, so that none can vanish.

Statements lie in the store and are named by their content. The ledger is a chain beside them: one
signed entry for each, which names the entry before it, and a signed head that says how many there
are::

    <ledger>/entries/000000000001.dsse.json              the chain
    <ledger>/listed/<subject>/<kind>-<envelope>.dsse.json    the same entry, found by its statement
    <ledger>/head.dsse.json                              size, and the newest entry's sha256

    >>> ledger = Ledger(LocalFiles(folder), (public,), key)
    >>> ledger.append("ab…/verdict-cd….dsse.json", envelope, now).sequence
    1

An append is: create the next entry, which only one writer can; copy it to `listed`;
replace the head. A writer that dies in between told nobody of its entry; the next one finds it
behind the head, completes it and goes on. So what was acknowledged is never lost and nothing is
listed twice. The cost of an append does not depend on how many entries there are.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pedigree.digests import sha256_hex
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.ledger_chain import (
    ENTRIES,
    HEAD_FILE,
    LISTED,
    NOTHING,
    Entry,
    Head,
    entry_file,
    format_time,
    listing_file,
    read_entry,
    read_head,
    sign_entry,
    sign_head,
)
from pedigree.evidence.ledger_files import LedgerFiles
from pedigree.evidence.signing import Signer, verify_envelope

# Entries behind the head are those of writers that died before they signed it, or that are about
# to. More than so many at once is no crash: somebody put an old head back.
MAX_BEHIND = 64
RESTORE = "Restore the ledger from a copy; `pedigree ledger verify` names all that is wrong."


@dataclass(frozen=True)
class _Tail:
    """Where the chain ends: number of entries, newest entry's sha256; what the head says."""

    size: int
    entry: str
    signed: int


@dataclass(frozen=True)
class Ledger:
    """The chain at one place, and the keys that are trusted to have signed it."""

    files: LedgerFiles
    trusted: tuple[Ed25519PublicKey, ...]
    signer: Signer | None = field(default=None, repr=False)

    def append(self, name: str, envelope: bytes, now: datetime) -> Entry:
        """List a statement; once this returns, the entry is durable and under a signed head.

        A statement that is listed already stays where it is.

        Args:
            name: where the statement lies in its store: `<subject>/<kind>-<envelope>.dsse.json`.
            envelope: its bytes.
            now: when it was written, for the entry; the order does not depend on it.

        Raises:
            VerificationFailed: the envelope is not trusted, or the ledger's end was tampered with.
            PedigreeError: there is no key to sign with, or the place cannot be written.
        """
        key = self._require_signer()
        blank = self._describe(name, envelope, format_time(now))
        with self.files.hold(shared=False):
            tail = self._follow(self._open_tail(key, blank.time))
            entry = self.find(name)
            while entry is None:
                entry = blank.model_copy(update={"sequence": tail.size + 1, "previous": tail.entry})
                data = sign_entry(entry, key)
                if self.files.create(entry_file(entry.sequence), data):
                    tail = self._adopt(tail, entry, data)
                    break
                tail = self._follow_rival(tail)
                entry = self.find(name)
            self._publish(tail, key, blank.time)
        return entry

    def complete(self, now: datetime) -> int:
        """Sign for entries that a killed writer left behind the head; return how many.

        Raises:
            VerificationFailed: the ledger's end was tampered with.
        """
        key = self._require_signer()
        with self.files.hold(shared=False):
            tail = self._follow(self._open_tail(key, format_time(now)))
            self._publish(tail, key, format_time(now))
        return tail.size - tail.signed

    def count_behind(self) -> int:
        """Return how many entries the signed head does not name yet: their writers were killed.

        Raises:
            VerificationFailed: no trusted key signed the head.
        """
        head = self.read_signed_head()
        size, names = head.size if head else 0, set(self.files.list(ENTRIES))
        behind = 0
        while entry_file(size + behind + 1) in names:
            behind += 1
        return behind

    def find(self, name: str) -> Entry | None:
        """Return the entry of a statement, or None where it was never listed.

        Raises:
            VerificationFailed: what is there was not signed as this statement's entry.
        """
        data = self.files.read(listing_file(name))
        if data is None:
            return None
        entry = self._believe(data, listing_file(name))
        if entry.name != name:
            raise VerificationFailed(
                f"{self.files.place}/{listing_file(name)} is the entry of {entry.name}: it was "
                f"moved. {RESTORE}"
            )
        return entry

    def list_statements(self, subject: str) -> list[str]:
        """Return the names of all statements that were listed about a subject (64 hex digits).

        An empty `subject` stands for all of them.
        """
        folder = f"{LISTED}/{subject}".rstrip("/")
        return [one.removeprefix(f"{LISTED}/") for one in self.files.list(folder)]

    def is_empty(self) -> bool:
        """Whether there is no ledger yet: no head and no entry."""
        return not (self.files.list(ENTRIES) or self.files.list(LISTED)) and (
            self.files.read(HEAD_FILE) is None
        )

    def read_signed_head(self) -> Head | None:
        """Return what the head says, or None where there is no ledger yet.

        Raises:
            VerificationFailed: no trusted key signed the head.
        """
        data = self.files.read(HEAD_FILE)
        if data is None:
            return None
        try:
            return read_head(data, self.trusted)
        except VerificationFailed as error:
            raise VerificationFailed(
                f"The head of the ledger {self.files.place} is not trusted: {error}. {RESTORE} If "
                "the project's key was replaced, move the ledger away: a new one begins."
            ) from None

    def _require_signer(self) -> Signer:
        if self.signer is None:
            raise PedigreeError(
                "There is no key to sign the ledger with: name one in PEDIGREE_KEY_BUILDER, or let "
                "the policy accept the development key."
            )
        return self.signer

    def _describe(self, name: str, envelope: bytes, time: str) -> Entry:
        """Return the entry of a statement but for its place in the chain."""
        content = verify_envelope(envelope, self.trusted)
        subjects = cast(list[dict[str, Any]], content["subject"])
        digests = [str(one["digest"]["sha256"]) for one in subjects]
        digest = sha256_hex(envelope)
        if not name.startswith(f"{digests[0]}/") or not name.endswith(f"-{digest}.dsse.json"):
            raise VerificationFailed(
                f"The statement {name} is not listed: it is about sha256:{digests[0]} and its "
                f"bytes have sha256 {digest}. Name it by both."
            )
        return Entry(
            sequence=1,
            previous=NOTHING,
            name=name,
            envelope=digest,
            predicate_type=str(content["predicateType"]),
            subjects=digests,
            time=time,
        )

    def _open_tail(self, key: Signer, time: str) -> _Tail:
        """Return the head after making sure that the entry which it names is there, unchanged."""
        head = self.read_signed_head() or self._found(key, time)
        if head.size:
            data = self.files.read(entry_file(head.size))
            found = "missing" if data is None else f"another one ({sha256_hex(data)[:12]}…)"
            if data is None or sha256_hex(data) != head.entry:
                raise VerificationFailed(
                    f"The head of the ledger {self.files.place} names entry {head.size} "
                    f"({head.entry[:12]}…), which is {found}: nothing was added. {RESTORE}"
                )
        return _Tail(head.size, head.entry, head.size)

    def _found(self, key: Signer, time: str) -> Head:
        # The first head is signed before the first entry: entries without a head are never a crash.
        if self.is_empty():
            self.files.create(HEAD_FILE, sign_head(Head(size=0, entry=NOTHING, time=time), key))
        head = self.read_signed_head()
        if head is None:
            raise VerificationFailed(
                f"The ledger {self.files.place} has entries but no head: somebody removed "
                f"head.dsse.json, and nothing was added. {RESTORE}"
            )
        return head

    def _follow(self, tail: _Tail) -> _Tail:
        """Return the end of the chain, with what other writers put behind the head completed."""
        while (data := self.files.read(entry_file(tail.size + 1))) is not None:
            if tail.size - tail.signed >= MAX_BEHIND:
                raise VerificationFailed(
                    f"The head of the ledger {self.files.place} names entry {tail.signed}, but "
                    f"more than {MAX_BEHIND} follow: an old head was put back, and nothing was "
                    f"added. {RESTORE}"
                )
            entry = self._believe(data, entry_file(tail.size + 1))
            if (entry.sequence, entry.previous) != (tail.size + 1, tail.entry):
                raise VerificationFailed(
                    f"Entry {tail.size + 1} of the ledger {self.files.place} does not follow entry "
                    f"{tail.size}: nothing was added. {RESTORE}"
                )
            self.files.settle(ENTRIES)
            tail = self._adopt(tail, entry, data)
        return tail

    def _follow_rival(self, tail: _Tail) -> _Tail:
        further = self._follow(tail)
        if further.size == tail.size:
            raise PedigreeError(
                f"{self.files.place}/{entry_file(tail.size + 1)} can be neither created nor read: "
                "nothing was added. Look at what is there, and run again."
            )
        return further

    def _adopt(self, tail: _Tail, entry: Entry, data: bytes) -> _Tail:
        """Keep an entry under its statement's name too, where `find` looks."""
        listing, source = listing_file(entry.name), entry_file(entry.sequence)
        if not self.files.copy(source, listing, data) and self.files.read(listing) != data:
            raise VerificationFailed(
                f"{self.files.place}/{listing} is not the entry {entry.sequence} that lists "
                f"{entry.name}: somebody changed it, or it was listed twice. {RESTORE}"
            )
        return replace(tail, size=entry.sequence, entry=sha256_hex(data))

    def _publish(self, tail: _Tail, key: Signer, time: str) -> None:
        """Sign for the end of the chain.

        Without a lock a slower writer may put an older head over a newer one. Each looks again
        after it wrote, so the last to write is never the one with the older head.
        """
        signed = tail.signed
        while tail.size != signed:
            head = Head(size=tail.size, entry=tail.entry, time=time)
            self.files.replace(HEAD_FILE, sign_head(head, key))
            signed = tail.size
            tail = self._follow(replace(tail, signed=signed))

    def _believe(self, data: bytes, name: str) -> Entry:
        try:
            return read_entry(data, self.trusted)
        except VerificationFailed as error:
            raise VerificationFailed(
                f"{self.files.place}/{name} is not trusted: {error}. {RESTORE}"
            ) from None

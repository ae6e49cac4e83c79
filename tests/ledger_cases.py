"""Statements and ledgers for tests, and a second reader of the chain that shares no code."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fsspec.implementations.memory import MemoryFileSystem

from pedigree.evidence.ledger import Ledger
from pedigree.evidence.ledger_files import LedgerFiles, ObjectFiles
from pedigree.evidence.signing import sign_statement

KEY = Ed25519PrivateKey.from_private_bytes(b"a key for tests of the ledger...")
STRANGER = Ed25519PrivateKey.from_private_bytes(b"a key that nobody trusts, tests.")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_statement(
    number: int, *, about: str | None = None, key: Ed25519PrivateKey = KEY, kind: str = "snapshot"
) -> tuple[str, bytes]:
    """Return a statement's name and envelope; three numbers in a row share their subject."""
    subject = about or hashlib.sha256(str(number // 3).encode()).hexdigest()
    envelope = sign_statement(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "it", "digest": {"sha256": subject}}],
            "predicateType": f"urn:pedigree:predicate:{kind}:v1",
            "predicate": {"number": number},
        },
        key,
    )
    return f"{subject}/{kind}-{hashlib.sha256(envelope).hexdigest()}.dsse.json", envelope


def make_memory() -> ObjectFiles:
    """Return an empty place in this process's memory."""
    name = uuid.uuid4().hex
    return ObjectFiles(f"memory://{name}", MemoryFileSystem(), f"/{name}")


def make_ledger(files: LedgerFiles, key: Ed25519PrivateKey = KEY) -> Ledger:
    """Return a ledger that trusts `KEY`."""
    return Ledger(files, (KEY.public_key(),), key)


def write_statement(files: LedgerFiles, ledger: Ledger | None, number: int) -> str:
    """Keep a statement and list it, as the store does; return its name."""
    name, envelope = make_statement(number)
    files.create(name, envelope)
    if ledger is not None:
        ledger.append(name, envelope, NOW)
    return name


def fill(size: int) -> tuple[Ledger, LedgerFiles]:
    """Return a ledger in memory with `size` statements, and the statements."""
    ledger, statements = make_ledger(make_memory()), make_memory()
    for number in range(size):
        write_statement(statements, ledger, number)
    return ledger, statements


def copy_files(files: LedgerFiles) -> ObjectFiles:
    """Return the same files in another place in memory."""
    other = make_memory()
    for name in files.list():
        other.create(name, files.read(name) or b"")
    return other


def read_chain(folder: Path) -> list[dict[str, Any]]:
    """Follow the chain with hashlib and json alone; return the entries' predicates in order."""
    public = KEY.public_key()

    def content(path: Path) -> dict[str, Any]:
        envelope = json.loads(path.read_bytes())
        payload = base64.b64decode(envelope["payload"])
        kind = envelope["payloadType"].encode()
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), message)
        return json.loads(payload)

    entries: list[dict[str, Any]] = []
    before = "0" * 64
    for number, path in enumerate(sorted((folder / "entries").glob("[0-9]*.json")), start=1):
        said = content(path)
        assert said["predicateType"] == "urn:pedigree:predicate:ledger-entry:v1"
        assert (said["predicate"]["sequence"], said["predicate"]["previous"]) == (number, before)
        assert path.name == f"{number:012d}.dsse.json"
        assert said["subject"][0]["digest"]["sha256"] == said["predicate"]["envelope"]
        copy = folder / "listed" / said["predicate"]["name"]
        assert copy.read_bytes() == path.read_bytes()
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(said["predicate"])
    head = content(folder / "head.dsse.json")["predicate"]
    assert (head["size"], head["entry"]) == (len(entries), before)
    return entries


class Killed(BaseException):
    """What stops a writer in the middle, as if by a signal."""


@dataclass
class Failing:
    """A place at which one operation, counted from 0, does not return."""

    inner: LedgerFiles
    at: int | None = None
    afterwards: bool = False
    error: type[BaseException] = Killed
    calls: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        return self.inner.place

    def _count(self, what: str, *arguments: Any) -> Any:
        failing = self.at is not None and len(self.calls) == self.at
        self.calls.append(what)
        if failing and not self.afterwards:
            raise self.error("before")
        value = getattr(self.inner, what)(*arguments)
        if failing:
            raise self.error("after")
        return value

    def read(self, name: str) -> bytes | None:
        return self._count("read", name)

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        return self.inner.read_many(names)

    def create(self, name: str, data: bytes) -> bool:
        return self._count("create", name, data)

    def copy(self, source: str, name: str, data: bytes) -> bool:
        return self._count("copy", source, name, data)

    def replace(self, name: str, data: bytes) -> None:
        self._count("replace", name, data)

    def remove(self, name: str) -> None:
        self._count("remove", name)

    def list(self, folder: str = "") -> list[str]:
        return self._count("list", folder)

    def settle(self, folder: str) -> None:
        self._count("settle", folder)

    def hold(self, *, shared: bool) -> AbstractContextManager[None]:
        return self.inner.hold(shared=shared)

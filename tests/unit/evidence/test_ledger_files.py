"""Places for a ledger: one writer among several creates a name, or the place is refused."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence import ledger_files
from pedigree.evidence.ledger_files import (
    LedgerFiles,
    LocalFiles,
    ObjectFiles,
    open_ledger_files,
    require_exclusive_creation,
)
from pedigree.evidence.ledger_verification import LedgerBroken, verify_ledger
from tests.ledger_cases import NOW, make_ledger, make_memory, make_statement, write_statement


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A file system on a local server that speaks S3, with the bucket `ledgers`."""
    import s3fs

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    filesystem = s3fs.S3FileSystem(
        key="key",
        secret="secret",
        endpoint_url=f"http://{host}:{port}",
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    filesystem.call_s3("create_bucket", Bucket="ledgers")
    yield filesystem
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerFiles:
    if request.param == "local":
        return LocalFiles(tmp_path / "place")
    if request.param == "memory":
        return make_memory()
    place = f"s3://ledgers/{tmp_path.name}"
    return open_ledger_files(place, write=True, filesystem=request.getfixturevalue("s3"))


def test_every_place_keeps_the_first_and_lists_what_is_whole(files: LedgerFiles) -> None:
    assert files.list() == []
    assert files.read("entries/1") is None
    assert files.create("entries/1", b"one")
    assert not files.create("entries/1", b"other")
    assert files.copy("entries/1", "listed/a/1", b"one")
    assert not files.copy("entries/1", "listed/a/1", b"one")
    files.replace("head", b"h1")
    files.replace("head", b"h2")
    files.create("entries/.partial-0123", b"half")
    assert files.list() == ["entries/1", "head", "listed/a/1"]
    assert files.list("listed/a") == ["listed/a/1"]
    assert files.list("nothing") == []
    wanted = ["entries/1", "entries/2", "head", "listed/a/1"]
    assert dict(files.read_many(wanted)) == dict(
        zip(wanted, [b"one", None, b"h2", b"one"], strict=True)
    )
    files.remove("head")
    files.remove("head")
    assert files.read("head") is None
    files.settle("entries")
    require_exclusive_creation(files)
    assert files.list() == ["entries/1", "listed/a/1"]


def test_a_ledger_holds_in_every_place_and_its_damage_shows(files: LedgerFiles) -> None:
    ledger, statements = make_ledger(files), make_memory()

    def work(part: int) -> None:
        for number in range(part, part + 4):
            write_statement(statements, ledger, number)

    threads = [threading.Thread(target=work, args=(part,)) for part in (0, 2, 4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert verify_ledger(ledger, statements).size == 8
    files.remove("entries/000000000008.dsse.json")
    with pytest.raises(LedgerBroken, match="the newest 1 were cut off"):
        verify_ledger(ledger, statements)


@pytest.mark.parametrize("place", ["https://example.org/x", "gs://bucket/x", "ftp://host/x"])
def test_a_place_that_nobody_tried_is_not_written_to(place: str) -> None:
    with pytest.raises(PedigreeError, match=r"it is not known .* exactly one succeeds"):
        open_ledger_files(place, write=True)


class Overwrites(MemoryFileSystem):
    """A store that takes the condition of a creation for noise, as some S3 servers do."""

    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **more)


class LooksFirst(MemoryFileSystem):
    """A store that looks whether a name is free and then writes, as two writers may at once."""

    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    together = threading.Barrier(8)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        if "probe" in path and not self.together.broken:
            self.together.wait(5)
        super().pipe_file(path, value, mode="overwrite", **more)


@pytest.mark.parametrize("kind", [Overwrites, LooksFirst])
def test_a_place_that_lets_two_writers_win_is_refused(kind: type[MemoryFileSystem]) -> None:
    files = ObjectFiles("other://place", kind(), "/place")
    with pytest.raises(PedigreeError, match="8 succeeded"):
        require_exclusive_creation(files)
    assert files.list() == []


def test_a_local_place_is_a_folder_and_needs_no_probe(tmp_path: Path) -> None:
    for place in (str(tmp_path / "x"), f"file://{tmp_path / 'x'}"):
        files = open_ledger_files(place, write=True)
        assert isinstance(files, LocalFiles)
        assert files.folder == tmp_path / "x"
    assert not (tmp_path / "x").exists()


def test_a_file_system_without_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(ledger_files.os, "link", refuse)
    with pytest.raises(PedigreeError, match="needs a file system with hard links"):
        make_ledger(LocalFiles(tmp_path)).append(*make_statement(1), NOW)
    assert LocalFiles(tmp_path).list() == ["lock"]


def test_an_error_of_the_store_is_a_sentence() -> None:
    class Broken(MemoryFileSystem):
        def cat_file(self, *_: Any, **__: Any) -> bytes:
            raise RuntimeError("the network\nis down")

    ledger = make_ledger(ObjectFiles("s3://bucket/ledger", Broken(), "/bucket"))
    with pytest.raises(PedigreeError, match=r"could not be read \(the network is down\)"):
        ledger.append(*make_statement(1), NOW)


def test_a_writer_waits_for_the_lock_but_not_for_ever(tmp_path: Path) -> None:
    ledger = make_ledger(LocalFiles(tmp_path, lock_seconds=0.05))
    ledger.append(*make_statement(1), NOW)
    handle = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    for attempt in (lambda: ledger.append(*make_statement(2), NOW), lambda: verify_ledger(ledger)):
        with pytest.raises(PedigreeError, match=r"locked by another process for 0\.05 seconds"):
            attempt()
    os.close(handle)
    assert ledger.append(*make_statement(2), NOW).sequence == 2


def test_a_copy_without_its_lock_file_can_be_verified(tmp_path: Path) -> None:
    ledger = make_ledger(LocalFiles(tmp_path))
    ledger.append(*make_statement(1), NOW)
    (tmp_path / "lock").unlink()
    assert verify_ledger(ledger).size == 1
    assert not (tmp_path / "lock").exists()


def test_a_pipe_or_folder_in_a_files_place_is_refused_at_once(tmp_path: Path) -> None:
    ledger = make_ledger(LocalFiles(tmp_path))
    ledger.append(*make_statement(1), NOW)
    head = tmp_path / "head.dsse.json"
    head.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(head)
        with pytest.raises(VerificationFailed, match="no plain file"):
            ledger.append(*make_statement(2), NOW)
        with pytest.raises(VerificationFailed, match="no plain file"):
            verify_ledger(ledger)
        head.rmdir() if head.is_dir() else head.unlink()


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    ledger = make_ledger(LocalFiles(tmp_path))
    ledger.append(*make_statement(1), NOW)
    monkeypatch.setattr(ledger_files.os, "scandir", refuse)
    with pytest.raises(PedigreeError, match="cannot be listed"):
        verify_ledger(ledger)

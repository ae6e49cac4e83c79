"""Data under real DVC: tracked once, pushed, lost, restored; and what a lock or a loss says."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.snapshots import Snapshot, freeze_snapshot, open_snapshot
from pedigree.versioning import DvcPointer, push, read_pointer, restore, track, write_pointer
from tests.conftest import must


@pytest.fixture(scope="session")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dvc") / "repository"
    root.mkdir()
    must("git", "init", "-q", cwd=root)
    must("dvc", "init", "-q", cwd=root)
    must("dvc", "remote", "add", "-q", "-d", "backup", "../remote", cwd=root)
    return root


@pytest.fixture
def repository(empty_repository: Path, tmp_path: Path) -> Path:
    """A DVC repository with a remote in the folder beside it."""
    root = tmp_path / "repository"
    shutil.copytree(empty_repository, root, symlinks=True)
    return root


def make_snapshot(repository: Path, name: str) -> Snapshot:
    table = pa.table({"row_key": ["1", "2"], "text": [f"{name} one", f"{name} two"]})
    return freeze_snapshot(table, repository / "data", "training")


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lose(repository: Path, *, cache: bool = True) -> None:
    shutil.rmtree(repository / "data")
    if cache:
        shutil.rmtree(repository / ".dvc" / "cache")


def cached_files(repository: Path) -> list[Path]:
    """Return what DVC caches, but for lists of folders."""
    found = (repository / ".dvc" / "cache" / "files").rglob("*")
    return sorted(path for path in found if path.is_file() and path.suffix != ".dir")


@contextmanager
def locked_by_another_process(repository: Path) -> Iterator[None]:
    code = """
import sys
from dvc.repo import Repo
with Repo(sys.argv[1]) as repository, repository.lock:
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(repository)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            holder.stdin.close()
            assert holder.wait(timeout=20) == 0


def test_a_pointer_names_the_md5_of_the_data(repository: Path) -> None:
    path = repository / "data" / "one.bin"
    path.parent.mkdir()
    path.write_bytes(b"some bytes")
    pointer = track(repository, path)
    md5 = hashlib.md5(b"some bytes", usedforsecurity=False).hexdigest()
    assert pointer == DvcPointer(path="data/one.bin", md5=md5, size=10)
    (cached,) = cached_files(repository)
    assert cached.parent.name + cached.name == md5
    assert cached.read_bytes() == b"some bytes"


def test_tracking_twice_changes_nothing(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    first = track(repository, snapshot.path)
    before = files_below(repository)
    assert track(repository, snapshot.path) == first
    assert files_below(repository) == before
    assert read_pointer(repository, snapshot.path) == first
    assert (first.nfiles, first.path) == (2, f"data/{snapshot.path.name}")
    assert first.size == sum(p.stat().st_size for p in snapshot.path.iterdir())


def test_git_ignores_the_data_and_sees_the_pointer(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    track(repository, snapshot.path)
    untracked = must("git", "status", "--porcelain", "--untracked-files=all", cwd=repository)
    assert f"data/{snapshot.path.name}.dvc" in untracked
    assert "parquet" not in untracked


def test_two_snapshots_come_back_from_the_remote_byte_for_byte(repository: Path) -> None:
    snapshots = [make_snapshot(repository, name) for name in ("a", "b")]
    pointers = [track(repository, one.path) for one in snapshots]
    before = [files_below(one.path) for one in snapshots]
    assert before[0] != before[1]
    for one in snapshots:
        assert push(repository, one.path) > 0
        assert push(repository, one.path) == 0
    lose(repository)
    for snapshot, pointer, files in zip(snapshots, pointers, before, strict=True):
        assert restore(repository, pointer) == snapshot.path
        assert files_below(snapshot.path) == files
        assert open_snapshot(snapshot.digest, repository / "data").rows == 2
        assert read_pointer(repository, snapshot.path) == pointer


def test_what_is_still_cached_comes_back_without_the_remote(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    before = files_below(snapshot.path)
    lose(repository, cache=False)
    restore(repository, pointer)
    assert files_below(snapshot.path) == before


def test_restoring_puts_back_what_was_changed_in_the_workspace(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    before = files_below(snapshot.path)
    (part,) = snapshot.path.glob("*.parquet")
    part.chmod(0o644)
    part.unlink()
    part.write_bytes(b"tampered")
    (snapshot.path / "extra").write_bytes(b"x")
    restore(repository, pointer)
    assert files_below(snapshot.path) == before


def test_what_was_never_pushed_is_missing_evidence(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    lose(repository)
    with pytest.raises(EvidenceMissing, match=f"md5 {pointer.md5}") as error:
        restore(repository, pointer)
    assert "`dvc push`" in str(error.value)
    assert not snapshot.path.exists()


def test_a_locked_repository_is_said_to_be_locked_and_gets_no_pointer(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    with (
        locked_by_another_process(repository),
        pytest.raises(PedigreeError, match="is locked by another process"),
    ):
        track(repository, snapshot.path)
    assert read_pointer(repository, snapshot.path) is None
    assert [path.name for path in (repository / "data").iterdir()] == [snapshot.path.name]
    assert track(repository, snapshot.path).nfiles == 2


def test_a_restore_in_a_locked_repository_says_locked_and_not_missing(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    with (
        locked_by_another_process(repository),
        pytest.raises(PedigreeError, match="is locked by another process"),
    ):
        restore(repository, pointer)


@pytest.mark.parametrize("call", ["track", "restore", "push"])
def test_a_folder_without_dvc_is_told_to_be_initialised(tmp_path: Path, call: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    calls: dict[str, Callable[[], object]] = {
        "track": lambda: track(tmp_path, path),
        "restore": lambda: restore(tmp_path, DvcPointer(path="x", md5="0" * 32, size=1)),
        "push": lambda: push(tmp_path, path),
    }
    with pytest.raises(PedigreeError, match="is no DVC repository: run `dvc init`"):
        calls[call]()


def test_dvcs_own_refusals_become_sentences(repository: Path) -> None:
    with pytest.raises(PedigreeError, match="DVC refused"):
        track(repository, repository / "data" / "none")
    with pytest.raises(PedigreeError, match="DVC refused"):
        push(repository, repository / "data" / "none")


def test_there_is_no_pointer_where_nothing_is_tracked(repository: Path) -> None:
    assert read_pointer(repository, repository / "data" / "none") is None


def test_a_pointer_is_written_as_dvc_would(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    file = snapshot.path.with_name(snapshot.path.name + ".dvc")
    file.unlink()
    assert write_pointer(repository, pointer) == file
    assert read_pointer(repository, snapshot.path) == pointer
    assert must("dvc", "status", "-q", str(file), cwd=repository) == ""


def _lose_one_cached_file(repository: Path) -> None:
    one = cached_files(repository)[0]
    one.chmod(0o644)
    one.unlink()


def test_a_cache_that_lost_a_file_is_filled_up_from_the_remote(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    before = files_below(snapshot.path)
    push(repository, snapshot.path)
    lose(repository, cache=False)
    _lose_one_cached_file(repository)
    restore(repository, pointer)
    assert files_below(snapshot.path) == before


def test_what_is_tracked_again_and_pushed_can_be_restored(repository: Path) -> None:
    snapshot = make_snapshot(repository, "a")
    pointer = track(repository, snapshot.path)
    before = files_below(snapshot.path)
    _lose_one_cached_file(repository)
    track(repository, snapshot.path)
    push(repository, snapshot.path)
    lose(repository)
    restore(repository, pointer)
    assert files_below(snapshot.path) == before


def test_a_restore_that_fails_leaves_no_pointer(repository: Path) -> None:
    pointer = DvcPointer(path="data/none", md5="0" * 32 + ".dir", size=1, nfiles=1)
    with pytest.raises(EvidenceMissing):
        restore(repository, pointer)
    assert read_pointer(repository, repository / "data" / "none") is None

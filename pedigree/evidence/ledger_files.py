"""Where a ledger lies: a local folder, or an object store that creates exclusively.

A ledger needs one thing of its place: of several writers that create the same name, exactly one
succeeds, and what it wrote is there whole. A place that does not promise that is refused::

    >>> files = open_ledger_files("s3://bucket/ledger", write=True)
    >>> files.create("entries/000000000001.dsse.json", data)
    True
"""

import errno
import fcntl
import os
import stat
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.files import PARTIAL, explain_disk_errors, sync_folder, write_atomically

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

LOCK = "lock"
LOCK_SECONDS = 60.0
_PROBES = 8
# Object stores whose creation is atomic and was tried; s3 means `If-None-Match`, which is probed.
_EXCLUSIVE = ("memory", "s3", "s3a")
_MEMORY = threading.Lock()
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class LedgerFiles(Protocol):
    """What a ledger asks of the place that it lies in. Names are relative, with `/`."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        ...

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Yield each name with its bytes, or None."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a new file, whole and durable; False where the name was taken already."""
        ...

    def copy(self, source: str, name: str, data: bytes) -> bool:
        """Give a file, which holds `data`, a second name; False where that was taken already."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write a file whole, over what is there."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def list(self, folder: str = "") -> list[str]:
        """Return the names of all files below a folder, sorted; half-written ones are left out."""
        ...

    def settle(self, folder: str) -> None:
        """Make names that another writer created in a folder survive a power cut."""
        ...

    def hold(self, *, shared: bool) -> "AbstractContextManager[None]":
        """Keep other writers out while the block runs, where the place can."""
        ...


@dataclass(frozen=True)
class LocalFiles:
    """A folder of this machine; writers take turns by a lock that the kernel releases."""

    folder: Path
    lock_seconds: float = LOCK_SECONDS

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return str(self.folder)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none.

        Raises:
            VerificationFailed: it is no plain file (a pipe would never end).
            PedigreeError: it cannot be read.
        """
        path = self.folder / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise VerificationFailed(
                    f"{path} is no plain file: expected one that Pedigree wrote. Restore it."
                )
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PedigreeError(
                f"{path} cannot be read ({error.strerror}): make it readable and run again."
            ) from None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Yield each name with its bytes, or None."""
        for name in names:
            yield name, self.read(name)

    def create(self, name: str, data: bytes) -> bool:
        """Write a new file, whole and durable; False where the name was taken already.

        The bytes are on the disk before the name is: a link is the exclusive step, so a writer
        that is killed leaves either the whole file or none.
        """
        path = self.folder / name
        with explain_disk_errors(path):
            if not path.parent.is_dir():
                _make_folder(path.parent)
            partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
            try:
                with partial.open("xb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                return _link(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def copy(self, source: str, name: str, data: bytes) -> bool:
        """Link a file to a second name; its bytes are on the disk already."""
        path = self.folder / name
        with explain_disk_errors(path):
            if not path.parent.is_dir():
                _make_folder(path.parent)
            return _link(self.folder / source, path)

    def replace(self, name: str, data: bytes) -> None:
        """Write a file whole, over what is there."""
        write_atomically(self.folder / name, data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def list(self, folder: str = "") -> list[str]:
        """Return the names of all files below a folder, sorted; half-written ones are left out.

        Raises:
            PedigreeError: a folder cannot be read, so nobody knows what is in it.
        """
        start = self.folder / folder
        found: list[str] = []
        for parent, _, files in os.walk(start, onerror=_refuse_unreadable):
            relative = os.path.relpath(parent, self.folder)
            prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
            found += [prefix + name for name in files if not name.startswith(PARTIAL)]
        return sorted(found)

    def settle(self, folder: str) -> None:
        """Make names that another writer created in a folder survive a power cut."""
        sync_folder(self.folder / folder)

    @contextmanager
    def hold(self, *, shared: bool) -> Generator[None]:
        """Keep other writers out while the block runs; a reader of a read-only copy needs no lock.

        Raises:
            PedigreeError: another process has held the lock for a minute.
        """
        handle = self._open_lock(shared)
        if handle is None:
            yield
            return
        try:
            self._wait(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _open_lock(self, shared: bool) -> int | None:
        path = self.folder / LOCK
        if shared:
            with suppress(FileNotFoundError, PermissionError):
                return os.open(path, os.O_RDONLY)
            return None
        with explain_disk_errors(path):
            if not self.folder.is_dir():
                _make_folder(self.folder)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def _wait(self, handle: int, kind: int) -> None:
        # Asking again and again is not fair, but a stopped holder cannot hang the others for ever.
        end, pause = time.monotonic() + self.lock_seconds, 0.001
        while True:
            try:
                return fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise PedigreeError(
                        f"The ledger {self.folder} has been locked by another process for "
                        f"{self.lock_seconds:g} seconds: see what that process does, and run again."
                    ) from None
                time.sleep(pause)
                pause = min(pause * 1.5, 0.02)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise PedigreeError(
            f"{target} cannot be linked ({error.strerror}): a ledger needs a file system with hard "
            "links, by which of two writers exactly one succeeds. Put the project on another one."
        ) from None
    sync_folder(target.parent)
    return True


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise PedigreeError(
            f"{error.filename} cannot be listed ({error.strerror}): make it readable and run again."
        ) from None


def _make_folder(folder: Path) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


@dataclass(frozen=True)
class ObjectFiles:
    """A folder of an object store, through fsspec; there is no lock, creation is exclusive."""

    place: str
    filesystem: Any = field(repr=False)
    root: str

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes, or None where there is none."""
        with self._explain(name, "read"):
            try:
                return cast(bytes, self.filesystem.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Yield each name with its bytes, or None; a few hundred are fetched at a time."""
        wanted = list(names)
        for start in range(0, len(wanted), 256):
            part = wanted[start : start + 256]
            with self._explain(part[0], "read"):
                paths = [self._path(name) for name in part]
                found = self.filesystem.cat(paths, on_error="return")
            for name, path in zip(part, paths, strict=True):
                value = found.get(path, found.get("/" + path.lstrip("/")))
                # An error that is not "there is none" is asked again, and then explained.
                yield name, value if isinstance(value, bytes) else self.read(name)

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; False where the name was taken already."""
        guard = _MEMORY if self.place.startswith("memory:") else nullcontext()
        with self._explain(name, "created"), guard:
            try:
                self.filesystem.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                # s3fs passes 412 (it exists) and 409 (somebody creates it now) on in these words.
                if _says(error, "PreconditionFailed", "At least one of the pre-conditions"):
                    return False
                if _says(error, "ConditionalRequestConflict"):
                    return False
                raise
            return True

    def copy(self, source: str, name: str, data: bytes) -> bool:
        """Write the same bytes as a second object."""
        return self.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """Write an object over what is there."""
        with self._explain(name, "written"):
            self.filesystem.pipe_file(self._path(name), data)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._explain(name, "removed"), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._path(name))

    def list(self, folder: str = "") -> list[str]:
        """Return the names of all objects below a folder, sorted."""
        with self._explain(folder or "it", "listed"):
            self.filesystem.invalidate_cache()
            found = cast(list[str], self.filesystem.find(self._path(folder)))
        names = [path.lstrip("/").removeprefix(self.root.strip("/") + "/") for path in found]
        return sorted(one for one in names if not one.rpartition("/")[2].startswith(PARTIAL))

    def settle(self, folder: str) -> None:
        """Do nothing: what an object store has accepted is durable."""

    def hold(self, *, shared: bool) -> "AbstractContextManager[None]":
        """Keep nobody out: exclusive creation is enough for the chain."""
        return nullcontext()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    @contextmanager
    def _explain(self, name: str, what: str) -> Generator[None]:
        try:
            yield
        except Exception as error:  # every store has exceptions of its own
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise PedigreeError(
                f"{self.place}/{name} could not be {what} ({text}): nothing was acknowledged. Run "
                "the same command again; what was under way is completed, never done twice."
            ) from error


def _says(error: OSError, *words: str) -> bool:
    text = f"{error} {error.__cause__}"
    return any(word in text for word in words)


def open_ledger_files(place: str, *, write: bool, filesystem: Any = None) -> LedgerFiles:
    """Return the files of a ledger at a path or URI.

    Args:
        place: a path, or a URI such as `s3://bucket/folder`.
        write: probe that creation there is exclusive, which one writer among others needs.
        filesystem: an fsspec file system, where its settings are not those of its defaults.

    Raises:
        PedigreeError: creation is not exclusive there, or nobody tried whether it is.
    """
    scheme, found, rest = place.partition("://")
    if not found or scheme in ("file", "local"):
        return LocalFiles(Path(rest if found else place))
    if write and scheme not in _EXCLUSIVE:
        raise PedigreeError(
            f"The ledger cannot be written to {place}: it is not known that of two writers that "
            f"create one name on {scheme}:// exactly one succeeds. Use a local folder or s3://."
        )
    if filesystem is None:
        import fsspec

        filesystem = fsspec.filesystem(scheme, use_listings_cache=False)
    root = str(filesystem._strip_protocol(place))
    files = ObjectFiles(place.rstrip("/"), filesystem, root.rstrip("/"))
    if write:
        require_exclusive_creation(files)
    return files


def require_exclusive_creation(files: LedgerFiles) -> None:
    """Let several writers create one name at once: exactly one must succeed, and keep its bytes.

    Raises:
        PedigreeError: another number did, so two writers could take the same place in the chain.
    """
    from concurrent.futures import ThreadPoolExecutor

    name = f"{PARTIAL}probe-{uuid.uuid4().hex}"
    values = [str(number).encode() for number in range(_PROBES)]
    try:
        with ThreadPoolExecutor(_PROBES) as pool:
            won = list(pool.map(lambda value: files.create(name, value), values))
        again = files.create(name, b"late")
        kept = files.read(name)
        winners = [value for value, first in zip(values, won, strict=True) if first]
    finally:
        files.remove(name)
    if len(winners) != 1 or again or kept != winners[0]:
        raise PedigreeError(
            f"The ledger cannot be written to {files.place}: of {_PROBES} writers that created one "
            f"name at once {len(winners)} succeeded{', and a later one did too' if again else ''}; "
            "expected exactly one. Use a local folder, or an S3 store that honours If-None-Match."
        )

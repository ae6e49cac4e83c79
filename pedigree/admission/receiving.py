"""Taking in: every file is copied without following links and hashed on the way.

The copies lie in a store by the sha256 of their bytes, read-only. They, and not the originals, are
what is scanned and what is loaded later: nobody can put other bytes between check and use.

    received = receive(Path("model/"), store)
    received.digest, [entry.path for entry in received.files]

Two files are taken at a time: a hash keeps one core busy, and large models come in several files.
"""

import errno
import hashlib
import os
import stat
import uuid
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore

from pedigree.admission.verdict import Outcome, show
from pedigree.digests import FileEntry, digest_manifest
from pedigree.errors import PedigreeError
from pedigree.files import DISK_FULL, PARTIAL, explain_disk_errors

MAX_FILES = 20_000
MAX_DEPTH = 16
_CHUNK = 1 << 20
_STEP = 16 << 20  # bytes that are copied before they are hashed
_AT_ONCE = 2  # files that are copied and hashed
_OPENED = 16  # files that are open, those included that wait for their turn
_STORE_ERRORS = (*DISK_FULL, errno.EROFS)
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class Problem:
    """What could not be taken in as it lay there: the path, a rule, the outcome and why."""

    path: str
    rule: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Received:
    """What was taken in.

    Attributes:
        store: the folder that holds each file under its sha256 (hex).
        name: the last part of the path it came from.
        folder: whether it is a folder.
        digest: ``sha256:`` of the file, or of the folder's manifest.
        files: path, size and sha256 of each file; for a folder sorted by path.
        problems: what stood in the way.
    """

    store: Path
    name: str
    folder: bool
    digest: str
    files: tuple[FileEntry, ...]
    problems: tuple[Problem, ...]

    def open(self, entry: FileEntry) -> int:
        """Return a file descriptor of the copy of one file."""
        return os.open(self.store / entry.sha256, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


@dataclass
class _Taking:
    store: Path
    pool: Executor
    files: list[FileEntry] = field(default_factory=list[FileEntry])
    problems: list[Problem] = field(default_factory=list[Problem])
    seen: int = 0
    copies: list[Future[None]] = field(default_factory=list[Future[None]])
    opened: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(_OPENED))
    full: bool = False

    def finish(self) -> None:
        """Wait for every copy; order does not depend on which was ready first."""
        for copy in self.copies:
            copy.result()
        self.files.sort(key=lambda entry: entry.path)
        self.problems.sort(key=lambda problem: problem.path)

    def problem(self, path: str, rule: str, reason: str, outcome: Outcome = "rejected") -> None:
        if len(self.problems) < MAX_FILES:
            self.problems.append(Problem(path, rule, outcome, reason))


def receive(path: Path, store: Path) -> Received:
    """Copy a file or folder into `store`, hashing on the way and following no link.

    Raises:
        PedigreeError: there is nothing at `path`, or the store cannot be written.
    """
    with explain_disk_errors(store), ThreadPoolExecutor(_AT_ONCE) as pool:
        taking = _Taking(store, pool)
        store.mkdir(parents=True, exist_ok=True)
        try:
            mode = os.lstat(path).st_mode
        except (OSError, ValueError) as error:
            raise PedigreeError(
                f"There is nothing to admit at {show(str(path), 300)} ({error}): check the path."
            ) from None
        if stat.S_ISDIR(mode):
            _take_folder(str(path), None, "", 0, taking)
        else:
            _take_file(str(path), None, path.name, taking)
        taking.finish()
    folder, files = stat.S_ISDIR(mode), tuple(taking.files)
    single = not folder and len(files) == 1
    digest = f"sha256:{files[0].sha256}" if single else digest_manifest(files)
    return Received(store, path.name, folder, digest, files, tuple(taking.problems))


def _take_folder(name: str, parent: int | None, shown: str, depth: int, taking: _Taking) -> None:
    if depth > MAX_DEPTH:
        taking.problem(shown, "tree_depth", f"folders are nested more than {MAX_DEPTH} deep.")
        return
    try:
        handle = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
    except OSError as error:
        _note_unopened(shown or ".", error, taking)
        return
    try:
        for child in sorted(os.listdir(handle)):
            taking.seen += 1
            if taking.seen > MAX_FILES:
                taking.problem(shown or ".", "tree_size", f"it has more than {MAX_FILES} files.")
                return
            below = f"{shown}/{child}" if shown else child
            mode = os.stat(child, dir_fd=handle, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                _take_folder(child, handle, below, depth + 1, taking)
            else:
                _take_file(child, handle, below, taking)
    except OSError as error:
        _note_unopened(shown or ".", error, taking)
    finally:
        os.close(handle)


def _take_file(name: str, parent: int | None, shown: str, taking: _Taking) -> None:
    """Open a file here, where its folder is open, and leave the copying to the pool."""
    taking.opened.acquire()
    try:
        handle = os.open(name, _OPEN, dir_fd=parent)
    except OSError as error:
        taking.opened.release()
        _note_unopened(shown, error, taking)
        return
    taking.copies.append(taking.pool.submit(_take_opened, handle, shown, taking))


def _take_opened(handle: int, shown: str, taking: _Taking) -> None:
    try:
        if taking.full:
            return  # the first one said so, and nothing will be kept
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            taking.problem(shown, "special_file", "it is a device, pipe or socket: not opened.")
            return
        size, digest = _copy(handle, before.st_size, taking.store)
        after = os.fstat(handle)
        same = (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
            after.st_size, after.st_mtime_ns, after.st_ctime_ns,
        )  # fmt: skip
        if not same or size != before.st_size:
            taking.problem(shown, "changed", "it changed while it was read: admit it again.")
        taking.files.append(FileEntry(path=_as_text(shown), size=size, sha256=digest))
    except OSError as error:
        if error.errno in _STORE_ERRORS:
            taking.full = True
            raise
        _note_unopened(shown, error, taking)
    finally:
        os.close(handle)
        taking.opened.release()


def _as_text(path: str) -> str:
    """Return a path whose bytes are no UTF-8 as text that can be written into a manifest."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _note_unopened(shown: str, error: OSError, taking: _Taking) -> None:
    if error.errno == errno.ELOOP:
        taking.problem(shown, "link", "it is a link: only plain files come in.")
    elif error.errno in (errno.EACCES, errno.EPERM):
        taking.problem(
            shown, "unreadable", "it may not be read, so it was not looked at.", "quarantined"
        )
    elif error.errno == errno.ENXIO:
        taking.problem(shown, "special_file", "it is a device, pipe or socket: not opened.")
    else:
        taking.problem(shown, "unreadable", f"it cannot be read ({error.strerror}).", "quarantined")


def _copy(handle: int, expected: int, store: Path) -> tuple[int, str]:
    """Copy an open file into the store; return its size in bytes and sha256 (hex).

    What is hashed is the copy, as it grows: hashing takes as long as copying, so it has a thread
    of its own. No fsync: what is read from the store later is compared with its digest.
    """
    partial = store / f"{PARTIAL}{uuid.uuid4().hex}"
    target = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        following = _FollowingDigest(target)
        with ThreadPoolExecutor(1) as hasher:
            waiting: list[Future[None]] = []
            size = 0
            # One byte more than was there shows that it grows; a file that never ends is not read.
            while size <= expected:
                count = _copy_some(handle, target, size, min(_STEP, expected + 1 - size))
                if not count:
                    break
                waiting.append(hasher.submit(following.add, size, count))
                size += count
            for pending in waiting:
                pending.result()
        os.fchmod(target, 0o400)
        digest = following.sha256.hexdigest()
        partial.replace(store / digest)
        return size, digest
    finally:
        os.close(target)
        partial.unlink(missing_ok=True)


def _copy_some(source: int, target: int, offset: int, size: int) -> int:
    """Copy at most `size` bytes at `offset`; 0 at the end. In the kernel, where it can."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, size, offset, offset)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    return os.pwrite(target, os.pread(source, min(size, _CHUNK), offset), offset)


class _FollowingDigest:
    """The sha256 of a file that another thread writes, over the parts that are there."""

    def __init__(self, handle: int) -> None:
        self.sha256 = hashlib.sha256()
        self._handle = handle
        self._buffer = memoryview(bytearray(_CHUNK))

    def add(self, offset: int, size: int) -> None:
        end = offset + size
        while offset < end:
            part = self._buffer[: min(_CHUNK, end - offset)]
            count = os.preadv(self._handle, [part], offset)
            if not count:
                raise OSError(errno.EIO, "the copy became shorter")
            self.sha256.update(part[:count])
            offset += count

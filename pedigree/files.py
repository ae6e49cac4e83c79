"""Writing so that a reader sees all of a file or none of it.

Temporary file beside the target, fsync, rename, fsync of the folder. A writer that is killed
leaves only a name that starts with `.partial-`, which nothing reads.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pedigree.digests import digest_manifest, digest_tree, hex_of
from pedigree.errors import PedigreeError

PARTIAL = ".partial-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explain_disk_errors(target: Path) -> Generator[None]:
    """Turn a full disk, a quota or a missing permission into a sentence that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise PedigreeError(
                f"The disk is full while writing {target}: nothing was kept; free some space and "
                "run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise PedigreeError(
                f"{target} cannot be written ({error.strerror}): nothing was kept; make the "
                "folder writable and run the same command again."
            ) from error
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: afterwards the file is whole, whatever happens in between."""
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
        try:
            with partial.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextmanager
def folder_written_atomically(target: Path) -> Generator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends without an error.

    A `target` that already exists is left as it is: folders are named by their content, so what
    is there already is what would have been written (readers verify it all the same).
    """
    with _partial_folder(target.parent, target) as partial:
        yield partial
        _settle(partial, target)


@contextmanager
def folder_named_by_content(parent: Path) -> Generator[Path]:
    """Yield a temporary folder that is then kept in `parent` under the digest of its content."""
    with _partial_folder(parent, parent) as partial:
        yield partial
        _settle(partial, parent / hex_of(digest_manifest(digest_tree(partial))))


@contextmanager
def _partial_folder(parent: Path, target: Path) -> Generator[Path]:
    with explain_disk_errors(target):
        parent.mkdir(parents=True, exist_ok=True)
        partial = parent / f"{PARTIAL}{uuid.uuid4().hex}"
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _settle(partial: Path, target: Path) -> None:
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    if not target.exists():
        partial.rename(target)
        sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Named members of an archive, read into memory: nothing is extracted, nothing else is looked at.

The allowlist is the call itself: only the member that the source names is opened. A path of
`outer.tar.gz!inner.txt` enters an archive inside the archive. Links, absolute names and names
with `..` are refused, and so is more than `max_bytes` of content, whatever the header claims.

    >>> read_member(Path("package.tar.gz"), "pkg/data.txt", max_bytes=10**6)
    b'...'
"""

import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from pedigree.errors import PedigreeError

_MAX_MEMBERS = 100_000
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
)


def read_member(archive: Path, member: str, max_bytes: int, called: str | None = None) -> bytes:
    """Return the bytes of one member of a zip, wheel or tar archive.

    Messages name the archive `called`, or else by its file.

    Raises:
        PedigreeError: the archive cannot be read, or the member is missing, twice there, no plain
            file, or larger than `max_bytes`.
    """
    stream: IO[bytes]
    data = b""
    with archive.open("rb") as stream:
        where = called or archive.name
        for name in member.split("!"):
            data = _read_one(stream, name, where, max_bytes)
            stream, where = io.BytesIO(data), f"{where}!{name}"
    return data


def _read_one(stream: IO[bytes], name: str, where: str, max_bytes: int) -> bytes:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise PedigreeError(f"{name!r} is no path inside an archive: name a member of {where}.")
    try:
        if zipfile.is_zipfile(stream):
            stream.seek(0)
            return _read_zip(stream, name, where, max_bytes)
        stream.seek(0)
        return _read_tar(stream, name, where, max_bytes)
    except _DAMAGED as error:
        why = " ".join(str(error).split())
        raise PedigreeError(
            f"{where} cannot be read as a zip or tar archive ({why}): check its uri."
        ) from None
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, unknown compression
        raise PedigreeError(f"{where}!{name} cannot be read ({error}).") from None


def _read_zip(stream: IO[bytes], name: str, where: str, max_bytes: int) -> bytes:
    with zipfile.ZipFile(stream) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename == name]
        _require_one(len(entries), name, where)
        if entries[0].is_dir() or (entries[0].external_attr >> 16) & 0o170000 == 0o120000:
            raise PedigreeError(f"{where}!{name} is a folder or a link: expected a plain file.")
        with archive.open(entries[0]) as content:
            return _read_at_most(content, name, where, max_bytes)


def _read_tar(stream: IO[bytes], name: str, where: str, max_bytes: int) -> bytes:
    found = 0
    data = b""
    with tarfile.open(fileobj=stream, mode="r:*") as archive:
        for count, entry in enumerate(archive):
            if count >= _MAX_MEMBERS:
                raise PedigreeError(f"{where} has more than {_MAX_MEMBERS} members: refused.")
            if entry.name != name:
                continue
            found += 1
            if not entry.isreg():
                raise PedigreeError(f"{where}!{name} is a folder or a link: expected a plain file.")
            content = archive.extractfile(entry)
            if content is None:
                raise PedigreeError(f"{where}!{name} has no content.")
            data = _read_at_most(content, name, where, max_bytes)
    _require_one(found, name, where)
    return data


def _require_one(count: int, name: str, where: str) -> None:
    if count != 1:
        raise PedigreeError(
            f"{where} has {count or 'no'} member{'s' if count > 1 else ''} named {name!r}: "
            "expected exactly one; check the source's member."
        )


def _read_at_most(content: IO[bytes], name: str, where: str, max_bytes: int) -> bytes:
    data = content.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise PedigreeError(
            f"{where}!{name} is larger than the source allows ({max_bytes} bytes): raise "
            "max_bytes if that is expected."
        )
    return data

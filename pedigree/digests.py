"""Content digests: of files, of folders, of JSON and of sets of rows.

Identity says *what* a thing is, a manifest guards its *bytes*. Everything else in Pedigree
names things by what this module returns.

    >>> digest_json({"b": 1, "a": 2})
    'sha256:d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772'
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import rfc8785
from pydantic import BaseModel, ConfigDict, Field

from pedigree.errors import PedigreeError, VerificationFailed

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_CHUNK = 1 << 20
_SAFE_INTEGER = 2**53  # RFC 8785 (I-JSON) represents no integer beyond it exactly


class FileEntry(BaseModel):
    """One file of a manifest: POSIX path relative to the folder, size in bytes, sha256 (hex)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


Manifest: TypeAlias = tuple[FileEntry, ...]


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_bytes(data: bytes) -> str:
    """Return the digest of `data`, with its algorithm: ``sha256:<hex>``."""
    return "sha256:" + sha256_hex(data)


def hex_of(digest: str) -> str:
    """Return the 64 hex digits of a ``sha256:`` digest.

    Raises:
        PedigreeError: `digest` is not a whole sha256 digest.
    """
    algorithm, _, value = digest.rpartition(":")
    if algorithm not in ("", "sha256") or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise PedigreeError(
            f"{digest!r} is not a sha256 digest: expected 'sha256:' and 64 lower-case hex digits."
        )
    return value


def canonical_json(value: JSON) -> bytes:
    """Serialise by RFC 8785 (JCS); integers beyond 2^53 become strings."""
    return rfc8785.dumps(_exact(value))  # pyright: ignore[reportArgumentType]


def _exact(value: JSON) -> JSON:
    if isinstance(value, bool | None | str | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < _SAFE_INTEGER else str(value)
    if isinstance(value, Mapping):
        return {key: _exact(item) for key, item in value.items()}
    return [_exact(item) for item in value]


def digest_json(value: JSON) -> str:
    """Return the digest of the RFC 8785 form of `value`."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> FileEntry:
    """Hash one file in a stream; the entry's path is the file's name."""
    with path.open("rb") as stream:
        value = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(path=path.name, size=os.fstat(stream.fileno()).st_size, sha256=value)


def digest_tree(folder: Path) -> Manifest:
    """Return the manifest of every file below `folder`, sorted by path.

    Raises:
        VerificationFailed: there is a link or another thing that is not a plain file. A link's
            target is outside what a manifest can guard.
    """
    entries: list[FileEntry] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise VerificationFailed(
                f"{path} is a link or a special file, which a digest cannot guard: replace it by "
                "a plain file."
            )
        if path.is_file():
            relative = path.relative_to(folder).as_posix()
            if not _is_unicode(relative):
                raise VerificationFailed(
                    f"{os.fsencode(path)!r} has a name that is no UTF-8, which a manifest cannot "
                    "hold: rename it."
                )
            entries.append(digest_file(path).model_copy(update={"path": relative}))
    return sorted_manifest(entries)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sorted_manifest(entries: Iterable[FileEntry]) -> Manifest:
    """Sort entries by path, the order in which they are digested."""
    return tuple(sorted(entries, key=lambda entry: entry.path))


def digest_manifest(manifest: Manifest) -> str:
    """Return the identity of a folder: sha256 of the RFC 8785 manifest sorted by path."""
    return digest_json([entry.model_dump() for entry in sorted_manifest(manifest)])


def find_differences(folder: Path, manifest: Manifest, beside: str | None = None) -> list[str]:
    """Compare a folder with its manifest; one sentence for each missing, extra or changed file.

    `beside` is the file that holds the manifest itself, where it lies in the same folder.
    """
    expected = {entry.path: entry for entry in manifest}
    if not folder.is_dir():
        return [f"the folder {folder} is missing"]
    found = {entry.path: entry for entry in digest_tree(folder) if entry.path != beside}
    problems = [f"{path} is missing" for path in sorted(expected.keys() - found.keys())]
    problems += [
        f"{path} is not in the manifest" for path in sorted(found.keys() - expected.keys())
    ]
    problems += [
        f"{path} changed: expected sha256 {expected[path].sha256}, found {found[path].sha256}"
        for path in sorted(expected.keys() & found.keys())
        if expected[path] != found[path]
    ]
    return problems


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 (section 2.1) Merkle tree hash of `leaves`, in the order given.

    The tree is built level by level, which gives the same root as the RFC's recursive split:
    an unpaired last node moves up unchanged.
    """
    sha256 = hashlib.sha256
    if not leaves:
        return sha256(b"").digest()
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [
            sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            pairs.append(level[-1])
        level = pairs
    return level[0]

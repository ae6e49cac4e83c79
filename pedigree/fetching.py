"""Bytes from where a source says they are, verified against its pin before anyone parses them.

`file`, `http(s)`, `s3`, `gs` and `hf` go through fsspec. `package:NAME==VERSION/FILE` is one file
of a package index, found with pip's configured index and taken by digest; nothing is installed or
built. A pin that does not fit is refused: the publisher shows different bytes to different
people at different times (split-view poisoning, Carlini et al. 2023, arXiv:2302.10149).
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from pedigree.digests import FileEntry, Manifest, digest_file, digest_manifest, hex_of
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.files import DISK_FULL, PARTIAL, explain_disk_errors

_CHUNK = 1 << 20
_PACKAGE = re.compile(r"package:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)/([^/\\]+)")


@dataclass(frozen=True)
class Fetched:
    """What was fetched: local files by name, and where and when they came from.

    `sha256` is what a pin is compared with: the file's, or for several files their manifest's.
    """

    files: tuple[tuple[FileEntry, Path], ...]
    sha256: str
    uri: str
    revision: str
    fetched_at: str


def resolve_uri(uri: str, root: Path) -> str:
    """Return a declared URI with a relative path taken from the project's folder."""
    if "://" in uri or uri.startswith("package:"):
        return uri
    return str(root / uri)


def describe_uri(uri: str, root: Path | None = None) -> str:
    """Return a declared URI as others may read it: no folder of this machine, no password.

    A file in the project is named from the project's folder, of one elsewhere only `local:NAME` is
    left. What can be fetched from anywhere stays as it is declared, but for `USER:PASSWORD@`.
    """
    # fsspec chains by "::", such as simplecache::file:///home/me/a.csv.
    return "::".join(_describe_part(part, root) for part in uri.split("::"))


def is_local(described: str) -> bool:
    """Whether `describe_uri` left only the name of a file that lies outside the project."""
    return any(re.match(r"local:[^/]", part) for part in described.split("::"))


def _describe_part(uri: str, root: Path | None) -> str:
    scheme, colon, path = uri.partition("://")
    if not colon:
        scheme, path = ("", uri) if not uri.startswith(("file:", "local:/")) else uri.split(":", 1)
    if scheme in ("http", "https", "ftp", "sftp", "ssh"):
        host, slash, rest = path.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{rest}"
    if uri.startswith("package:") or scheme not in ("", "file", "local"):
        return uri
    place = os.path.normpath((root or Path()) / path)
    if root is not None and Path(place).is_relative_to(root):
        return Path(place).relative_to(root).as_posix()
    outside = os.path.isabs(place) or place.startswith("..")
    return f"local:{os.path.basename(place)}" if outside else place


def fetch_pinned(
    uri: str,
    sha256: str | None,
    store: Path,
    *,
    name: str,
    max_bytes: int,
    cache: Path,
    now: datetime,
    members: Mapping[str, str] | None = None,
) -> Fetched:
    """Fetch `uri` into `store` and verify its pin before anything reads it.

    Args:
        uri: where the bytes are; one `*` in the last part of a path names several files.
        sha256: the pin, 64 hex digits.
        store: folder of files named by their sha256.
        name: what messages call the source.
        max_bytes: refuse more than this.
        cache: where package files, which never change, are kept between projects.
        now: time of the fetch, recorded.
        members: where `uri` is a folder, which files of it are wanted: path below it by new name.

    Raises:
        PedigreeError: there is no pin, or the bytes cannot be reached.
        VerificationFailed: the bytes are not the pinned ones; they are not kept.
    """
    if sha256 is None:
        raise PedigreeError(
            f"{name} has no sha256 pin, so its bytes could be anything: look at them, then run "
            f"`pedigree sources pin {name}`."
        )
    if uri.startswith("package:"):
        cached = cache / sha256
        if cached.is_file() and digest_file(cached).sha256 == sha256:
            match = _parse_package(uri)
            entry = digest_file(cached).model_copy(update={"path": match.group(3)})
            return _fetched([(entry, cached)], uri, f"version {match.group(2)}", now)
        store = cache
    with fetch_unverified(
        uri, store, name=name, max_bytes=max_bytes, now=now, members=members
    ) as fetched:
        if fetched.sha256 != sha256:
            raise VerificationFailed(
                f"{name} is not what was pinned: expected sha256 {sha256}, found "
                f"{fetched.sha256} at {uri}. Nothing was read from it. If the change is meant, "
                f"look at it and move the pin (a source's with `pedigree sources pin {name}`)."
            )
        kept = [(entry, _keep(path, store / entry.sha256)) for entry, path in fetched.files]
    return Fetched(tuple(kept), fetched.sha256, uri, fetched.revision, fetched.fetched_at)


@contextmanager
def fetch_unverified(
    uri: str,
    store: Path,
    *,
    name: str,
    max_bytes: int,
    now: datetime,
    members: Mapping[str, str] | None = None,
) -> Generator[Fetched]:
    """Fetch `uri` into temporary files, which are gone when the block ends."""
    temporary = store / f"{PARTIAL}{uuid.uuid4().hex}"
    with explain_disk_errors(store):
        try:
            temporary.mkdir(parents=True)
            if uri.startswith("package:"):
                files, revision = _fetch_package(uri, temporary, name, max_bytes)
            else:
                files, revision = _fetch_files(uri, temporary, name, max_bytes, members)
            yield _fetched(files, uri, revision, now, several=members is not None)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _fetched(
    files: list[tuple[FileEntry, Path]],
    uri: str,
    revision: str,
    now: datetime,
    several: bool = False,
) -> Fetched:
    files.sort(key=lambda item: item[0].path)
    manifest: Manifest = tuple(entry for entry, _ in files)
    single = len(manifest) == 1 and "*" not in uri and not several
    sha256 = manifest[0].sha256 if single else hex_of(digest_manifest(manifest))
    return Fetched(tuple(files), sha256, uri, revision, now.astimezone(UTC).isoformat())


def _keep(path: Path, target: Path) -> Path:
    """Move a verified file to its name; what is there under that name is verified by no one."""
    path.replace(target)
    return target


def _fetch_files(
    uri: str, folder: Path, name: str, max_bytes: int, members: Mapping[str, str] | None
) -> tuple[list[tuple[FileEntry, Path]], str]:
    import fsspec

    try:
        filesystem, root = cast(tuple[Any, str], fsspec.core.url_to_fs(uri))
        options = _prepare_stream(filesystem)
        filesystem.invalidate_cache()  # back ends keep listings for the life of the process
        wanted = _list_wanted(filesystem, root, members)
        if not wanted:
            raise FileNotFoundError("no file fits the pattern")
        files: list[tuple[FileEntry, Path]] = []
        revisions: list[str] = []
        budget = max_bytes
        for number, (filename, path) in enumerate(wanted):
            local = folder / str(number)
            info = cast(dict[str, Any], filesystem.info(path))
            if info.get("type") == "directory":
                raise IsADirectoryError("it is a folder; end the uri with /* to read its files")
            revisions.append(_revision(info))
            with filesystem.open(path, "rb", **options) as remote:
                entry = _copy(remote, local, filename, name, budget)
            budget -= entry.size
            files.append((entry, local))
        return files, "; ".join(dict.fromkeys(revisions))
    except PedigreeError:
        raise
    except ImportError as error:
        raise PedigreeError(
            f"{name} cannot be fetched from {uri}: {error}. Install the extra that reads it, for "
            "example `pip install 'pedigree-ml[s3]'`."
        ) from None
    except Exception as error:
        # Each fsspec back end raises errors of its own libraries; all mean the same to the user.
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        raise PedigreeError(
            f"{name} cannot be reached at {uri} ({type(error).__name__}: {detail}): check the uri "
            "and the connection, then run again. Nothing was changed."
        ) from None


def _list_wanted(
    filesystem: Any, root: str, members: Mapping[str, str] | None
) -> list[tuple[str, str]]:
    """Return name and path of each file to fetch."""
    if members is not None:
        return [(name, f"{root.rstrip('/')}/{path}") for name, path in members.items()]
    paths = cast(list[str], sorted(filesystem.glob(root))) if "*" in root else [root]
    return [(path.rsplit("/", 1)[-1], path) for path in paths]


def _prepare_stream(filesystem: Any) -> dict[str, Any]:
    """Return the options that open a file as a stream: not every HTTP server knows ranges."""
    if "http" not in cast(str | tuple[str, ...], filesystem.protocol):
        return {}
    import aiohttp

    # By default the whole answer must come within five minutes; here only silence is too long.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)
    filesystem.client_kwargs.setdefault("timeout", timeout)
    return {"block_size": 0}


def _revision(info: dict[str, Any]) -> str:
    """Return what the store says about which version this is; only the pin is trusted."""
    for key in ("VersionId", "ETag", "etag", "commit_hash", "LastModified", "mtime", "blob_id"):
        value = info.get(key)
        if value:
            if key == "mtime" and isinstance(value, int | float):
                value = datetime.fromtimestamp(value, UTC).isoformat()
            return f"{key} {value}"
    return "unknown"


def _copy(remote: Any, local: Path, filename: str, name: str, max_bytes: int) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with local.open("wb") as out:
        while chunk := cast(bytes, remote.read(_CHUNK)):
            size += len(chunk)
            if size > max_bytes:
                raise PedigreeError(
                    f"{name} is larger than its declaration allows ({max_bytes} bytes): raise "
                    "max_bytes if that is expected."
                )
            digest.update(chunk)
            out.write(chunk)
    return FileEntry(path=filename, size=size, sha256=digest.hexdigest())


def _parse_package(uri: str) -> re.Match[str]:
    match = _PACKAGE.fullmatch(uri)
    if match is None:
        raise PedigreeError(f"{uri!r} must have the form package:NAME==VERSION/FILE.")
    return match


def _fetch_package(
    uri: str, folder: Path, name: str, max_bytes: int
) -> tuple[list[tuple[FileEntry, Path]], str]:
    import requests
    import urllib3
    from pypi_simple import NoSuchProjectError, PyPISimple, UnsupportedContentTypeError

    broken = (
        requests.RequestException,
        urllib3.exceptions.HTTPError,  # of the raw stream, such as a download that is cut short
        UnsupportedContentTypeError,
    )

    project, version, filename = _parse_package(uri).groups()
    problems: list[str] = []
    for index in find_package_indexes():
        try:
            with PyPISimple(index) as client:
                page = client.get_project_page(project)
                package = next((p for p in page.packages if p.filename == filename), None)
                if package is None:
                    problems.append(f"no file {filename}")
                    continue
                url = urljoin(index, package.url)
                with requests.get(url, stream=True, timeout=60) as answer:
                    answer.raise_for_status()
                    answer.raw.decode_content = False
                    local = folder / filename
                    entry = _copy(answer.raw, local, filename, name, max_bytes)
                    return [(entry, local)], f"version {version}"
        except NoSuchProjectError:
            problems.append(f"no project {project}")
        except broken as error:
            problems.append(type(error).__name__)
    raise PedigreeError(
        f"{name} cannot be fetched: the package index has {', '.join(problems) or 'no answer'} for "
        f"{uri}. Check the connection and `pip config list`."
    )


def find_package_indexes() -> list[str]:
    """Return the http(s) package indexes that pip is configured to use, the main one first."""
    found: dict[str, str] = {}
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    # Later ones win, as for pip itself: [global], then [install], then the environment.
    sections = ("global", "install", ":env:")
    lines = [line.partition("=") for line in listing.splitlines()]
    for section in sections:
        for key, _, value in lines:
            if key.rpartition(".")[0] == section:
                found[key.rpartition(".")[2]] = value.strip("'\"")
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    main = found.get("index-url", PYPI_SIMPLE_ENDPOINT)
    candidates = [main, *found.get("extra-index-url", "").replace("\\n", " ").split()]
    return [
        index if index.endswith("/") else index + "/"
        for index in candidates
        if urlsplit(index).scheme in ("http", "https")
    ]

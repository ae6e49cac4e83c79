"""What a run is made of besides data: code, lock, installed distributions.

Captured when a run starts and kept in its record. Code is *dirty* when it differs from its
commit; files that change in normal use (parameters, DVC's pointers and lock) do not count, and are
recorded by digest instead.
"""

import importlib.metadata
import subprocess
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pedigree
from pedigree.digests import digest_file, digest_manifest, sha256_hex, sorted_manifest
from pedigree.settings import Settings

LOCK = "constraints.txt"
CODE_FOLDERS = ("pedigree", "assets", "checks", "pipelines")
_NORMAL_CHANGES = (
    "params.yaml",
    "dvc.lock",
    "*.dvc",
    "data/*/.gitignore",
    "digests/*",
    "metrics/*",
)


class Code(Settings):
    """Which code ran: its commit, whether it differed from it, and the digest of its files."""

    repository: str | None
    commit: str | None
    dirty: bool
    changed_files: tuple[str, ...]
    diff_sha256: str | None
    files_digest: str
    version: str


class Environment(Settings):
    """Which lock, and which distributions were in fact installed."""

    lock: str | None
    lock_sha256: str | None
    distributions: dict[str, str]


def find_code_root(project_root: Path) -> Path:
    """Return the checkout whose code runs: the project's own, or where `pedigree` lies."""
    if (project_root / "pedigree" / "__init__.py").is_file():
        return project_root
    return Path(pedigree.__file__).resolve().parent.parent


def capture_code(root: Path) -> Code:
    """Describe the code below `root`; a folder that is no git checkout has no commit."""
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changed = _list_changes(root) if commit is not None else []
    diff = read_diff(root, changed)
    return Code(
        repository=_repository(root),
        commit=commit,
        dirty=bool(changed) or commit is None,
        changed_files=tuple(sorted(changed)),
        diff_sha256=sha256_hex(diff.encode()) if changed else None,
        files_digest=digest_code_files(root),
        version=pedigree.__version__,
    )


def _list_changes(root: Path) -> list[str]:
    """Return the files that differ from the commit, those aside that change in normal use.

    A file that git ignores counts as well where Python would import it: it runs, and no commit
    has it.
    """
    status = ("status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", ".")
    # Git lists paths from the repository's root, which may lie above the project's.
    inside = len(_git(root, "rev-parse", "--show-prefix") or "")
    names = [item[3 + inside :] for item in (_git(root, *status) or "").split("\0")]
    ignored = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", ".")
    names += [
        name
        for name in (_git(root, *ignored) or "").split("\0")
        if name.endswith((".py", ".so")) and _is_importable(root, name)
    ]
    return sorted(
        name
        for name in names
        if name and not any(fnmatch(name, pattern) for pattern in _NORMAL_CHANGES)
    )


def list_uncommitted(root: Path, names: Sequence[str]) -> list[str] | None:
    """Return which of `names` below `root` differ from the last commit; None where there is none.

    A file that is neither there nor in the commit does not differ.
    """
    if _git(root, "rev-parse", "--verify", "HEAD") is None:
        return None
    return [
        name
        for name in names
        if _git(root, "status", "--porcelain", "--ignored", "--untracked-files=all", "--", name)
    ]


def _is_importable(root: Path, name: str) -> bool:
    top, _, rest = name.partition("/")
    return not rest or top in CODE_FOLDERS or (root / top / "__init__.py").is_file()


def read_diff(root: Path, changed: Sequence[str]) -> str:
    """Return how `changed` files differ from the commit; of an untracked file only its name."""
    return (_git(root, "diff", "HEAD", "--", *changed) or "") if changed else ""


def digest_code_files(root: Path) -> str:
    """Return the digest of every Python file of the project's packages below `root`."""
    return digest_manifest(
        sorted_manifest(
            digest_file(path).model_copy(update={"path": path.relative_to(root).as_posix()})
            for folder in CODE_FOLDERS
            for path in sorted((root / folder).rglob("*.py"))
        )
    )


def capture_environment(root: Path) -> Environment:
    """Describe the lock in `root` and the distributions that this interpreter has."""
    lock = root / LOCK
    found = {
        str(one.metadata["Name"]).lower().replace("_", "-"): one.version
        for one in importlib.metadata.distributions()
    }
    return Environment(
        lock=LOCK if lock.is_file() else None,
        lock_sha256=digest_file(lock).sha256 if lock.is_file() else None,
        distributions=dict(sorted(found.items())),
    )


def _repository(root: Path) -> str | None:
    """Return the remote's address without user name, password, token or query.

    A remote on this machine is no address: of it only `local:NAME` is told.
    """
    url = _git(root, "remote", "get-url", "origin")
    if url is None:
        return None
    if url.startswith(("file:", "/", ".", "~")) or ":" not in url:
        return f"local:{url.rstrip('/').rpartition('/')[2]}"
    if "://" not in url:
        return url  # the form HOST:PATH of ssh
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    path = path.partition("?")[0]
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    # A name or a line that is no UTF-8 is shown escaped.
    text = done.stdout.decode("utf-8", "backslashreplace")
    return text.strip("\n") if done.returncode == 0 else None

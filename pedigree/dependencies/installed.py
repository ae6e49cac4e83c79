"""Is what is installed what the lock says, byte for byte?

A lock names versions. Whether the files of these versions are the ones that their packages brought
says each distribution's RECORD, which has the sha256 of every file::

    >>> found = examine_installed(Path("constraints.txt"))
    >>> found.summary
    '268 distributions are the locked ones, and 61,204 files are as their RECORD says.'

What no distribution owns counts too where Python would run it: a `.pth` file, `sitecustomize`, a
module beside the packages.
"""

import base64
import csv
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.findings import MAX_EXAMPLES, CheckResult

# What makes an environment, and is therefore in no lock of it.
BOOTSTRAP = ("pip", "setuptools", "wheel", "pedigree-ml")
_BYTECODE = ("__pycache__",)
_WORKERS = 4


@dataclass(frozen=True)
class Installed:
    """What differs from the lock and from the packages; all empty where nothing does."""

    distributions: int
    files: int
    unlocked: tuple[str, ...]
    altered: tuple[str, ...]
    strays: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not (self.unlocked or self.altered or self.strays)

    @property
    def summary(self) -> str:
        """What was found, in one sentence."""
        if self.holds:
            return (
                f"{self.distributions} distributions are the locked ones, and {self.files:,} files "
                "are as their RECORD says."
            )
        parts = [
            f"{len(found)} {what} ({'; '.join(found[:3])}{'; …' if len(found) > 3 else ''})"
            for what, found in (
                ("distributions are not as locked", self.unlocked),
                ("files are not as their RECORD says", self.altered),
                ("files belong to no distribution and would run", self.strays),
            )
            if found
        ]
        return (
            f"The environment is not the locked one: {', '.join(parts)}. Make it anew from the "
            "lock."
        )


def normalise(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, str]:
    """Return version by normalised name of a lock that pins every line with `==`.

    Raises:
        PedigreeError: it is missing, or a line is no exact pin.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PedigreeError(f"The lock {path} cannot be read ({error.strerror}).") from None
    pins: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].partition(";")[0].strip()
        if not text or text.startswith("--hash"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s\\*,<>=!~]+)\s*\\?", text)
        if match is None:
            raise PedigreeError(
                f"{path}, line {number}: {text!r} is no exact pin: expected NAME==VERSION."
            )
        pins[normalise(match[1])] = match[2]
    return pins


def examine_installed(lock: Path, paths: Sequence[str] | None = None) -> Installed:
    """Compare this interpreter's distributions with a lock and with their own records.

    Args:
        lock: the lock.
        paths: folders to look for distributions in; None for this interpreter's own.

    Raises:
        PedigreeError: the lock cannot be read.
    """
    pins = read_lock(lock)
    found = list(
        importlib.metadata.distributions(path=list(paths))
        if paths is not None
        else importlib.metadata.distributions()
    )
    unlocked: list[str] = []
    records: list[tuple[Path, str, int | None]] = []
    altered: list[str] = []
    owned: set[Path] = set()
    for one in found:
        name, version = normalise(str(one.metadata["Name"])), one.version
        if name not in BOOTSTRAP:
            unlocked += _compare_pin(name, version, pins.get(name))
        own, problem = _read_record(one)
        owned |= {path for path, _, _ in own}
        records += own
        if problem and name not in BOOTSTRAP:
            altered.append(f"{name}: {problem}")
    with ThreadPoolExecutor(_WORKERS) as pool:
        altered += [problem for problem in pool.map(_compare_file, records) if problem]
    return Installed(
        len(found),
        len(records),
        tuple(sorted(unlocked)),
        tuple(sorted(altered)),
        tuple(sorted(_find_strays(_folders(paths), owned))),
    )


def check_environment(lock: Path) -> CheckResult:
    """Return `environment_matches_lock` of this interpreter."""
    found = examine_installed(lock)
    counts: dict[str, JSON] = {
        "distributions": found.distributions,
        "files": found.files,
        "unlocked": len(found.unlocked),
        "altered": len(found.altered),
        "strays": len(found.strays),
    }
    problems = [*found.unlocked, *found.altered, *found.strays]
    examples = tuple[dict[str, JSON], ...]({"problem": one} for one in problems[:MAX_EXAMPLES])
    return CheckResult(
        "environment_matches_lock", found.holds, found.summary, counts, examples=examples
    )


def _compare_pin(name: str, version: str, pin: str | None) -> list[str]:
    if pin is None:
        return [f"{name} {version} is not in the lock"]
    # A local version (torch's +cpu) names a build of the pinned version.
    if version != pin and version.partition("+")[0] != pin:
        return [f"{name} is {version}, the lock says {pin}"]
    return []


def _read_record(
    distribution: importlib.metadata.Distribution,
) -> tuple[list[tuple[Path, str, int | None]], str]:
    """Return (path, base64 sha256, size) of every file, or why they are not known."""
    text = distribution.read_text("RECORD")
    if text is None:
        return [], "it has no RECORD, so its files cannot be compared"
    files: list[tuple[Path, str, int | None]] = []
    for row in csv.reader(text.splitlines()):
        if len(row) != 3:
            return files, f"its RECORD has a line of {len(row)} fields"
        path = Path(str(distribution.locate_file(row[0])))
        algorithm, _, digest = row[1].partition("=")
        if row[1] and algorithm != "sha256":
            return files, f"its RECORD hashes with {algorithm}"
        files.append((path.resolve(), digest, int(row[2]) if row[2] else None))
    return files, ""


def _compare_file(entry: tuple[Path, str, int | None]) -> str:
    path, digest, size = entry
    if not digest:
        return ""  # RECORD itself and bytecode have none
    try:
        if size is not None and path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes, its RECORD says {size}"
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != digest.rstrip("="):
        return f"{path} was changed"
    return ""


def _folders(paths: Sequence[str] | None) -> list[Path]:
    names = paths if paths is not None else [one for one in sys.path if "site-packages" in one]
    return [Path(one).resolve() for one in names]


def _find_strays(folders: Iterable[Path], owned: set[Path]) -> Iterable[str]:
    """Yield code in the folders of packages that no distribution brought.

    Only where Python finds it: at the top of the folder, and within packages.
    """
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix not in (".py", ".so", ".pth") or path.is_dir() or path in owned:
                continue
            if any(part in _BYTECODE for part in path.parts):
                continue
            if path.resolve() not in owned:
                yield str(path)

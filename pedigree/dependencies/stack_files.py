"""Container files and requirements of training and serving: is every part of them pinned?

>>> [one.reason for one in examine_stack(Path("."))]
['FROM python:3.11 names a tag, which can be moved: expected NAME@sha256:…']
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import PedigreeError

_CONTAINERS = ("Dockerfile", "Containerfile")
_SKIPPED = {".git", ".venv", ".dvc", "node_modules", "mlartifacts", "mlruns", ".pedigree"}
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_PIPED = re.compile(
    r"\b(curl|wget)\b[^|;&]*\|\s*(sudo\s+)?(ba|z|da)?sh\b|\b(curl|wget)\b[^|;&]*\|\s*python"
)


@dataclass(frozen=True)
class StackFinding:
    """One line that leaves open what will be there: file, number of the line from 1, reason."""

    file: str
    line: int
    reason: str


def examine_stack(root: Path) -> list[StackFinding]:
    """Return what is not pinned in the container files and requirements below a folder.

    Raises:
        PedigreeError: a file cannot be read.
    """
    return [finding for path in sorted(_walk(root)) for finding in _examine(root, path)]


def _walk(root: Path) -> Iterator[Path]:
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name not in _SKIPPED:
                yield from _walk(path)
        elif _is_container(path) or _is_requirements(path):
            yield path


def _is_container(path: Path) -> bool:
    name = path.name
    return name.startswith(_CONTAINERS) or name.endswith(tuple(f".{one}" for one in _CONTAINERS))


def _is_requirements(path: Path) -> bool:
    return path.suffix in (".txt", ".in") and "requirements" in path.name.lower()


def _examine(root: Path, path: Path) -> Iterator[StackFinding]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PedigreeError(f"{path} cannot be read ({error}): nothing is said of it.") from None
    name = path.relative_to(root).as_posix()
    judge = _judge_container if _is_container(path) else _judge_requirements
    for number, reason in judge(text):
        yield StackFinding(name, number, reason)


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield logical lines, which a backslash continues, with the number of their first one."""
    start, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not parts and (not stripped or stripped.startswith("#")):
            continue
        if parts and stripped.startswith("#"):
            continue
        start = start if parts else number
        parts.append(stripped.removesuffix("\\").strip())
        if not stripped.endswith("\\"):
            yield start, " ".join(parts)
            parts = []
    if parts:
        yield start, " ".join(parts)


def _judge_container(text: str) -> Iterator[tuple[int, str]]:
    stages: set[str] = {"scratch"}
    for number, line in _join_lines(text):
        word, _, rest = line.partition(" ")
        if word.upper() == "FROM":
            parts = [part for part in rest.split() if not part.startswith("--")]
            image = parts[0] if parts else ""
            if image not in stages and not _DIGEST.search(image):
                yield (
                    number,
                    (f"FROM {image} names a tag, which can be moved: expected NAME@sha256:…"),
                )
            if len(parts) == 3 and parts[1].upper() == "AS":
                stages.add(parts[2])
        elif word.upper() == "ADD" and re.search(r"\bhttps?://|\bgit@", rest):
            if "--checksum=sha256:" not in rest:
                yield number, "ADD fetches an address without --checksum=sha256:…"
        elif word.upper() == "COPY" and (source := re.search(r"--from=(\S+)", rest)):
            image = source[1]
            if image not in stages and not image.isdigit() and not _DIGEST.search(image):
                yield number, f"COPY --from={image} names an image without a digest"
        elif word.upper() == "RUN":
            yield from ((number, reason) for reason in _judge_run(rest))


def _judge_run(command: str) -> Iterator[str]:
    if _PIPED.search(command):
        yield "RUN runs what it fetches from an address, whatever that is on the day"
    for match in re.finditer(r"\bpip3?\s+install\b([^;&|]*)", command):
        words = match[1].split()
        pinned_by_file = any(
            word in ("-r", "--requirement", "-c", "--constraint", "--require-hashes")
            or word.startswith(("--requirement=", "--constraint="))
            for word in words
        )
        skip = False
        for word in words:
            if skip or word.startswith("-"):
                skip = word in (
                    "-r",
                    "-c",
                    "-i",
                    "-t",
                    "--requirement",
                    "--constraint",
                    "--index-url",
                )
                continue
            is_path = word.startswith((".", "/")) or word.endswith((".whl", ".txt"))
            if not pinned_by_file and not is_path and "==" not in word:
                yield f"RUN pip install {word} pins no version"


def _judge_requirements(text: str) -> Iterator[tuple[int, str]]:
    for number, line in _join_lines(text):
        requirement = line.partition(" #")[0].partition(";")[0].strip()
        if requirement.startswith("-"):
            if requirement.startswith(("-e", "--editable")):
                yield number, f"{requirement} is whatever lies there on the day"
            continue
        name = requirement.split("--hash")[0].strip()
        if "@" in name:
            if not re.search(r"#sha256=[0-9a-f]{64}|@[0-9a-f]{40}\b", name):
                yield number, f"{name} is an address without a digest"
        elif not re.fullmatch(r"[A-Za-z0-9._-]+(\[[^]]*\])?\s*===?\s*[^\s*,<>=!~]+", name):
            yield number, f"{name} is a range: expected NAME==VERSION"

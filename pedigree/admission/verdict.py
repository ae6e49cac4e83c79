"""What a scan says: one outcome, and a finding for each reason that is not `admitted`.

`admitted`: of an allowed format, all of it looked at, nothing found. `quarantined`: nothing says
that it is hostile, and nothing shows that it is safe (a pickle, an encrypted archive, an unknown
format). `rejected`: a rule is broken, which the finding names.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pedigree.digests import JSON

Outcome: TypeAlias = Literal["admitted", "quarantined", "rejected"]

MAX_FINDINGS = 200
_SHOWN = 160


@dataclass(frozen=True)
class Limits:
    """How much work one scan may be, so that its end does not depend on what is scanned.

    Attributes:
        opcodes: pickle opcodes in all; a million take about three seconds.
        expanded: bytes that decompression may bring forth in all.
        ratio: times that content may be larger than its compressed form, beyond `small` bytes.
        small: bytes that are never a bomb.
        members: members of archives in all.
        depth: archives (or pickles) within each other.
        in_memory: bytes of one thing that is read as a whole.
        templates: characters of chat templates in all; a million take about three seconds.
    """

    opcodes: int = 20_000_000
    expanded: int = 4 << 30
    ratio: int = 200
    small: int = 64 << 20
    members: int = 20_000
    depth: int = 8
    in_memory: int = 128 << 20
    templates: int = 2_000_000


class TooMuch(Exception):
    """A limit was reached: the rest was not looked at."""


class Unreadable(Exception):
    """The content breaks its own format; the message is a clause that says how."""


@dataclass(frozen=True)
class Finding:
    """One reason against: in which file (`a.zip!b.pkl` is a member), which rule, and why."""

    file: str
    rule: str
    outcome: Outcome
    reason: str


@dataclass
class Report:
    """Collects the findings of one scan and counts its work."""

    limits: Limits = field(default_factory=Limits)
    findings: list[Finding] = field(default_factory=list[Finding])
    opcodes: int = 0
    expanded: int = 0
    members: int = 0
    templates: int = 0
    unlisted: int = 0

    def reject(self, file: str, rule: str, reason: str) -> None:
        """Note what must not come in."""
        self.add(Finding(show(file, 1000), rule, "rejected", reason))

    def quarantine(self, file: str, rule: str, reason: str) -> None:
        """Note what was not shown to be safe."""
        self.add(Finding(show(file, 1000), rule, "quarantined", reason))

    def add(self, finding: Finding) -> None:
        """Note a finding, once; the worst is never lost to a full list."""
        if finding in self.findings:
            return
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)
            return
        self.unlisted += 1
        if finding.outcome == "rejected" and self.outcome != "rejected":
            self.findings[-1] = finding

    @property
    def outcome(self) -> Outcome:
        """The worst of all findings; `admitted` where there is none."""
        return worst(finding.outcome for finding in self.findings)

    def spend_opcodes(self, count: int) -> None:
        """Count `count` opcodes.

        Raises:
            TooMuch: there are more than the limit.
        """
        self.opcodes += count
        if self.opcodes > self.limits.opcodes:
            raise TooMuch(f"more than {self.limits.opcodes} pickle opcodes")

    def spend_member(self) -> None:
        """Count a member of an archive.

        Raises:
            TooMuch: there are more than the limit.
        """
        self.members += 1
        if self.members > self.limits.members:
            raise TooMuch(f"more than {self.limits.members} members of archives")

    def spend_template(self, count: int) -> None:
        """Count characters of chat templates.

        Raises:
            TooMuch: there are more than the limit.
        """
        self.templates += count
        if self.templates > self.limits.templates:
            raise TooMuch(f"more than {self.limits.templates} characters of chat templates")

    def spend_expanded(self, count: int) -> None:
        """Count bytes that decompression brought forth.

        Raises:
            TooMuch: there are more than the limit.
        """
        self.expanded += count
        if self.expanded > self.limits.expanded:
            raise TooMuch(f"more than {self.limits.expanded} bytes after decompression")


@dataclass(frozen=True)
class ScannedFile:
    """A file that was looked at: its path, what its content is, its size and sha256 (hex)."""

    path: str
    kind: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Scan:
    """The verdict on one received file or folder.

    Attributes:
        outcome: admitted, quarantined or rejected.
        digest: of the bytes that were scanned: a file's sha256, or a folder's manifest digest.
        findings: every reason against, up to 200; the worst decides the outcome.
        files: what was looked at.
        unlisted: findings beyond those listed.
    """

    outcome: Outcome
    digest: str
    findings: tuple[Finding, ...]
    files: tuple[ScannedFile, ...]
    unlisted: int = 0

    def describe(self) -> dict[str, JSON]:
        """Return the scan for `--json`."""
        return {
            "state": self.outcome,
            "digest": self.digest,
            "findings": [vars(finding) for finding in self.findings],
            "unlisted": self.unlisted,
            "files": [vars(file) for file in self.files],
        }


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of several outcomes; `admitted` where there is none."""
    found = set(outcomes)
    if "rejected" in found:
        return "rejected"
    return "quarantined" if "quarantined" in found else "admitted"


def words(text: str) -> frozenset[str]:
    """Return the words of a list that is written as one text."""
    return frozenset(text.split())


def show(text: str, limit: int = _SHOWN) -> str:
    """Return a foreign string so that it can be printed: escaped, and cut at `limit`."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(
        c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else _escape(c) for c in cut
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

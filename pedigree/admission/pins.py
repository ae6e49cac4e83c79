"""What was expected of an artifact, and in what it differs: changed, extra and missing files."""

from dataclasses import dataclass

from pedigree.admission.receiving import Received
from pedigree.admission.verdict import Finding, show
from pedigree.digests import FileEntry, Manifest


@dataclass(frozen=True)
class Pin:
    """What an artifact has to be, and who says so.

    Attributes:
        digest: the digest that was declared.
        said_by: where it is declared, for people.
        files: the manifest behind the digest, where it is known; it names what differs.
    """

    digest: str
    said_by: str
    files: Manifest | None = None


def compare_with_pin(received: Received, pin: Pin) -> list[Finding]:
    """Return a finding for each difference; none if the artifact is the pinned one."""
    if received.digest == pin.digest:
        return []
    differences = find_differing_files(received.files, pin.files or ())
    if pin.files is not None and differences:
        return differences
    return [
        _refuse(
            received.name,
            "pin_digest",
            f"it is not the artifact that {pin.said_by} pins: expected {pin.digest}, found "
            f"{received.digest}.",
        )
    ]


def find_differing_files(
    found: tuple[FileEntry, ...], expected: Manifest, prefix: str = "pin"
) -> list[Finding]:
    """Compare two manifests, file by file; the rules are PREFIX_changed, _extra and _missing."""
    here = {entry.path: entry for entry in found}
    there = {entry.path: entry for entry in expected}
    problems: list[Finding] = []
    for path in sorted(here.keys() | there.keys()):
        if path not in there:
            reason = "it is an extra file: what was published does not have it."
            problems.append(_refuse(path, f"{prefix}_extra", reason))
        elif path not in here:
            reason = "it is missing: what was published has it."
            problems.append(_refuse(path, f"{prefix}_missing", reason))
        elif here[path].sha256 != there[path].sha256:
            reason = (
                f"its bytes are not the published ones: expected sha256 {there[path].sha256}, "
                f"found {here[path].sha256}."
            )
            problems.append(_refuse(path, f"{prefix}_changed", reason))
    return problems


def _refuse(path: str, rule: str, reason: str) -> Finding:
    return Finding(show(path, 1000), rule, "rejected", reason)

"""Second opinions: picklescan on pickles, in this process; it lists imports and loads nothing.

Another scanner can only speak against an artifact. A file that it could not read in full, or that
is too large for it, is counted as such, and never as clean. It is asked where our own scan rejected
nothing, so bombs do not reach it. modelaudit, where a policy asks it too: `modelaudit.py`.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from pedigree.admission.receiving import Received
from pedigree.admission.verdict import Finding, Scan, show, worst
from pedigree.digests import JSON

KINDS = ("pickle", "zip")
MAX_BYTES = 256 << 20  # it reads in pure Python, about 5 MB of opcodes a second


@dataclass(frozen=True)
class Opinion:
    """What another scanner said: its findings, and the words for the record."""

    findings: tuple[Finding, ...]
    said: dict[str, JSON]


def hear(scan: Scan, opinions: Sequence[Opinion]) -> Scan:
    """Return the scan with what others found; nothing that they say makes it milder."""
    findings = [finding for opinion in opinions for finding in opinion.findings]
    outcome = worst([scan.outcome, *(finding.outcome for finding in findings)])
    return replace(scan, outcome=outcome, findings=(*scan.findings, *findings))


def scanner_version() -> str:
    """Return the version of picklescan, or `absent`."""
    try:
        return version("picklescan")
    except PackageNotFoundError:
        return "absent"


def ask_picklescan(received: Received, scan: Scan) -> Opinion:
    """Ask picklescan about each pickle received; what it calls dangerous is rejected."""
    wanted = {one.path: one.kind for one in scan.files if one.kind in KINDS}
    if scan.outcome == "rejected" or not wanted:
        return Opinion((), {"scanner": "picklescan", "asked": 0})
    findings: list[Finding] = []
    incomplete: list[JSON] = []
    for entry in received.files:
        if entry.path not in wanted:
            continue
        if entry.size > MAX_BYTES or scanner_version() == "absent":
            incomplete.append(entry.path)
            continue
        with os.fdopen(received.open(entry), "rb") as stream:
            dangerous, complete = _ask(stream, wanted[entry.path])
        if not complete:
            incomplete.append(entry.path)
        if dangerous:
            reason = f"picklescan calls {', '.join(map(show, dangerous[:5]))} dangerous."
            findings.append(Finding(show(entry.path, 1000), "second_opinion", "rejected", reason))
    said: dict[str, JSON] = {
        "scanner": "picklescan",
        "version": scanner_version(),
        "asked": len(wanted),
        "incomplete": incomplete,
        "against": len(findings),
    }
    return Opinion(tuple(findings), said)


def _ask(stream: IO[bytes], kind: str) -> tuple[list[str], bool]:
    """Return the imports that it calls dangerous, and whether it read the file in full."""
    from picklescan import scanner

    logging.getLogger("picklescan").setLevel(logging.CRITICAL)
    module: Any = scanner
    try:
        if kind == "zip":
            found = module.scan_zip_bytes(stream, "file")
        else:
            found = module.scan_pickle_bytes(stream, "file")
    except Exception:
        return [], False  # whatever a hostile file may make of it, it is not clean
    dangerous = [
        f"{one.module}.{one.name}" for one in found.globals if one.safety.value == "dangerous"
    ]
    return dangerous, bool(found.scanned_files) and not found.scan_err

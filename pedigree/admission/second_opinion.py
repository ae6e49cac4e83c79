"""A second opinion on pickles: picklescan, in this process; it lists imports and loads nothing.

It can only speak against an artifact. A file that it could not read in full, or that is too large
for it, is counted as such, and never as clean. It is asked where our own scan rejected nothing, so
bombs do not reach it.
"""

import logging
import os
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from pedigree.admission.receiving import Received
from pedigree.admission.verdict import Finding, Scan, show
from pedigree.digests import JSON

KINDS = ("pickle", "zip")
MAX_BYTES = 256 << 20  # it reads in pure Python, about 5 MB of opcodes a second


@dataclass(frozen=True)
class SecondOpinion:
    """What another scanner said: the scan with its findings, and the words for the record."""

    scan: Scan
    said: dict[str, JSON]


def scanner_version() -> str:
    """Return the version of picklescan, or `absent`."""
    try:
        return version("picklescan")
    except PackageNotFoundError:
        return "absent"


def ask_second_opinion(received: Received, scan: Scan) -> SecondOpinion:
    """Ask picklescan about each pickle received; what it calls dangerous is rejected."""
    wanted = {one.path: one.kind for one in scan.files if one.kind in KINDS}
    if scan.outcome == "rejected" or not wanted:
        return SecondOpinion(scan, {"scanner": "picklescan", "asked": 0})
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
        "asked": len(wanted),
        "incomplete": incomplete,
        "against": len(findings),
    }
    if findings:
        scan = replace(scan, outcome="rejected", findings=(*scan.findings, *findings))
    return SecondOpinion(scan, said)


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

"""Reports of known vulnerabilities, taken in from the scanners that people use, and signed.

pip-audit, OSV-Scanner, Trivy and Grype write JSON of their own; each is read into the same lines.
The statement is about the lock that the report is about, and says when the scan was made::

    >>> report = read_report(Path("audit.json"), scanned_on=None)
    >>> record_report(store, report, Path("constraints.txt"), now)

A severity that the scanner does not say is `unknown`, and counts as the gravest.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pedigree.dependencies.installed import normalise, read_lock
from pedigree.digests import digest_file
from pedigree.errors import PedigreeError
from pedigree.evidence.ledger_verification import CLOCK_SKEW
from pedigree.evidence.store import EvidenceStore, Statement

Severity: TypeAlias = Literal["low", "medium", "high", "critical", "unknown"]
RANKS: dict[str, int] = {"low": 1, "medium": 2, "high": 3, "critical": 4, "unknown": 5}
_WORDS: dict[str, Severity] = {
    "negligible": "low", "low": "low", "minor": "low", "moderate": "medium", "medium": "medium",
    "important": "high", "high": "high", "critical": "critical",
}  # fmt: skip
MAX_BYTES = 200_000_000


@dataclass(frozen=True)
class Vulnerability:
    """One known flaw of one installed version."""

    id: str
    package: str
    version: str
    severity: Severity


@dataclass(frozen=True)
class Report:
    """What one scan said.

    `covered` has every package that the scanner says it looked at; None where it names only the
    vulnerable ones.
    """

    tool: str
    scanned_on: datetime
    found: tuple[Vulnerability, ...]
    covered: dict[str, str] | None
    sha256: str


def read_report(path: Path, scanned_on: datetime | None) -> Report:
    """Read a report.

    Args:
        path: JSON of pip-audit, OSV-Scanner, Trivy or Grype.
        scanned_on: when the scan was made, for the scanners that do not say it.

    Raises:
        PedigreeError: it is none of them, or nobody says when the scan was made.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PedigreeError(f"{path} is larger than {MAX_BYTES:,} bytes: expected a report.")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise PedigreeError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise PedigreeError(f"{path} is no JSON: expected a scanner's report.") from None
    for tool, (fits, read, time_of) in _READERS.items():
        if isinstance(content, dict) and fits(content):
            try:
                found = tuple(sorted(set(read(content)), key=lambda v: (v.package, v.id)))
                stated = time_of(content)
                covered = _read_coverage(content) if tool == "pip-audit" else None
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise PedigreeError(
                    f"{path} looks like a report of {tool}, but {error} is missing or odd in it: "
                    "write it anew."
                ) from None
            when = stated or scanned_on
            if when is None:
                raise PedigreeError(
                    f"{path}, a report of {tool}, does not say when the scan was made: give the "
                    "time (--scanned-on)."
                )
            if stated and scanned_on:
                raise PedigreeError(
                    f"{path} says that the scan was made on {stated}: leave --scanned-on out."
                )
            return Report(tool, when, found, covered, digest_file(path).sha256)
    raise PedigreeError(
        f"{path} is no report that is known: expected JSON of {', '.join(_READERS)}."
    )


def record_report(store: EvidenceStore, report: Report, lock: Path, now: datetime) -> Statement:
    """Sign what a report says about the environment of a lock.

    Raises:
        PedigreeError: the report is about other packages than the lock's, or from the future.
    """
    pins = read_lock(lock)
    if report.scanned_on > now + CLOCK_SKEW:
        raise PedigreeError(
            f"The scan is dated {report.scanned_on}, which is in the future: correct the clock."
        )
    _require_about(report, pins)
    return store.write(
        "vulnerabilities",
        [{"name": lock.name, "digest": {"sha256": digest_file(lock).sha256}}],
        {
            "tool": report.tool,
            "report": {"sha256": report.sha256},
            "scannedOn": report.scanned_on.astimezone(UTC).isoformat(),
            "recordedOn": now.astimezone(UTC).isoformat(),
            "coverage": "stated" if report.covered is not None else "not stated",
            "found": [
                {"id": v.id, "package": v.package, "version": v.version, "severity": v.severity}
                for v in report.found
            ],
        },
    )


def _require_about(report: Report, pins: dict[str, str]) -> None:
    """Refuse a report about another environment: it says nothing of this one."""
    if report.covered is None:
        return
    other = [
        f"{name} {version} (locked: {pins[name]})"
        for name, version in report.covered.items()
        if name in pins and not _same(version, pins[name])
    ]
    unseen = sorted(pins.keys() - report.covered.keys())
    if other or unseen:
        what = f"it looked at {', '.join(other[:3])}" if other else "it did not look at all of it"
        rest = f"{', '.join(unseen[:3])} and more" if len(unseen) > 3 else ", ".join(unseen)
        raise PedigreeError(
            f"The report is about another environment than the lock's: {what}"
            f"{f'; not looked at: {rest}' if unseen else ''}. Scan the environment that was made "
            "from the lock."
        )


def _same(version: str, pin: str) -> bool:
    return version == pin or version.partition("+")[0] == pin


def find_vulnerability_problems(
    store: EvidenceStore,
    lock_sha256: str | None,
    max_age_days: float,
    from_severity: Severity,
    now: datetime,
) -> list[str]:
    """Return why the environment of a lock is not known to be free of grave flaws.

    Args:
        store: the project's evidence.
        lock_sha256: of the lock that a model was trained with.
        max_age_days: how old the newest scan may be.
        from_severity: the least severity that counts.
        now: the present time.
    """
    if lock_sha256 is None:
        return ["no lock was recorded, so no report of vulnerabilities can be about it"]
    statements, problems = store.about(lock_sha256, "vulnerabilities")
    newest = max(statements, key=lambda one: str(one.predicate["scannedOn"]), default=None)
    if newest is None:
        why = f" ({problems[0]})" if problems else ""
        return [
            f"the policy demands a report of vulnerabilities about the lock {lock_sha256[:12]}…, "
            f"and there is none{why}: scan it, and `pedigree dependencies --report FILE`"
        ]
    scanned = datetime.fromisoformat(str(newest.predicate["scannedOn"]))
    if scanned > now + CLOCK_SKEW:
        return [f"the newest report of vulnerabilities is dated {scanned}, in the future"]
    if (now - scanned).total_seconds() > max_age_days * 86400:
        return [
            f"the newest report of vulnerabilities is from {scanned}, and the policy asks for at "
            f"most {max_age_days:g} days: scan again"
        ]
    grave = [
        f"{one['package']} {one['version']}: {one['id']} ({one['severity']})"
        for one in newest.predicate["found"]
        if RANKS[one["severity"]] >= RANKS[from_severity]
    ]
    if not grave:
        return []
    more = f" and {len(grave) - 3} more" if len(grave) > 3 else ""
    return [f"known vulnerabilities from {from_severity} on: {', '.join(grave[:3])}{more}"]


def _word(text: object) -> Severity:
    return _WORDS.get(str(text).lower(), "unknown")


def _time(text: object) -> datetime | None:
    """Return a scanner's time; Go writes nine digits of a second, and Z for UTC."""
    if not text:
        return None
    cut = re.sub(r"(\.\d{6})\d+", r"\1", str(text)).replace("Z", "+00:00")
    when = datetime.fromisoformat(cut)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _read_pip_audit(content: dict[str, Any]) -> Iterator[Vulnerability]:
    for one in content["dependencies"]:
        for flaw in one.get("vulns", []):
            yield Vulnerability(flaw["id"], normalise(one["name"]), one["version"], "unknown")


def _read_coverage(content: dict[str, Any]) -> dict[str, str]:
    # A dependency that was skipped has no version: it was not looked at.
    return {
        normalise(one["name"]): one["version"]
        for one in content["dependencies"]
        if "version" in one
    }


def _read_osv(content: dict[str, Any]) -> Iterator[Vulnerability]:
    for result in content["results"]:
        for one in result["packages"]:
            name, version = one["package"]["name"], one["package"]["version"]
            scores = {
                flaw: group.get("max_severity", "")
                for group in one.get("groups", [])
                for flaw in group["ids"]
            }
            for flaw in one.get("vulnerabilities", []):
                said = flaw.get("database_specific", {}).get("severity")
                severity = _word(said) if said else _from_score(scores.get(flaw["id"], ""))
                yield Vulnerability(flaw["id"], normalise(name), version, severity)


def _from_score(score: str) -> Severity:
    """Return the word for a CVSS score, by CVSS 3.1's own table."""
    try:
        value = float(score)
    except ValueError:
        return "unknown"
    if value >= 9:
        return "critical"
    if value >= 7:
        return "high"
    return "medium" if value >= 4 else "low"


def _read_trivy(content: dict[str, Any]) -> Iterator[Vulnerability]:
    for result in content.get("Results") or []:
        for flaw in result.get("Vulnerabilities") or []:
            yield Vulnerability(
                flaw["VulnerabilityID"],
                normalise(flaw["PkgName"]),
                flaw["InstalledVersion"],
                _word(flaw.get("Severity")),
            )


def _read_grype(content: dict[str, Any]) -> Iterator[Vulnerability]:
    for one in content["matches"]:
        yield Vulnerability(
            one["vulnerability"]["id"],
            normalise(one["artifact"]["name"]),
            one["artifact"]["version"],
            _word(one["vulnerability"].get("severity")),
        )


_Fits: TypeAlias = Callable[[dict[str, Any]], bool]
_Read: TypeAlias = Callable[[dict[str, Any]], Iterator[Vulnerability]]
_TimeOf: TypeAlias = Callable[[dict[str, Any]], datetime | None]
_READERS: dict[str, tuple[_Fits, _Read, _TimeOf]] = {
    "pip-audit": (lambda c: "dependencies" in c, _read_pip_audit, lambda c: None),
    "OSV-Scanner": (lambda c: "results" in c, _read_osv, lambda c: None),
    "Trivy": (lambda c: "SchemaVersion" in c, _read_trivy, lambda c: _time(c.get("CreatedAt"))),
    "Grype": (
        lambda c: "matches" in c,
        _read_grype,
        lambda c: _time(c.get("descriptor", {}).get("timestamp")),
    ),
}

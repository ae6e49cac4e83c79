"""Reports of four scanners, in their own forms, and what a policy makes of them."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pedigree.dependencies.sbom import describe_environment
from pedigree.dependencies.vulnerabilities import (
    find_vulnerability_problems,
    read_report,
    record_report,
)
from pedigree.digests import digest_file
from pedigree.errors import PedigreeError
from pedigree.evidence.policy import load_policy
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.project import Project
from tests.conftest import REPOSITORY

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WHEN = NOW - timedelta(days=1)
PIP_AUDIT = {
    "dependencies": [
        {"name": "Old.Thing", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]},
        {"name": "other", "version": "2.0", "vulns": []},
    ],
    "fixes": [],
}
OSV = {
    "results": [
        {
            "source": {"path": "constraints.txt", "type": "lockfile"},
            "packages": [
                {
                    "package": {"name": "old-thing", "version": "1.0", "ecosystem": "PyPI"},
                    "vulnerabilities": [
                        {"id": "GHSA-1", "database_specific": {"severity": "MODERATE"}},
                        {"id": "PYSEC-2"},
                        {"id": "PYSEC-3"},
                    ],
                    "groups": [{"ids": ["PYSEC-2"], "max_severity": "9.8"}],
                }
            ],
        }
    ]
}
TRIVY = {
    "SchemaVersion": 2,
    "CreatedAt": "2026-11-24T12:00:00.123456789Z",
    "Results": [
        {"Target": "python", "Class": "lang-pkgs"},
        {
            "Target": "python",
            "Vulnerabilities": [
                {"VulnerabilityID": "CVE-1", "PkgName": "old_thing", "InstalledVersion": "1.0",
                 "Severity": "HIGH"}
            ],
        },
    ],
}  # fmt: skip
GRYPE = {
    "matches": [
        {
            "vulnerability": {"id": "GHSA-2", "severity": "Low"},
            "artifact": {"name": "old-thing", "version": "1.0", "type": "python"},
        }
    ],
    "descriptor": {"name": "grype", "timestamp": "2026-11-24T12:00:00+00:00"},
}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "constraints.txt"
    path.write_text("old-thing==1.0\nother==2.0\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    policy = load_policy(REPOSITORY / "policy.yaml")
    return open_store(Project(tmp_path / "project"), policy, write=True)


@pytest.mark.parametrize(
    ("content", "tool", "given", "found"),
    [
        (PIP_AUDIT, "pip-audit", WHEN, [("PYSEC-1", "unknown")]),
        (OSV, "OSV-Scanner", WHEN,
         [("GHSA-1", "medium"), ("PYSEC-2", "critical"), ("PYSEC-3", "unknown")]),
        (TRIVY, "Trivy", None, [("CVE-1", "high")]),
        (GRYPE, "Grype", None, [("GHSA-2", "low")]),
    ],
)  # fmt: skip
def test_each_scanner_is_read(
    tmp_path: Path, content: object, tool: str, given: datetime | None, found: list[Any]
) -> None:
    report = read_report(write(tmp_path, content), given)
    assert report.tool == tool
    assert abs(report.scanned_on - WHEN) < timedelta(seconds=1)
    assert [(one.id, one.severity) for one in report.found] == found
    assert {(one.package, one.version) for one in report.found} == {("old-thing", "1.0")}
    if given is None:
        with pytest.raises(PedigreeError, match="leave --scanned-on out"):
            read_report(tmp_path / "report.json", WHEN)
    else:
        with pytest.raises(PedigreeError, match="does not say when"):
            read_report(tmp_path / "report.json", None)


@pytest.mark.parametrize(
    "content", [[], {}, "text", {"matches": [{}]}, {"dependencies": [{"vulns": [{}]}]},
                {"results": 5}, {"SchemaVersion": 2, "CreatedAt": "yesterday"}],
)  # fmt: skip
def test_what_is_no_report_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(PedigreeError, match=r"no report|missing or odd"):
        read_report(write(tmp_path, content), WHEN)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(PedigreeError, match="is no JSON"):
        read_report(tmp_path / "report.json", WHEN)
    with pytest.raises(PedigreeError, match="cannot be read"):
        read_report(tmp_path / "none.json", WHEN)


def problems(store: EvidenceStore, lock: Path, **more: Any) -> list[str]:
    sha256 = digest_file(lock).sha256
    values = {"max_age_days": 30, "from_severity": "high", "now": NOW, **more}
    return find_vulnerability_problems(store, sha256, **values)


def test_the_newest_report_decides_by_age_and_severity(
    store: EvidenceStore, lock: Path, tmp_path: Path
) -> None:
    assert "there is none" in problems(store, lock)[0]
    record_report(store, read_report(write(tmp_path, GRYPE), None), lock, NOW)
    assert problems(store, lock) == []
    assert "GHSA-2 (low)" in problems(store, lock, from_severity="low")[0]
    assert "at most 30 days" in problems(store, lock, now=NOW + timedelta(days=31))[0]
    later = {**TRIVY, "CreatedAt": "2026-11-25T11:00:00Z"}
    record_report(store, read_report(write(tmp_path, later), None), lock, NOW)
    assert "old-thing 1.0: CVE-1 (high)" in problems(store, lock)[0]
    lock.write_text("old-thing==1.1\n")
    assert "there is none" in problems(store, lock)[0]
    assert "no lock was recorded" in find_vulnerability_problems(store, None, 30, "high", NOW)[0]


def test_a_flaw_of_unknown_severity_stops_a_promotion(
    store: EvidenceStore, lock: Path, tmp_path: Path
) -> None:
    record_report(store, read_report(write(tmp_path, PIP_AUDIT), WHEN), lock, NOW)
    assert "PYSEC-1 (unknown)" in problems(store, lock, from_severity="critical")[0]


def test_a_report_about_another_environment_or_from_the_future_is_refused(
    store: EvidenceStore, lock: Path, tmp_path: Path
) -> None:
    report = read_report(write(tmp_path, PIP_AUDIT), WHEN)
    with pytest.raises(PedigreeError, match="in the future"):
        record_report(store, report, lock, WHEN - timedelta(days=1))
    lock.write_text("old-thing==1.1\nother==2.0\n")
    with pytest.raises(PedigreeError, match=r"looked at old-thing 1.0 \(locked: 1.1\)"):
        record_report(store, report, lock, NOW)
    lock.write_text("old-thing==1.0\nother==2.0\nunseen==3\n")
    with pytest.raises(PedigreeError, match="not looked at: unseen"):
        record_report(store, report, lock, NOW)


def test_the_sbom_is_valid_by_the_standards_own_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [path for path in sys.path if "site-packages" in path]
    monkeypatch.setattr(sys, "path", [*sys.path, *[f"{path}/." for path in twice]])
    bom = describe_environment("ab" * 32, NOW)
    errors = JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(bom))
    assert errors is None, errors
    names = {str(one["name"]) for one in bom["components"]}  # type: ignore[index, call-overload, union-attr]
    assert {"torch", "dagster", "pyarrow"} <= names

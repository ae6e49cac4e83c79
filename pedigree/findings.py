"""What a check finds: rows with a reason, and the result that they add up to.

A check is a pure function from a table to a `CheckResult`; it neither writes nor decides what
happens next. `to_table` gives the findings as one Arrow table, worst first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from pedigree.digests import JSON, sha256_hex
from pedigree.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

Severity: TypeAlias = Literal["INFO", "WARN", "ERROR"]

MAX_EXAMPLES = 20
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Finding:
    """One flagged row: its 0-based position, how suspect (higher is more), why, and with whom."""

    row: int
    score: float
    severity: Severity
    reason: str
    group: str


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check on one subject.

    Attributes:
        check: name of the check.
        passed: whether what the check claims holds.
        summary: one sentence with the count, the threshold and, if it failed, the way out.
        counts: figures for people and for the verdict.
        findings: flagged rows; a failed check of a whole may have none.
        examples: at most 20 records to look at, worst first.
    """

    check: str
    passed: bool
    summary: str
    counts: dict[str, JSON] = field(default_factory=dict[str, JSON])
    findings: tuple[Finding, ...] = ()
    examples: tuple[dict[str, JSON], ...] = ()

    @property
    def applicable(self) -> bool:
        """Whether the check could judge; `counts` says so where it could not.

        One that could not has found nothing, and has not passed either: a gate that demands it
        stays shut. Its summary says why.
        """
        return self.counts.get("applicable", True) is True

    @property
    def outcome(self) -> Literal["PASSED", "WARNED", "FAILED", "NOT_APPLICABLE"]:
        """What the result says in one word."""
        if not self.applicable:
            return "NOT_APPLICABLE"
        named = {"INFO": "PASSED", "WARN": "WARNED", "ERROR": "FAILED"}
        return cast(Literal["PASSED", "WARNED", "FAILED"], named[self.severity])

    @property
    def severity(self) -> Severity:
        """The worst that the result says."""
        if not self.passed:
            return "ERROR"
        return "WARN" if any(f.severity == "WARN" for f in self.findings) else "INFO"


def not_applicable(check: str, reason: str) -> CheckResult:
    """Return the result of a check that could not judge, with the reason as a clause."""
    return CheckResult(check, True, f"not applicable: {reason}.", {"applicable": False})


def show_text(texts: "Sequence[str] | pa.Array | pa.ChunkedArray", row: int) -> str:
    """Return the beginning of a row's text, for an example."""
    text = cast(Any, texts)[row]
    return (text if isinstance(text, str) else text.as_py())[:_SHOWN_CHARACTERS]


def to_table(results: Sequence[CheckResult]) -> "pa.Table":
    """Return the findings of several checks as one table, by check, worst first."""
    import pyarrow as pa

    strings = ("severity", "reason", "group")
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("check", pa.string(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            *[pa.field(name, pa.string(), nullable=False) for name in strings],
        ]
    )
    records = [
        {
            "row": finding.row,
            "check": result.check,
            "score": finding.score,
            "severity": finding.severity,
            "reason": finding.reason,
            "group": finding.group,
        }
        for result in results
        for finding in sorted(result.findings, key=lambda f: (-f.score, f.row))
    ]
    return pa.Table.from_pylist(records, schema)


def write_findings(results: Sequence[CheckResult], path: Path) -> None:
    """Write the findings of several checks as one Parquet file."""
    write_atomically(path, _to_parquet(results))


def save_findings(result: CheckResult, folder: Path) -> Path | None:
    """Keep every finding of a check, named by its content; None where there is none."""
    if not result.findings:
        return None
    data = _to_parquet([result])
    path = folder / f"{result.check}-{sha256_hex(data)}.parquet"
    write_atomically(path, data)
    return path


def _to_parquet(results: Sequence[CheckResult]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    pq.write_table(to_table(results), out)
    return out.getvalue().to_pybytes()

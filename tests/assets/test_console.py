"""What a run prints: a line an asset and a check, and why a check warns."""

from pathlib import Path

import dagster as dg
import pytest

from pipelines.console import readable
from pipelines.run import _explain  # pyright: ignore[reportPrivateUsage]

SUMMARY = "not applicable: nobody is named\nin the column"


@pytest.mark.parametrize("outcome", ["passed", "WARN", "ERROR"])
def test_a_warning_says_why(outcome: str, capfd: pytest.CaptureFixture[str]) -> None:
    @dg.asset
    def rows() -> None: ...

    @dg.asset_check(asset=rows)
    def votes() -> dg.AssetCheckResult:
        severity = dg.AssetCheckSeverity("ERROR" if outcome == "ERROR" else "WARN")
        return dg.AssetCheckResult(
            passed=outcome == "passed", severity=severity, description=SUMMARY
        )

    job = dg.define_asset_job("job", [rows])
    made = dg.Definitions([rows], asset_checks=[votes], jobs=[job], loggers={"readable": readable})
    made.resolve_job_def("job").execute_in_process(run_config={"loggers": {"readable": {}}})
    said = [one for one in capfd.readouterr().err.splitlines() if not one.startswith("mater")]
    first = f"check {outcome:<7} rows: votes"
    reason = [" " * 14 + "not applicable: nobody is named in the column"]
    assert said == [first, *(reason if outcome == "WARN" else [])]


def test_a_failed_check_says_where_every_row_of_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    @dg.asset
    def rows() -> None: ...

    @dg.asset_check(asset=rows, blocking=True)
    def votes() -> dg.AssetCheckResult:
        path = dg.MetadataValue.path(str(Path.cwd() / ".pedigree" / "findings" / "votes.parquet"))
        return dg.AssetCheckResult(
            passed=False,
            description="2 rows are wrong.",
            metadata={"digest": "sha256:ab", "all_findings": path},
        )

    job = dg.define_asset_job("job", [rows])
    made = dg.Definitions([rows], asset_checks=[votes], jobs=[job])
    result = made.resolve_job_def("job").execute_in_process(raise_on_error=False)
    assert _explain(result) == 1
    assert (
        "pedigree: votes failed on rows (sha256:ab): 2 rows are wrong. Every row of it: "
        ".pedigree/findings/votes.parquet\n"
    ) in capfd.readouterr().err

"""Planted poison stops the run, and every later run that would use the poisoned data."""

import random

import dagster as dg
import mlflow
import pyarrow.parquet as pq

from pedigree.evidence.store import open_store
from pedigree.project import Project
from tests.conftest import declare_source, errors_of, review_rows, run_job, write_csv


def _plant(project: Project, share: float) -> list[str]:
    """Copy a share of the shop's rows with a small edit and the other label; return their keys."""
    rows = review_rows(900)
    pick = random.Random(3).sample(range(len(rows)), round(share * len(rows)))
    copies = [
        (f"evil{i}", rows[i][1] + " !", "negative" if rows[i][2] == "positive" else "positive")
        for i in pick
    ]
    file = project.root / "inbox" / "shop.csv"
    declare_source(project.root, "shop", str(file), write_csv(file, rows + copies))
    return [key for key, _, _ in copies]


def _check(result: dg.ExecuteInProcessResult, asset: str) -> dg.AssetCheckEvaluation:
    (found,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "near_duplicate_label_conflicts"
        and check.asset_key == dg.AssetKey(asset)
    ]
    return found


def test_wrong_labelled_copies_stop_this_run_and_a_run_of_only_the_model(
    project: Project, instance: dg.DagsterInstance
) -> None:
    planted = _plant(project, 0.012)
    result = run_job(project, "retrain", instance)
    assert not result.success
    check = _check(result, "training_snapshot")
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "shop" in (check.description or "")
    examples = str(check.metadata["examples"].value)
    assert "shop" in examples
    findings = pq.read_table(str(check.metadata["all_findings"].value)).to_pydict()
    assert "ERROR" in findings["severity"]
    digest = str(check.metadata["digest"].value)
    table = pq.read_table(
        project.snapshots("training") / digest.removeprefix("sha256:") / "part-00000.parquet"
    )
    blamed = [
        row
        for row, grade in zip(findings["row"], findings["severity"], strict=True)
        if grade == "ERROR"
    ]
    keys = {table.column("source_key")[row].as_py() for row in blamed}
    in_training = set(planted) & set(table.column("source_key").to_pylist())
    assert in_training <= keys
    assert not instance.get_latest_materialization_event(dg.AssetKey("fine_tuned_model"))
    assert not list(open_store(project, project.policy()).all("training"))

    # A second run that selects nothing but the model: Dagster alone would let it through.
    later = run_job(project, "fine_tune", instance)
    assert not later.success
    error = errors_of(later)
    assert "GateClosed" in error
    assert digest in error
    assert "near_duplicate_label_conflicts" in error
    assert not instance.get_latest_materialization_event(dg.AssetKey("fine_tuned_model"))
    client = mlflow.MlflowClient(project.tracking_uri, project.tracking_uri)
    assert client.search_registered_models() == []


def test_the_gate_refuses_data_that_nobody_judged(
    project: Project, instance: dg.DagsterInstance
) -> None:
    assert run_job(project, "ingest", instance).success
    later = run_job(project, "fine_tune", instance)
    assert not later.success
    error = errors_of(later)
    assert "the verdict of near_duplicate_label_conflicts is missing" in error
    assert "the verdict of evaluation_leakage is missing" in error
    assert run_job(project, "ingest_and_check", instance).success
    assert run_job(project, "fine_tune", instance).success


def test_one_disputed_pair_is_a_warning_that_blocks_nothing(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = review_rows(160)
    rows.append(("odd", rows[0][1] + " !", "positive"))
    file = project.root / "inbox" / "shop.csv"
    declare_source(project.root, "shop", str(file), write_csv(file, rows))
    result = run_job(project, "ingest_and_check", instance)
    assert result.success
    checks = [_check(result, f"{zone}_snapshot") for zone in ("training", "evaluation")]
    assert [check.passed for check in checks].count(False) == 1
    assert all(check.severity == dg.AssetCheckSeverity.WARN for check in checks)

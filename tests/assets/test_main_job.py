"""The whole graph on a small project: what Dagster and MLflow show afterwards."""

from typing import Any

import dagster as dg
import mlflow
import pyarrow.parquet as pq
import pytest
import yaml

from pedigree.evidence.store import open_store
from pedigree.params import TrainingParams
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.training.record import read_record
from pipelines.definitions import build_definitions
from tests.conftest import open_instance, run_job


def _materialisation(project: Project, *key: str) -> dg.AssetMaterialization:
    with open_instance(project.root / ".dagster") as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(list(key)))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def test_the_model_in_production_is_the_one_that_was_trained(trained: Project) -> None:
    promoted = find_promoted(open_store(trained, trained.policy()), "production")
    assert promoted is not None
    tags = _materialisation(trained, "production_model").tags or {}
    assert tags["dagster/data_version"] == promoted.model
    client = mlflow.MlflowClient(trained.tracking_uri, trained.tracking_uri)
    version = client.get_model_version_by_alias("reviews", "production")
    assert version.tags["pedigree.model_digest"] == promoted.model
    run = client.get_run(version.run_id or "")
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["accuracy"] >= 0.7


def test_a_snapshot_shows_rows_schema_digests_and_its_dvc_address(trained: Project) -> None:
    made = _materialisation(trained, "training_snapshot")
    digest = (made.tags or {})["dagster/data_version"]
    folder = trained.snapshots("training") / digest.removeprefix("sha256:")
    assert made.metadata["digest"].value == digest
    rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    assert made.metadata["dagster/row_count"].value == rows
    pointer = yaml.safe_load(folder.with_name(folder.name + ".dvc").read_text())
    assert made.metadata["dvc_md5"].value == pointer["outs"][0]["md5"]
    schema = made.metadata["dagster/column_schema"].value
    names = [column.name for column in schema.columns]
    assert names[0] == "row_id"
    assert {"row_key", "source", "raw_text", "text", "label", "annotator"} <= set(names)
    assert "shop" in str(made.metadata["by_source"].value)


def test_each_asset_says_which_digest_of_its_inputs_it_read(trained: Project) -> None:
    inputs = ("training_snapshot", "evaluation_snapshot", "base_model")
    tags = _materialisation(trained, "fine_tuned_model").tags or {}
    for name in inputs:
        version = (_materialisation(trained, name).tags or {})["dagster/data_version"]
        assert tags[f"dagster/input_data_version/{name}"] == version
    curated = _materialisation(trained, "curated_documents")
    raw = (_materialisation(trained, "raw_documents", "shop").tags or {})["dagster/data_version"]
    assert (curated.tags or {})["dagster/input_data_version/raw_documents/shop"] == raw
    assert "data:image/png;base64," in str(curated.metadata["funnel"].value)


def test_training_and_evaluation_rows_lie_in_separate_roots(trained: Project) -> None:
    record = read_record(
        find_training(
            open_store(trained, trained.policy()),
            str(find_promoted(open_store(trained, trained.policy()), "production").model),  # type: ignore[union-attr]
        )
    )
    training = open_snapshot(record.inputs.training.digest, trained.snapshots("training")).read()
    evaluation = open_snapshot(
        record.evaluation_snapshot.digest, trained.snapshots("evaluation")
    ).read()
    keys = [set(table.column("row_key").to_pylist()) for table in (training, evaluation)]
    assert not keys[0] & keys[1]
    assert len(keys[0]) + len(keys[1]) == 320
    assert not list(trained.snapshots("training").glob(record.evaluation_snapshot.digest[7:]))


def test_the_record_captures_code_lock_distributions_and_hardware(trained: Project) -> None:
    store = open_store(trained, trained.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    record = read_record(find_training(store, promoted.model))
    assert record.inputs.code.commit is not None
    assert not record.inputs.code.dirty
    assert record.inputs.environment.lock_sha256 is not None
    assert record.inputs.environment.distributions["torch"].startswith("2.")
    assert record.hardware["threads"] == 1
    assert record.hardware["device"] == "cpu"
    assert record.environment_variables["OMP_NUM_THREADS"] == "1"
    assert {file.path for file in record.model_files} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
    }


@pytest.mark.slow
def test_a_small_encoder_can_be_trained_from_scratch(
    project: Project, instance: dg.DagsterInstance
) -> None:
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"] |= {"method": "scratch", "hidden_size": 32, "layers": 1, "epochs": 8}
    path.write_text(yaml.safe_dump(params))
    assert run_job(project, "retrain", instance).success
    store = open_store(project, project.policy())
    (statement,) = store.all("training")
    record = read_record(statement)
    assert record.adapter_digest is None
    assert record.inputs.params.method == "scratch"


def test_the_launchpad_offers_the_parameters_with_the_files_values(project: Project) -> None:
    job = build_definitions(project).resolve_job_def("fine_tune")
    ops: Any = job.run_config_schema.config_type.fields["ops"].config_type  # type: ignore[attr-defined]
    config = ops.fields["fine_tuned_model"].config_type.fields["config"].config_type.fields
    assert config["learning_rate"].default_value == 0.01
    assert config["seed"].default_value == 0
    assert set(config) == set(TrainingParams.model_fields)


def test_a_value_out_of_range_in_the_launchpad_is_refused(
    project: Project, instance: dg.DagsterInstance
) -> None:
    config = {"ops": {"curated_documents": {"config": {"min_characters": 0}}}}
    result = run_job(project, "ingest", instance, run_config=config)
    assert not result.success
    failed = [event for event in result.all_events if event.is_step_failure]
    assert "min_characters" in str(failed[0].step_failure_data.error)

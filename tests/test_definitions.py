"""The graph that people see: assets, checks, jobs, and what Dagster and DVC need of each other."""

import json
import warnings
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pedigree.project import Project
from pedigree.retraining import _SELECTION  # pyright: ignore[reportPrivateUsage]
from pedigree.snapshots import SnapshotManifest
from pipelines.definitions import build_definitions
from pipelines.run import _select  # pyright: ignore[reportPrivateUsage]
from tests.conftest import REPOSITORY, must

SNAPSHOT = Path(__file__).parent / "definitions.json"


def _describe(definitions: dg.Definitions) -> dict[str, object]:
    graph = definitions.resolve_asset_graph()
    assets = {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "kinds": sorted(graph.get(key).kinds),
            "owners": list(graph.get(key).owners),
            "deps": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "has_code_version": bool(graph.get(key).code_version),
            "has_description": bool(graph.get(key).description),
        }
        for key in sorted(graph.get_all_asset_keys())
    }
    checks = sorted(
        f"{key.asset_key.to_user_string()}: {key.name}"
        + ("" if graph.get(key).blocking else " (does not block)")
        for key in graph.asset_check_keys
    )
    jobs = {
        job.name: sorted(definitions.resolve_job_def(job.name).asset_layer.executable_asset_keys)
        for job in definitions.jobs or []
    }
    return {
        "assets": assets,
        "checks": checks,
        "jobs": {name: [key.to_user_string() for key in keys] for name, keys in jobs.items()},
    }


def test_the_graph_is_the_one_that_was_agreed(project: Project) -> None:
    """After a meant change: write what `_describe` returns into tests/definitions.json."""
    found = _describe(build_definitions(project))
    assert found == json.loads(SNAPSHOT.read_text())


def test_every_asset_is_explained_owned_and_versioned() -> None:
    assets = json.loads(SNAPSHOT.read_text())["assets"]
    for name, asset in assets.items():
        assert asset["has_description"], name
        assert asset["has_code_version"], name
        assert asset["owners"], name


def test_dagster_selections_work_with_the_antlr_that_dvc_allows() -> None:
    graph = build_definitions(Project(REPOSITORY)).resolve_asset_graph()
    everything = dg.AssetSelection.from_string("*").resolve(graph)
    assert everything == graph.get_all_asset_keys()
    upstream = dg.AssetSelection.from_string("+training_snapshot").resolve(graph)
    assert dg.AssetKey("curated_documents") in upstream


def test_a_selection_is_read_without_dagsters_warnings_about_itself() -> None:
    definitions = build_definitions(Project(REPOSITORY))
    with warnings.catch_warnings():
        warnings.simplefilter("error", dg.BetaWarning)
        chosen = _select(definitions, definitions.resolve_job_def("retrain"), _SELECTION)
    assert chosen is not None
    assert dg.AssetKey("training_snapshot") in chosen


def test_dvc_experiments_change_a_parameter(project: Project) -> None:
    root = project.root
    (root / "dvc.yaml").write_text(
        yaml.safe_dump(
            {
                "stages": {
                    "show": {
                        "cmd": "cp params.yaml out.yaml",
                        "params": ["train"],
                        "outs": [{"out.yaml": {"cache": False}}],
                    }
                }
            }
        )
    )
    must("git", "add", "-A", cwd=root)
    must("git", "commit", "-qm", "A stage", cwd=root)
    must("dvc", "exp", "run", "-S", "train.seed=17", cwd=root)
    assert yaml.safe_load((root / "out.yaml").read_text())["train"]["seed"] == 17


def test_the_default_io_manager_writes_parquet_and_pickles_nothing(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    from pipelines.io_managers import ParquetIOManager

    @dg.asset
    def table() -> pd.DataFrame:
        return pd.DataFrame({"a": [1, 2]})

    @dg.asset
    def doubled(table: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"a": [2 * value for value in table.column("a").to_pylist()]})  # type: ignore[attr-defined]

    @dg.asset
    def odd() -> object:
        return object()

    resources = {"io_manager": ParquetIOManager(folder=str(tmp_path))}
    with pytest.raises(dg.DagsterTypeCheckDidNotPass):
        # The input is an Arrow table: whoever annotates another type is told so.
        dg.materialize([table, doubled], resources=resources)
    assert pq.read_table(tmp_path / "training" / "table.parquet").to_pydict() == {"a": [1, 2]}
    with pytest.raises(Exception, match="nothing is pickled"):
        dg.materialize([odd], resources=resources)
    assert SnapshotManifest.model_config["frozen"]

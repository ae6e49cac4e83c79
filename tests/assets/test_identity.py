"""The same documents give the same bytes; another character gives another digest."""

import hashlib
import random
from pathlib import Path

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from pedigree.project import Project
from pedigree.snapshots import open_snapshot
from pipelines.definitions import build_definitions
from tests.conftest import declare_source, errors_of, review_rows, run_job, write_csv

Rows = list[tuple[str, str, str]]


def _set_shop(project: Project, rows: Rows) -> None:
    file = project.root / "inbox" / "shop.csv"
    declare_source(project.root, "shop", str(file), write_csv(file, rows))


def _ingest(project: Project, instance: dg.DagsterInstance) -> dict[str, str]:
    result = run_job(project, "ingest", instance)
    assert result.success, errors_of(result)
    return {
        zone: (
            instance.get_latest_materialization_event(
                dg.AssetKey(f"{zone}_snapshot")
            ).asset_materialization.tags["dagster/data_version"]  # type: ignore[union-attr,index]
        )
        for zone in ("training", "evaluation")
    }


def _file_digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.parquet")
    }


def test_two_materialisations_and_shuffled_files_give_identical_bytes(
    project: Project, instance: dg.DagsterInstance
) -> None:
    first = _ingest(project, instance)
    folders = {
        zone: project.snapshots(zone) / digest.removeprefix("sha256:")  # type: ignore[arg-type]
        for zone, digest in first.items()
    }
    before = {zone: _file_digests(folder) for zone, folder in folders.items()}
    rows = review_rows(160)
    random.Random(7).shuffle(rows)
    _set_shop(project, rows)
    # Write again from nothing, so that equal bytes are not just the old file.
    for folder in folders.values():
        for path in [*folder.iterdir()]:
            path.unlink()
        folder.rmdir()
    assert _ingest(project, instance) == first
    assert {zone: _file_digests(folder) for zone, folder in folders.items()} == before


def test_one_changed_character_is_another_digest_and_downstream_is_out_of_sync(
    project: Project, instance: dg.DagsterInstance
) -> None:
    first = _ingest(project, instance)
    definitions = build_definitions(project)
    assert run_job(project, "ingest_and_check", instance).success
    assert run_job(project, "fine_tune", instance).success

    def stale() -> set[str]:
        graph = definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return {
            key.to_user_string()
            for key in graph.get_all_asset_keys()
            if resolver.get_status(key) == StaleStatus.STALE
        }

    assert stale() == set()
    rows = review_rows(160)
    key, text, label = rows[0]
    rows[0] = (key, text.replace("dull", "dall", 1), label)
    _set_shop(project, rows)
    shop = dg.AssetSelection.assets("raw_documents/shop")
    job = dg.define_asset_job("only_shop", shop)
    fresh = dg.Definitions.merge(build_definitions(project), dg.Definitions(jobs=[job]))
    assert fresh.resolve_job_def("only_shop").execute_in_process(instance=instance).success
    assert "curated_documents" in stale()
    second = _ingest(project, instance)
    assert sum(first[zone] != second[zone] for zone in first) == 1  # the row is on one side
    assert "fine_tuned_model" in stale()


def test_a_relabelled_row_keeps_its_key_and_its_side(
    project: Project, instance: dg.DagsterInstance
) -> None:
    def sides(digests: dict[str, str]) -> dict[str, tuple[str, str, str]]:
        found = {}
        for zone, digest in digests.items():
            table = open_snapshot(digest, project.snapshots(zone)).read()  # type: ignore[arg-type]
            columns = ("source_key", "row_key", "row_id", "source")
            for values in zip(*(table.column(c).to_pylist() for c in columns), strict=True):
                if values[3] == "shop":
                    found[values[0]] = (zone, values[1], values[2])
        return found

    before = sides(_ingest(project, instance))
    rows = review_rows(160)
    rows[10] = (*rows[10][:2], "positive")
    _set_shop(project, rows)
    after = sides(_ingest(project, instance))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {rows[10][0]}
    assert before[rows[10][0]][:2] == after[rows[10][0]][:2]
    assert before[rows[10][0]][2] != after[rows[10][0]][2]


def test_a_source_for_evaluation_is_never_trained_on_and_one_for_production_is_not_read(
    project: Project, instance: dg.DagsterInstance
) -> None:
    for name, zone, offset in (("held", "evaluation", 2000), ("live", "production", 3000)):
        file = project.root / "inbox" / f"{name}.csv"
        sha256 = write_csv(file, review_rows(40, offset))
        declare_source(project.root, name, str(file), sha256, zone=zone)
    digests = _ingest(project, instance)
    training = open_snapshot(digests["training"], project.snapshots("training")).read()
    evaluation = open_snapshot(digests["evaluation"], project.snapshots("evaluation")).read()
    assert set(training.column("source").to_pylist()) == {"shop", "forum"}
    assert set(evaluation.column("source").to_pylist()) == {"shop", "forum", "held"}
    assert evaluation.column("source").to_pylist().count("held") == 40
    assert list(project.tables("production").iterdir())

"""Data of one zone or tenant does not get into another's models."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pedigree.cli import main
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.source_approval import approve_source, require_source_allowed
from pedigree.sources import find_source
from pedigree.tenants import find_carriers
from pedigree.tracing import rows_of, trace_thing, update_index
from pedigree.training.record import TrainingRecord, read_record
from pedigree.zones import confined, require_readable
from pipelines.io_managers import ParquetIOManager
from tests.conftest import REPOSITORY, errors_of, must, present, run, run_job


def record_of(project: Project) -> TrainingRecord:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return read_record(find_training(store, promoted.model))


def test_a_training_step_cannot_open_evaluation_or_curated_data(trained: Project) -> None:
    record = record_of(trained)
    evaluation, training = record.evaluation_snapshot.digest, record.inputs.training.digest
    with confined("training"):
        assert open_snapshot(training, trained.snapshots("training")).rows
        with pytest.raises(GateClosed, match=r"training step may not read snapshot .* evaluation"):
            open_snapshot(evaluation, trained.snapshots("evaluation"))
        curated = next(trained.curated.glob("*/")).name
        with pytest.raises(GateClosed, match="is curated data"):
            open_snapshot(curated, trained.curated)
    with confined("evaluation"):
        assert open_snapshot(evaluation, trained.snapshots("evaluation")).rows
    assert open_snapshot(evaluation, trained.snapshots("evaluation")).rows
    with pytest.raises(GateClosed, match="production"):
        require_readable("production", "orders", "evaluation")


def test_the_zone_is_the_manifests_and_not_the_folders(trained_copy: Project) -> None:
    evaluation = record_of(trained_copy).evaluation_snapshot.digest
    name = evaluation.removeprefix("sha256:")
    there = trained_copy.snapshots("training") / name
    (trained_copy.snapshots("evaluation") / name).rename(there)
    with confined("training"), pytest.raises(GateClosed, match="evaluation data"):
        open_snapshot(evaluation, trained_copy.snapshots("training"))


def table(zone: str | None) -> dg.AssetsDefinition:
    import pyarrow as pa

    @dg.asset(name="table", tags={"pedigree/zone": zone} if zone else {})
    def made() -> pa.Table:
        return pa.table({"a": [1]})

    return made


def reader(zone: str | None) -> dg.AssetsDefinition:
    @dg.asset(tags={"pedigree/zone": zone} if zone else {})
    def model(table: Any) -> None:
        assert table.num_rows == 1

    return model


@pytest.mark.parametrize(
    ("source", "step", "allowed"),
    [
        ("training", "training", True),
        (None, None, True),
        ("evaluation", "evaluation", True),
        ("training", "evaluation", True),
        ("production", "production", True),
        ("evaluation", "training", False),
        ("evaluation", None, False),
        ("production", None, False),
        ("production", "training", False),
        ("production", "evaluation", False),
        ("training", "production", False),
    ],
)
def test_an_asset_reads_through_the_io_manager_what_its_zone_may_see(
    tmp_path: Path, source: str | None, step: str | None, allowed: bool
) -> None:
    resources = {"io_manager": ParquetIOManager(folder=str(tmp_path))}
    result = dg.materialize(
        [table(source), reader(step)], resources=resources, raise_on_error=False
    )
    assert result.success == allowed
    assert (tmp_path / (source or "training") / "table.parquet").is_file()
    if not allowed:
        assert "may not read table" in errors_of(result)


PROBE = """
import json, socket, sys
from pathlib import Path
paths = json.loads(sys.argv[1])
if paths["confine"]:
    from pedigree.training.confinement import confine
    level = confine([Path(paths["readable"])], [Path(paths["writable"])], gpu=False)["level"]
    assert level == "landlock", level
def attempt(act):
    try:
        act()
        return "done"
    except OSError as error:
        return "refused" if isinstance(error, PermissionError) else f"error {error}"
def connect():
    socket.create_connection(("127.0.0.1", paths["port"]), timeout=5).close()
print(json.dumps({
    "own input": attempt(lambda: Path(paths["readable"], "rows").read_bytes()),
    "own output": attempt(lambda: Path(paths["writable"], "deep").mkdir()),
    "own rename": attempt(lambda: Path(paths["writable"], "deep").rename(paths["writable"] + "/x")),
    "other zone": attempt(lambda: Path(paths["other"], "rows").read_bytes()),
    "listing": attempt(lambda: list(Path(paths["other"]).iterdir())),
    "writing elsewhere": attempt(lambda: Path(paths["other"], "new").write_bytes(b"x")),
    "changing its input": attempt(lambda: Path(paths["readable"], "rows").write_bytes(b"x")),
    "arrow": attempt(lambda: __import__("pyarrow").OSFile(paths["other"] + "/rows").read()),
    "connecting": attempt(connect),
}))
"""
REFUSED = {
    "other zone", "listing", "writing elsewhere", "changing its input", "arrow", "connecting",
}  # fmt: skip


@pytest.mark.parametrize("confine", [True, False])
def test_the_training_process_reaches_its_inputs_and_outputs_alone(
    tmp_path: Path, confine: bool
) -> None:
    """With the control: unconfined, each attempt succeeds, so none is refused by chance."""
    from pedigree.sandbox.landlock import landlock_abi

    if landlock_abi() < 4:
        pytest.skip("needs Landlock with ABI 4")
    for name in ("readable", "writable", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").write_bytes(b"rows")
    with socket.create_server(("127.0.0.1", 0)) as server:
        paths = {name: str(tmp_path / name) for name in ("readable", "writable", "other")}
        settings = json.dumps({**paths, "port": server.getsockname()[1], "confine": confine})
        done = subprocess.run(
            [sys.executable, "-c", PROBE, settings],
            capture_output=True, text=True, check=False, cwd=REPOSITORY,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name for name, what in found.items() if what == "refused"} == (
        REFUSED if confine else set()
    ), found
    assert all(what == "done" for name, what in found.items() if not confine or name not in REFUSED)


def test_the_record_says_how_far_training_was_confined(trained: Project) -> None:
    from pedigree.sandbox.landlock import landlock_abi

    level = record_of(trained).isolation["level"]
    assert level == ("landlock" if landlock_abi() else "none")


def change_source(project: Project, name: str, **changes: object) -> None:
    path = project.root / "sources" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["log", "rag"])
def test_logs_and_retrieved_texts_are_denied_until_a_reviewer_says_why(
    project: Project,
    instance: dg.DagsterInstance,
    kind: str,
) -> None:
    change_source(project, "forum", kind=kind)
    refused = run_job(project, "ingest", instance)
    assert not refused.success
    assert f"forum is of kind {kind}, which is denied by default" in errors_of(refused)
    where = ["-C", str(project.root)]
    assert main([*where, "keys", "new", "reviewer", "--owner", "ada"]) == 0
    key = str(project.keys / "reviewer-ada.pem")
    approve = [*where, "sources", "approve", "forum", "--key", key, "--reason"]
    assert main([*approve, " "]) == 2
    words = [*approve, "users agreed, names are gone"]
    approved = run("python", "-m", "pedigree", *words, cwd=project.root)
    assert "forum may be used" in approved.stdout
    approved = run("python", "-m", "pedigree", *words, "--json", cwd=project.root)
    assert json.loads(approved.stdout)["by"] == "ada"
    assert run_job(project, "ingest", instance).success
    # Another pin is another decision.
    change_source(project, "forum", kind=kind, title="the next batch")
    store = open_store(project, project.policy())
    changed = find_source(project.root / "sources", "forum")
    with pytest.raises(GateClosed, match="no reviewer approved it as it is declared"):
        require_source_allowed(store, changed)


def test_nobody_but_a_reviewer_approves_a_source(project: Project) -> None:
    from pedigree.evidence.signers import make_key
    from pedigree.evidence.trust import register_key

    key = make_key(project.keys / "bob.pem")
    register_key(project.trust, key.public_key(), "bob", ("builder",), present())
    store = open_store(project, project.policy(), write=True)
    source = find_source(project.root / "sources", "forum")
    with pytest.raises(PedigreeError, match="cannot sign as reviewer"):
        approve_source(store, source, "why not", key, present())
    unpinned = source.model_copy(update={"sha256": None})
    with pytest.raises(PedigreeError, match="has no pin"):
        approve_source(store, unpinned, "why not", key, present())


@pytest.mark.slow
def test_a_tenants_rows_make_the_model_the_tenants_and_stay_so(
    project: Project, instance: dg.DagsterInstance
) -> None:
    change_source(project, "forum", tenant="acme")
    must("git", "commit", "-qam", "A tenant", cwd=project.root)
    assert run_job(project, "retrain", instance).success
    refused = run_job(project, "release", instance)
    assert not refused.success
    assert "carries data of tenant acme" in errors_of(refused)
    assert "of source forum in snapshot" in errors_of(refused)
    update_index(project.lineage, open_store(project, project.policy()), rows_of(project))
    trace = trace_thing(project.lineage, "tenant:acme")
    assert len(trace.reached("model")) == 1
    assert trace.reached("environment") == []
    # Taking the name out of the declaration afterwards does not free what was frozen with it.
    change_source(project, "forum", tenant=None)
    store = open_store(project, project.policy())
    (statement,) = store.all("training")
    carriers = find_carriers(store, read_record(statement))
    assert [one.tenant for one in carriers] == ["acme"]
    again = run_job(project, "ingest", instance)
    assert again.success
    carriers = find_carriers(store, read_record(statement))
    assert [one.tenant for one in carriers] == ["acme"]

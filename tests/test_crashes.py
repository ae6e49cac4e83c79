"""`kill -9` at any moment: a rerun ends where an undisturbed run ends; nothing half is whole."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from pedigree.project import Project
from pedigree.snapshots import list_snapshots, open_snapshot
from tests.conftest import copy_project, must, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("crashes")]

KILLS = 20


def _start(root: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "pedigree", *arguments], cwd=root, env={**os.environ},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@contextmanager
def _killed_afterwards(root: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = _start(root, *arguments)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)


def _digests(root: Path) -> dict[str, str]:
    names = ("training_snapshot", "evaluation_snapshot", "base_model", "fine_tuned_model")
    return {name: (root / "digests" / name).read_text().strip() for name in names}


def _longer_training(project: Project, epochs: int) -> None:
    path = project.root / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text())
    params["train"]["epochs"] = epochs
    path.write_text(yaml.safe_dump(params))


def _doctor(root: Path, *arguments: str) -> list[dict[str, Any]]:
    done = run("python", "-m", "pedigree", "doctor", "--json", *arguments, cwd=root)
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def undisturbed(
    template: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path
) -> tuple[dict[str, str], float]:
    """The digests of a run that nobody kills, and how long it takes."""
    project = copy_project(template, tmp_path_factory.mktemp("calm") / "project", downloads)
    _longer_training(project, 16)
    start = time.monotonic()
    must("python", "-m", "pedigree", "run", "--until", "model", cwd=project.root)
    return _digests(project.root), time.monotonic() - start


def test_kills_at_random_moments_change_nothing(
    project: Project, undisturbed: tuple[dict[str, str], float]
) -> None:
    expected, seconds = undisturbed
    _longer_training(project, 16)
    root = project.root
    moments = random.Random(20261124)
    finished = 0
    for _ in range(KILLS):
        with _killed_afterwards(root, "run", "--until", "model") as process:
            time.sleep(moments.uniform(0.5, seconds))
            finished += process.poll() is not None
        for zone in ("training", "evaluation"):
            for digest in list_snapshots(project.snapshots(zone)):  # type: ignore[arg-type]
                open_snapshot(digest, project.snapshots(zone))  # type: ignore[arg-type]
    assert finished < KILLS / 2
    must("python", "-m", "pedigree", "run", "--until", "model", cwd=root)
    assert _digests(root) == expected
    assert must("python", "-m", "pedigree", "verify", expected["fine_tuned_model"], cwd=root)
    found = _doctor(root, "--repair")
    assert found  # so many kills leave something
    assert all(problem["repaired"] for problem in found)
    assert _doctor(root) == []


def test_training_that_is_killed_goes_on_from_its_checkpoint(
    project: Project, undisturbed: tuple[dict[str, str], float]
) -> None:
    expected, _ = undisturbed
    _longer_training(project, 16)
    root = project.root
    must("python", "-m", "pedigree", "run", "--job", "ingest_and_check", cwd=root)
    for wanted in ("step-00000050", "step-00000150"):
        with _killed_afterwards(root, "run", "--job", "fine_tune") as process:
            for _ in range(6000):  # two minutes: a busy machine takes its time to start
                if list(root.glob(f".pedigree/work/*/checkpoints/{wanted}")):
                    break
                assert process.poll() is None
                time.sleep(0.02)
        assert list(root.glob(".pedigree/work/*/checkpoints/step-*"))
    must("python", "-m", "pedigree", "run", "--job", "fine_tune", cwd=root)
    assert _digests(root)["fine_tuned_model"] == expected["fine_tuned_model"]
    assert not list(root.glob(".pedigree/work/*/checkpoints"))
    (path,) = root.glob(".pedigree/records/*.json")
    assert json.loads(path.read_text())["resumed_from"] >= 50


FREEZE = """
import sys
import pyarrow as pa
from pathlib import Path
from pedigree.snapshots import freeze_snapshot
rows = 30000
table = pa.table({"row_key": [f"{i:08d}" for i in range(rows)], "text": ["x" * 100] * rows})
print("ready", flush=True)
print(freeze_snapshot(table, Path(sys.argv[1]), "training").digest)
"""


def test_kills_while_a_snapshot_is_written_leave_none_or_a_whole_one(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    command = [sys.executable, "-c", FREEZE, str(root)]
    start = time.monotonic()
    calm = tmp_path / "calm"
    digest = subprocess.run(
        [*command[:-1], str(calm)], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    seconds = time.monotonic() - start
    moments = random.Random(7)
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.wait()
        process.stdout.close()
        for found in list_snapshots(root):
            assert open_snapshot(found, root).digest == digest
    subprocess.run(command, check=True, capture_output=True)
    (found,) = list_snapshots(root)
    assert found == digest
    for part in (calm / digest[7:]).iterdir():
        assert (root / digest[7:] / part.name).read_bytes() == part.read_bytes()


def test_doctor_closes_what_a_killed_training_left_and_refuses_while_it_runs(
    project: Project,
) -> None:
    _longer_training(project, 60)
    root = project.root
    must("python", "-m", "pedigree", "run", "--job", "ingest_and_check", cwd=root)
    with _killed_afterwards(root, "run", "--job", "fine_tune"):
        for _ in range(600):
            if list(root.glob(".pedigree/work/*/checkpoints/step-*")):
                break
            time.sleep(0.05)
        busy = run("python", "-m", "pedigree", "doctor", "--repair", cwd=root)
        assert busy.returncode == 2
        assert "is in use" in busy.stderr
    partial = root / "data" / "training" / ".partial-left"
    partial.mkdir()
    found = _doctor(root)
    assert {problem["kind"] for problem in found} == {"dagster-run", "mlflow-run", "temporary"}
    assert not any(problem["repaired"] for problem in found)
    assert partial.exists()
    assert all(problem["repaired"] for problem in _doctor(root, "--repair"))
    assert _doctor(root) == []
    assert not partial.exists()


def test_doctor_sets_alias_and_pointer_back_to_what_evidence_says(trained_copy: Project) -> None:
    import mlflow

    root = trained_copy.root
    client = mlflow.MlflowClient(trained_copy.tracking_uri, trained_copy.tracking_uri)
    client.delete_registered_model_alias("reviews", "production")
    pointer = next(root.glob("data/training/snapshots/*.dvc"))
    text = pointer.read_text()
    pointer.write_text(text.replace("md5: ", "md5: 0"))
    (root / "digests").mkdir(exist_ok=True)
    (root / "digests" / "base_model").write_text("sha256:other\n")
    kinds = {problem["kind"] for problem in _doctor(root, "--repair")}
    assert kinds == {"mlflow-alias", "dvc-pointer", "digest-file"}
    assert client.get_model_version_by_alias("reviews", "production").version == 1
    assert (
        yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
        == (yaml.safe_load(text)["outs"][0]["md5"])
    )
    assert _doctor(root) == []

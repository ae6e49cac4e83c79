"""DVC as the way in for an ML engineer: repro, experiments, metrics, and who is in the way."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pedigree.project import Project
from tests.conftest import copy_project, must, open_instance, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dvc")]


@pytest.fixture(scope="module")
def reproduced(
    template: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path
) -> Project:
    """A project after `dvc repro`, with what that made committed."""
    project = copy_project(template, tmp_path_factory.mktemp("dvc") / "project", downloads)
    must("dvc", "repro", cwd=project.root)
    must("git", "add", "-A", cwd=project.root)
    must("git", "commit", "-qm", "What dvc repro made", cwd=project.root)
    return project


def _models(root: Path) -> dict[str, str]:
    out = must("python", "-m", "pedigree", "models", "--json", cwd=root)
    return {model["model"]: model["trained_on"] for model in json.loads(out)}


def test_a_second_repro_does_nothing(reproduced: Project) -> None:
    start = time.monotonic()
    out = must("dvc", "repro", cwd=reproduced.root)
    seconds = time.monotonic() - start
    assert "Data and pipelines are up to date." in out
    assert seconds < 10


def test_digest_files_are_dagsters_versions_and_pointers_its_md5s(reproduced: Project) -> None:
    with open_instance(reproduced.root / ".dagster") as instance:
        for path in sorted((reproduced.root / "digests").iterdir()):
            event = instance.get_latest_materialization_event(dg.AssetKey(path.name))
            made = event.asset_materialization  # type: ignore[union-attr]
            assert path.read_text().strip() == made.tags["dagster/data_version"]  # type: ignore[index,union-attr]
            if path.name.endswith("_snapshot"):
                pointer = reproduced.root / str(made.metadata["dvc_pointer"].value)  # type: ignore[union-attr]
                md5 = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
                assert md5 == made.metadata["dvc_md5"].value  # type: ignore[union-attr]
    assert len(list((reproduced.root / "digests").iterdir())) == 4


def test_an_experiment_with_another_seed_is_another_model_and_both_stay(
    reproduced: Project, tmp_path: Path
) -> None:
    root = tmp_path / "experiments"
    shutil.copytree(reproduced.root, root, symlinks=True)
    (before,) = _models(root)
    must("dvc", "exp", "run", "-S", "train.seed=1", "-n", "other-seed", cwd=root)
    after = _models(root)
    assert len(after) == 2
    assert before in after
    for digest in after:
        must("python", "-m", "pedigree", "verify", digest, cwd=root)
    (new,) = set(after) - {before}
    assert (root / "digests" / "fine_tuned_model").read_text().strip() == new
    shown = json.loads(must("dvc", "exp", "show", "--json", cwd=root))
    names = {one["revs"][0]["name"] for one in shown[-1]["experiments"] or []}
    assert "other-seed" in names
    difference = json.loads(must("dvc", "params", "diff", "--json", cwd=root))
    assert difference["params.yaml"]["train.seed"] == {"old": 0, "new": 1, "diff": 1}
    metrics = json.loads(must("dvc", "metrics", "diff", "--all", "--json", cwd=root))
    assert set(metrics["metrics/evaluation.json"]) == {"accuracy", "rows"}


def test_a_temporary_workspace_of_dvc_is_refused(reproduced: Project) -> None:
    done = run("dvc", "exp", "run", "--temp", "-S", "train.seed=7", cwd=reproduced.root)
    assert done.returncode != 0
    assert "is a temporary workspace of DVC" in done.stderr + done.stdout
    assert "without --temp or --queue" in done.stderr + done.stdout


def test_a_second_repro_while_one_runs_is_refused_and_harms_nothing(
    reproduced: Project, tmp_path: Path
) -> None:
    root = tmp_path / "busy"
    shutil.copytree(reproduced.root, root, symlinks=True)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["train"]["seed"] = 5
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    binaries = Path(sys.executable).parent
    first = subprocess.Popen(
        [str(binaries / "dvc"), "repro"], cwd=root,
        env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            if (root / ".dvc" / "tmp" / "rwlock").exists() and "write" in (
                root / ".dvc" / "tmp" / "rwlock"
            ).read_text():
                break
            time.sleep(0.1)
        second = run("dvc", "repro", cwd=root)
        assert second.returncode != 0
        assert "busy" in second.stderr or "lock" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        assert first.wait(120) == 0
    assert "up to date" in must("dvc", "repro", cwd=root)

"""Ten ways to train, each rebuilt from its record: the bits have to be the same every time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pedigree.project import Project
from tests.conftest import copy_project, must, run

pytestmark = pytest.mark.slow

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, another seed": {"seed": 11},
    "lora, two threads": {"threads": 2},
    "lora, batches of 8": {"batch_size": 8},
    "lora, two threads, batches of 8, another seed": {"threads": 2, "batch_size": 8, "seed": 11},
    "lora, accumulated, resumed in the middle": {"accumulation_steps": 2, "epochs": 24},
    "scratch": {"method": "scratch"},
    "scratch, two threads": {"method": "scratch", "threads": 2},
    "scratch, batches of 8, another seed": {"method": "scratch", "batch_size": 8, "seed": 11},
    "scratch, resumed in the middle": {"method": "scratch", "epochs": 24},
}
FAST = {"hidden_size": 32, "layers": 1, "epochs": 8}


@pytest.fixture(scope="module")
def data(template: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Project:
    """A project with frozen, judged data; models may be bad, for only their bits count here."""
    project = copy_project(template, tmp_path_factory.mktemp("ten") / "project", downloads)
    policy = yaml.safe_load((project.root / "policy.yaml").read_text())
    policy["checks"]["evaluation_accuracy"] |= {"floor": 0.0, "source_floor": 0.0}
    (project.root / "policy.yaml").write_text(yaml.safe_dump(policy))
    must("git", "commit", "-aqm", "Accept any accuracy", cwd=project.root)
    must("python", "-m", "pedigree", "run", "--job", "ingest_and_check", cwd=project.root)
    return project


def _kill_in_the_middle(root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pedigree", "run", "--job", "fine_tune"], cwd=root,
        env={**os.environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while not list(root.glob(".pedigree/work/*/checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_rebuilt_bit_for_bit(data: Project, name: str) -> None:
    root = data.root
    params = yaml.safe_load(must("git", "show", "HEAD:params.yaml", cwd=root))
    params["train"] |= {**FAST, **CONFIGURATIONS[name]}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    if "resumed" in name:
        _kill_in_the_middle(root)
    must("python", "-m", "pedigree", "run", "--job", "fine_tune", cwd=root)
    digest = (root / "digests" / "fine_tuned_model").read_text().strip()
    record = json.loads((root / ".pedigree" / "records" / f"{digest[7:]}.json").read_text())
    assert (record["resumed_from"] > 0) == ("resumed" in name)
    done = run("python", "-m", "pedigree", "rebuild", digest, "--json", cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["verdict"] == "bit-identical"
    assert json.loads(done.stdout)["rebuilt"] == digest

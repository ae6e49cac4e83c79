"""Any recorded model can be made again, bit for bit, and a record that was changed is found out."""

import base64
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pedigree.doctor import diagnose
from pedigree.errors import PedigreeError
from pedigree.evidence.store import open_store
from pedigree.locks import hold
from pedigree.project import Project
from pedigree.rebuild import read_record_file, rebuild_model
from tests.conftest import must, open_instance, present, run, run_job


def _pedigree(where: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = run("python", "-m", "pedigree", *arguments, cwd=where, **environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def _statement(project: Project) -> Path:
    (path,) = project.evidence.glob("*/training-*.dsse.json")
    return path


def _predicate(project: Project) -> dict[str, Any]:
    envelope = json.loads(_statement(project).read_bytes())
    return json.loads(base64.b64decode(envelope["payload"]))["predicate"]


def _write_record(path: Path, predicate: dict[str, Any]) -> str:
    path.write_text(json.dumps(predicate))
    return str(path)


def test_a_model_is_rebuilt_bit_for_bit_after_head_moved_on_and_artifacts_are_gone(
    trained_copy: Project,
) -> None:
    root = trained_copy.root
    loop = root / "pedigree" / "training" / "loop.py"
    loop.write_text(loop.read_text().replace("cross_entropy(logits, targets)", "mse_loss()"))
    must("git", "commit", "-aqm", "Change the training loop", cwd=root)
    (root / "mlartifacts").rename(root / "mlartifacts-away")
    shutil.rmtree(root / ".pedigree" / "work", ignore_errors=True)
    digest = _statement(trained_copy).parent.name

    code, out, error = _pedigree(root, "rebuild", "production")
    assert code == 0, error
    assert out.count(f"sha256:{digest}") == 2
    assert "bit-identical" in out
    worktrees = must("git", "worktree", "list", cwd=root)
    assert len(worktrees.splitlines()) == 1
    assert not list((root / ".pedigree" / "rebuilds").iterdir())
    code, out, _ = _pedigree(root, "why", "production", "--json")
    assert code == 0
    rebuild = json.loads(out)["answers"][4]["rebuild"]
    assert rebuild["verdict"].startswith("bit-identical on ")
    (verdict,) = rebuild["verdicts"]
    assert verdict["reason"].endswith("files are the recorded ones")
    (path,) = trained_copy.evidence.glob("*/rebuild-*.dsse.json")
    assert [verdict["key"]] == [one["keyid"] for one in json.loads(path.read_bytes())["signatures"]]
    assert not verdict["independent"]  # the same development key signed the training
    assert verdict["tolerance"] == 0.01


def test_the_doctor_lets_a_rebuild_that_still_runs_be(trained_copy: Project) -> None:
    class Looked(Exception):
        pass

    def look() -> datetime:
        assert list(trained_copy.rebuilds.iterdir())
        with pytest.raises(PedigreeError, match="is in use"):
            diagnose(trained_copy, True, {}, present())
        assert list(trained_copy.rebuilds.glob("*/tree/pedigree"))
        raise Looked

    store = open_store(trained_copy, trained_copy.policy())
    recorded = read_record_file(_statement(trained_copy), store)
    with pytest.raises(Looked):
        rebuild_model(trained_copy, recorded, clock=look, report=print, inherited={})
    with hold(trained_copy.lock, shared=False):
        busy = _pedigree(trained_copy.root, "rebuild", "production")
    assert busy[0] == 2
    assert "wait until it has ended" in busy[2]


def test_a_clone_elsewhere_rebuilds_from_commit_record_and_dvc_remote(
    trained_copy: Project, tmp_path: Path, downloads: Path
) -> None:
    root = trained_copy.root
    remote = tmp_path / "remote"
    must("dvc", "remote", "add", "-d", "store", str(remote), cwd=root)
    pointers = [str(path) for path in root.glob("data/*/snapshots/*.dvc")]
    must("dvc", "push", *pointers, cwd=root)
    clone = tmp_path / "elsewhere" / "clone"
    must("git", "clone", "-q", str(root), str(clone), cwd=tmp_path)
    must("dvc", "remote", "add", "--local", "-d", "store", str(remote), cwd=clone)
    assert not (clone / "data").exists()
    assert not (clone / "mlflow.db").exists()
    record = shutil.copy(_statement(trained_copy), tmp_path / "statement.dsse.json")

    code, out, error = _pedigree(clone, "rebuild", "--record", str(record), "--json")
    assert code == 0, error
    said = json.loads(out)
    assert said["verdict"] == "bit-identical"
    assert said["recorded"] == said["rebuilt"]
    assert not said["signed"]  # the key that signed it is not on this machine


def test_a_base_model_that_another_policy_admitted_is_judged_again(trained_copy: Project) -> None:
    root = trained_copy.root
    (base,) = {path.parent.name for path in trained_copy.evidence.glob("*/base-model-*.dsse.json")}
    path = root / "policy.yaml"
    values = yaml.safe_load(path.read_text())
    values["admission"]["formats"] = ["onnx"]
    path.write_text(yaml.safe_dump(values))
    must("git", "commit", "-aqm", "Admit other formats", cwd=root)
    code, _, error = _pedigree(root, "rebuild", "production")
    assert code == 1
    assert "says quarantined" in error
    assert (trained_copy.quarantined / base).is_dir()
    values["admission"]["formats"] = ["safetensors"]
    path.write_text(yaml.safe_dump(values))
    must("git", "commit", "-aqm", "Admit the old format alone", cwd=root)
    code, out, error = _pedigree(root, "rebuild", "production")
    assert code == 0, error
    assert "bit-identical" in out
    assert (trained_copy.admitted / base).is_dir()


def test_a_changed_seed_is_not_identical_and_is_named(
    trained_copy: Project, tmp_path: Path
) -> None:
    predicate = _predicate(trained_copy)
    predicate["buildDefinition"]["externalParameters"]["params"]["seed"] += 1
    record = _write_record(tmp_path / "record.json", predicate)
    code, out, _ = _pedigree(trained_copy.root, "rebuild", "--record", record, "--json")
    assert code == 1
    said = json.loads(out)
    assert said["verdict"] == "different"
    assert said["recorded"] != said["rebuilt"]
    assert said["reason"].startswith("an input differs: train.seed")
    assert said["differences"] == [
        "train.seed in the record is not what the model was trained with"
    ]


def test_the_record_that_mlflow_keeps_will_do(trained_copy: Project) -> None:
    # MLflow keeps absolute paths, so what other copies trained may lie here too.
    run = _predicate(trained_copy)["buildDefinition"]["internalParameters"]["mlflow_run"]
    (path,) = (trained_copy.root / "mlartifacts" / run).rglob("training_record.json")
    code, out, error = _pedigree(trained_copy.root, "rebuild", "--record", str(path))
    assert code == 0, error
    assert "bit-identical" in out


def test_a_record_that_cannot_be_rebuilt_says_why_and_changes_nothing(
    trained_copy: Project, tmp_path: Path
) -> None:
    root = trained_copy.root

    def find_evidence() -> list[Path]:
        # What comes to the gate is recorded, also if it is then not what the record says.
        paths = trained_copy.evidence.rglob("*.json")
        return sorted(path for path in paths if not path.name.startswith("admission-"))

    evidence = find_evidence()

    def refuse(change: dict[str, Any], *words: str, code: int = 2) -> None:
        predicate = _predicate(trained_copy)
        internal = predicate["buildDefinition"]["internalParameters"]
        for path, value in change.items():
            *folders, name = path.split("/")
            place = internal
            for folder in folders:
                place = place[folder]
            place[name] = value
        record = _write_record(tmp_path / "record.json", predicate)
        found, out, error = _pedigree(root, "rebuild", "--record", record)
        assert (found, out) == (code, ""), (found, out, error)
        for word in words:
            assert word in error

    refuse({"inputs/code/commit": "0" * 40}, "is not in the repository", "fetch it", code=3)
    refuse({"inputs/code/dirty": True}, "was not committed")
    refuse({"hardware/python": "3.9.1"}, "trained with Python 3.9.1")
    refuse(
        {"inputs/environment/distributions": {"pedigree-no-such-package": "1.0"}},
        "cannot be installed here",
        "pedigree-no-such-package==1.0",
    )
    wrong = {"digest": "sha256:" + "1" * 64}
    refuse({"inputs/training/digest": wrong["digest"]}, "the record was changed")
    refuse({"inputs/base/digest": wrong["digest"]}, "but the record says", code=1)
    refuse({"inputs": {}}, "It is no training record", "lacks")
    assert find_evidence() == evidence
    assert not list((root / ".pedigree" / "rebuilds").iterdir())
    (tmp_path / "bad.json").write_text("{")
    for file, words in (
        ("nothing.json", "is missing"),
        ("bad.json", "is not JSON"),
        (".", "cannot be read (Is a directory)"),
    ):
        code, _, error = _pedigree(root, "rebuild", "--record", str(tmp_path / file))
        assert code == 2
        assert words in error


def test_a_snapshot_that_no_remote_has_is_missing_evidence(trained_copy: Project) -> None:
    root = trained_copy.root
    shutil.rmtree(root / "data" / "training" / "snapshots")
    shutil.rmtree(root / ".dvc" / "cache")
    code, _, error = _pedigree(root, "rebuild", "production")
    assert code == 3
    assert "neither in DVC's cache nor in its remote" in error


def test_another_instruction_set_is_refused(trained_copy: Project, tmp_path: Path) -> None:
    """What this processor offers is held down, so that the test means the same on each machine."""
    predicate = _predicate(trained_copy)
    definition = predicate["buildDefinition"]
    definition["externalParameters"]["params"]["cpu_capability"] = "avx512"
    definition["internalParameters"]["environment_variables"]["ATEN_CPU_CAPABILITY"] = "default"
    record = _write_record(tmp_path / "record.json", predicate)
    code, _, error = _pedigree(trained_copy.root, "rebuild", "--record", record)
    assert code == 2
    assert "strict mode does not substitute" in error


@pytest.mark.slow
def test_fast_mode_is_recorded_and_promises_only_tolerance(project: Project) -> None:
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"]["mode"] = "fast"
    path.write_text(yaml.safe_dump(params))
    with open_instance(project.root / ".dagster") as instance:
        for job in ("ingest_and_check", "fine_tune"):
            assert run_job(project, job, instance).success
    predicate = _predicate(project)
    assert predicate["buildDefinition"]["externalParameters"]["params"]["mode"] == "fast"
    digest = _statement(project).parent.name
    code, out, _ = _pedigree(project.root, "rebuild", digest[:12], "--json")
    said = json.loads(out)
    assert said["promise"] == "within tolerance"
    assert said["verdict"] in ("bit-identical", "within tolerance")
    assert code == 0

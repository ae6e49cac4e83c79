"""Gates in the bodies of training, evaluation, attestation and promotion."""

import hashlib
import shutil

import dagster as dg
import mlflow
import pytest
import yaml

from pedigree.errors import EvidenceMissing, GateClosed, VerificationFailed
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.project import Project
from pedigree.registry import find_model, find_promoted, find_training
from pedigree.release import attest_model, promote_model, require_clean_tree
from pedigree.tracking import set_alias
from pedigree.training.record import read_record
from tests.conftest import REPOSITORY, errors_of, must, open_instance, present, run_job


def _store(project: Project) -> EvidenceStore:
    return open_store(project, project.policy())


def _model(project: Project) -> str:
    promoted = find_promoted(_store(project), "production")
    assert promoted is not None
    return promoted.model


def _remove_verdicts(project: Project, digest: str, check: str) -> None:
    statements = _store(project).about(digest, "verdict")[0]
    gone = [one for one in statements if check in str(one.predicate)]
    assert gone
    for one in gone:
        one.path.unlink()


def test_a_dirty_tree_trains_but_is_not_promoted(
    project: Project, instance: dg.DagsterInstance
) -> None:
    code = project.root / "pedigree" / "curation.py"
    code.write_text(code.read_text() + "\n# changed\n")
    with pytest.raises(GateClosed, match=r"dirty, 1 files differ .*pedigree/curation.py"):
        require_clean_tree(project)
    assert run_job(project, "retrain", instance).success
    result = run_job(project, "release", instance)
    assert not result.success
    assert "the working tree is dirty" in errors_of(result)
    assert "pedigree/curation.py" in errors_of(result)
    assert find_promoted(_store(project), "production") is None
    client = mlflow.MlflowClient(project.tracking_uri, project.tracking_uri)
    assert client.search_registered_models() == []
    (statement,) = _store(project).all("training")
    record = read_record(statement)
    assert record.inputs.code.dirty
    assert record.inputs.code.changed_files == ("pedigree/curation.py",)
    diff = client.list_artifacts(record.mlflow_run, "pedigree")
    assert "pedigree/dirty.diff" in [one.path for one in diff]
    text = next((project.root / "mlartifacts").rglob("dirty.diff")).read_text()
    assert "+# changed" in text
    assert record.inputs.code.diff_sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["assets/evil.py", "rfc8785.py", "checks/deep/evil.so"])
def test_code_that_git_ignores_is_dirt_too(project: Project, name: str) -> None:
    with (project.root / ".gitignore").open("a") as ignore:
        ignore.write(f"{name}\n")
    must("git", "commit", "-aqm", "Ignore it", cwd=project.root)
    require_clean_tree(project)
    (project.root / name).parent.mkdir(exist_ok=True)
    (project.root / name).write_text("print('not what was committed')\n")
    with pytest.raises(GateClosed, match=name):
        require_clean_tree(project)


def test_parameters_and_dvc_files_are_not_dirt(project: Project) -> None:
    path = project.root / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    (project.root / "dvc.lock").write_text("schema: '2.0'\n")
    require_clean_tree(project)


def test_a_project_without_a_commit_is_not_promoted(project: Project) -> None:
    shutil.rmtree(project.root / ".git")
    with pytest.raises(GateClosed, match="no git commit"):
        require_clean_tree(project)


def test_without_the_models_verdict_promotion_is_refused(trained_copy: Project) -> None:
    digest = _model(trained_copy)
    _remove_verdicts(trained_copy, digest, "evaluation_accuracy")
    with pytest.raises(GateClosed, match="the verdict of evaluation_accuracy is missing") as error:
        promote_model(trained_copy, digest, "production", present())
    assert digest in str(error.value)


def test_without_the_datas_verdict_neither_attestation_nor_promotion_goes_on(
    trained_copy: Project,
) -> None:
    digest = _model(trained_copy)
    record = read_record(find_training(_store(trained_copy), digest))
    _remove_verdicts(trained_copy, record.inputs.training.digest, "evaluation_leakage")
    with pytest.raises(GateClosed, match="the verdict of evaluation_leakage is missing"):
        attest_model(trained_copy, digest, present())
    with pytest.raises(GateClosed, match="the verdict of evaluation_leakage is missing"):
        promote_model(trained_copy, digest, "production", present())


def test_after_a_change_of_policy_the_checks_must_judge_again(trained_copy: Project) -> None:
    path = trained_copy.root / "policy.yaml"
    policy = yaml.safe_load(path.read_text())
    policy["checks"]["evaluation_accuracy"]["floor"] = 0.6
    path.write_text(yaml.safe_dump(policy))
    with pytest.raises(GateClosed, match=r"is stale \(another policy since\)"):
        promote_model(trained_copy, _model(trained_copy), "production", present())


def test_missing_approvals_keep_the_gate_closed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    path = project.root / "policy.yaml"
    policy = yaml.safe_load(path.read_text())
    policy["environments"]["production"]["approvals"] = 2
    path.write_text(yaml.safe_dump(policy))
    must("git", "commit", "-aqm", "Demand approvals", cwd=project.root)
    assert run_job(project, "retrain", instance).success
    result = run_job(project, "release", instance)
    assert "demands 2 approvals by a reviewer and 0 count (none)" in errors_of(result)
    assert find_promoted(_store(project), "production") is None


def test_a_model_that_nobody_attested_and_an_unknown_environment_are_refused(
    trained_copy: Project,
) -> None:
    with pytest.raises(EvidenceMissing, match="No training evidence"):
        promote_model(trained_copy, "sha256:" + "0" * 64, "production", present())
    with pytest.raises(Exception, match="no environment 'staging': it has production"):
        promote_model(trained_copy, _model(trained_copy), "staging", present())


def test_an_alias_moved_by_hand_does_not_move_production(trained_copy: Project) -> None:
    digest = _model(trained_copy)
    client = mlflow.MlflowClient(trained_copy.tracking_uri, trained_copy.tracking_uri)
    made = client.create_model_version("reviews", source=str(trained_copy.root / "elsewhere"))
    set_alias(trained_copy, "reviews", "production", str(made.version))
    store = _store(trained_copy)
    assert find_model(store, "production", ["production"]) == digest
    assert find_model(store, "reviews@production", []) == digest
    assert find_model(store, "reviews:1", []) == digest
    with pytest.raises(EvidenceMissing):
        find_model(store, f"reviews:{made.version}", [])


def test_changed_weights_are_neither_attested_nor_promoted(trained_copy: Project) -> None:
    digest = _model(trained_copy)
    record = read_record(find_training(_store(trained_copy), digest))
    weights = trained_copy.root / record.location / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for act in (
        lambda: attest_model(trained_copy, digest, present()),
        lambda: promote_model(trained_copy, digest, "production", present()),
    ):
        with pytest.raises(VerificationFailed, match=r"model\.safetensors changed"):
            act()


def test_a_worse_model_than_productions_is_stopped(trained_copy: Project) -> None:
    """The next model is trained for no time at all on the same data: accuracy falls."""
    path = trained_copy.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"] |= {"epochs": 1, "learning_rate": 1e-6}
    path.write_text(yaml.safe_dump(params))
    with open_instance(trained_copy.root / ".dagster") as instance:
        result = run_job(trained_copy, "fine_tune", instance)
        assert not result.success
        (check,) = [
            one
            for one in result.get_asset_check_evaluations()
            if one.check_name == "evaluation_accuracy"
        ]
        assert check.severity == dg.AssetCheckSeverity.ERROR
        assert "below production's" in (check.description or "")
        promote = run_job(trained_copy, "release", instance)
        assert not promote.success


@pytest.mark.slow
def test_the_installed_files_are_judged_where_an_environment_demands_it(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """The lock of this project misses a distribution that is installed: promotion is refused."""
    path = project.root / "policy.yaml"
    policy = yaml.safe_load(path.read_text())
    policy["environments"]["production"]["required_checks"].append("environment_matches_lock")
    path.write_text(yaml.safe_dump(policy))
    lock = project.root / "constraints.txt"
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    lock.write_text("\n".join(one for one in lines if not one.startswith("tqdm==")) + "\n")
    must("git", "add", "-A", cwd=project.root)
    must("git", "commit", "-qm", "Another lock", cwd=project.root)
    run_job(project, "retrain", instance)
    result = run_job(project, "release", instance)
    assert not result.success
    assert "environment_matches_lock failed" in errors_of(result)
    assert "tqdm" in errors_of(result)
    assert "is not in the lock" in errors_of(result)

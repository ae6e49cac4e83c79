"""The base model comes in through the gate, and nothing trains on what did not."""

import hashlib
import zipfile
from pathlib import Path

import dagster as dg
import yaml

from pedigree.evidence.store import open_store
from pedigree.project import Project
from tests.conftest import errors_of, open_instance, run_job
from tests.unit.admission.artifacts import hostile


def _put_into_base(project: Project, **members: bytes) -> None:
    """Replace members of the tiny base model's archive, and pin it again."""
    archive = project.root / "inbox" / "tiny.zip"
    with zipfile.ZipFile(archive) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content.update({name.replace("__", "."): data for name, data in members.items()})
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in content.items():
            new.writestr(name, data)
    path = project.root / "base_models" / "tiny.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["sha256"] = hashlib.sha256(archive.read_bytes()).hexdigest()
    path.write_text(yaml.safe_dump(declared))


def _failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return {
        one.check_name: str(one.description)
        for one in result.get_asset_check_evaluations()
        if not one.passed
    }


def test_a_malicious_pickle_never_runs_and_stops_the_job(
    project: Project, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    _put_into_base(project, tokenizer_config__json=hostile(canary))
    result = run_job(project, "fine_tune", instance)
    assert not result.success
    failed = _failed_checks(result)
    assert set(failed) == {"file_tree", "contents"}
    assert "os.system" in failed["contents"]
    made = [one.asset_key.to_user_string() for one in result.get_asset_materialization_events()]
    assert made == ["base_model_admission"]
    assert not canary.exists()
    assert not project.admitted.exists()


def test_training_alone_is_refused_without_an_admission(trained_copy: Project) -> None:
    store = open_store(trained_copy, trained_copy.policy())
    (decision,) = [one for one in store.all("admission") if one.predicate["state"] == "admitted"]
    decision.path.unlink()
    with open_instance(trained_copy.root / ".dagster") as instance:
        only = [dg.AssetKey("fine_tuned_model")]
        result = run_job(trained_copy, "fine_tune", instance, asset_selection=only)
    assert not result.success
    assert "may not be loaded" in errors_of(result)
    assert "was deleted" in errors_of(result)

"""Change control as people use it: the commands, and the job in Dagster's Launchpad."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pedigree.cli import main
from pedigree.evidence.store import open_store
from pedigree.launching import summarise_model
from pedigree.project import Project
from pedigree.registry import find_promoted
from pipelines.definitions import build_definitions
from tests.conftest import errors_of, open_instance, run, run_job


@pytest.fixture
def digest(trained_copy: Project) -> str:
    """The model of a project whose staging demands one approval."""
    path = trained_copy.root / "policy.yaml"
    policy = yaml.safe_load(path.read_text())
    policy["environments"]["staging"] = {
        "required_checks": ["weights_are_finite"],
        "approvals": 1,
    }
    promoted = find_promoted(open_store(trained_copy, trained_copy.policy()), "production")
    assert promoted is not None
    path.write_text(yaml.safe_dump(policy))
    with open_instance(trained_copy.root / ".dagster") as instance:
        # Under another policy the checks judge again: no asset is made, only judged.
        checks = build_definitions(trained_copy).resolve_asset_graph().asset_check_keys
        made = build_definitions(trained_copy).resolve_implicit_global_asset_job_def()
        result = made.get_subset(asset_selection=set(), asset_check_selection=set(checks))
        quiet = {"loggers": {"readable": {}}}
        result.execute_in_process(instance=instance, raise_on_error=False, run_config=quiet)
    return promoted.model


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(trained_copy: Project, capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*command: str) -> tuple[int, str, str]:
        code = main(["-C", str(trained_copy.root), *command])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def run_promote(project: Project, **config: Any) -> dg.ExecuteInProcessResult:
    with open_instance(project.root / ".dagster") as instance:
        job = build_definitions(project).resolve_job_def("promote")
        return job.execute_in_process(
            run_config={
                "ops": {"promote_digest": {"config": config}},
                "loggers": {"readable": {}},
            },
            instance=instance,
            raise_on_error=False,
        )


def test_a_model_is_approved_promoted_and_revoked(
    trained_copy: Project, digest: str, ask: Ask, tmp_path: Path
) -> None:
    code, _, err = ask("promote", digest, "--env", "staging")
    assert code == 1
    assert "0 count (none): a reviewer gives one with `pedigree approve`" in err
    code, out, _ = ask("keys", "new", "reviewer", "--owner", "ada@example.org")
    assert code == 0
    assert "commit it" in out
    key = str(trained_copy.keys / "reviewer-ada@example.org.pem")
    assert Path(key).read_text() not in out
    code, out, _ = ask("keys", "list")
    assert "ada@example.org" in out
    assert "development" in out
    code, out, _ = ask("keys", "show", "reviewer")
    assert out.startswith("-----BEGIN PUBLIC KEY-----")
    approve = ("--env", "staging", "--key", key, "--reason", "read the findings")
    code, out, err = ask("approve", digest[:25], *approve)
    assert (code, err) == (0, "")
    assert f"{digest} is approved for staging, by ada@example.org" in out
    code, out, err = ask("promote", digest[7:25], "--env", "staging", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["predicate"]["approvals"] == ["ada@example.org"]
    code, out, _ = ask("why", "staging")
    assert code == 0
    assert "approved by ada@example.org" in out
    assert "development key" in out
    code, out, _ = ask("models")
    assert "production, staging" in out
    code, out, err = ask("revoke", digest, "--reason", "a source was poisoned")
    assert code == 0
    assert "removed from MLflow: reviews@production, reviews@staging" in out
    code, out, err = ask("verify", "staging")
    assert code == 1
    assert "a source was poisoned" in err
    code, out, err = ask("promote", digest, "--env", "staging")
    assert code == 1
    assert "was revoked" in err
    code, out, _ = ask("models")
    assert "REVOKED" in out
    code, out, _ = ask("why", digest)
    assert "REVOKED" in out


def test_a_run_up_to_the_model_ends_with_its_digest_and_the_way_to_an_environment(
    trained_copy: Project, digest: str
) -> None:
    (trained_copy.root / "digests").mkdir(exist_ok=True)
    (trained_copy.root / "digests" / "fine_tuned_model").write_text(f"{digest}\n")
    said = summarise_model(trained_copy)
    assert f"model  {digest}\n  accuracy  " in said
    short = digest[:19]
    assert f"pedigree approve {short} --env staging --key KEY --reason TEXT" in said
    assert f"pedigree promote {short} --env staging" in said
    assert f"pedigree approve {short} --env production" not in said
    assert f"pedigree promote {short} --env production" in said


def test_what_is_not_there_yet_is_said_with_what_makes_it(
    project: Project, instance: dg.DagsterInstance
) -> None:
    # In a process of its own: with `capsys`, Dagster's capture of a first step closes pytest's.
    shown = run("python", "-m", "pedigree", "keys", "show", "development", cwd=project.root)
    assert shown.returncode == 3
    assert "no development key: the first run makes one" in shown.stderr
    said = errors_of(run_job(project, "release", instance))
    assert "fine_tuned_model was never materialised here" in said
    assert "`pedigree run --until model`" in said
    said = errors_of(run_job(project, "fine_tune", instance))
    assert "training_snapshot was never materialised here" in said
    assert "`pedigree run --until checks`" in said


def test_commands_about_keys_print_one_document(
    trained_copy: Project, ask: Ask, tmp_path: Path
) -> None:
    def document(*command: str) -> Any:
        code, out, err = ask(*command, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    made = document("keys", "new", "reviewer", "--owner", "ada")
    assert (made["role"], made["owner"]) == ("reviewer", "ada")
    shown = document("keys", "show", "reviewer")
    assert [one.split("-----")[1] for one in shown["public_keys"]] == ["BEGIN PUBLIC KEY"]
    revoked = document("keys", "revoke", made["id"], "--reason", "lost")
    assert (revoked["id"], revoked["revoked_because"]) == (made["id"], "lost")
    exported = document("export", "production", "--out", str(tmp_path / "there"))
    assert exported["folder"] == str(tmp_path / "there")
    assert {one["path"] for one in exported["files"]} >= {"claims.jsonl", "verify.sh"}


def test_bad_requests_are_sentences(trained_copy: Project, digest: str, ask: Ask) -> None:
    for command, expected, message in (
        (("approve", digest, "--env", "moon", "--key", "k", "--reason", "r"), 2, "cannot be read"),
        (("promote", digest, "--env", "moon"), 2, "has no environment 'moon'"),
        (("promote", "0" * 64, "--env", "staging"), 3, "No training evidence"),
        (("promote", "mlruns/1", "--env", "staging"), 2, "is no digest"),
        (("promote", "production", "--env", "staging"), 2, "'production' is no digest"),
        (("prove", "0" * 64, "--in", "0" * 12), 3, "see `pedigree why MODEL`"),
        (("revoke", "f" * 64, "--reason", "r"), 3, "is known by"),
        (("keys", "revoke", "0" * 12, "--reason", "r"), 2, "names 0 keys"),
        (("keys", "show", "releaser"), 3, "make one with `pedigree keys new releaser`"),
        (("keys", "new", "reviewer", "--owner", "Ada"), 2, "lower-case ASCII"),
        (("waive", "trigger_ngrams", digest, "--until", "soon", "--key", "k", "--reason", "r"),
         3, "nothing to waive"),
    ):  # fmt: skip
        code, out, err = ask(*command)
        assert (code, out) == (expected, ""), err
        assert message in err
        assert "Traceback" not in err


def test_the_launchpad_asks_for_digest_and_environment_and_the_policy_decides(
    trained_copy: Project, digest: str, ask: Ask
) -> None:
    job = build_definitions(trained_copy).resolve_job_def("promote")
    fields = job.run_config_schema.config_type.fields["ops"].config_type.fields  # type: ignore[attr-defined]
    asked = fields["promote_digest"].config_type.fields["config"].config_type.fields
    assert {name for name, one in asked.items() if one.is_required} == {"digest", "environment"}
    refused = run_promote(trained_copy, digest=digest, environment="staging")
    assert not refused.success
    ask("keys", "new", "reviewer", "--owner", "ada")
    key = str(trained_copy.keys / "reviewer-ada.pem")
    ask("approve", digest, "--env", "staging", "--key", key, "--reason", "read the findings")
    done = run_promote(trained_copy, digest=digest, environment="staging")
    assert done.success
    (event,) = [one for one in done.all_events if one.event_type_value == "ASSET_MATERIALIZATION"]
    made = event.step_materialization_data.materialization
    assert made.asset_key == dg.AssetKey("staging_model")
    assert made.metadata["digest"].value == digest
    assert made.metadata["approved_by"].value == "ada"
    assert not run_promote(trained_copy, digest="mlruns/1/model", environment="staging").success

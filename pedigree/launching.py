"""Starting the main job: Dagster runs in a process of its own, which this one waits for."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pedigree.digests import JSON, canonical_json
from pedigree.errors import PedigreeError
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.project import Project
from pedigree.registry import find_promoted
from pedigree.training.evaluation import Evaluation

QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def run_jobs(
    project: Project,
    until: str,
    job: str | None,
    profile: str | None,
    environment: Mapping[str, str],
) -> int:
    """Run the project's Dagster jobs up to a stage, or one of them; print what came out.

    Args:
        project: the project.
        until: the last stage: snapshot, checks, model or release.
        job: one job by its name, instead.
        profile: a profile of `params.yaml`.
        environment: of this process, passed on.

    Returns:
        The exit code.

    Raises:
        PedigreeError: the project has no pipeline, or Dagster is not installed.
    """
    _refuse_temporary_workspace(project)
    project.params()
    command = ["--job", job] if job else ["--until", until]
    if profile is not None:
        command += ["--profile", profile]
    code = _start(project, "pipelines.run", command, environment).returncode
    if code == 0 and (job == "release" or (job is None and until == "release")):
        print(_summarise(project))
    elif code == 0 and job is None and until == "model":
        print(summarise_model(project))
    return code


def run_configured(
    project: Project,
    job: str,
    config: Mapping[str, JSON],
    select: str,
    environment: Mapping[str, str],
    *,
    quiet: bool = False,
) -> tuple[int, dict[str, str]]:
    """Run some assets of a job with a configuration of its own.

    Args:
        project: the project.
        job: its name.
        config: the run's configuration, as the Launchpad takes it.
        select: which assets of the job, in Dagster's selection syntax.
        environment: of this process, passed on.
        quiet: print what the run prints on standard error, to keep standard output free.

    Returns:
        The exit code, and the digest of each asset that was made, also where the run failed.

    Raises:
        PedigreeError: the project has no pipeline.
    """
    _refuse_temporary_workspace(project)
    project.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.work) as folder:
        request, made = Path(folder, "config.json"), Path(folder, "made.json")
        request.write_bytes(canonical_json(dict(config)))
        arguments = ["--job", job, "--config", str(request), "--select", select]
        arguments += ["--made", str(made)]
        code = _start(project, "pipelines.run", arguments, environment, quiet=quiet).returncode
        return code, json.loads(made.read_bytes()) if made.is_file() else {}


def examine_dagster(
    project: Project, repair: bool, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return what is wrong in Dagster's instance, as records; with `repair`, it is mended.

    Raises:
        PedigreeError: the project has no pipeline, or Dagster could not be asked.
    """
    command = ["--repair"] if repair else []
    done = _start(project, "pipelines.doctor", command, environment, capture=True)
    if done.returncode != 0:
        raise PedigreeError(f"Dagster could not be examined: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _start(
    project: Project,
    module: str,
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    capture: bool = False,
    quiet: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """Run a module of the project's pipeline to its end, with its Dagster home and no telemetry."""
    if not (project.root / "pipelines" / "run.py").is_file():
        raise PedigreeError(
            f"{project.root} has no pipelines/run.py: a project carries the Dagster code that runs "
            "it; start from a checkout of Pedigree."
        )
    home = project.root / ".dagster"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=project.root,
        env={**environment, **QUIET, "PYTHONPATH": str(project.root), "DAGSTER_HOME": str(home)},
        stdout=subprocess.PIPE if capture else sys.stderr if quiet else None,
        stderr=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )


def _refuse_temporary_workspace(project: Project) -> None:
    """Refuse to run where DVC throws everything away afterwards: evidence would be lost."""
    parts = project.root.resolve().parts
    if any(parts[i : i + 3] == (".dvc", "tmp", "exps") for i in range(len(parts))):
        raise PedigreeError(
            f"{project.root} is a temporary workspace of DVC: models and evidence made there would "
            "be lost with it. Run the experiment in the project itself: `dvc exp run` without "
            "--temp or --queue."
        )


def summarise_model(project: Project) -> str:
    """Return the model that a run up to the model left, and how it gets to an environment."""
    policy = project.policy()
    store = open_store(project, policy)
    # The release job promotes the same one: what the last run made.
    digest = (project.root / "digests" / "fine_tuned_model").read_text().strip()
    lines = [f"\nmodel  {digest}\n{_describe_accuracy(store, digest)}", "\nNext:"]
    for name, demands in policy.environments.items():
        if demands.approvals:
            lines.append(
                f"  pedigree approve {digest[:19]} --env {name} --key KEY --reason TEXT    "
                f"({demands.approvals} by a {demands.approver_role})"
            )
        lines.append(f"  pedigree promote {digest[:19]} --env {name}")
    return "\n".join(lines)


def _describe_accuracy(store: EvidenceStore, model: str) -> str:
    said = store.about(model, "evaluation")[0][-1].predicate
    evaluation = Evaluation.model_validate(said["evaluation"])
    by_source = "\n".join(
        f"    {name:<24} {accuracy:.3f}  on {evaluation.by_source[name][0]} rows"
        for name, accuracy in evaluation.source_accuracy.items()
    )
    return f"  accuracy  {evaluation.accuracy:.3f} on {evaluation.rows} held-out rows\n{by_source}"


def _summarise(project: Project) -> str:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    if promoted is None:
        raise PedigreeError("The run ended without an error but left no promotion: see its log.")
    return (
        f"\nproduction  {promoted.name}:{promoted.version}\n"
        f"  model     {promoted.model}\n"
        f"{_describe_accuracy(store, promoted.model)}\n"
        "\nLook further:\n"
        "  pedigree why production       where it came from\n"
        "  pedigree verify production    whether it is still what was trained\n"
        "  pedigree models               every model\n"
        "  make ui                       assets and checks in the Dagster UI\n"
        "  make mlflow                   runs and model versions in the MLflow UI"
    )

"""Starting the main job: Dagster runs in a process of its own, which this one waits for."""

import subprocess
import sys
from collections.abc import Mapping

from pedigree.errors import PedigreeError
from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.registry import find_promoted
from pedigree.training.evaluation import Evaluation

QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
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
    if not (project.root / "pipelines" / "run.py").is_file():
        raise PedigreeError(
            f"{project.root} has no pipelines/run.py: a project carries the Dagster code that runs "
            "it; start from a checkout of Pedigree."
        )
    project.params()
    command = [sys.executable, "-m", "pipelines.run"]
    command += ["--job", job] if job else ["--until", until]
    if profile is not None:
        command += ["--profile", profile]
    home = project.root / ".dagster"
    home.mkdir(exist_ok=True)
    code = subprocess.run(
        command,
        cwd=project.root,
        env={**environment, **QUIET, "PYTHONPATH": str(project.root), "DAGSTER_HOME": str(home)},
        check=False,
    ).returncode
    if code == 0 and (job == "promote" or (job is None and until == "release")):
        print(_summarise(project))
    return code


def _summarise(project: Project) -> str:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    if promoted is None:
        raise PedigreeError("The run ended without an error but left no promotion: see its log.")
    said = store.about(promoted.model, "evaluation")[0][-1].predicate
    evaluation = Evaluation.model_validate(said["evaluation"])
    by_source = "\n".join(
        f"    {name:<24} {accuracy:.3f}  on {evaluation.by_source[name][0]} rows"
        for name, accuracy in evaluation.source_accuracy.items()
    )
    return (
        f"\nproduction  {promoted.name}:{promoted.version}\n"
        f"  model     {promoted.model}\n"
        f"  accuracy  {evaluation.accuracy:.3f} on {evaluation.rows} held-out rows\n{by_source}\n"
        "\nLook further:\n"
        "  pedigree why production       where it came from\n"
        "  pedigree verify production    whether it is still what was trained\n"
        "  pedigree models               every model\n"
        "  make ui                       assets and checks in the Dagster UI\n"
        "  make mlflow                   runs and model versions in the MLflow UI"
    )

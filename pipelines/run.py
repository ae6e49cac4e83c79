"""The process that `pedigree run` starts: the main job in Dagster, with errors as sentences.

    python -m pipelines.run --until release --profile demo

Started by hand it needs DAGSTER_HOME, and PYTHONPATH set to the project's folder.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg

from assets.versions import DATA_VERSION
from pedigree import errors
from pedigree.errors import PedigreeError
from pedigree.files import write_atomically
from pedigree.project import Project
from pipelines.jobs import JOBS

# `release` is two runs: the gate that promotion calls reads verdicts, not Dagster's memory.
JOBS_UNTIL = {
    "snapshot": ["ingest"],
    "checks": ["ingest_and_check"],
    "model": ["retrain"],
    "release": ["retrain", "release"],
}
DIGEST_FILES = {"training_snapshot", "evaluation_snapshot", "base_model", "fine_tuned_model"}


def main(arguments: list[str]) -> int:
    """Run the jobs up to a stage; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.run")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--until", choices=JOBS_UNTIL, default="release")
    chosen.add_argument("--job", choices=[job.name for job in JOBS if job.name != "promote"])
    parser.add_argument("--profile")
    parser.add_argument("--config", type=Path, help="a run's configuration, as JSON")
    parser.add_argument("--select", help="of a job's assets only these, in Dagster's words")
    parser.add_argument("--made", type=Path, help="where to write what was made, as JSON")
    options = parser.parse_args(arguments)
    try:
        jobs = [options.job] if options.job else JOBS_UNTIL[options.until]
        config = json.loads(options.config.read_bytes()) if options.config else {}
        return _run(jobs, options.profile, config, options.select, options.made)
    except PedigreeError as error:
        print(f"pedigree: {error}", file=sys.stderr)
        return error.exit_code


def _run(
    jobs: list[str],
    profile: str | None,
    config: dict[str, Any],
    select: str | None,
    made: Path | None,
) -> int:
    from pedigree.release import require_clean_tree
    from pipelines.definitions import build_definitions, open_this_project

    project = open_this_project(profile)
    project.policy()
    definitions = build_definitions(project)
    if "release" in jobs:
        require_clean_tree(project)
    with dg.DagsterInstance.get() as instance:
        for name in jobs:
            job = definitions.resolve_job_def(name)
            result = job.execute_in_process(
                instance=instance,
                run_config={"loggers": {"readable": {}}, **config},
                asset_selection=_select(definitions, job, select),
                raise_on_error=False,
                tags={"pedigree/profile": profile or "default"},
            )
            if made is not None:
                write_atomically(made, json.dumps(_list_made(result)).encode())
            if not result.success:
                return _explain(result)
            _write_digests(project, result)
    return 0


def _select(
    definitions: dg.Definitions, job: dg.JobDefinition, select: str | None
) -> list[dg.AssetKey] | None:
    """Return the assets of a job that a selection names; None for all of them."""
    if select is None:
        return None
    with warnings.catch_warnings():
        # Dagster warns of its own parameters when it reads a selection.
        warnings.simplefilter("ignore", dg.BetaWarning)
        chosen = dg.AssetSelection.from_string(select).resolve(definitions.resolve_asset_graph())
    return sorted(chosen & set(job.asset_layer.executable_asset_keys))


def _list_made(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return the digest of each asset that a run made, also one that failed later."""
    made = [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization
    ]
    return {"/".join(one.asset_key.path): (one.tags or {}).get(DATA_VERSION, "") for one in made}


def _write_digests(project: Project, result: dg.ExecuteInProcessResult) -> None:
    """Write what the run made as small files, which are the outputs of DVC's stages."""
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            name = "-".join(made.asset_key.path)
            if name in DIGEST_FILES:
                digest = (made.tags or {})[DATA_VERSION]
                write_atomically(project.root / "digests" / name, f"{digest}\n".encode())
            elif name == "model_evaluation":
                metrics = {key: made.metadata[key].value for key in ("accuracy", "rows")}
                text = json.dumps(metrics, indent=2) + "\n"
                write_atomically(project.root / "metrics" / "evaluation.json", text.encode())


def _explain(result: dg.ExecuteInProcessResult) -> int:
    """Print each cause of a failed run once; return the exit code of the gravest."""
    problems: dict[str, int] = {}
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                text = f"{check.check_name} failed on {check.asset_key.to_user_string()}"
                digest = check.metadata["digest"].value
                said = f"{text} ({digest}): {check.description}"
                if "all_findings" in check.metadata:
                    path = Path(str(check.metadata["all_findings"].value))
                    below = path.is_relative_to(Path.cwd())  # the project's folder
                    said += f" Every row of it: {path.relative_to(Path.cwd()) if below else path}"
                problems[said] = 1
        elif event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and not _is_ours(error.cls_name) and error.cause is not None:
                error = error.cause
            if error is not None and error.cls_name != "DagsterAssetCheckFailedError":
                text = error.message.strip().partition(": ")[2]
                code = getattr(errors, error.cls_name or "", PedigreeError).exit_code
                if not _is_ours(error.cls_name):
                    text = f"{event.step_key} failed: {error.to_string()}"
                problems[text] = code
    for text in problems:
        print(f"pedigree: {text}", file=sys.stderr)
    print(f"The Dagster run {result.run_id} failed; nothing after it was made.", file=sys.stderr)
    return max(problems.values(), default=2)


def _is_ours(name: str | None) -> bool:
    return name is not None and hasattr(errors, name)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The part of `pedigree doctor` that asks Dagster: orphaned runs, and digest files that drifted.

Started by `pedigree doctor`, which holds the project's lock: no run can be in progress.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg

from assets.versions import DATA_VERSION
from pedigree.files import write_atomically
from pedigree.project import Project
from pipelines.definitions import open_this_project
from pipelines.run import DIGEST_FILES

# A run that was just launched holds the project's lock only after a while.
_STARTING_SECONDS = 60


@dataclass(frozen=True)
class Problem:
    """One thing to repair in Dagster's instance or beside it."""

    kind: str
    what: str
    remedy: str
    repair: Callable[[], object]


def find_problems(project: Project, instance: dg.DagsterInstance, now: float) -> Iterator[Problem]:
    """Yield orphaned runs and digest files that are not Dagster's data versions."""
    status = dg.DagsterRunStatus
    waiting = [status.QUEUED, status.NOT_STARTED, status.STARTING]
    for record in instance.get_run_records(
        dg.RunsFilter(statuses=[*waiting, status.STARTED, status.CANCELING])
    ):
        run = record.dagster_run
        if run.status in waiting and now - record.update_timestamp.timestamp() < _STARTING_SECONDS:
            continue
        yield Problem(
            "dagster-run",
            f"the Dagster run {run.run_id} ({run.job_name}) is marked as {run.status.value}, but "
            "no process runs",
            "mark it as failed",
            lambda run=run: instance.report_run_failed(run, "Its process died; closed by doctor."),
        )
    for name in sorted(DIGEST_FILES):
        path = project.root / "digests" / name
        event = instance.get_latest_materialization_event(dg.AssetKey(name))
        made = event.asset_materialization if event else None
        if not path.is_file() or made is None:
            continue
        version = (made.tags or {}).get(DATA_VERSION, "")
        found = path.read_text().strip()
        if found != version:
            text = f"{version}\n".encode()
            yield Problem(
                "digest-file",
                f"digests/{name} says {found}, Dagster's data version is {version}",
                "write Dagster's data version",
                lambda path=path, text=text: write_atomically(path, text),
            )


def main() -> int:
    """Print the problems as JSON; with `--repair`, mend each first."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.doctor")
    parser.add_argument("--repair", action="store_true")
    options = parser.parse_args()
    project = open_this_project()
    with dg.DagsterInstance.get() as instance:
        problems = list(find_problems(project, instance, time.time()))
        if options.repair:
            for problem in problems:
                problem.repair()
    listed = [{"kind": p.kind, "what": p.what, "remedy": p.remedy} for p in problems]
    print(json.dumps(listed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

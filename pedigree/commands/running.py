"""The jobs, and what killed processes left behind."""

import argparse
import dataclasses
import os

from pedigree.commands.common import Commands, open_project, print_json

JOBS = ("ingest", "ingest_and_check", "fine_tune", "retrain", "release")
STAGES = ("snapshot", "checks", "model", "release")


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    run = commands.add_parser("run", help="the main job, in Dagster")
    chosen = run.add_mutually_exclusive_group()
    chosen.add_argument("--until", choices=STAGES, default="release", help="the last stage to make")
    chosen.add_argument("--job", choices=JOBS, help="one Dagster job instead")
    run.add_argument("--profile", metavar="NAME", help="a profile of params.yaml")
    run.set_defaults(command=_run)

    doctor = commands.add_parser("doctor", help="what killed processes left, and what disagrees")
    doctor.add_argument("--repair", action="store_true")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)


def _run(options: argparse.Namespace) -> int:
    from pedigree.launching import run_jobs

    return run_jobs(
        open_project(options), options.until, options.job, options.profile, dict(os.environ)
    )


def _doctor(options: argparse.Namespace) -> int:
    from pedigree.doctor import diagnose
    from pedigree.rendering import render_diagnosis

    found = diagnose(open_project(options), options.repair, dict(os.environ))
    if options.json:
        print_json([dataclasses.asdict(one) for one in found])
    else:
        print(render_diagnosis(found))
    return 0 if all(one.repaired for one in found) else 1

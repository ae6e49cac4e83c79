"""The jobs, what they run on, and what killed processes left behind."""

import argparse
import dataclasses
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from pedigree.capture import LOCK, find_code_root
from pedigree.commands.common import Commands, add_command, open_project, print_json
from pedigree.digests import digest_file
from pedigree.files import write_atomically
from pedigree.project import Project

JOBS = ("ingest", "ingest_and_check", "fine_tune", "retrain", "release")
STAGES = ("snapshot", "checks", "model", "release")


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    run = add_command(commands, "run", "the main job, in Dagster", _run, json=False)
    chosen = run.add_mutually_exclusive_group()
    chosen.add_argument("--until", choices=STAGES, default="release", help="the last stage to make")
    chosen.add_argument("--job", choices=JOBS, help="one Dagster job instead")
    run.add_argument("--profile", metavar="NAME", help="a profile of params.yaml")

    dependencies = add_command(
        commands,
        "dependencies",
        "is what is installed what the lock says, and is all of it pinned?",
        _dependencies,
    )
    dependencies.add_argument("--sbom", type=Path, metavar="FILE", help="write a CycloneDX SBOM")
    dependencies.add_argument(
        "--report", type=Path, metavar="FILE", help="take a vulnerability report in, and sign it"
    )
    dependencies.add_argument(
        "--scanned-on", metavar="TIME", help="when, where the report is silent about it"
    )

    doctor = add_command(
        commands, "doctor", "what killed processes left, and what disagrees", _doctor
    )
    doctor.add_argument("--repair", action="store_true", help="mend what can be mended")


def _dependencies(options: argparse.Namespace) -> int:
    from pedigree.dependencies.installed import examine_installed
    from pedigree.dependencies.stack_files import examine_stack

    project = open_project(options)
    now, lock = datetime.now(UTC), find_code_root(project.root) / LOCK
    if options.report is not None:
        return _take_report(options, project, lock, now)
    if options.sbom is not None:
        from pedigree.dependencies.sbom import describe_environment

        sha256 = digest_file(lock).sha256 if lock.is_file() else None
        text = json.dumps(describe_environment(sha256, now), indent=2) + "\n"
        write_atomically(options.sbom, text.encode())
    installed, loose = examine_installed(lock), examine_stack(project.root)
    if options.json:
        loose_records = [dataclasses.asdict(one) for one in loose]
        print_json({**dataclasses.asdict(installed), "loose": loose_records})
    else:
        print(installed.summary)
        for one in (*installed.unlocked, *installed.altered, *installed.strays):
            print(f"  {one}")
        for one in loose:
            print(f"  {one.file}, line {one.line}: {one.reason}")
    return 0 if installed.holds and not loose else 1


def _take_report(options: argparse.Namespace, project: Project, lock: Path, now: datetime) -> int:
    from pedigree.dependencies.vulnerabilities import read_report, record_report
    from pedigree.evidence.store import open_store
    from pedigree.evidence.trust import parse_time

    scanned = parse_time(options.scanned_on) if options.scanned_on else None
    report = read_report(options.report, scanned)
    store = open_store(project, project.policy(), write=True)
    statement = record_report(store, report, lock, now)
    if options.json:
        print_json({"statement": statement.digest, **statement.content})
    else:
        print(
            f"{report.tool}, {report.scanned_on}: {len(report.found)} known vulnerabilities in the "
            f"environment of {lock.name} ({statement.digest})."
        )
    return 0


def _run(options: argparse.Namespace) -> int:
    from pedigree.launching import run_jobs

    return run_jobs(
        open_project(options), options.until, options.job, options.profile, dict(os.environ)
    )


def _doctor(options: argparse.Namespace) -> int:
    from pedigree.doctor import diagnose
    from pedigree.rendering import render_diagnosis

    found = diagnose(open_project(options), options.repair, dict(os.environ), datetime.now(UTC))
    if options.json:
        print_json([dataclasses.asdict(one) for one in found])
    else:
        print(render_diagnosis(found))
    return 0 if all(one.repaired for one in found) else 1

"""The command `pedigree`.

Exit codes: 0 holds, 1 a check or verification failed, 2 the request was malformed, 3 evidence is
missing. `--json` prints one JSON document on standard output and nothing else there.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pedigree import __version__
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.project import Project, find_project

JOBS = ("ingest", "ingest_and_check", "fine_tune", "retrain", "promote")
STAGES = ("snapshot", "checks", "model", "release")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    options = _build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except PedigreeError as error:
        print(f"pedigree: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(
            f"pedigree: this needs the package {error.name}: run "
            "`pip install 'pedigree-ml[pipeline]'`.",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("pedigree: interrupted.", file=sys.stderr)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pedigree", description="Train models that you can answer for."
    )
    parser.add_argument("--version", action="version", version=f"pedigree {__version__}")
    parser.add_argument(
        "-C", "--project", type=Path, default=Path(), metavar="DIR", help="folder of the project"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="the main job, in Dagster")
    chosen = run.add_mutually_exclusive_group()
    chosen.add_argument("--until", choices=STAGES, default="release", help="the last stage to make")
    chosen.add_argument("--job", choices=JOBS, help="one Dagster job instead")
    run.add_argument("--profile", metavar="NAME", help="a profile of params.yaml")
    run.set_defaults(command=_run)

    sources = commands.add_parser("sources", help="the declared sources")
    sources.add_argument("--json", action="store_true")
    sources.set_defaults(command=_sources)
    actions = sources.add_subparsers(metavar="ACTION")
    pin = actions.add_parser("pin", help="pin a source to its present bytes; shows what changed")
    pin.add_argument("id", metavar="ID")
    pin.add_argument("--json", action="store_true")
    pin.set_defaults(command=_pin)

    models = commands.add_parser("models", help="one line a model")
    models.add_argument("--json", action="store_true")
    models.set_defaults(command=_models)

    why = commands.add_parser("why", help="the five questions about a model")
    why.add_argument(
        "model", metavar="MODEL", help="digest, name@alias, name:version or environment"
    )
    why.add_argument("--json", action="store_true")
    why.set_defaults(command=_why)

    verify = commands.add_parser("verify", help="a model's files against its signed record")
    verify.add_argument("model", metavar="MODEL|DIR")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(command=_verify)

    rebuild = commands.add_parser("rebuild", help="train a recorded model again and compare")
    which = rebuild.add_mutually_exclusive_group(required=True)
    which.add_argument("model", metavar="MODEL", nargs="?")
    which.add_argument("--record", type=Path, metavar="FILE", help="a training statement or record")
    rebuild.add_argument("--json", action="store_true")
    rebuild.set_defaults(command=_rebuild)

    doctor = commands.add_parser("doctor", help="what killed processes left, and what disagrees")
    doctor.add_argument("--repair", action="store_true")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)

    drill = commands.add_parser("drill", help="plant known attacks in a copy; what would be seen?")
    drill.add_argument("--attack", action="append", metavar="A", help="default: every attack")
    drill.add_argument("--rows", default="10,20,50", metavar="K,K", help="numbers of planted rows")
    drill.add_argument("--seeds", type=int, default=1, help="drills for each attack and number")
    drill.add_argument("--plot", type=Path, metavar="FILE.png")
    drill.add_argument("--json", action="store_true")
    drill.set_defaults(command=_drill)

    check = commands.add_parser("check", help="poisoning checks on any table")
    check.add_argument("file", type=Path, metavar="FILE", help="CSV, TSV, JSONL or Parquet")
    check.add_argument("--text", metavar="COL", help="default: text")
    check.add_argument("--label", metavar="COL", help="default: label, where there is one")
    check.add_argument("--annotator", metavar="COL")
    check.add_argument("--collected-at", metavar="COL", help="times: what is young is named")
    check.add_argument(
        "--task", choices=["classification", "instruction", "preference"], default="classification"
    )
    check.add_argument("--against", metavar="SNAPSHOT", help="digest of a snapshot not to repeat")
    check.add_argument("--redis", metavar="URL", help="keep the snapshot's sketches there")
    check.add_argument("--out", type=Path, metavar="FINDINGS.parquet")
    check.add_argument("--json", action="store_true")
    check.set_defaults(command=_check)

    trace = commands.add_parser("trace", help="where something went, and where it came from")
    trace.add_argument("thing", metavar="KIND:NAME", help="such as source:tweets")
    trace.add_argument("--json", action="store_true")
    trace.set_defaults(command=_trace)

    ledger = commands.add_parser("ledger", help="the chain of all statements")
    ledger.add_argument("action", choices=["verify", "checkpoint", "adopt"])
    ledger.add_argument(
        "--witness", action="append", default=[], metavar="FILE", help="checkpoints; or git:PATH"
    )
    ledger.add_argument("--keep", type=Path, metavar="FILE", help="add the checkpoint to a file")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(command=_ledger)

    export = commands.add_parser("export", help="one folder that verifies without Pedigree")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(command=_export)

    prove = commands.add_parser("prove", help="that a row is, or is not, in a snapshot")
    prove.add_argument("row", metavar="ROW", help="row id: 64 digits")
    prove.add_argument("--in", dest="snapshot", required=True, metavar="SNAPSHOT")
    prove.set_defaults(command=_prove)

    admit = commands.add_parser("admit", help="judge an outside model; runs nothing")
    admit.add_argument("path", type=Path, metavar="PATH")
    admit.add_argument("--json", action="store_true")
    admit.set_defaults(command=_admit)
    return parser


def _open(options: argparse.Namespace) -> Project:
    downloads = os.environ.get("PEDIGREE_DOWNLOADS")
    return find_project(options.project, Path(downloads) if downloads else None)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _run(options: argparse.Namespace) -> int:
    from pedigree.launching import run_jobs

    return run_jobs(_open(options), options.until, options.job, options.profile, dict(os.environ))


def _sources(options: argparse.Namespace) -> int:
    from pedigree.rendering import render_table
    from pedigree.sources import load_sources

    project = _open(options)
    sources = load_sources(project.root / "sources")
    if options.json:
        _print_json([source.model_dump(mode="json") for source in sources.values()])
        return 0
    heading = ["ID", "KIND", "ZONE", "LICENCE", "LABEL BATCH", "PIN", "URI"]
    rows = [
        [s.id, s.kind, s.zone, s.licence, s.label_batch or "none", (s.sha256 or "NONE")[:12], s.uri]
        for s in sources.values()
    ]
    print(render_table([heading, *rows]))
    return 0


def _pin(options: argparse.Namespace) -> int:
    from pedigree.pinning import repin_source

    change = repin_source(_open(options), options.id, datetime.now(UTC))
    if options.json:
        _print_json(dataclasses.asdict(change))
        return 0
    if change.new == change.old:
        print(f"{change.source} is unchanged: sha256 {change.new}.")
        return 0
    print(f"{change.source} was pinned to {change.old or 'nothing'},\n  now to {change.new}.")
    labels = ", ".join(f"{label} {count}" for label, count in change.labels.items())
    print(f"  {change.rows} rows ({labels}); revision {change.revision}")
    if change.added is None:
        print("  The documents of the old pin are not here, so rows cannot be compared.")
    else:
        print(f"  {change.added} rows added, {change.removed} removed, {change.changed} changed")
    for example in change.examples:
        print(f"    {example}")
    return 0


def _models(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.lineage import list_models
    from pedigree.rendering import render_models

    project = _open(options)
    models = list(list_models(open_store(project, project.policy())))
    if options.json:
        _print_json([dataclasses.asdict(model) for model in models])
    else:
        print(render_models(models) if models else "No model is attested yet: run `pedigree run`.")
    return 0


def _why(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.lineage import QUESTIONS, explain_model
    from pedigree.registry import find_model
    from pedigree.rendering import render_answers

    project = _open(options)
    policy = project.policy()
    store = open_store(project, policy)
    answers = explain_model(store, find_model(store, options.model, policy.environments))
    if options.json:
        pairs = zip(QUESTIONS, answers.answers, strict=True)
        _print_json(
            {
                "model": answers.model,
                "name": answers.name,
                "complete": answers.complete,
                "missing": answers.missing,
                "answers": [{"question": question, **answer} for question, answer in pairs],
            }
        )
    else:
        print(render_answers(answers))
    return 0 if answers.complete else EvidenceMissing.exit_code


def _verify(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.verification import verify_folder, verify_model

    project = _open(options)
    store = open_store(project, project.policy())
    if Path(options.model).is_dir():
        verified = verify_folder(project, store, Path(options.model))
    else:
        verified = verify_model(project, store, options.model)
    if options.json:
        _print_json({**dataclasses.asdict(verified), "folder": str(verified.folder)})
    else:
        print(
            f"{verified.name} {verified.digest}: all {verified.files} files are the recorded ones\n"
            f"  in {verified.folder}\n  by the signed statement {verified.statement}"
        )
    return 0


def _rebuild(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.rebuild import read_record_file, read_statement, rebuild_model
    from pedigree.registry import find_model, find_training
    from pedigree.rendering import render_rebuild

    project = _open(options)
    policy = project.policy()
    store = open_store(project, policy)
    if options.record is not None:
        recorded = read_record_file(options.record, store)
    else:
        digest = find_model(store, options.model, policy.environments)
        recorded = read_statement(find_training(store, digest))
    outcome = rebuild_model(
        project,
        recorded,
        clock=lambda: datetime.now(UTC),
        report=_show_progress,
        inherited=dict(os.environ),
    )
    if options.json:
        _print_json({**dataclasses.asdict(outcome), "holds": outcome.holds})
    else:
        print(render_rebuild(outcome))
    return 0 if outcome.holds else 1


def _doctor(options: argparse.Namespace) -> int:
    from pedigree.doctor import diagnose
    from pedigree.rendering import render_diagnosis

    found = diagnose(_open(options), options.repair, dict(os.environ))
    if options.json:
        _print_json([dataclasses.asdict(one) for one in found])
    else:
        print(render_diagnosis(found))
    return 0 if all(one.repaired for one in found) else 1


def _show_progress(record: dict[str, Any]) -> None:
    if sys.stderr.isatty() and "step" in record:
        end = "\n" if record["step"] == record["steps"] else ""
        print(f"\rtraining: step {record['step']} of {record['steps']}", end=end, file=sys.stderr)


def _check(options: argparse.Namespace) -> int:
    from pedigree.evidence.policy import CheckLimits
    from pedigree.inspection import (
        Selection,
        inspect_file,
        inspect_instructions,
        inspect_preferences,
        summarise,
    )
    from pedigree.rendering import render_results

    against = None
    if options.against:
        from pedigree.snapshot_index import open_snapshot_index

        against = open_snapshot_index(_open(options), options.against, options.redis)
    elif options.redis:
        raise PedigreeError("--redis says where the sketches of --against are: name a snapshot.")
    if options.task != "classification" and (against or options.text or options.label):
        raise PedigreeError(
            f"--task {options.task} has columns of its own: leave out --text, --label and "
            "--against."
        )
    limits = CheckLimits()
    if options.task == "instruction":
        results = inspect_instructions(options.file, limits)
    elif options.task == "preference":
        results = inspect_preferences(options.file, limits, options.annotator)
    else:
        selection = Selection(options.text, options.label, options.annotator, options.collected_at)
        results = inspect_file(options.file, selection, limits, against, now=datetime.now(UTC))
    if options.out is not None:
        from pedigree.findings import write_findings

        write_findings(results, options.out)
    if options.json:
        _print_json({"file": str(options.file), "checks": summarise(results)})
    else:
        print(render_results(results))
    return 0 if all(result.passed for result in results) else 1


def _trace(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.rendering import render_trace
    from pedigree.tracing import rows_of, trace_thing, update_index

    project = _open(options)
    update_index(project.lineage, open_store(project, project.policy()), rows_of(project))
    trace = trace_thing(project.lineage, options.thing)
    if options.json:
        _print_json(dataclasses.asdict(trace))
    else:
        print(render_trace(trace))
    return EvidenceMissing.exit_code if trace.unindexed else 0


def _ledger(options: argparse.Namespace) -> int:
    from pedigree.evidence.project_ledger import verify_project_ledger
    from pedigree.evidence.store import adopt_statements, open_store

    project, adopted = _open(options), list[str]()
    if options.action == "adopt":
        adopted = adopt_statements(open_store(project, project.policy(), write=True))
    keep = options.keep if options.action == "checkpoint" else None
    seen = verify_project_ledger(project, datetime.now(UTC), options.witness, keep)
    if options.json:
        _print_json({**dataclasses.asdict(seen), "adopted": adopted})
    elif options.action == "checkpoint":
        print(seen)
    else:
        print(f"The ledger holds: {seen.size} statements, the newest entry sha256:{seen.entry}.")
        print("\n".join(f"  listed {name}" for name in adopted), end="\n" if adopted else "")
    return 0


def _export(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.exports.bundle import export_model
    from pedigree.registry import find_model

    project = _open(options)
    policy = project.policy()
    model = find_model(open_store(project, policy), options.model, policy.environments)
    made = export_model(project, model, options.out, datetime.now(UTC))
    print(
        f"{made.folder}: {len(made.files)} files about {made.model}, {made.claims} signed claims.\n"
        f"Verify it elsewhere with a key that you got another way: sh verify.sh KEY.pem (key "
        f"{made.key_id})"
    )
    return 0


def _prove(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.proofs import prove_row
    from pedigree.snapshots import open_snapshot

    project = _open(options)
    store = open_store(project, project.policy())
    digest = store.find_subject(options.snapshot, "snapshot")
    zone = store.about(digest, "snapshot")[0][0].predicate["zone"]
    print(prove_row(open_snapshot(digest, project.snapshots(zone)), options.row).to_json().decode())
    return 0


def _admit(options: argparse.Namespace) -> int:
    from pedigree.admission.scan import scan_path
    from pedigree.rendering import render_table

    scan = scan_path(options.path)
    if options.json:
        _print_json(scan.describe())
    else:
        print(f"{scan.outcome}  {scan.digest}  {options.path}")
        lines = [[one.outcome, one.rule, one.file, one.reason] for one in scan.findings]
        if lines:
            print(render_table([["OUTCOME", "RULE", "FILE", "REASON"], *lines]))
    return 0 if scan.outcome == "admitted" else 1


def _drill(options: argparse.Namespace) -> int:
    from pedigree.drilling import drill_training_snapshot
    from pedigree.rendering import render_table

    try:
        rows = [int(one) for one in options.rows.split(",")]
    except ValueError:
        raise PedigreeError(
            f"--rows {options.rows!r}: expected whole numbers, as in 10,20,50."
        ) from None
    result, verdict = drill_training_snapshot(
        _open(options), options.attack, rows, options.seeds, datetime.now(UTC)
    )
    if options.plot is not None:
        from pedigree.files import write_atomically

        write_atomically(options.plot, result.plot())
    if options.json:
        floors = {name: dataclasses.asdict(floor) for name, floor in result.floors.items()}
        _print_json({"cells": result.to_records(), "floors": floors, "summary": verdict.summary})
    else:
        heading = ["ATTACK", "PLANTED", "DRILLS", "ALARM RATE", "ROWS NAMED", "CLEAN ROWS NAMED"]
        names = ("attack", "planted_rows", "drills", "alarm_rate", "tpr", "fpr")
        lines = [[str(record[name]) for name in names] for record in result.to_records()]
        print(render_table([heading, *lines]))
        print("\n".join(f"{name}: {result.describe_floor(name)}" for name in result.floors))
    return 0 if verdict.passed else 1

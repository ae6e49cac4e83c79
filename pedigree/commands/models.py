"""Questions about models: what they are, whether they hold, whether they can be made again."""

import argparse
import dataclasses
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pedigree.commands.common import MODEL, Commands, add_command, open_project, print_json
from pedigree.errors import EvidenceMissing, PedigreeError


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    add_command(commands, "models", "one line a model", _models)

    why = add_command(commands, "why", "the five questions about a model", _why)
    why.add_argument("model", metavar="MODEL", help=MODEL)

    verify = add_command(
        commands,
        "verify",
        "a model's files against its signed record, or a proof about a row",
        _verify,
    )
    verify.add_argument(
        "model",
        metavar="MODEL|DIR|PROOF",
        help=f"{MODEL}; a model's folder; or what `pedigree prove` printed",
    )
    verify.add_argument("--claims", type=Path, metavar="FILE", help="of a PROOF: signed statements")
    verify.add_argument("--key", type=Path, metavar="PEM", help="of a PROOF: who is trusted")

    rebuild = add_command(commands, "rebuild", "train a recorded model again and compare", _rebuild)
    which = rebuild.add_mutually_exclusive_group(required=True)
    which.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    which.add_argument("--record", type=Path, metavar="FILE", help="a training statement or record")

    trace = add_command(commands, "trace", "where something went, and where it came from", _trace)
    trace.add_argument(
        "thing",
        metavar="KIND:NAME",
        help="such as source:tweets; kinds are source, row, annotator, batch, snapshot, adapter, "
        "base, model and tenant",
    )

    diff = add_command(commands, "diff", "what differs between two models, or two snapshots", _diff)
    diff.add_argument("before", metavar="A", help=f"a model ({MODEL}), or a snapshot's digest")
    diff.add_argument("after", metavar="B", help="another of the same sort")

    retrain = add_command(
        commands, "retrain", "a model again, without a part of its data", _retrain
    )
    retrain.add_argument("model", metavar="MODEL", help=MODEL)
    retrain.add_argument(
        "--exclude-source", action="append", default=[], metavar="ID", help="may be given again"
    )
    retrain.add_argument(
        "--exclude-annotator", action="append", default=[], metavar="NAME", help="so may this"
    )
    retrain.add_argument(
        "--exclude-rows", type=Path, metavar="FILE", help="row keys or ids: text, CSV or Parquet"
    )
    retrain.add_argument("--revoke", action="store_true", help="revoke the old model afterwards")

    export = add_command(commands, "export", "one folder that verifies without Pedigree", _export)
    export.add_argument("model", metavar="MODEL", help=MODEL)
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write it")
    export.add_argument(
        "--report",
        action="append",
        default=[],
        choices=("annex-iv", "gpai-summary"),
        help="add a report for regulators; may be given twice",
    )


def _models(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.lineage import list_models
    from pedigree.rendering import render_models

    project = open_project(options)
    models = list(list_models(open_store(project, project.policy())))
    if options.json:
        print_json([dataclasses.asdict(model) for model in models])
    else:
        print(render_models(models) if models else "No model is attested yet: run `pedigree run`.")
    return 0


def _why(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.lineage import QUESTIONS, explain_model
    from pedigree.registry import find_model
    from pedigree.rendering import render_answers

    project = open_project(options)
    policy = project.policy()
    store = open_store(project, policy)
    answers = explain_model(store, find_model(store, options.model, policy.environments))
    if options.json:
        pairs = zip(QUESTIONS, answers.answers, strict=True)
        print_json(
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
    # What lies there decides: a proof needs no project, and its file may have any name.
    if Path(options.model).is_file():
        return _verify_proof(options)
    if options.claims or options.key:
        raise PedigreeError(
            f"--claims and --key are for a proof, and there is no file {options.model}: give the "
            "file that `pedigree prove` wrote."
        )
    return _verify_model(options)


def _verify_proof(options: argparse.Namespace) -> int:
    from pedigree.proof_verification import verify_proof_file

    verified = verify_proof_file(Path(options.model), options.claims, options.key)
    proof = verified.proof
    if options.json:
        print_json(
            {
                "claim": proof.claim,
                "row_id": proof.row_id,
                "merkle_root": proof.merkle_root,
                "rows": proof.rows,
                "snapshot": verified.snapshot,
                "key_id": verified.key_id,
            }
        )
        return 0
    tree = f"the {proof.rows} rows with Merkle root {proof.merkle_root}"
    print(f"Row {proof.row_id} is {proof.claim} among {tree}.")
    if verified.snapshot:
        print(
            f"  They are snapshot {verified.snapshot}, as the owner of key {verified.key_id} says"
        )
    else:
        print(
            "  Whether that is a snapshot's tree was not looked at: give --claims and --key, or "
            "compare root and rows with the signed statement about the snapshot"
        )
    return 0


def _verify_model(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.verification import verify_folder, verify_model

    project = open_project(options)
    store = open_store(project, project.policy())
    if Path(options.model).is_dir():
        verified = verify_folder(project, store, Path(options.model))
    else:
        verified = verify_model(project, store, options.model)
    if options.json:
        print_json({**dataclasses.asdict(verified), "folder": str(verified.folder)})
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

    project = open_project(options)
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
        print_json({**dataclasses.asdict(outcome), "holds": outcome.holds})
    else:
        print(render_rebuild(outcome))
    return 0 if outcome.holds else 1


def _trace(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.rendering import render_trace
    from pedigree.tracing import rows_of, trace_thing, update_index

    project = open_project(options)
    update_index(project.lineage, open_store(project, project.policy()), rows_of(project))
    trace = trace_thing(project.lineage, options.thing)
    if options.json:
        print_json(dataclasses.asdict(trace))
    else:
        print(render_trace(trace))
    return EvidenceMissing.exit_code if trace.unindexed else 0


def _diff(options: argparse.Namespace) -> int:
    from pedigree.comparing import compare
    from pedigree.evidence.store import open_store
    from pedigree.rendering_changes import render_comparison

    project = open_project(options)
    store = open_store(project, project.policy())
    found = compare(project, store, options.before, options.after)
    if options.json:
        print_json({**dataclasses.asdict(found), "identical": found.identical})
    else:
        print(render_comparison(found))
    return EvidenceMissing.exit_code if found.missing else 0


def _retrain(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.registry import find_model
    from pedigree.rendering_changes import render_retraining
    from pedigree.retraining import Wish, describe, plan_retraining, retrain_without, revoke_old

    project, now = open_project(options), datetime.now(UTC)
    policy = project.policy()
    model = find_model(open_store(project, policy), options.model, policy.environments)
    wish = Wish(
        tuple(options.exclude_source), tuple(options.exclude_annotator), options.exclude_rows
    )
    plan = plan_retraining(project, model, wish, now)
    found = retrain_without(project, plan, dict(os.environ), quiet=options.json)
    code, revocation = found.exit_code or (EvidenceMissing.exit_code if found.unknown else 0), None
    if options.revoke:
        # What was made is shown whatever becomes of the revocation.
        try:
            revocation = revoke_old(project, found, datetime.now(UTC))
        except PedigreeError as error:
            revocation, code = f"not done: {error}", code or error.exit_code
    if options.json:
        print_json({**describe(found), "revocation": revocation})
    else:
        print(render_retraining(found, revocation))
    return code


def _export(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.exports.bundle import export_model
    from pedigree.registry import find_model

    project = open_project(options)
    policy = project.policy()
    model = find_model(open_store(project, policy), options.model, policy.environments)
    made = export_model(project, model, options.out, datetime.now(UTC), set(options.report))
    if options.json:
        files = [one.model_dump() for one in made.files]
        print_json({**dataclasses.asdict(made), "folder": str(made.folder), "files": files})
        return 0
    print(
        f"{made.folder}: {len(made.files)} files about {made.model}, {made.claims} signed claims.\n"
        f"Verify it elsewhere with a key that you got another way: sh verify.sh KEY.pem (key "
        f"{made.key_id})"
    )
    if made.local_paths:
        print(
            "Its signed claims name paths of this machine, as older versions wrote, and cannot "
            f"be edited: {', '.join(made.local_paths)}. Train again to have statements without.",
            file=sys.stderr,
        )
    return 0


def _show_progress(record: dict[str, Any]) -> None:
    if sys.stderr.isatty() and "step" in record:
        end = "\n" if record["step"] == record["steps"] else ""
        print(f"\rtraining: step {record['step']} of {record['steps']}", end=end, file=sys.stderr)

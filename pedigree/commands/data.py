"""Sources, checks on tables, drills, and proofs about rows."""

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from pedigree.commands.common import KEY, Commands, add_command, open_project, print_json
from pedigree.errors import PedigreeError


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    sources = add_command(commands, "sources", "the declared sources", _sources)
    actions = sources.add_subparsers(metavar="ACTION")
    pin = add_command(actions, "pin", "pin a source to its present bytes; shows what changed", _pin)
    pin.add_argument("id", metavar="ID", help="the source's, as in `pedigree sources`")
    approve = add_command(
        actions, "approve", "say that a log or retrieved text may be used", _approve_source
    )
    approve.add_argument("id", metavar="ID", help="the source's, as in `pedigree sources`")
    approve.add_argument("--key", required=True, help=f"a reviewer's key: {KEY}")
    approve.add_argument("--reason", required=True, metavar="TEXT", help="why it may be used")

    check = add_command(commands, "check", "poisoning checks on any table", _check)
    check.add_argument("file", type=Path, metavar="FILE", help="CSV, TSV, JSONL or Parquet")
    check.add_argument("--text", metavar="COL", help="default: text")
    check.add_argument("--label", metavar="COL", help="default: label, where there is one")
    check.add_argument("--annotator", metavar="COL", help="who labelled: who pushes labels?")
    check.add_argument("--collected-at", metavar="COL", help="times: what is young is named")
    check.add_argument(
        "--task",
        choices=["classification", "instruction", "preference"],
        default="classification",
        help="instruction: columns instruction, input, output; "
        "preference: prompt, chosen, rejected",
    )
    check.add_argument("--against", metavar="SNAPSHOT", help="digest of a snapshot not to repeat")
    check.add_argument("--redis", metavar="URL", help="keep the snapshot's sketches there")
    check.add_argument(
        "--out", type=Path, metavar="FINDINGS.parquet", help="write every finding, with its row"
    )

    drill = add_command(
        commands, "drill", "plant known attacks in a copy; what would be seen?", _drill
    )
    drill.add_argument(
        "--attack",
        action="append",
        metavar="A",
        help="may be given again; default: every attack. An unknown one is answered with the list",
    )
    drill.add_argument("--rows", default="10,20,50", metavar="K,K", help="numbers of planted rows")
    drill.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="drills for each attack and number"
    )
    drill.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the alarm rates")

    prove = add_command(
        commands, "prove", "that a row is, or is not, in a snapshot, as JSON", _prove
    )
    prove.add_argument("row", metavar="ROW", help="row id: 64 digits")
    prove.add_argument(
        "--in", dest="snapshot", required=True, metavar="SNAPSHOT", help="its digest"
    )


def _sources(options: argparse.Namespace) -> int:
    from pedigree.rendering import render_table
    from pedigree.sources import load_sources

    project = open_project(options)
    sources = load_sources(project.root / "sources")
    if options.json:
        print_json([source.model_dump(mode="json") for source in sources.values()])
        return 0
    heading = ["ID", "KIND", "ZONE", "LICENCE", "LABEL BATCH", "PIN", "URI"]
    rows = [
        [s.id, s.kind, s.zone, s.licence, s.label_batch or "none", (s.sha256 or "NONE")[:12], s.uri]
        for s in sources.values()
    ]
    print(render_table([heading, *rows]))
    return 0


def _approve_source(options: argparse.Namespace) -> int:
    from pedigree.evidence.signers import open_signer
    from pedigree.evidence.store import open_store
    from pedigree.source_approval import approve_source
    from pedigree.sources import find_source

    project = open_project(options)
    store = open_store(project, project.policy(), write=True)
    statement = approve_source(
        store,
        find_source(project.root / "sources", options.id),
        options.reason,
        open_signer(options.key, project.variables),
        datetime.now(UTC),
    )
    by = store.owner(statement)
    if options.json:
        print_json({"statement": statement.digest, "by": by, **statement.content})
        return 0
    print(
        f"{options.id} may be used as it is declared and pinned now, by {by} ({statement.digest})."
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    from pedigree.evidence.check_limits import CheckLimits
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

        against = open_snapshot_index(open_project(options), options.against, options.redis)
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
        print_json({"file": str(options.file), "checks": summarise(results)})
    else:
        print(render_results(results))
    return 0 if all(result.passed for result in results) else 1


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
        open_project(options), options.attack, rows, options.seeds, datetime.now(UTC)
    )
    if options.plot is not None:
        from pedigree.files import write_atomically

        write_atomically(options.plot, result.plot())
    if options.json:
        floors = {name: dataclasses.asdict(floor) for name, floor in result.floors.items()}
        print_json({"cells": result.to_records(), "floors": floors, "summary": verdict.summary})
    else:
        heading = ["ATTACK", "PLANTED", "DRILLS", "ALARM RATE", "ROWS NAMED", "CLEAN ROWS NAMED"]
        names = ("attack", "planted_rows", "drills", "alarm_rate", "tpr", "fpr")
        lines = [[str(record[name]) for name in names] for record in result.to_records()]
        print(render_table([heading, *lines]))
        print("\n".join(f"{name}: {result.describe_floor(name)}" for name in result.floors))
    return 0 if verdict.passed else 1


def _prove(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.proofs import prove_row
    from pedigree.snapshots import open_snapshot

    project = open_project(options)
    store = open_store(project, project.policy())
    digest = store.find_subject(options.snapshot, "snapshot")
    zone = store.about(digest, "snapshot")[0][0].predicate["zone"]
    print(prove_row(open_snapshot(digest, project.snapshots(zone)), options.row).to_json().decode())
    return 0


def _pin(options: argparse.Namespace) -> int:
    from pedigree.pinning import repin_source

    change = repin_source(open_project(options), options.id, datetime.now(UTC))
    if options.json:
        print_json(dataclasses.asdict(change))
        return 0
    if change.new == change.old:
        print(f"{change.source} is unchanged: sha256 {change.new}.")
        return 0
    if change.old is None:
        print(f"{change.source} is pinned for the first time, to {change.new}.")
    else:
        print(f"{change.source} was pinned to {change.old},\n  now to {change.new}.")
    labels = ", ".join(f"{label} {count}" for label, count in change.labels.items())
    print(f"  {change.rows} rows ({labels}); revision {change.revision}")
    if change.old is not None and change.added is None:
        print("  The documents of the old pin are not here, so rows cannot be compared.")
    elif change.added is not None:
        print(f"  {change.added} rows added, {change.removed} removed, {change.changed} changed")
    for example in change.examples:
        print(f"    {example}")
    return 0

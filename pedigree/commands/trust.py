"""The ledger, keys and change control."""

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from pedigree.commands.common import Commands, open_project, print_json


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    ledger = commands.add_parser("ledger", help="the chain of all statements")
    ledger.add_argument("action", choices=["verify", "checkpoint", "adopt"])
    ledger.add_argument(
        "--witness", action="append", default=[], metavar="FILE", help="checkpoints; or git:PATH"
    )
    ledger.add_argument("--keep", type=Path, metavar="FILE", help="add the checkpoint to a file")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(command=_ledger)


def _ledger(options: argparse.Namespace) -> int:
    from pedigree.evidence.project_ledger import verify_project_ledger
    from pedigree.evidence.store import adopt_statements, open_store

    project, adopted = open_project(options), list[str]()
    if options.action == "adopt":
        adopted = adopt_statements(open_store(project, project.policy(), write=True))
    keep = options.keep if options.action == "checkpoint" else None
    seen = verify_project_ledger(project, datetime.now(UTC), options.witness, keep)
    if options.json:
        print_json({**dataclasses.asdict(seen), "adopted": adopted})
    elif options.action == "checkpoint":
        print(seen)
    else:
        print(f"The ledger holds: {seen.size} statements, the newest entry sha256:{seen.entry}.")
        print("\n".join(f"  listed {name}" for name in adopted), end="\n" if adopted else "")
    return 0

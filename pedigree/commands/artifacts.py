"""Models and adapters from outside."""

import argparse
from pathlib import Path

from pedigree.commands.common import Commands, print_json


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    admit = commands.add_parser("admit", help="judge an outside model; runs nothing")
    admit.add_argument("path", type=Path, metavar="PATH")
    admit.add_argument("--json", action="store_true")
    admit.set_defaults(command=_admit)


def _admit(options: argparse.Namespace) -> int:
    from pedigree.admission.scan import scan_path
    from pedigree.rendering import render_table

    scan = scan_path(options.path)
    if options.json:
        print_json(scan.describe())
    else:
        print(f"{scan.outcome}  {scan.digest}  {options.path}")
        lines = [[one.outcome, one.rule, one.file, one.reason] for one in scan.findings]
        if lines:
            print(render_table([["OUTCOME", "RULE", "FILE", "REASON"], *lines]))
    return 0 if scan.outcome == "admitted" else 1

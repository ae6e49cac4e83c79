"""The command `pedigree`.

Exit codes: 0 holds, 1 a check or verification failed, 2 the request was malformed, 3 evidence is
missing. `--json` prints one JSON document on standard output and nothing else there.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pedigree import __version__
from pedigree.commands import artifacts, data, models, running, trust
from pedigree.errors import PedigreeError


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
        prog="pedigree",
        description="Train models that you can answer for.",
        epilog="Exit codes: 0 it holds; 1 a check or a verification failed, or a gate is closed; "
        "2 the request was malformed or could not be carried out; 3 evidence is missing.",
    )
    parser.add_argument("--version", action="version", version=f"pedigree {__version__}")
    parser.add_argument(
        "-C", "--project", type=Path, default=Path(), metavar="DIR", help="folder of the project"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for part in (running, data, models, trust, artifacts):
        part.add_commands(commands)
    return parser

"""What every command needs: its project, and one JSON document on standard output."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pedigree.errors import PedigreeError
from pedigree.project import Project, find_project

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]
else:
    Commands = Any


MODEL = "digest, its first 12 digits or more, environment, name@alias or name:version"
KEY = "file:PATH, env:NAME or ssh-agent:SHA256:…"


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    command: Callable[[argparse.Namespace], int],
    *,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command; its own help opens with what the list of commands says about it."""
    end = "" if summary.endswith("?") else "."
    description = f"{summary[0].upper()}{summary[1:]}{end}"
    parser = commands.add_parser(name, help=summary, description=description)
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(command=command)
    return parser


def open_project(options: argparse.Namespace) -> Project:
    """Return the project that the command was called in, or that `--project` names."""
    downloads = os.environ.get("PEDIGREE_DOWNLOADS")
    return find_project(
        options.project, Path(downloads) if downloads else None, variables=dict(os.environ)
    )


def find_open_project(options: argparse.Namespace) -> Project | None:
    """Return the project that the command was called in, or None outside of one."""
    try:
        return open_project(options)
    except PedigreeError:
        return None


def print_json(value: Any) -> None:
    """Print one document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))

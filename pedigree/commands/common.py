"""What every command needs: its project, and one JSON document on standard output."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pedigree.errors import PedigreeError
from pedigree.project import Project, find_project

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]
else:
    Commands = Any


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

"""A Python environment with the distributions that a record names.

The one that runs is taken where it matches. Otherwise one is made in `.pedigree/environments/`,
named by what it holds, with pip and the recorded versions only.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pedigree.capture import capture_environment
from pedigree.digests import digest_json, hex_of
from pedigree.errors import PedigreeError
from pedigree.project import Project
from pedigree.training.record import TrainingRecord

# The project's own code comes from the worktree; these only install the others.
_NOT_COMPARED = {"pedigree-ml", "pip", "setuptools", "wheel"}

_LIST = (
    "import importlib.metadata as m, json; print(json.dumps({str(d.metadata['Name']).lower()"
    ".replace('_', '-'): d.version for d in m.distributions()}))"
)


def prepare_environment(project: Project, record: TrainingRecord, tree: Path) -> tuple[str, str]:
    """Return (interpreter, how it was had) of an environment that matches a record.

    Raises:
        PedigreeError: the Python is another one, or the distributions cannot be installed.
    """
    wanted = _comparable(record.inputs.environment.distributions)
    python = str(record.hardware.get("python", ""))
    here = ".".join(map(str, sys.version_info[:3]))
    if python.split(".")[:2] != here.split(".")[:2]:
        raise PedigreeError(
            f"The model was trained with Python {python}, this is {here}: run `pedigree rebuild` "
            f"with a Python {'.'.join(python.split('.')[:2])}."
        )
    if _lacking(wanted, capture_environment(tree).distributions) == {}:
        return sys.executable, "this environment, which has every recorded distribution"
    folder = project.environments / hex_of(digest_json(dict(wanted)))[:32]
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        _install(folder, wanted)
        lacking = _lacking(wanted, _installed(interpreter))
        if lacking:
            raise PedigreeError(f"pip installed other versions than recorded: {_list(lacking)}.")
        (folder / "complete").touch()
    return str(interpreter), f"an environment made from the recorded distributions in {folder}"


def _comparable(distributions: Mapping[str, str]) -> dict[str, str]:
    return {name: v for name, v in sorted(distributions.items()) if name not in _NOT_COMPARED}


def _lacking(wanted: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in wanted.items() if found.get(name) != version}


def _list(distributions: Mapping[str, str]) -> str:
    items = [f"{name}=={version}" for name, version in distributions.items()]
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _installed(interpreter: Path) -> dict[str, str]:
    done = subprocess.run([str(interpreter), "-c", _LIST], capture_output=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def _install(folder: Path, wanted: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*install, *[f"{name}=={version}" for name, version in wanted.items()]],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            reason = " ".join(done.stderr.split())[-300:]
            raise PedigreeError(
                "The recorded lock cannot be installed here, so the model cannot be rebuilt on "
                f"this machine ({reason}). It needs {_list(wanted)}."
            )

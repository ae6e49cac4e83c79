"""Rules that hold for every file: who imports whom, what is never called, what installs alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pedigree.project import Project
from tests.conftest import REPOSITORY

# Each package may import those to its left.
ORDER = ["pedigree", "assets", "checks", "pipelines"]
ONLY = {
    "daft": {"pedigree/neighbours/join.py"},
    "dvc": {"pedigree/versioning.py"},
    "mlflow": {"pedigree/tracking.py"},
}


def _files() -> list[Path]:
    return [path for package in ORDER for path in sorted((REPOSITORY / package).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_one_way(path: Path) -> None:
    name = path.relative_to(REPOSITORY).as_posix()
    package = name.partition("/")[0]
    imported = set(_imports(path))
    later = set(ORDER[ORDER.index(package) + 1 :])
    assert not imported & later
    if package == "pedigree":
        assert "dagster" not in imported
    for library, allowed in ONLY.items():
        assert library not in imported or name in allowed


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_library_reads_no_environment_and_no_clock(path: Path) -> None:
    text = path.read_text()
    name = path.relative_to(REPOSITORY).as_posix()
    if name.startswith("pedigree/") and not name.startswith(
        ("pedigree/cli.py", "pedigree/commands/")
    ):
        # A worker's process is its own and starts with an empty environment.
        assert "os.environ" not in text or name.startswith("pedigree/sandbox/workers/")
        assert "datetime.now(" not in text
        assert "time.time(" not in text


def test_verifying_needs_only_the_core_dependencies(trained: Project) -> None:
    """What `pip install pedigree-ml` brings is enough to import the command and verification."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {"numpy", "pandas", "pyarrow", "torch", "dagster", "dvc", "mlflow", "scipy"}:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
sys.meta_path.insert(0, Refuse())
import pedigree.cli, pedigree.verification, pedigree.lineage
for command in (["models"], ["why", "production"], ["verify", "production"]):
    assert pedigree.cli.main(["-C", sys.argv[1], *command]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(trained.root)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_command_that_needs_more_says_which_extra_to_install(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
sys.meta_path.insert(0, Refuse())
import pedigree.cli
raise SystemExit(pedigree.cli.main(["check", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows.csv")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pedigree-ml[pipeline]" in done.stderr
    assert "Traceback" not in done.stderr

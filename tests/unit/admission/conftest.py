"""A project with nothing but its settings: enough for the gate."""

import shutil
from pathlib import Path

import pytest

from pedigree.project import Project
from tests.conftest import REPOSITORY


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(REPOSITORY / "policy.yaml", root)
    shutil.copy(REPOSITORY / "params.yaml", root)
    return Project(root)

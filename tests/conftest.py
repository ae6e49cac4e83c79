"""Shared by all tests: a small but real project, under real git and DVC, with a tiny base model."""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from demos.small_project import (
    BAD,
    GOOD,
    REPOSITORY,
    copy_project,
    declare_source,
    make_tiny_base,
    must,
    review_rows,
    run,
    write_csv,
    write_template,
)
from pedigree.project import Project
from pipelines.definitions import build_definitions

__all__ = [
    "BAD", "GOOD", "NOW", "REPOSITORY", "copy_project", "declare_source", "errors_of", "must",
    "open_instance", "present", "review_rows", "run", "run_job", "write_csv",
]  # fmt: skip

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

os.environ.update(
    DAGSTER_DISABLE_TELEMETRY="yes",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
)


def present() -> datetime:
    """Return the real time, for what must not be older than evidence that was made just now."""
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def downloads() -> Path:
    """Where pinned package files are cached between test runs."""
    default = REPOSITORY / ".pedigree" / "downloads"
    return Path(os.environ.get("PEDIGREE_DOWNLOADS", default))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip with a one-layer BERT and its tokenizer, both made here, fixed by a seed."""
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project as a user would have it: this code, two CSV sources, a tiny base; all committed."""
    root = tmp_path_factory.mktemp("template") / "project"
    write_template(root, tiny_base)
    return root


def run_job(
    project: Project, name: str, instance: dg.DagsterInstance, **options: Any
) -> dg.ExecuteInProcessResult:
    """Run a job of the project in this process; the caller looks at the result."""
    job = build_definitions(project).resolve_job_def(name)
    quiet = {"loggers": {"readable": {}}, **options.pop("run_config", {})}
    return job.execute_in_process(
        instance=instance, raise_on_error=False, run_config=quiet, **options
    )


def errors_of(result: dg.ExecuteInProcessResult) -> str:
    """Return what the failed steps of a run said, causes included."""
    messages = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                messages.append(error.message)
                error = error.cause
    return "\n".join(messages)


def open_instance(folder: Path) -> dg.DagsterInstance:
    """Open a real Dagster instance on SQLite in `folder`, with telemetry off."""
    folder.mkdir(exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder), {"telemetry": {"enabled": False}})


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real Dagster instance on SQLite."""
    with open_instance(tmp_path / "dagster") as one:
        yield one


@pytest.fixture(scope="session")
def trained(template: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Project:
    """A project whose model is in production. Shared: look at it, copy it, do not change it."""
    root = tmp_path_factory.mktemp("trained") / "project"
    project = copy_project(template, root, downloads)
    with open_instance(root / ".dagster") as instance:
        for job in ("retrain", "release"):
            result = run_job(project, job, instance)
            assert result.success, errors_of(result)
    return project


@pytest.fixture
def trained_copy(trained: Project, tmp_path: Path) -> Project:
    """A copy of the trained project to tamper with."""
    root = tmp_path / "copy"
    shutil.copytree(trained.root, root, symlinks=True)
    return Project(root, trained.downloads)


@pytest.fixture
def make_project(template: Path, tmp_path: Path, downloads: Path) -> Callable[[], Project]:
    """Return a function that copies the template into a fresh, committed project."""

    def make() -> Project:
        return copy_project(template, tmp_path / "project", downloads)

    return make


@pytest.fixture
def project(make_project: Callable[[], Project]) -> Project:
    """A fresh project."""
    return make_project()

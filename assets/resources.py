"""What assets and checks are given: the project they work in."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from pedigree.locks import hold
from pedigree.project import Project


class ProjectResource(dg.ConfigurableResource):
    """The project's folder, and the folder where pinned package files are cached."""

    root: str
    downloads: str | None = None

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["ProjectResource"]:
        """Mark the project as in use while a run has this resource."""
        with hold(self.open().lock, shared=True):
            yield self

    def open(self) -> Project:
        """Return the project."""
        return Project(Path(self.root), Path(self.downloads) if self.downloads else None)

    def now(self) -> datetime:
        """Return the time: the library reads no clock by itself."""
        return datetime.now(UTC)

    def environment(self) -> dict[str, str]:
        """Return this process's environment: the library does not read it by itself."""
        return dict(os.environ)

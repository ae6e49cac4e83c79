"""What assets and checks are given: the project they work in, and how near-duplicates are found."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from pedigree.errors import PedigreeError
from pedigree.locks import hold
from pedigree.neighbours.local import FindNeighbours, NearDuplicates, find_near_duplicates
from pedigree.neighbours.normalisation import Texts
from pedigree.params import NeighbourParams
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
        downloads = Path(self.downloads) if self.downloads else None
        return Project(Path(self.root), downloads, variables=dict(os.environ))

    def now(self) -> datetime:
        """Return the time: the library reads no clock by itself."""
        return datetime.now(UTC)

    def environment(self) -> dict[str, str]:
        """Return this process's environment: the library does not read it by itself."""
        return dict(os.environ)


class NeighbourResource(dg.ConfigurableResource):
    """Finds near-duplicates with the engine that `params.yaml` names; all find the same pairs."""

    def finder(
        self, context: dg.OpExecutionContext | dg.AssetExecutionContext, project: Project
    ) -> FindNeighbours:
        """Return what a library function calls to find near-duplicates.

        Raises:
            PedigreeError: `params.yaml` is not valid.
        """
        params = project.params().neighbours

        def find(texts: Texts, similarity: float) -> NearDuplicates:
            if params.engine == "ray":
                return self.find_on_cluster(context, params, texts, similarity)
            if params.engine == "daft":
                from pedigree.neighbours.engines import find_with_daft

                return find_with_daft(texts, similarity, project.work / "near-duplicates")
            return find_near_duplicates(texts, similarity)

        return find

    def find_on_cluster(
        self,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        params: NeighbourParams,
        texts: Texts,
        similarity: float,
    ) -> NearDuplicates:
        """Find near-duplicates on the cluster that `params` name; `pipelines` knows how."""
        raise PedigreeError(
            f"Nothing here submits jobs to {params.ray_address}: expected the resource of "
            "pipelines.cluster. Load the definitions of pipelines.definitions."
        )

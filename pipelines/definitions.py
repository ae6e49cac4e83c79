"""The one `Definitions` of the code location: assets, checks, jobs and resources of a project."""

import os
from pathlib import Path

import dagster as dg

from assets.data import build_curated_documents, build_raw_documents, build_snapshots
from assets.model import (
    build_base_model,
    build_fine_tuned_model,
    model_attestation,
    model_evaluation,
)
from assets.release import production_model
from assets.resources import ProjectResource
from checks.artifacts import build_admission_checks
from checks.data import (
    annotator_manipulation,
    build_history_checks,
    build_snapshot_checks,
    build_text_checks,
    evaluation_leakage,
    flattering_rows,
)
from checks.model import environment_matches_lock, evaluation_accuracy, weights_are_finite
from pedigree.project import Project
from pedigree.sources import load_sources
from pipelines.cluster import ClusterNeighbourResource
from pipelines.console import readable
from pipelines.io_managers import ParquetIOManager
from pipelines.jobs import JOBS


def build_definitions(project: Project) -> dg.Definitions:
    """Return everything of a project; its sources and parameters are read now.

    Raises:
        PedigreeError: a settings file is not valid.
    """
    params = project.params()
    sources = load_sources(project.root / "sources")
    return dg.Definitions(
        assets=[
            *[build_raw_documents(source) for source in sources.values()],
            build_curated_documents(sources, params.curation),
            build_snapshots(params.split),
            *build_base_model(params),
            build_fine_tuned_model(params),
            model_evaluation,
            model_attestation,
            production_model,
        ],
        asset_checks=[
            *build_snapshot_checks("training"),
            *build_snapshot_checks("evaluation"),
            *build_text_checks(),
            evaluation_leakage,
            flattering_rows,
            annotator_manipulation,
            *build_history_checks(),
            *build_admission_checks(),
            weights_are_finite,
            environment_matches_lock,
            evaluation_accuracy,
        ],
        jobs=JOBS,
        resources={
            "project": ProjectResource(
                root=str(project.root),
                downloads=str(project.downloads) if project.downloads else None,
            ),
            "neighbours": ClusterNeighbourResource(),
            "io_manager": ParquetIOManager(folder=str(project.root / "data" / "tables")),
        },
        loggers={"readable": readable, "console": dg.colored_console_logger},
        # Steps are small and training has a process of its own: a process a step costs seconds.
        executor=dg.in_process_executor,
    )


def open_this_project(profile: str | None = None) -> Project:
    """Return the project that this code lies in."""
    downloads = os.environ.get("PEDIGREE_DOWNLOADS")
    return Project(
        Path(__file__).resolve().parent.parent, Path(downloads) if downloads else None, profile
    )


defs = build_definitions(open_this_project(os.environ.get("PEDIGREE_PROFILE")))

"""MLflow runs and registry (the only module that imports mlflow).

MLflow is where people look: parameters, curves, files, versions. It decides nothing: it neither
checks weights on load nor remembers who moved an alias. Everything here is free of pickles: a
logged model is an `MLmodel` file beside a folder of safetensors and JSON.
"""

import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pedigree.project import Project

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "pedigree"
MODEL_FOLDER = "model"


def connect(project: Project) -> "MlflowClient":
    """Return a client of the project's tracking store; the store is made on first use."""
    import logging

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    project.artifacts.mkdir(exist_ok=True)
    return MlflowClient(tracking_uri=project.tracking_uri, registry_uri=project.tracking_uri)


@dataclass
class TrackedRun:
    """An open MLflow run."""

    client: "MlflowClient"
    experiment: str
    run_id: str
    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def log_progress(self, record: Mapping[str, Any]) -> None:
        """Remember a progress record of the worker; curves are written in one go at the end."""
        if "loss" in record:
            self.losses.append((int(record["step"]), float(record["loss"])))

    def log_model(
        self, name: str, folder: Path, digest: str, tags: Mapping[str, str]
    ) -> tuple[str, Path]:
        """Log a model folder; return MLflow's model id and where the folder now lies."""
        from mlflow.entities import LoggedModelStatus
        from mlflow.models import Model

        model = self.client.create_logged_model(
            self.experiment,
            name=name,
            source_run_id=self.run_id,
            tags={"pedigree.model_digest": digest, **tags},
        )
        with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
            shutil.move(str(folder), Path(staging) / MODEL_FOLDER)
            about = Model(run_id=self.run_id, model_id=model.model_id)
            about.add_flavor(
                "python_function",
                loader_module="pedigree.training.serving",
                data=MODEL_FOLDER,
                env=None,
            )
            about.save(str(Path(staging) / "MLmodel"))
            self.client.log_model_artifacts(model.model_id, staging)
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        location = Path(unquote(urlsplit(model.artifact_location).path))
        return model.model_id, location / MODEL_FOLDER

    def log_results(
        self, metrics: Mapping[str, float], files: Mapping[str, str], now: datetime
    ) -> None:
        """Log the loss curve, final metrics, and texts as artifacts by file name."""
        from mlflow.entities import Metric

        stamp = int(now.timestamp() * 1000)
        curve = [Metric("loss", loss, stamp, step) for step, loss in self.losses]
        finals = [Metric(name, value, stamp, 0) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=[*curve[-990:], *finals])
        for name, text in files.items():
            self.client.log_text(self.run_id, text, name)


@contextmanager
def tracked_run(
    project: Project, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Generator[TrackedRun]:
    """Open an MLflow run; it ends FINISHED, or FAILED when the block raises."""
    from mlflow.entities import Param, RunTag

    client = connect(project)
    run = client.create_run(_experiment(client, project), run_name=name)
    run_id = run.info.run_id
    status = "FAILED"
    try:
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        yield TrackedRun(client, run.info.experiment_id, run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def _experiment(client: "MlflowClient", project: Project) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(EXPERIMENT, project.artifacts.as_uri())
    except MlflowException:  # another process was first
        again = client.get_experiment_by_name(EXPERIMENT)
        if again is None:
            raise
        return again.experiment_id


def log_metrics(project: Project, run_id: str, metrics: Mapping[str, float]) -> None:
    """Add metrics to a finished run."""
    client = connect(project)
    for key, value in metrics.items():
        client.log_metric(run_id, key, value)


def register_version(
    project: Project, name: str, mlflow_model: str, run_id: str, digest: str
) -> str:
    """Return the version of the registered model that holds this model, made if there is none."""
    from mlflow.exceptions import MlflowException

    client = connect(project)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name='{name}'"):
        if version.tags.get("pedigree.mlflow_model") == mlflow_model:
            return str(version.version)
    made = client.create_model_version(
        name,
        # A models:/ URI would be looked up in whichever store the working folder suggests.
        source=client.get_logged_model(mlflow_model).artifact_location,
        run_id=run_id,
        model_id=mlflow_model,
        tags={"pedigree.model_digest": digest, "pedigree.mlflow_model": mlflow_model},
    )
    return str(made.version)


def set_alias(project: Project, name: str, alias: str, version: str) -> None:
    """Point an alias at a version. The evidence of the promotion comes first, the alias follows."""
    connect(project).set_registered_model_alias(name, alias, version)


def remove_alias(project: Project, name: str, alias: str) -> None:
    """Take an alias away; one that is not there stays away."""
    from mlflow.exceptions import MlflowException

    try:
        connect(project).delete_registered_model_alias(name, alias)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def find_alias(project: Project, name: str, alias: str) -> str | None:
    """Return the version that an alias points at, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return str(connect(project).get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def list_running(project: Project) -> list[str]:
    """Return the ids of runs that are marked as running."""
    client = connect(project)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    runs = client.search_runs(
        [experiment.experiment_id], "attributes.status = 'RUNNING'", max_results=1000
    )
    return [run.info.run_id for run in runs]


def close_run(project: Project, run_id: str) -> None:
    """Mark a run as killed."""
    connect(project).set_terminated(run_id, "KILLED")


def list_pending_models(project: Project) -> list[str]:
    """Return the ids of logged models that were never finished."""
    from mlflow.entities import LoggedModelStatus

    client = connect(project)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    models = client.search_logged_models([experiment.experiment_id], max_results=1000)
    return [one.model_id for one in models if one.status == LoggedModelStatus.PENDING]


def close_model(project: Project, model_id: str) -> None:
    """Mark a logged model as failed."""
    from mlflow.entities import LoggedModelStatus

    connect(project).finalize_logged_model(model_id, LoggedModelStatus.FAILED)

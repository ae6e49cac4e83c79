"""What a killed process leaves behind, and where DVC, MLflow and evidence disagree.

Evidence decides: an alias or a DVC pointer that says something else is set back to what the signed
statements say. Nothing that anyone could still need is removed: checkpoints stay, for a resume.

    >>> [problem.what for problem in examine(project, store, now)]
    ['the MLflow run 3f… is marked as running, but no process runs']
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from pedigree import tracking
from pedigree.capture import find_code_root
from pedigree.errors import PedigreeError
from pedigree.evidence.revocations import find_revocations
from pedigree.evidence.store import EvidenceStore, adopt_statements, open_store
from pedigree.files import PARTIAL
from pedigree.launching import examine_dagster
from pedigree.locks import InUse, hold
from pedigree.project import Project, Zone
from pedigree.registry import alias_of, find_training, list_promotions
from pedigree.training.record import read_record
from pedigree.versioning import DvcPointer, read_pointer, write_pointer

_PLACES = ("data", "models", "digests", "metrics", "sources", ".pedigree")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and what repairing it does."""

    kind: str
    what: str
    remedy: str
    repair: Callable[[], object] | None = None


@dataclass(frozen=True)
class Diagnosis:
    """A problem for a reader, and whether it was repaired."""

    kind: str
    what: str
    remedy: str
    repaired: bool


def diagnose(
    project: Project, repair: bool, environment: Mapping[str, str], now: datetime
) -> list[Diagnosis]:
    """Find every problem and, with `repair`, mend what can be mended.

    Raises:
        PedigreeError: the project is in use; nothing was looked at or changed.
    """
    try:
        with hold(project.lock, shared=False):
            found = [
                Diagnosis(one["kind"], one["what"], one["remedy"], repair)
                for one in examine_dagster(project, repair, environment)
            ]
            write = repair and project.ledger.exists()
            store = open_store(project, project.policy(), write=write)
            for problem in list(examine(project, store, now)):
                if repair and problem.repair is not None:
                    problem.repair()
                mended = repair and problem.repair is not None
                found.append(Diagnosis(problem.kind, problem.what, problem.remedy, mended))
            return found
    except InUse:
        raise PedigreeError(
            f"The project {project.root} is in use: wait until its runs have ended, then ask "
            "again. Nothing was changed."
        ) from None


def examine(project: Project, store: EvidenceStore, now: datetime) -> Iterator[Problem]:
    """Yield the problems of files, MLflow and DVC. The project must not be in use."""
    yield from _find_temporaries(project)
    yield from _find_unsigned(store, now)
    yield from _find_unlisted(store)
    yield from _find_mlflow_orphans(project)
    yield from _find_alias_drift(project, store)
    yield from _find_pointer_drift(project, store)


def _find_temporaries(project: Project) -> Iterator[Problem]:
    for place in _PLACES:
        for path in sorted((project.root / place).rglob(f"{PARTIAL}*")):
            yield Problem(
                "temporary",
                f"{path.relative_to(project.root)} is what a killed writer left",
                "remove it",
                lambda path=path: _remove(path),
            )
    for path in sorted(project.rebuilds.glob("*")):
        yield Problem(
            "temporary",
            f"{path.relative_to(project.root)} is what a killed rebuild left",
            "remove it and its worktree",
            lambda path=path: _remove_worktree(project, path),
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_worktree(project: Project, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    root = find_code_root(project.root)
    subprocess.run(["git", "-C", str(root), "worktree", "prune"], check=False)


def _find_unsigned(store: EvidenceStore, now: datetime) -> Iterator[Problem]:
    ledger = store.ledger
    behind = ledger.count_behind() if ledger is not None else 0
    if ledger is not None and behind:
        yield Problem(
            "ledger",
            f"{behind} entries of the ledger are not under its signed head: a writer was killed "
            "before it signed",
            "sign for them",
            lambda: ledger.complete(now),
        )


def _find_unlisted(store: EvidenceStore) -> Iterator[Problem]:
    names = store.find_unlisted()
    if names:
        yield Problem(
            "ledger",
            f"{len(names)} signed statements are not in the ledger, {names[0]} for one: a writer "
            "was killed, or somebody put them there",
            "list them",
            lambda: adopt_statements(store),
        )


def _find_mlflow_orphans(project: Project) -> Iterator[Problem]:
    if not (project.root / "mlflow.db").is_file():
        return
    for run in tracking.list_running(project):
        yield Problem(
            "mlflow-run",
            f"the MLflow run {run} is marked as running, but no process runs",
            "mark it as killed",
            lambda run=run: tracking.close_run(project, run),
        )
    for model in tracking.list_pending_models(project):
        yield Problem(
            "mlflow-model",
            f"the MLflow model {model} was never finished",
            "mark it as failed",
            lambda model=model: tracking.close_model(project, model),
        )


def _find_alias_drift(project: Project, store: EvidenceStore) -> Iterator[Problem]:
    """The alias follows the ledger: the newest promotion, or nothing where that was revoked."""
    newest = {(one.environment, one.tenant): one for one in list_promotions(store)}
    for (environment, tenant), promoted in sorted(newest.items(), key=str):
        alias = alias_of(environment, tenant)
        found = tracking.find_alias(project, promoted.name, alias)
        record = read_record(find_training(store, promoted.model))
        revoked = bool(find_revocations(store, record.ingredients()))
        if revoked and found is not None:
            yield Problem(
                "mlflow-alias",
                f"MLflow's alias {promoted.name}@{alias} points at version {found}, but what "
                f"{alias} was given last is revoked",
                "remove the alias, and promote another model",
                lambda p=promoted, a=alias: tracking.remove_alias(project, p.name, a),
            )
        elif not revoked and found != promoted.version:
            yield Problem(
                "mlflow-alias",
                f"MLflow's alias {promoted.name}@{alias} points at version "
                f"{found or 'none'}, but {alias} was given version {promoted.version}",
                "set the alias back to what was promoted",
                lambda p=promoted, a=alias: tracking.set_alias(project, p.name, a, p.version),
            )


def _find_pointer_drift(project: Project, store: EvidenceStore) -> Iterator[Problem]:
    for statement in store.all("snapshot"):
        said = statement.predicate
        pointer = DvcPointer.model_validate(said["dvc"])
        path = project.root / pointer.path
        found = read_pointer(project.root, path)
        if found is None or found.md5 != pointer.md5:
            yield Problem(
                "dvc-pointer",
                f"{pointer.path}.dvc is {'missing' if found is None else 'another'}, the snapshot "
                f"was recorded with md5 {pointer.md5}",
                "write the recorded pointer",
                lambda pointer=pointer: write_pointer(project.root, pointer),
            )
        digest = "sha256:" + cast(str, statement.subjects[0]["digest"]["sha256"])
        zone = cast(Zone, said["zone"])
        if not (project.snapshots(zone) / digest.removeprefix("sha256:")).is_dir():
            yield Problem(
                "snapshot",
                f"the {zone} snapshot {digest} is not in the workspace",
                f"run `dvc pull {pointer.path}.dvc`",
            )

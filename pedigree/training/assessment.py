"""Evaluating a recorded model, and what is known of earlier evaluations."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pedigree.capture import find_code_root
from pedigree.digests import JSON, hex_of
from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import EvidenceStore, Statement, open_store
from pedigree.evidence.verdicts import require_passed
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.tracking import log_metrics
from pedigree.training.determinism import worker_environment
from pedigree.training.evaluation import Evaluation
from pedigree.training.launch import run_worker
from pedigree.training.record import TrainingRecord, read_record
from pedigree.training.run import Report
from pedigree.training.worker import EvaluateRequest


def evaluate_model(
    project: Project,
    record: TrainingRecord,
    snapshot: str,
    report: Report,
    inherited: Mapping[str, str],
) -> Evaluation:
    """Evaluate a recorded model on an evaluation snapshot, in a process of its own.

    Raises:
        VerificationFailed: the model or the snapshot is not what its digest says.
    """
    folder = project.root / record.location
    return evaluate_folder(
        project, record, folder, record.model_digest, snapshot, inherited, report
    )


def evaluate_folder(
    project: Project,
    record: TrainingRecord,
    folder: Path,
    digest: str,
    snapshot: str,
    inherited: Mapping[str, str],
    report: Report = lambda _: None,
) -> Evaluation:
    """Evaluate a model folder that was trained, or rebuilt, from a record."""
    request = EvaluateRequest(
        code_root=find_code_root(project.root),
        params=record.inputs.params,
        labels=record.inputs.labels,
        snapshots=project.snapshots("evaluation"),
        snapshot=snapshot,
        model=folder,
        model_digest=digest,
    )
    environment = worker_environment(record.inputs.params, inherited)
    return Evaluation.model_validate(run_worker(request, report, environment)["evaluation"])


def record_evaluation(
    project: Project,
    record: TrainingRecord,
    now: datetime,
    report: Report,
    inherited: Mapping[str, str],
) -> tuple[Evaluation, Statement]:
    """Pass the gate of evaluation data, evaluate, log the metrics and sign the outcome.

    Raises:
        GateClosed: a verdict that the policy requires of evaluation data is missing or failed.
    """
    policy = project.policy()
    store = open_store(project, policy, write=True)
    snapshot = record.evaluation_snapshot.digest
    require_passed(store, snapshot, policy.evaluation.required_checks, policy, "evaluation", now)
    evaluation = evaluate_model(project, record, snapshot, report, inherited)
    metrics = {"accuracy": evaluation.accuracy} | {
        f"accuracy_{name}": value for name, value in evaluation.source_accuracy.items()
    }
    log_metrics(project, record.mlflow_run, metrics)
    statement = store.write(
        "evaluation",
        [{"name": record.model_name, "digest": {"sha256": hex_of(record.model_digest)}}],
        {
            "evaluationSnapshot": {"sha256": hex_of(snapshot)},
            "evaluation": cast(JSON, evaluation.model_dump(mode="json")),
            "accuracy": round(evaluation.accuracy, 6),
            "evaluatedOn": now.astimezone(UTC).isoformat(),
        },
    )
    return evaluation, statement


def find_evaluation(store: EvidenceStore, model: str, snapshot: str) -> Evaluation | None:
    """Return the newest signed evaluation of a model on a snapshot, or None."""
    statements = [
        one.predicate
        for one in store.about(model, "evaluation")[0]
        if one.predicate["evaluationSnapshot"]["sha256"] == hex_of(snapshot)
    ]
    if not statements:
        return None
    newest = max(statements, key=lambda one: cast(str, one["evaluatedOn"]))
    return Evaluation.model_validate(cast(dict[str, Any], newest["evaluation"]))


def require_evaluation(store: EvidenceStore, model: str, snapshot: str) -> Evaluation:
    """Return what `find_evaluation` finds.

    Raises:
        EvidenceMissing: the model was never evaluated on that snapshot.
    """
    found = find_evaluation(store, model, snapshot)
    if found is None:
        raise EvidenceMissing(
            f"Model {model} has no signed evaluation on {snapshot}: materialise model_evaluation."
        )
    return found


def evaluate_previous(
    project: Project,
    store: EvidenceStore,
    environment: str,
    model: str,
    snapshot: str,
    report: Report,
    inherited: Mapping[str, str],
) -> Evaluation | None:
    """Return how the environment's present model does on `snapshot`; None where it has none.

    A signed evaluation on that very snapshot is taken; otherwise the present model is evaluated
    again, because accuracies on different rows do not compare.

    Raises:
        EvidenceMissing, VerificationFailed: the present model cannot be read or was changed.
    """
    promoted = find_promoted(store, environment)
    if promoted is None or promoted.model == model:
        return None
    found = find_evaluation(store, promoted.model, snapshot)
    if found is not None:
        return found
    record = read_record(find_training(store, promoted.model))
    return evaluate_model(project, record, snapshot, report, inherited)

"""Checks of the model: finite weights, and accuracy against floors and production."""

import dagster as dg

from assets.progress import following
from assets.release import ENVIRONMENT
from assets.resources import ProjectResource
from assets.versions import find_digest
from checks.verdicts import conclude
from pedigree.capture import LOCK, find_code_root
from pedigree.dependencies.installed import check_environment
from pedigree.evidence.store import open_store
from pedigree.findings import not_applicable
from pedigree.integrity import check_weights
from pedigree.registry import find_promoted
from pedigree.training.assessment import evaluate_previous, require_evaluation
from pedigree.training.evaluation import check_accuracy
from pedigree.training.run import load_record

CONTEXT = dg.AssetCheckExecutionContext


@dg.asset_check(asset="fine_tuned_model", blocking=True)
def weights_are_finite(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
    """Every weight is a finite number."""
    digest, place = find_digest(context, "fine_tuned_model"), project.open()
    record = load_record(place, digest)
    return conclude(project, digest, check_weights(place.root / record.location))


@dg.asset_check(asset="fine_tuned_model")
def environment_matches_lock(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
    """Every installed distribution is the locked one, file by file; looked at where demanded."""
    digest, place = find_digest(context, "fine_tuned_model"), project.open()
    name = "environment_matches_lock"
    demanded = any(name in one.required_checks for one in place.policy().environments.values())
    result = (
        check_environment(find_code_root(place.root) / LOCK)
        if demanded
        else not_applicable(name, "no environment of the policy demands it")
    )
    return conclude(project, digest, result)


@dg.asset_check(asset="model_evaluation", additional_deps=["fine_tuned_model"], blocking=True)
def evaluation_accuracy(context: CONTEXT, project: ProjectResource) -> dg.AssetCheckResult:
    """Accuracy is above its floor and not below production's, overall and per source."""
    digest, place = find_digest(context, "fine_tuned_model"), project.open()
    policy = place.policy()
    store = open_store(place, policy)
    snapshot = load_record(place, digest).evaluation_snapshot.digest
    now = require_evaluation(store, digest, snapshot)
    with following(context, "evaluation of the production model") as report:
        before = evaluate_previous(
            place, store, ENVIRONMENT, digest, snapshot, report, project.environment()
        )
    result = check_accuracy(now, before, policy.checks.evaluation_accuracy)
    promoted = find_promoted(store, ENVIRONMENT)
    inputs = {"production_model": promoted.model} if promoted else {}
    return conclude(project, digest, result, {"evaluation_snapshot": snapshot, **inputs})

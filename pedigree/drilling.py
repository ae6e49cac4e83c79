"""`pedigree drill`: would the checks have seen an attack on this project's own data?

    >>> result, verdict = drill_training_snapshot(project, ["rare_word"], [10, 20, 50], seeds=1)
    >>> result.describe_floor("rare_word")
    '20 rows or more by the share of alarms; …'

Attacks are planted in copies in memory; the snapshot is opened, verified and not touched.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from pedigree.errors import EvidenceMissing
from pedigree.evidence.store import open_store
from pedigree.evidence.verdicts import record_verdict
from pedigree.findings import CheckResult
from pedigree.inspection import inspect_rows
from pedigree.poisoning.attacks import ATTACKS
from pedigree.poisoning.drill import DrillResult, run_drill
from pedigree.project import Project
from pedigree.snapshots import open_snapshot


def drill_training_snapshot(
    project: Project,
    attacks: Sequence[str] | None,
    rows: Sequence[int],
    seeds: int,
    now: datetime,
) -> tuple[DrillResult, CheckResult]:
    """Drill the checks of the policy on the newest training snapshot; sign and return the verdict.

    Args:
        project: the project.
        attacks: names of known attacks; all of them where not given.
        rows: numbers of rows to plant.
        seeds: drills for each attack and number.
        now: when, for the verdict.

    Raises:
        EvidenceMissing: there is no training snapshot.
        PedigreeError: an attack is unknown, or a number is not positive.
    """
    policy = project.policy()
    limits, store = policy.checks, open_store(project, policy, write=True)
    statements = [one for one in store.all("snapshot") if one.predicate["zone"] == "training"]
    if not statements:
        raise EvidenceMissing("There is no training snapshot: run `pedigree run --until snapshot`.")
    newest = max(statements, key=lambda one: one.path.stat().st_mtime_ns)
    digest = newest.subjects[0]["digest"]["sha256"]
    table = open_snapshot(digest, project.snapshots("training")).read()
    texts, labels = (cast(list[str], table.column(n).to_pylist()) for n in ("text", "label"))

    def judge(some_texts: list[str], some_labels: list[str]) -> list[CheckResult]:
        return inspect_rows(some_texts, some_labels, limits)

    result = run_drill(texts, labels, judge, attacks or list(ATTACKS), rows, seeds, seed=0)
    verdict = result.judge_floors(limits.detection_floor)
    record_verdict(store, digest, verdict, policy, now)
    return result, verdict

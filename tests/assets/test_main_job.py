import dagster as dg

from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.registry import find_promoted
from pipelines.definitions import build_definitions


def test_the_main_job_ends_in_production(project: Project) -> None:
    definitions = build_definitions(project)
    with dg.DagsterInstance.ephemeral() as instance:
        for job in ("retrain", "promote"):
            result = definitions.resolve_job_def(job).execute_in_process(instance=instance)
            assert result.success
    promoted = find_promoted(open_store(project, project.policy()), "production")
    assert promoted is not None
    assert promoted.name == "reviews"

"""A Dagster process that materialises near-duplicates on a Ray cluster; `test_ray_cluster` runs it.

    python -m tests.ray_asset http://127.0.0.1:8265 --input ... (arguments of the job)

It has a process of its own, because Ray reads its token when it is imported, and because a run is
terminated by a signal to its process. The last line of its output is JSON.
"""

import json
import sys

import dagster as dg

from pedigree.neighbours.storage import open_table
from pipelines.cluster import PipesRayClient, read_result

ADDRESS, *ARGUMENTS = sys.argv[1:]


@dg.asset
def near_duplicates(
    context: dg.AssetExecutionContext, cluster: dg.ResourceParam[PipesRayClient]
) -> dg.MaterializeResult:
    """Near-duplicates from a cluster."""
    done = cluster.run(context=context, arguments=ARGUMENTS)
    result = read_result(done)
    return dg.MaterializeResult(
        metadata={"pairs": result["pairs"], **done.metadata},
        data_version=dg.DataVersion(str(result["digest_pairs"])),
    )


@dg.asset_check(asset=near_duplicates)
def conflicts_are_few(
    context: dg.AssetCheckExecutionContext, cluster: dg.ResourceParam[PipesRayClient]
) -> dg.AssetCheckResult:
    """A check can run on the cluster too."""
    place = ARGUMENTS.index("--output") + 1
    output = f"{ARGUMENTS[place]}-check"
    arguments = [*ARGUMENTS[:place], output, *ARGUMENTS[place + 1 :]]
    done = cluster.run(context=context.op_execution_context, arguments=arguments)
    count = open_table(output, "conflicts").num_rows
    assert count == read_result(done)["conflicts"]
    return dg.AssetCheckResult(passed=count < 1000, metadata={"conflicts": count})


def main() -> None:
    """Materialise, and say what came of it."""
    done = dg.materialize(
        [near_duplicates, conflicts_are_few],
        resources={"cluster": PipesRayClient(ADDRESS)},
        raise_on_error=False,
    )
    messages: list[str] = []
    for event in done.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            messages.append(error.message)
            error = error.cause
    made = done.asset_materializations_for_node("near_duplicates")
    said = {
        "success": done.success,
        "messages": messages,
        "metadata": [{name: one.value for name, one in m.metadata.items()} for m in made],
        "tags": [dict(m.tags or {}) for m in made],
        "checks": [
            {name: one.value for name, one in check.metadata.items()}
            for check in done.get_asset_check_evaluations()
        ],
    }
    print(json.dumps(said, default=str))


if __name__ == "__main__":
    main()

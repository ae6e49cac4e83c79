"""A Dagster process that materialises near-duplicates on a Ray cluster; `test_ray_cluster` runs it.

    python -m tests.ray_asset http://127.0.0.1:8265 --input ... (arguments of the job)

It has a process of its own, because Ray reads its token when it is imported, and because a run is
terminated by a signal to its process. The last line of its output is JSON.
"""

import json
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.parquet as pq

from pedigree.neighbours.local import find_near_duplicates
from pedigree.params import NeighbourParams
from pipelines.cluster import PipesRayClient, find_on_cluster, read_result

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
def near_duplicates_are_few(
    context: dg.AssetCheckExecutionContext, cluster: dg.ResourceParam[PipesRayClient]
) -> dg.AssetCheckResult:
    """A check finds them on the cluster by its parameters alone, and then goes on as ever."""
    words = dict(zip(ARGUMENTS[::2], ARGUMENTS[1::2], strict=True))
    texts = pq.read_table(words["--input"]).column("text")
    storage = str(Path(words["--output"]).parent)
    params = NeighbourParams(engine="ray", ray_address=cluster.address, storage=storage)
    found = find_on_cluster(context.op_execution_context, params, texts, 0.8)
    same = np.array_equal(found.pairs, find_near_duplicates(texts, 0.8).pairs)
    return dg.AssetCheckResult(passed=same, metadata={"pairs": len(found.pairs)})


def main() -> None:
    """Materialise, and say what came of it."""
    done = dg.materialize(
        [near_duplicates, near_duplicates_are_few],
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
            {"passed": check.passed, **{n: one.value for n, one in check.metadata.items()}}
            for check in done.get_asset_check_evaluations()
        ],
    }
    print(json.dumps(said, default=str))


if __name__ == "__main__":
    main()

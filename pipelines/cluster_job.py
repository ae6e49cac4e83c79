"""What runs on the cluster: the near-duplicate job, which tells Dagster what came of it.

    python -m pipelines.cluster_job --input ... --output ... --similarity 4/5 --runner ray

`pedigree.neighbours.job` does the work. This opens the Pipes session around it, and needs nothing
of Dagster but the package `dagster-pipes`. Started by hand, without a session, it warns and runs.
"""

import sys
from collections.abc import Sequence

from dagster_pipes import open_dagster_pipes

from pedigree.errors import PedigreeError
from pedigree.neighbours.job import run_job


def main(arguments: Sequence[str]) -> int:
    """Run the job; return the exit code."""
    with open_dagster_pipes() as pipes:
        try:
            pipes.report_custom_message({"result": run_job(arguments)})
        except PedigreeError as error:
            pipes.report_custom_message({"error": str(error)})
            print(f"pedigree: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The near-duplicate job as a process, which is how it runs on a cluster.

    python -m pedigree.neighbours.job --input /shared/texts --output /shared/near --similarity 4/5

The same module runs on one machine (`--runner native`) and, submitted as a Ray job, on a cluster
(`--runner ray`). It prints its result as JSON; what Dagster started it also reports it through
Dagster Pipes. The launcher sets the environment: `DO_NOT_TRACK=1` turns Daft's telemetry off.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from fractions import Fraction
from types import FrameType
from typing import NoReturn

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.neighbours.join import join_neighbours
from pedigree.neighbours.request import JoinRequest


def main(arguments: Sequence[str]) -> int:
    """Run the job; return the exit code."""
    try:
        run_job(arguments)
    except PedigreeError as error:
        print(f"pedigree: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_job(arguments: Sequence[str]) -> dict[str, JSON]:
    """Run the job, print its result as JSON and return it.

    For a process of its own: a request to end (SIGTERM, which Ray sends first) ends it like an
    error does, so that what was written is deleted.

    Raises:
        PedigreeError: as `join_neighbours` does.
    """
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _end)
    request = JoinRequest(
        inputs=tuple(options.input),
        output=options.output,
        similarity=options.similarity,
        text=options.text,
        label=options.label,
        source=options.source,
        row=options.row,
        partitions=options.partitions,
    )
    result = join_neighbours(request, options.runner)
    print(json.dumps(result, indent=2))
    return result


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pedigree.neighbours.job")
    parser.add_argument("--input", action="append", required=True, help="Parquet file or folder")
    parser.add_argument("--output", required=True, help="a new folder or URI")
    parser.add_argument("--similarity", type=Fraction, required=True, help="such as 4/5")
    parser.add_argument("--runner", choices=["native", "ray"], default="native")
    parser.add_argument("--text", default="text", help="column of the texts")
    parser.add_argument("--label", help="column of labels that copies may dispute")
    parser.add_argument("--source", help="column that is carried along")
    parser.add_argument("--row", help="column that identifies rows; their position without it")
    parser.add_argument("--partitions", type=int, help="parts to cut the texts into on a cluster")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

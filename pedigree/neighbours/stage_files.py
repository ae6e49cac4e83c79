"""Stages of the relational job as files: written, tried again, and at the end named.

A stage is a list of files. Only files that a finished attempt named belong to it, so that what a
lost worker left cannot count twice::

    >>> files = StageFiles(space, "ray")
    >>> files.save("pairs", frame)
    ['/shared/near/pairs/0/4f1c...parquet']
"""

import json
import sys
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.neighbours import kernel
from pedigree.neighbours.storage import RESULT, Space, open_filesystem

Runner: TypeAlias = Literal["native", "ray"]
Files: TypeAlias = list[str]

# Times that a stage is tried on a cluster; machines come and go there.
ATTEMPTS = 3
# What operating systems and object stores say, through several layers of other words.
_DISK_FULL = ("No space left", "Disk quota exceeded", "File too large")


class Written(Protocol):
    """What a frame returns of the files that it wrote."""

    def to_pydict(self) -> dict[str, list[object]]:
        """Return the columns; `path` is one."""
        ...


class Frame(Protocol):
    """As much of a Daft DataFrame as is needed to write it."""

    def write_parquet(self, root_dir: str) -> Written:
        """Run the plan and write its rows."""
        ...


class StageFiles:
    """The files of a job.

    Args:
        space: where they lie.
        runner: on `ray` a stage is tried again when it fails.
    """

    def __init__(self, space: Space, runner: Runner) -> None:
        self.space, self.runner = space, runner
        self.retried: list[str] = []

    def save(self, name: str, frame: Frame) -> Files:
        """Run a stage and return the files that hold it; each attempt has a folder of its own.

        Raises:
            PedigreeError: the disk is full, or the last attempt failed.
        """
        for attempt in range(ATTEMPTS):
            try:
                written = frame.write_parquet(self.space.join(f"{name}/{attempt}"))
                paths = cast(Files, written.to_pydict()["path"])
                return sorted(self.space.locate(path) for path in paths)
            except Exception as error:
                self._explain(name, error, last=attempt == ATTEMPTS - 1)
                self.retried.append(name)
        raise AssertionError

    def _explain(self, name: str, error: Exception, *, last: bool) -> None:
        """Raise what a person can act on, or return where the stage is worth another attempt."""
        text = " ".join(str(error).split())
        if any(word in text for word in _DISK_FULL):
            raise PedigreeError(
                f"The disk is full while writing {name} in {self.space.place}: nothing was kept; "
                "free some space and run the same command again."
            ) from error
        if self.runner == "native" or last:
            raise PedigreeError(
                f"The stage {name} of the near-duplicate job failed ({text[:500]}): nothing was "
                "kept; look at the job's log, and run the same command again."
            ) from error
        print(f"The stage {name} failed and is tried again: {text[:500]}", file=sys.stderr)

    def write_empty(self, name: str, schema: pa.Schema) -> Files:
        """Write a table without rows."""
        path = self.space.join(f"{name}/empty.parquet")
        filesystem, bare = open_filesystem(path)
        filesystem.create_dir(bare.rpartition("/")[0])
        pq.write_table(schema.empty_table(), bare, filesystem=filesystem)
        return [path]

    def finish(self, facts: Mapping[str, JSON], tables: Mapping[str, Files]) -> dict[str, JSON]:
        """Delete what is not part of the result, and say last what is."""
        self.space.delete("work")
        named = {name: [self.space.relative(one) for one in tables[name]] for name in tables}
        result: dict[str, JSON] = {
            **facts,
            "runner": self.runner,
            "kernel": {
                "shingle": kernel.SHINGLE,
                "bands": kernel.BANDS,
                "max_bucket": kernel.MAX_BUCKET,
                "window": kernel.WINDOW,
            },
            "tables": cast(JSON, named),
            "retried_stages": cast(JSON, self.retried),
        }
        self.space.write(RESULT, (json.dumps(result, indent=2) + "\n").encode())
        return result

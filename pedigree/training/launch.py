"""Starting a worker, following what it says, and telling how it ended."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.training.worker import Request


def run_worker(
    request: Request,
    report: Callable[[dict[str, Any]], None],
    environment: Mapping[str, str],
    python: str = sys.executable,
) -> dict[str, Any]:
    """Run a request in a process of its own and return its result.

    Args:
        request: what to do.
        report: receives each progress record.
        environment: the whole environment of the process, from `worker_environment`.
        python: the interpreter, of another environment for a rebuild.

    Raises:
        PedigreeError: the worker refused, failed or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="pedigree-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(request.model_dump_json())
        errors = Path(folder) / "stderr"
        with errors.open("w+") as stderr:
            worker = subprocess.Popen(
                [python, "-m", "pedigree.training.worker", str(file)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**environment, "PYTHONPATH": str(request.code_root)},
                cwd=folder,
            )
            try:
                last = _follow(worker, report)
            finally:
                worker.kill()
                worker.wait()
        if last.get("event") == "done" and worker.returncode in (0, -signal.SIGKILL):
            return last
        if last.get("event") == "error":
            kind = VerificationFailed if last["exit_code"] == 1 else PedigreeError
            raise kind(str(last["message"]))
        detail = " ".join(errors.read_text().split()[-60:])
        how = (
            f"was killed by signal {-worker.returncode}"
            if worker.returncode < 0
            else f"ended with status {worker.returncode}"
        )
        raise PedigreeError(
            f"The {request.task} process {how} before it was done{': ' * bool(detail)}{detail}. "
            "Nothing was registered; run again, and training goes on from its last checkpoint."
        )


def _follow(
    worker: "subprocess.Popen[str]", report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for line in worker.stdout or ():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # something a library printed
        if record.get("event") == "progress":
            report(record)
        else:
            last = record
    worker.wait()
    return last

"""Ask modelaudit, from an environment of its own, about files; only ever within the sandbox.

Its packages would not go together with ours, and it reports to its makers over the network: here it
finds no socket, and telemetry is switched off besides.
"""

import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from pedigree.sandbox.inner import WorkerRequest

_SHOWN = 5  # findings of one file that are told
_TEXT = 300
# Its own word for a scan that saw only a part.
_IN_PART = "inconclusive"


def ask(request: WorkerRequest) -> dict[str, dict[str, object]]:
    """Return what modelaudit has against files, by their number in the list that it is given.

    The paths to read are the folder `site-packages` of its environment, and the folder of the
    files; the payload is the list of their names as JSON. An answer has `why` it did not see the
    file in full, which is empty where it did, and the findings that are `critical`.
    """
    packages, folder = request.read_only
    _use_environment(packages)
    from modelaudit.core import (  # pyright: ignore[reportMissingImports]
        scan_model_directory_or_file,
    )

    answers: dict[str, dict[str, object]] = {}
    for number, name in enumerate(json.loads(request.payload)):
        why, critical = _judge(scan_model_directory_or_file, folder / name)
        if why or critical:
            answers[str(number)] = {"why": why, "critical": critical}
    return answers


def _use_environment(packages: Path) -> None:
    """Import from the standard library and that environment alone, and send nothing anywhere."""
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    standard = str(Path(sysconfig.get_path("stdlib")).parent)
    kept = [path for path in sys.path if path.startswith(standard) and path not in ours]
    sys.path[:] = [*kept, str(packages)]
    for name in ("PROMPTFOO_DISABLE_TELEMETRY", "NO_ANALYTICS", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ["HOME"] = "/"


def _judge(scan: Any, path: Path) -> tuple[str, list[str]]:
    try:
        found: Any = scan(str(path), skip_file_types=False, cache_enabled=False)
    except Exception as error:
        return f"it ended with {type(error).__name__}", []
    said: dict[str, Any] = found.model_dump(mode="json")
    critical = [one["message"] for one in said["issues"] if one["severity"] == "critical"]
    return _find_gap(said), [str(message)[:_TEXT] for message in critical[:_SHOWN]]


def _find_gap(said: dict[str, Any]) -> str:
    """Return why the file was not looked at in full, or nothing."""
    metadata = [one for one in said["file_metadata"].values() if one]
    if not said["files_scanned"] or not any(one.get("scanner_dependency_ids") for one in metadata):
        return "it has no scanner for it"
    if any(one.get("scan_outcome") == _IN_PART for one in metadata):
        return "it saw only a part"
    skipped = [check["name"] for check in said["checks"] if check["status"] == "skipped"]
    if skipped:
        return f"it skipped {skipped[0][:_TEXT]}"
    return "" if said["success"] and not said["has_errors"] else "its scan failed"

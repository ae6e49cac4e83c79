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


def ask(request: WorkerRequest) -> dict[str, dict[str, object]]:
    """Return what modelaudit has against files, by their number in the list that it is given.

    The paths to read are the folder `site-packages` of its environment, and the file or folder to
    judge; the payload is the list of the files' names in it as JSON, a single empty one for a file.
    An answer has `why` it did not see the file in full, which is empty where it did, and the
    findings that are `critical`.
    """
    packages, target = request.read_only
    _use_environment(packages)
    from modelaudit.core import (  # pyright: ignore[reportMissingImports]
        scan_model_directory_or_file,
    )

    found: Any = scan_model_directory_or_file(  # pyright: ignore[reportUnknownVariableType]
        str(target), skip_file_types=False, cache_enabled=False
    )
    said: dict[str, Any] = found.model_dump(mode="json")
    metadata = {_real(path): one or {} for path, one in said["file_metadata"].items()}
    paths = [_real(target / name) for name in json.loads(request.payload)]
    # A failure that it ascribes to no file may be about any of them.
    failed = "its scan failed" if said["has_errors"] or not said["success"] else ""
    gaps = [_find_gap(path, paths, metadata, said) or failed for path in paths]
    answers: dict[str, dict[str, object]] = {}
    for number, (path, why) in enumerate(zip(paths, gaps, strict=True)):
        critical = [
            str(one["message"])[:_TEXT]
            for one in said["issues"]
            if one["severity"] == "critical" and _is_at(one, path, paths)
        ]
        if why or critical:
            answers[str(number)] = {"why": why[:_TEXT], "critical": critical[:_SHOWN]}
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


def _find_gap(path: str, paths: list[str], metadata: dict[str, Any], said: dict[str, Any]) -> str:
    """Return why a file was not looked at in full, or nothing."""
    one = metadata.get(path, {})
    if not one.get("scanner_dependency_ids"):
        return "it has no scanner for it"
    if one.get("scan_outcome"):
        reasons = one.get("scan_outcome_reasons") or []
        return f"it calls its scan {one['scan_outcome']}: {', '.join(map(str, reasons))}"
    for check in said["checks"]:
        if check["status"] == "skipped" and _is_at(check, path, paths):
            return f"it skipped {check['name']}"
    return ""


def _is_at(one: dict[str, Any], path: str, paths: list[str]) -> bool:
    """Whether a finding is about a file; one that is about none of them is about each."""
    place = _real(str(one.get("location") or ""))
    return place.startswith(path) or not any(place.startswith(other) for other in paths)


def _real(path: str | Path) -> str:
    return os.path.realpath(path)

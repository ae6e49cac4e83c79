"""modelaudit's opinion, where the policy asks it: another program, in its own environment.

    auditor = find_modelaudit(project.modelaudit)
    ask_modelaudit(auditor, received, scan, gate.isolation, minimum)

It runs in the sandbox, on the very bytes that were received, under names that say the same of them.
What it calls critical, and a model file that it did not see in full, is quarantined: it calls
harmless pickles critical too, so it does not reject.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

from pedigree.admission.receiving import Received
from pedigree.admission.second_opinion import Opinion
from pedigree.admission.verdict import Finding, Scan, show
from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.files import explain_disk_errors
from pedigree.sandbox import Isolation, Level, Limits, run_sandboxed

_WORKER = "pedigree.sandbox.workers.ask_modelaudit:ask"
# It must have looked at these: documents and tokenizers it does not know, and those are no model.
_MODELS = ("safetensors", "onnx", "gguf", "pickle", "zip", "npy", "hdf5", "tensorflow graph")
_SECONDS = 120  # for starting, and for small files
_SLOWEST = 10 << 20  # bytes a second


@dataclass(frozen=True)
class ModelAudit:
    """An environment with modelaudit: its folder `site-packages`, and the version."""

    packages: Path
    version: str


def find_modelaudit(environment: Path) -> ModelAudit:
    """Return what lies in a virtual environment that was made for it.

    Raises:
        PedigreeError: there is none, or it is of another Python.
    """
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / python / "site-packages"
    found = [one.version for one in distributions(name="modelaudit", path=[str(packages)])]
    if not found:
        raise PedigreeError(
            f"The policy asks modelaudit for a second opinion, and it is not in {packages}: make "
            "that environment (`make modelaudit`), or take modelaudit out of `second_opinions`."
        )
    return ModelAudit(packages, found[0])


def ask_modelaudit(
    auditor: ModelAudit, received: Received, scan: Scan, isolation: Isolation, minimum: Level
) -> Opinion:
    """Ask modelaudit about every file of an artifact that was not rejected.

    Args:
        auditor: where it is.
        received: the files.
        scan: what our own scan says of them.
        isolation: what the sandbox can hold here.
        minimum: what it must hold.

    """
    if scan.outcome == "rejected" or not received.files:
        return Opinion((), {"scanner": "modelaudit", "version": auditor.version, "asked": 0})
    paths = [entry.path for entry in received.files]
    kinds = {one.path: one.kind for one in scan.files}
    names = [_name(number, entry.path, kinds) for number, entry in enumerate(received.files)]
    if not received.folder:
        names = [""]
    answers = _run(auditor, received, names, isolation, minimum)
    findings: list[Finding] = []
    incomplete: list[JSON] = []
    for number, path in enumerate(paths):
        why, critical = answers.get(number, ("", []))
        shown = show(path, 1000)
        if critical:
            said = "; ".join(show(one, 300) for one in critical)
            findings.append(_against(shown, f"modelaudit calls it critical: {said}."))
        if why:
            incomplete.append(shown)
            if kinds.get(shown) in _MODELS:
                findings.append(_against(shown, f"modelaudit did not see it in full: {why}."))
    against = {one.file for one in findings}
    said_of_all: dict[str, JSON] = {
        "scanner": "modelaudit",
        "version": auditor.version,
        "asked": len(paths),
        "incomplete": incomplete,
        "against": len(against),
    }
    return Opinion(tuple(findings), said_of_all)


def _name(number: int, path: str, kinds: dict[str, str]) -> str:
    """Return under which name it is shown a file of a folder.

    By their names it would take shards together, for which it makes folders and threads that the
    sandbox does not let it make.
    """
    place = Path(path)
    is_model = kinds.get(show(path, 1000)) in _MODELS
    return str(place.with_name(f"{number}{place.suffix}")) if is_model else path


def _against(file: str, reason: str) -> Finding:
    return Finding(file, "second_opinion", "quarantined", reason)


def _run(
    auditor: ModelAudit,
    received: Received,
    names: list[str],
    isolation: Isolation,
    minimum: Level,
) -> dict[int, tuple[str, list[str]]]:
    """Return, by the number of a file, why it was not seen in full and what is critical in it."""
    seconds = _SECONDS + sum(entry.size for entry in received.files) // _SLOWEST
    with (
        explain_disk_errors(received.store),
        tempfile.TemporaryDirectory(prefix="named-", dir=received.store) as temporary,
    ):
        root = Path(temporary) / Path(received.name).name
        try:
            for entry, name in zip(received.files, names, strict=True):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(received.store / entry.sha256, root / name)
            done = run_sandboxed(
                _WORKER,
                payload=json.dumps(names).encode(),
                read_only=[auditor.packages, root],
                limits=Limits(cpu_seconds=seconds, wall_seconds=4 * seconds),
                minimum=minimum,
                isolation=isolation,
            )
            return _read_answers(done.value)
        except (PedigreeError, FileExistsError) as error:
            # What it is asked about may be what stopped it; or two names are one in this system.
            return {number: (show(str(error).rstrip("."), 300), []) for number in range(len(names))}


def _read_answers(value: object) -> dict[int, tuple[str, list[str]]]:
    """Return the worker's answers; it read hostile files, so its form is not believed either."""
    try:
        answers = cast(dict[str, dict[str, JSON]], value)
        return {
            int(number): (
                show(str(one["why"]), 300),
                [str(c) for c in cast(list[JSON], one["critical"])],
            )
            for number, one in answers.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PedigreeError("it gave no answer that can be read") from None

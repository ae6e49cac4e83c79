"""A pickled checkpoint becomes safetensors, inside the sandbox, if somebody says why it must.

    converted = convert_artifact(digest, gate, now, waiver="only form that was ever published")

The original stays in quarantine. What comes out goes through the gate as an artifact of its own,
whose statements name the original, the reason, and the isolation in which it was opened.
"""

import tempfile
from datetime import datetime
from pathlib import Path

from pedigree.admission.gate import Admission, Conversion, Gate, admit_artifact
from pedigree.admission.keeping import Artifact, open_artifact
from pedigree.admission.transitions import find_decision, find_kinds
from pedigree.digests import JSON
from pedigree.errors import GateClosed, PedigreeError
from pedigree.files import PARTIAL, explain_disk_errors
from pedigree.sandbox import Limits, level_of, run_sandboxed
from pedigree.sandbox.workers import load_weights

PICKLED = ("pickle", "zip")
_WORKER = "pedigree.sandbox.workers.load_weights:convert"


def convert_artifact(
    digest: str, gate: Gate, now: datetime, *, waiver: str, limits: Limits | None = None
) -> Admission:
    """Open a quarantined checkpoint in the sandbox, write safetensors, and admit those.

    Args:
        digest: of the quarantined file.
        gate: the project's gate.
        now: when.
        waiver: why a pickle is opened at all; it is signed.
        limits: what the sandbox may use.

    Raises:
        GateClosed: it was rejected, or not judged by this gate.
        PedigreeError: there is no reason, it is no pickled checkpoint, the isolation is below the
            policy's minimum, or it could not be opened. Nothing is kept then.
    """
    if not waiver.strip():
        raise PedigreeError(
            "A pickle is opened by explicit waiver only, and none was given: say why it must be."
        )
    artifact, kind = open_quarantined(digest, gate)
    if kind not in PICKLED or len(artifact.files) != 1:
        raise PedigreeError(
            f"{digest} is {kind or 'a folder'}: only a single pickled checkpoint is converted."
        )
    checkpoint = artifact.path / artifact.files[0].path
    parent = gate.project.outside
    with explain_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=parent) as temporary:
        out = Path(temporary) / "converted"
        done = run_sandboxed(
            _WORKER,
            read_only=[checkpoint],
            output=out,
            outputs=[load_weights.OUTPUT],
            limits=limits,
            minimum=level_of(gate.policy.admission.minimum_isolation),
            isolation=gate.isolation,
        )
        tensors = len(done.value) if isinstance(done.value, dict) else None
        conversion = Conversion(digest, waiver.strip(), tensors)
        origin: dict[str, JSON] = {"converted from": digest}
        return admit_artifact(
            out / load_weights.OUTPUT, gate, now, origin=origin, conversion=conversion
        )


def open_quarantined(digest: str, gate: Gate) -> tuple[Artifact, str | None]:
    """Open what this gate quarantined; return it, and what it is where it is a single file.

    Raises:
        GateClosed: it was rejected or admitted, or not judged by this gate.
        EvidenceMissing: it is not kept here.
        VerificationFailed: its bytes are not the ones that were judged.
    """
    decision, problem = find_decision(gate.store, digest, gate.policy)
    if decision is None or decision.predicate["state"] != "quarantined":
        said = f"it was {decision.predicate['state']}" if decision else f"its admission {problem}"
        raise GateClosed(
            f"{digest} is not in quarantine: {said}. Only what `pedigree admit PATH` has "
            "quarantined is opened in the sandbox."
        )
    artifact = open_artifact(digest, gate.project.quarantined, "admit it again")
    kinds = find_kinds(gate.store, decision)
    return artifact, next(iter(kinds.values())) if len(kinds) == 1 else None

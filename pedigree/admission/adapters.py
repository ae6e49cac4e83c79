"""Adapters from outside: admitted like any artifact, checked against their base, registered.

    adapter = register_adapter(Path("legal_tone/"), gate, now)
    require_mergeable(gate, adapter.digest, base, find_approvals)

The folder has an `adapter.yaml`. A path to the base in `adapter_config.json` names a place on
somebody's machine: it is replaced by the base's digest, and the folder with that is what counts.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pedigree.admission.adapter_files import (
    CONFIG,
    DECLARATION,
    AdapterDeclaration,
    Lora,
    find_problems,
    read_declaration,
    read_lora,
    read_shapes,
)
from pedigree.admission.gate import (
    Admission,
    Conversion,
    Gate,
    admit_artifact,
    require_admitted,
)
from pedigree.admission.keeping import Artifact, open_artifact
from pedigree.digests import hex_of
from pedigree.errors import GateClosed, VerificationFailed
from pedigree.evidence.store import Statement
from pedigree.files import PARTIAL

KIND = "adapter"
REFERENCE = "base_model_name_or_path"
FindApprovals = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class RegisteredAdapter:
    """An adapter that fits its base: the artifact that may be merged, and the signed statement."""

    digest: str
    declaration: AdapterDeclaration
    admission: Admission
    statement: Statement


def is_adapter(admission: Admission) -> bool:
    """Return whether an admitted folder declares itself an adapter."""
    return admission.admitted and any(one.path == DECLARATION for one in admission.scan.files)


def register_adapter(path: Path, gate: Gate, now: datetime) -> RegisteredAdapter:
    """Admit an adapter's folder, check it against its base, name the base by digest, and sign.

    Raises:
        GateClosed: the adapter or its base was not admitted.
        VerificationFailed: it does not fit its base; the message names each misfit.
        PedigreeError: `adapter.yaml` or a file of the adapter is missing or not valid.
    """
    original = admit_artifact(path, gate, now)
    original.require("The adapter")
    return register_admitted(original, gate, now)


def register_admitted(original: Admission, gate: Gate, now: datetime) -> RegisteredAdapter:
    """Register an adapter that was just admitted; see `register_adapter`."""
    kept = open_artifact(original.digest, gate.project.admitted, "admit it")
    declaration = read_declaration(kept.path)
    lora = read_lora(kept.path)
    require_fit(lora, _open_base(declaration.base, gate))
    admission = _name_base(kept, lora, declaration, gate, now) or original
    statement = gate.store.write(
        KIND,
        [{"name": declaration.id, "digest": {"sha256": hex_of(admission.digest)}}],
        {
            **declaration.model_dump(mode="json", exclude={"base"}),
            "base": {"sha256": hex_of(declaration.base)},
            "rank": lora.rank,
            "targetModules": list(lora.targets),
            "modulesToSave": list(lora.saved),
            "tensors": len(lora.shapes),
            "received": {"sha256": hex_of(original.digest)},
            "admission": {"sha256": hex_of(admission.statements[-1].digest)},
            "registeredOn": now.astimezone(UTC).isoformat(),
        },
    )
    return RegisteredAdapter(admission.digest, declaration, admission, statement)


def require_fit(lora: Lora, base: Artifact) -> None:
    """Refuse an adapter whose rank, modules or shapes are not those of its base.

    Raises:
        VerificationFailed: the message names each misfit, up to ten.
    """
    shapes = {
        name: shape
        for entry in base.files
        if entry.path.endswith(".safetensors")
        for name, shape in read_shapes(base.path / entry.path).items()
    }
    if problems := find_problems(lora, shapes):
        shown = " ".join(problems[:10]) + (" ..." if len(problems) > 10 else "")
        raise VerificationFailed(
            f"The adapter does not fit its base {base.digest}: {shown} Take the base that it was "
            "trained on, or another adapter."
        )


def _open_base(digest: str, gate: Gate) -> Artifact:
    require_admitted(gate.store, digest, gate.policy)
    return open_artifact(digest, gate.project.admitted, "admit the base")


def _name_base(
    kept: Artifact, lora: Lora, declaration: AdapterDeclaration, gate: Gate, now: datetime
) -> Admission | None:
    """Admit a copy whose configuration names the base by digest; None if it does already."""
    if lora.config.get(REFERENCE) == declaration.base:
        return None
    config = {**lora.config, REFERENCE: declaration.base, "revision": None}
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=gate.project.outside) as temporary:
        folder = Path(temporary) / declaration.id
        shutil.copytree(kept.path, folder)
        (folder / CONFIG).unlink()  # the copy is read-only, as the original
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        conversion = Conversion(kept.digest, "its base is named by digest", len(lora.shapes))
        admission = admit_artifact(folder, gate, now, conversion=conversion)
    admission.require("The adapter with its base named by digest")
    return admission


def require_mergeable(
    gate: Gate, digest: str, base: str, find_approvals: FindApprovals
) -> tuple[Artifact, Artifact, AdapterDeclaration]:
    """Return adapter and base, opened and verified, if they may be merged.

    Args:
        gate: the project's gate.
        digest: of the registered adapter.
        base: digest of the model that it is to be merged into.
        find_approvals: returns who approved a digest; nobody closes the gate.

    Raises:
        GateClosed: it is not registered, meant for another base, or approved by nobody.
        VerificationFailed: it does not fit, or bytes changed since.
    """
    require_admitted(gate.store, digest, gate.policy)
    statements, problems = gate.store.about(digest, KIND)
    if problems or not statements:
        reason = problems[0] if problems else "no statement registers it"
        raise GateClosed(
            f"The adapter {digest} may not be merged: {reason}. Admit its folder with an "
            f"{DECLARATION}."
        )
    bases = {f"sha256:{one.predicate['base']['sha256']}" for one in statements}
    if bases != {base}:
        raise GateClosed(
            f"The adapter {digest} is meant for {', '.join(sorted(bases))}, not for {base}: merge "
            "it into the base that it was trained on."
        )
    if not find_approvals(digest):
        raise GateClosed(
            f"The adapter {digest} may not be merged: nobody approved it. Review it and approve "
            "its digest."
        )
    adapter = open_artifact(digest, gate.project.admitted, "admit it")
    opened = _open_base(base, gate)
    require_fit(read_lora(adapter.path), opened)
    return adapter, opened, read_declaration(adapter.path)

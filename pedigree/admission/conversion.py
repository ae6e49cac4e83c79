"""A pickled checkpoint becomes safetensors, in the sandbox, where a reviewer's waiver allows it.

    converted = convert_artifact(digest, gate, now)

The original stays in quarantine. What comes out goes through the gate as an artifact of its own,
whose statements name the original, the waiver, and the isolation in which it was opened. In a
folder each pickle is converted, and the other files stay as they are.
"""

import json
import os
import re
import tempfile
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pedigree.admission.gate import Admission, Conversion, Gate, admit_artifact
from pedigree.admission.keeping import Artifact, open_artifact
from pedigree.admission.transitions import find_decision, find_kinds
from pedigree.digests import JSON
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.store import Statement
from pedigree.evidence.waivers import CONVERSION, find_conversion_waiver
from pedigree.files import PARTIAL, explain_disk_errors
from pedigree.sandbox import Limits, level_of, run_sandboxed
from pedigree.sandbox.workers import load_weights

PICKLED = ("pickle", "zip")
_WORKER = "pedigree.sandbox.workers.load_weights:convert"
_INDEX = ".bin.index.json"


def convert_artifact(
    digest: str, gate: Gate, now: datetime, *, limits: Limits | None = None
) -> Admission:
    """Open a quarantined checkpoint in the sandbox, write safetensors, and admit those.

    Args:
        digest: of the quarantined file or folder.
        gate: the project's gate.
        now: when.
        limits: what the sandbox may use for one file.

    Raises:
        GateClosed: it was rejected, or not judged by this gate, or no reviewer's waiver covers it.
        PedigreeError: it holds no pickled checkpoint, the isolation is below the policy's minimum,
            or a file could not be opened. Nothing is kept then.
    """
    artifact, kinds, decision = open_quarantined(digest, gate)
    pickled = [path for path, kind in kinds.items() if kind in PICKLED]
    if not pickled:
        raise PedigreeError(
            f"{digest} holds no pickled checkpoint ({', '.join(sorted(set(kinds.values())))}): "
            "there is nothing to convert."
        )
    waiver = _require_waiver(digest, decision, gate, now)
    new_names = _rename(artifact, pickled)
    parent = gate.project.outside
    with explain_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=parent) as temporary:
        folder = Path(temporary) / "converted"
        tensors = dequantised = 0
        for number, (path, name) in enumerate(new_names.items()):
            out = Path(temporary) / str(number)
            try:
                found = _convert_file(artifact.path / path, out, gate, limits)
            except PedigreeError as error:
                raise PedigreeError(f"{path} was not converted. {error}") from error
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (out / load_weights.OUTPUT).rename(place)
            tensors += found[0]
            dequantised += found[1]
        _bring_rest(artifact, new_names, folder)
        conversion = Conversion(
            digest, str(waiver.predicate["reason"]), tensors, dequantised, waiver.digest
        )
        origin: dict[str, JSON] = {"converted from": digest}
        single = len(artifact.files) == 1
        made = folder / next(iter(new_names.values())) if single else folder
        return admit_artifact(made, gate, now, origin=origin, conversion=conversion)


def _require_waiver(digest: str, decision: Statement, gate: Gate, now: datetime) -> Statement:
    waiver, problem = find_conversion_waiver(gate.store, digest, decision, gate.policy, now)
    if waiver is None:
        raise GateClosed(
            f"A pickle is opened by a reviewer's waiver only, and {digest} has none"
            f"{f' that counts ({problem})' if problem else ''}: `pedigree waive {CONVERSION} "
            f"{digest[7:19]} --until DATE --key KEY --reason TEXT`."
        )
    return waiver


def _convert_file(
    checkpoint: Path, out: Path, gate: Gate, limits: Limits | None
) -> tuple[int, int]:
    """Write the tensors of one file to `out`; return how many, and how many were dequantised."""
    done = run_sandboxed(
        _WORKER,
        read_only=[checkpoint],
        output=out,
        outputs=[load_weights.OUTPUT],
        limits=limits,
        minimum=level_of(gate.policy.admission.minimum_isolation),
        isolation=gate.isolation,
    )
    try:
        said = cast(dict[str, Any], done.value)
        return int(said["tensors"]), int(said["dequantised"])
    except (TypeError, KeyError, ValueError):  # it read a hostile file
        raise PedigreeError(
            f"{checkpoint.name} was opened, and the answer cannot be read: nothing was kept."
        ) from None


def _rename(artifact: Artifact, pickled: list[str]) -> dict[str, str]:
    """Return what each pickle is called once it is safetensors, by the hub's conventions."""
    if len(artifact.files) == 1:
        return {artifact.files[0].path: load_weights.OUTPUT}
    names = {path: _new_name(path) for path in pickled}
    taken = {entry.path for entry in artifact.files}
    for path, name in names.items():
        others = [other for other, same in names.items() if same == name and other != path]
        if name in taken or others:
            raise PedigreeError(
                f"{path} would become {name}, which is there already: take out the one that you do "
                "not need, and admit the folder again."
            )
    return names


def _new_name(path: str) -> str:
    """Return the name of the converted file: pytorch_model.bin is model.safetensors."""
    old = PurePosixPath(path)
    stem = re.sub(r"^pytorch_model(?=$|-)", "model", old.stem)
    return str(old.with_name(f"{stem}.safetensors"))


def _bring_rest(artifact: Artifact, new_names: dict[str, str], folder: Path) -> None:
    """Put the files that were no pickles beside the converted ones; an index names these."""
    for entry in artifact.files:
        if entry.path in new_names:
            continue
        source, name = artifact.path / entry.path, entry.path
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(_INDEX):
            place = folder / f"{_new_name(name.removesuffix('.index.json'))}.index.json"
            place.write_bytes(_rewrite_index(source.read_bytes(), entry.path, new_names))
        else:
            os.link(source, place)


def _rewrite_index(data: bytes, path: str, new_names: dict[str, str]) -> bytes:
    """Return a shard index, whose form the gate has judged, with the names of converted files."""
    beside = PurePosixPath(path).parent
    index = cast(dict[str, Any], json.loads(data))
    renamed = {
        tensor: PurePosixPath(new_names[str(beside / shard)]).name
        for tensor, shard in index["weight_map"].items()
    }
    return json.dumps({**index, "weight_map": renamed}, indent=2, sort_keys=True).encode() + b"\n"


def open_quarantined(digest: str, gate: Gate) -> tuple[Artifact, dict[str, str], Statement]:
    """Open what this gate quarantined; return it, what each file is, and the decision.

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
    return artifact, find_kinds(gate.store, decision), decision

"""The process that trains or evaluates: `python -m pedigree.training.worker REQUEST.json`.

It runs in an environment made by `determinism.worker_environment`, opens everything by digest,
and speaks in JSON lines on standard output. Being a process of its own is what lets strict mode
pin instruction set and threads before torch is imported, and a rebuild run the same entry.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from pydantic import TypeAdapter

import pedigree
from pedigree.base_models import open_base_model
from pedigree.capture import CODE_FOLDERS, digest_code_files
from pedigree.digests import JSON, Manifest, digest_manifest, digest_tree, hex_of
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.files import folder_written_atomically
from pedigree.params import TrainingParams
from pedigree.settings import Settings
from pedigree.snapshots import open_snapshot
from pedigree.training.confinement import confine
from pedigree.zones import confined


class TrainRequest(Settings):
    """What to train, on what, into which folder."""

    task: Literal["train"] = "train"
    code_root: Path
    params: TrainingParams
    labels: tuple[str, ...]
    snapshots: Path
    snapshot: str
    base_models: Path
    base: str
    configuration: str
    checkpoints: Path
    checkpoint_every: int
    out: Path


class RebuildRequest(Settings):
    """Which recorded model to train again. The record is read by the code of its own commit.

    Commits exchange this: keep it as it is, or older models cannot be rebuilt.
    """

    task: Literal["rebuild"] = "rebuild"
    code_root: Path
    predicate: dict[str, Any]
    snapshots: Path
    base_models: Path
    out: Path


class EvaluateRequest(Settings):
    """Which model folder to evaluate on which snapshot."""

    task: Literal["evaluate"] = "evaluate"
    code_root: Path
    params: TrainingParams
    labels: tuple[str, ...]
    snapshots: Path
    snapshot: str
    model: Path
    model_digest: str


Request: TypeAlias = TrainRequest | RebuildRequest | EvaluateRequest


def main(arguments: list[str]) -> int:
    """Carry out the request in the file named by the first argument."""
    _die_with_parent()
    adapter: TypeAdapter[Request] = TypeAdapter(Request)
    request = adapter.validate_json(Path(arguments[0]).read_bytes())
    try:
        running = Path(pedigree.__file__).resolve().parent.parent
        if running != request.code_root.resolve():
            raise VerificationFailed(
                f"The worker runs the code in {running}, not the recorded code in "
                f"{request.code_root}: remove the other from PYTHONPATH."
            )
        if isinstance(request, EvaluateRequest):
            isolation = _confine(request)
            with confined("evaluation"):
                result = _evaluate(request)
        else:
            made = request if isinstance(request, TrainRequest) else _read_rebuild(request)
            isolation = _confine(made)
            with confined("training"):
                result = _train(made, _report)
    except PedigreeError as error:
        _report({"event": "error", "message": str(error), "exit_code": error.exit_code})
        return error.exit_code
    _report({"event": "done", "isolation": isolation, **result})
    return 0


def _confine(request: TrainRequest | EvaluateRequest) -> dict[str, JSON]:
    """Leave this process its code, its inputs and its outputs, before torch starts threads."""
    code = [request.code_root / name for name in CODE_FOLDERS]
    inputs = [request.snapshots / hex_of(request.snapshot)]
    writable = [Path.cwd()]  # a temporary folder that the caller removes
    if isinstance(request, EvaluateRequest):
        inputs.append(request.model)
    else:
        inputs.append(request.base_models / hex_of(request.base))
        request.out.parent.mkdir(parents=True, exist_ok=True)
        request.checkpoints.mkdir(parents=True, exist_ok=True)
        writable += [request.out.parent, request.checkpoints]
    return confine([*code, *inputs], writable, gpu=request.params.device != "cpu")


def _read_rebuild(request: RebuildRequest) -> TrainRequest:
    from pedigree.training.record import read_predicate

    inputs = read_predicate(request.predicate).inputs
    return TrainRequest(
        code_root=request.code_root,
        params=inputs.params,
        labels=inputs.labels,
        snapshots=request.snapshots,
        snapshot=inputs.training.digest,
        base_models=request.base_models,
        base=inputs.base.digest,
        configuration=inputs.configuration(),
        checkpoints=request.out.with_name("checkpoints"),
        checkpoint_every=0,
        out=request.out,
    )


def _report(record: dict[str, Any]) -> None:
    print(json.dumps({"event": "progress", **record}), flush=True)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that none trains on alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _read_rows(request: TrainRequest | EvaluateRequest) -> dict[str, list[Any]]:
    table = open_snapshot(request.snapshot, request.snapshots).read()
    columns = table.select(["row_id", "text", "label", "source"]).to_pydict()
    unknown = set(columns["label"]) - set(request.labels)
    if unknown:
        raise PedigreeError(f"The snapshot has labels that are not declared: {sorted(unknown)}.")
    return cast(dict[str, list[Any]], columns)


def _train(request: TrainRequest, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from pedigree.training.determinism import describe_hardware, prepare
    from pedigree.training.loop import TrainingRows, train
    from pedigree.training.model import save_model

    base = open_base_model(request.base, request.base_models)
    columns = _read_rows(request)
    device = prepare(request.params)
    positions = {label: i for i, label in enumerate(request.labels)}
    outcome = train(
        TrainingRows(
            columns["row_id"], columns["text"], [positions[one] for one in columns["label"]]
        ),
        request.labels,
        request.params,
        base.path,
        device,
        request.checkpoints,
        request.configuration,
        request.checkpoint_every,
        report,
    )
    with folder_written_atomically(request.out) as folder:
        save_model(outcome.model, request.params, base.path, base.digest, folder)
    manifest = digest_tree(request.out)
    return {
        "model_digest": digest_manifest(manifest),
        "files": TypeAdapter(Manifest).dump_python(manifest, mode="json"),
        "hardware": describe_hardware(device),
        "code": digest_code_files(request.code_root),
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "final_loss": outcome.final_loss,
        "resumed_from": outcome.resumed_from,
    }


def _evaluate(request: EvaluateRequest) -> dict[str, Any]:
    from pedigree.training.determinism import prepare
    from pedigree.training.evaluation import predict, score

    found = digest_manifest(digest_tree(request.model))
    if found != request.model_digest:
        raise VerificationFailed(
            f"The model in {request.model} is {found}, not {request.model_digest}: its files were "
            "changed after training."
        )
    columns = _read_rows(request)
    device = prepare(request.params)
    positions = predict(request.model, columns["text"], request.params.max_tokens, device)
    guesses = [request.labels[position] for position in positions]
    evaluation = score(guesses, columns["label"], columns["source"])
    return {"evaluation": evaluation.model_dump(mode="json")}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Checkpoints from which a resumed run ends with the digest of an undisturbed one.

A checkpoint is a folder of safetensors and JSON, written whole or not at all, bound to the digest
of everything that decides the run. One of another configuration, or with a changed byte, is
refused.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from pedigree.digests import (
    JSON,
    FileEntry,
    canonical_json,
    digest_json,
    digest_tree,
    find_differences,
)
from pedigree.errors import VerificationFailed
from pedigree.files import folder_written_atomically
from pedigree.training.model import save_tensors

_TENSORS = "state.safetensors"
_META = "checkpoint.json"


def save_checkpoint(
    folder: Path,
    configuration: str,
    step: int,
    model: Any,
    optimizer: Any,
    random_states: dict[str, Any],
) -> None:
    """Write the checkpoint of `step` and remove those before it."""
    tensors: dict[str, Any] = {
        f"model/{name}": value.detach().cpu().contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer/{index}/{name}"] = value.detach().cpu().contiguous()
    tensors |= {f"random/{name}": state.cpu() for name, state in random_states.items()}
    target = folder / f"step-{step:08d}"
    with folder_written_atomically(target) as partial:
        save_tensors(tensors, partial / _TENSORS)
        files: JSON = [entry.model_dump() for entry in digest_tree(partial)]
        about: dict[str, JSON] = {"configuration": configuration, "step": step, "files": files}
        (partial / _META).write_bytes(canonical_json({**about, "digest": digest_json(about)}))
    for old in sorted(folder.glob("step-*")):
        if old.name < target.name:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, configuration: str) -> tuple[int, dict[str, Any]] | None:
    """Return (step, tensors by name) of the newest checkpoint, or None where there is none.

    Raises:
        VerificationFailed: it belongs to another configuration, or its bytes changed.
    """
    from safetensors.torch import load_file

    newest = max(folder.glob("step-*"), default=None)
    if newest is None:
        return None
    try:
        meta = json.loads((newest / _META).read_bytes())
        claimed = meta.pop("digest")
        files = tuple(FileEntry.model_validate(entry) for entry in meta["files"])
        found = str(meta["configuration"])
        step = cast(int, meta["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VerificationFailed(
            f"The checkpoint {newest} cannot be read ({error}): remove it to start over."
        ) from None
    problem = "; ".join(find_differences(newest, files, beside=_META))
    if found != configuration:
        problem = f"belongs to the configuration {found}, this run is {configuration}"
    elif claimed != digest_json(meta) or newest.name != f"step-{step:08d}":
        problem = f"says step {step} in {_META}, which was changed"
    if problem:
        raise VerificationFailed(
            f"The checkpoint {newest} is refused: it {problem}. Remove {folder} to start over."
        )
    return step, load_file(newest / _TENSORS)


def restore(tensors: dict[str, Any], model: Any, optimizer: Any) -> dict[str, Any]:
    """Put parameters and optimizer state back; return the random states."""
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.copy_(tensors[f"model/{name}"])
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimizer":
            index, _, name = rest.partition("/")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return {k.removeprefix("random/"): v for k, v in tensors.items() if k.startswith("random/")}

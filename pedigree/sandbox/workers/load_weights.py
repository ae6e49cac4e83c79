"""Read a pickled checkpoint with torch's restricted unpickler and write it as safetensors.

`weights_only` alone is no boundary, it has been escaped before; the sandbox around it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.sandbox.inner import WorkerRequest

if TYPE_CHECKING:
    import torch

OUTPUT = "model.safetensors"
# Containers in which training frameworks keep the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def convert(request: WorkerRequest) -> dict[str, int]:
    """Write the tensors of the one file in `read_only` to the output `model.safetensors`.

    Returns how many `tensors` there are, and how many of them were `dequantised`, which the file's
    metadata says too. Tensors are written contiguous and each for itself, so weights that were tied
    are stored twice. Takes memory for two copies of the weights. Raises ValueError for a file whose
    content is not a flat mapping from names to tensors.
    """
    import torch
    from safetensors.torch import save

    if request.output is None or len(request.read_only) != 1:
        raise ValueError("exactly one checkpoint and one output folder are needed")
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    dequantised = 0
    for name, tensor in load_state(request.read_only[0]).items():
        if isinstance(tensor, torch.Tensor):
            if (
                tensor.is_quantized
            ):  # safetensors has no scales: these are other numbers than before
                dequantised += 1
                tensor = tensor.dequantize()
            tensors[name] = _apart(tensor.detach(), storages)
    if not tensors:
        raise ValueError("the checkpoint holds no tensors")
    metadata = {"format": "pt"}
    if dequantised:
        metadata["dequantised"] = f"{dequantised} of {len(tensors)} tensors"
    # save_file writes a file of another name first, which the sandbox does not let it make.
    (request.output / OUTPUT).write_bytes(save(tensors, metadata=metadata))
    return {"tensors": len(tensors), "dequantised": dequantised}


def _apart(tensor: "torch.Tensor", storages: set[int]) -> "torch.Tensor":
    """Return the tensor contiguous and with a storage that no earlier one has."""
    storage = tensor.untyped_storage().data_ptr()
    if storage in storages or not tensor.is_contiguous():
        return tensor.clone().contiguous()
    storages.add(storage)
    return tensor


def load_state(path: Path) -> Mapping[str, object]:
    """Return the mapping from names to tensors of a checkpoint, out of the usual wrapping.

    Raises ValueError for anything else.
    """
    import torch

    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Its own message recommends to load without restrictions.
        why = str(error).partition("WeightsUnpickler error:")[2] or type(error).__name__
        said = " ".join(why.split())[:200]
        raise ValueError(f"torch's restricted reader does not take it: {said}") from None
    for _ in range(2):
        if not isinstance(loaded, Mapping):
            break
        inner = next((loaded[name] for name in _WRAPPERS if name in loaded), None)
        if not isinstance(inner, Mapping):
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        raise ValueError("the checkpoint is not a mapping from names to tensors")
    return loaded

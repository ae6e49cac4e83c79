"""Read a pickled checkpoint with torch's restricted unpickler and write it as safetensors.

`weights_only` alone is no boundary, it has been escaped before; the sandbox around it is.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pedigree.sandbox.inner import WorkerRequest

if TYPE_CHECKING:
    import torch

OUTPUT = "model.safetensors"
# Containers in which training frameworks keep the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def convert(request: WorkerRequest) -> dict[str, object]:
    """Write the tensors of the one file in `read_only` to the output `model.safetensors`.

    Returns their names with dtype and shape. Tensors are written contiguous and each for itself,
    so weights that were tied are stored twice. Takes memory for two copies of the weights. Raises
    ValueError for a file whose content is not a flat mapping from names to tensors.
    """
    import torch
    from safetensors.torch import save

    if request.output is None or len(request.read_only) != 1:
        raise ValueError("exactly one checkpoint and one output folder are needed")
    loaded = torch.load(request.read_only[0], map_location="cpu", weights_only=True)
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in find_state(loaded).items():
        if isinstance(tensor, torch.Tensor):
            tensors[name] = _apart(tensor.detach(), storages)
    if not tensors:
        raise ValueError("the checkpoint holds no tensors")
    # save_file writes a file of another name first, which the sandbox does not let it make.
    (request.output / OUTPUT).write_bytes(save(tensors, metadata={"format": "pt"}))
    return {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}
        for name, tensor in sorted(tensors.items())
    }


def _apart(tensor: "torch.Tensor", storages: set[int]) -> "torch.Tensor":
    """Return the tensor contiguous and with a storage that no earlier one has."""
    storage = tensor.untyped_storage().data_ptr()
    if storage in storages or not tensor.is_contiguous():
        return tensor.clone().contiguous()
    storages.add(storage)
    return tensor


def find_state(loaded: object) -> Mapping[str, object]:
    """Return the mapping from names to tensors, out of the usual wrapping."""
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

"""What decides the bits besides data and code, pinned before torch is imported and recorded.

Strict mode promises: on CPU, the same lock, make of processor, instruction set and thread count
give the same bits. An Intel and an AMD give different ones, both with AVX2 (docs/measurements.md).
Two threads differ from one, AVX2 from AVX-512, and both torch's and oneDNN's choice of
instructions count, so the training process is started with all of them in its environment::

    >>> worker_environment(TrainingParams())["ATEN_CPU_CAPABILITY"]
    'avx2'
"""

import platform
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.params import TrainingParams

if TYPE_CHECKING:
    import torch

# What a worker may see of its parent's environment: enough to find programs and a home for
# temporary files; no token, key or proxy.
_INHERITED = ("PATH", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")

_ONEDNN = {"avx2": "AVX2", "avx512": "AVX512_CORE"}
_MKL = {"avx2": "AVX2,STRICT", "avx512": "AVX512,STRICT"}


def worker_environment(params: TrainingParams, inherited: Mapping[str, str] = {}) -> dict[str, str]:
    """Return the whole environment of a training process."""
    environment = {
        **inherit(inherited),
        "OMP_NUM_THREADS": str(params.threads),
        "MKL_NUM_THREADS": str(params.threads),
        "OPENBLAS_NUM_THREADS": str(params.threads),
        # Spinning threads burn many times the CPU on a busy machine.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if params.mode == "strict":
        environment |= {"MKL_DYNAMIC": "FALSE", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        if params.cpu_capability in _ONEDNN:
            environment |= {
                "ATEN_CPU_CAPABILITY": params.cpu_capability,
                "ONEDNN_MAX_CPU_ISA": _ONEDNN[params.cpu_capability],
                "MKL_CBWR": _MKL[params.cpu_capability],
            }
        else:
            environment["ATEN_CPU_CAPABILITY"] = params.cpu_capability
    return environment


def inherit(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a worker may see of its parent's environment."""
    return {name: environment[name] for name in _INHERITED if name in environment}


def keep_pins(recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the recorded variables that pin something; a record can set no other."""
    known = {
        name
        for capability in ("avx2", "default")
        for name in worker_environment(
            TrainingParams.model_validate({"cpu_capability": capability, "mode": "strict"})
        )
    }
    return {name: value for name, value in recorded.items() if name in known}


def prepare(params: TrainingParams) -> "torch.device":
    """Apply the mode inside the worker and return the device.

    Raises:
        PedigreeError: the machine cannot do what the parameters ask for; nothing is substituted.
    """
    import torch

    if params.device == "cuda" and not torch.cuda.is_available():
        raise PedigreeError(
            "train.device is cuda, but torch finds no GPU here: set it to cpu, or to auto to "
            "take what there is."
        )
    use_cuda = params.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(params.threads)
    torch.set_num_interop_threads(1)
    if params.mode == "strict":
        found = torch.backends.cpu.get_cpu_capability().lower()
        if params.cpu_capability != "default" and found != params.cpu_capability:
            raise PedigreeError(
                f"train.cpu_capability is {params.cpu_capability}, but this processor offers "
                f"{found}: strict mode does not substitute one for the other. Train where it is "
                "offered, or set another value."
            )
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if use_cuda else "cpu")


def seed_everything(seed: int) -> None:
    """Seed every random state that training could draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def capture_random_states() -> dict[str, "torch.Tensor"]:
    """Return every random state of the process as tensors: Python, numpy, torch (CPU and GPUs)."""
    import numpy as np
    import torch

    version, words, _ = random.getstate()
    numpy_state: Any = np.random.get_state()
    states = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "numpy": torch.tensor([*numpy_state[1].tolist(), numpy_state[2]], dtype=torch.int64),
        "torch": torch.get_rng_state(),
    }
    for index in range(torch.cuda.device_count()):
        states[f"cuda_{index}"] = torch.cuda.get_rng_state(index)
    return states


def restore_random_states(states: Mapping[str, "torch.Tensor"]) -> None:
    """Put back what `capture_random_states` returned.

    Half-used pairs of Gaussian draws, which Python and numpy keep aside, are not carried over: the
    loop draws none from either.
    """
    import numpy as np
    import torch

    version, *words = states["python"].tolist()
    random.setstate((version, tuple(words), None))
    *keys, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), int(position), 0, 0.0))
    torch.set_rng_state(states["torch"])
    for name, state in states.items():
        if name.startswith("cuda_"):
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda_")))


def describe_hardware(device: "torch.device") -> dict[str, JSON]:
    """Return what of the machine decides the bits, and its name for people."""
    import torch

    facts: dict[str, JSON] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": device.type,
        "world_size": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
    }
    if device.type == "cuda":
        version: Any = torch.version
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "compute_capability": list(torch.cuda.get_device_capability(device)),
            "cuda": version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"

"""The sandbox: open what must be opened where it can reach nothing.

    isolation = probe_isolation()                     # once, at start; it goes into the record
    result = run_sandboxed(
        "pedigree.sandbox.workers.load_weights:convert",
        read_only=[checkpoint], output=folder, outputs=["model.safetensors"], isolation=isolation,
    )

Each run is a process of its own with an empty environment and no open file of the caller, held by
rlimits, no_new_privs, Landlock and seccomp, with bubblewrap around it where that works, and a
watchdog beside it. Below the level that is asked for, nothing is opened. Only Linux has the layers.

    probing (level, run_sandboxed) -> running (processes) -> inner (builds the layers) -> workers
"""

from pedigree.sandbox.inner import WorkerRequest
from pedigree.sandbox.isolation import Isolation, Level, level_of
from pedigree.sandbox.limits import Limits
from pedigree.sandbox.probing import probe_isolation, require_level, run_sandboxed
from pedigree.sandbox.running import SandboxResult

__all__ = [
    "Isolation", "Level", "Limits", "SandboxResult", "WorkerRequest", "level_of", "probe_isolation",
    "require_level", "run_sandboxed",
]  # fmt: skip

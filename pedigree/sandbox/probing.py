"""What isolation is there, found by trying it; and the one way to run something under it."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pedigree.errors import PedigreeError
from pedigree.sandbox.bubblewrap import find_bubblewrap
from pedigree.sandbox.isolation import Isolation, Level, layers_of
from pedigree.sandbox.landlock import landlock_abi
from pedigree.sandbox.limits import Limits
from pedigree.sandbox.running import SandboxResult, run_job
from pedigree.sandbox.syscalls import this_machine

_TRIAL = "pedigree.sandbox.workers.echo:count_bytes"
_TRIAL_LIMITS = Limits(wall_seconds=20)


def probe_isolation() -> Isolation:
    """Return the highest level at which a trial run succeeds here, and why it is not a higher one.

    Takes about 0.1 s a level. Probe once at start, record it, and hand it to `run_sandboxed`.
    """
    system = os.uname()
    bare = Isolation(Level.RLIMITS, layers_of(Level.RLIMITS), 0, system.machine, system.release, ())
    if not sys.platform.startswith("linux"):
        return replace(bare, absent=(f"Landlock and seccomp are Linux's; this is {sys.platform}.",))
    if this_machine() is None:
        return replace(bare, absent=(f"No seccomp filter is written for {system.machine}.",))
    abi = landlock_abi()
    if not abi:
        return replace(bare, absent=("The kernel has no Landlock, or it is switched off.",))
    inner = _at(Level.LANDLOCK_SECCOMP, replace(bare, landlock_abi=abi))
    if problem := _trial(inner):
        return replace(bare, landlock_abi=abi, absent=(problem,))
    if find_bubblewrap() is None:
        return replace(inner, absent=("Bubblewrap is not installed.",))
    outer = _at(Level.BUBBLEWRAP, inner)
    problem = _trial(outer)
    return replace(inner, absent=(problem,)) if problem else outer


def _at(level: Level, isolation: Isolation) -> Isolation:
    return replace(isolation, level=level, layers=layers_of(level))


def _trial(isolation: Isolation) -> str | None:
    """Return why a run at this level does not work, or None if it does."""
    try:
        result = run_job(_TRIAL, b"trial", (), None, (), _TRIAL_LIMITS, isolation)
    except PedigreeError as error:
        return f"A trial at {isolation.level.label} failed: {error}"
    return None if result.value == 5 else f"A trial at {isolation.level.label} gave no answer."


def run_sandboxed(
    worker: str,
    *,
    payload: bytes = b"",
    read_only: Sequence[Path] = (),
    output: Path | None = None,
    outputs: Sequence[str] = (),
    limits: Limits | None = None,
    minimum: Level = Level.LANDLOCK_SECCOMP,
    isolation: Isolation | None = None,
) -> SandboxResult:
    """Run `package.module:function` so that it can reach nothing but what is named here.

    The function takes a `WorkerRequest` and returns something that JSON can hold, at most 1 MiB.
    What stays visible to it: whether a path exists, its size, times and link target (not its
    bytes, not a folder's listing), unless bubblewrap hides the path; the time, and the load.

    Args:
        worker: The function's name; its module is loaded inside, never here.
        payload: Input bytes.
        read_only: Files and folders that it may read; what they point to, if they are links.
        output: A folder that does not exist; it appears, whole, when the worker ended well.
        outputs: The names of the files in it. They are made before the worker starts, because it
            may write to them and make no others.
        limits: What it may use.
        minimum: The lowest level that the policy accepts, not below landlock+seccomp.
        isolation: What `probe_isolation` found; it is probed again when not given.

    Raises:
        PedigreeError: The level is too low, nothing was run; or the worker failed, was killed or
            gave no answer, nothing was kept.
    """
    found = isolation or probe_isolation()
    require_level(found, minimum)
    return run_job(worker, payload, read_only, output, outputs, limits or Limits(), found)


def require_level(found: Isolation, minimum: Level) -> None:
    """Refuse what this machine can hold where a policy asks for more.

    Raises:
        PedigreeError: the level is lower, or the policy's minimum allows everything.
    """
    if minimum < Level.LANDLOCK_SECCOMP:
        raise PedigreeError(
            f"The policy's minimum isolation is {Level(minimum).label}, under which a worker could "
            f"read and send anything: set it to {Level.LANDLOCK_SECCOMP.label} or higher."
        )
    if found.level < minimum:
        raise PedigreeError(
            f"Isolation {Level(minimum).label} is required and {found.level.label} is what this "
            f"machine has ({' '.join(found.absent)}): nothing was opened; run it on a machine that "
            "has the required level."
        )

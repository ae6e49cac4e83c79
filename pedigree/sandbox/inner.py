"""The first thing that runs in a worker's process: it builds the sandbox around itself.

Only when every layer stands, and a try shows that two of them hold, are the worker and its input
read. So whatever a worker reports, it reports from inside the whole sandbox; a layer that cannot
be built ends the process with `NOT_BUILT` instead. Started by `pedigree.sandbox.running`.
"""

import ctypes
import importlib.util
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pedigree.sandbox.landlock import landlock_abi, restrict
from pedigree.sandbox.limits import apply_limits
from pedigree.sandbox.seccomp import install, program
from pedigree.sandbox.syscalls import call, this_machine

NOT_BUILT = 97
# linux/prctl.h, linux/capability.h
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class WorkerRequest:
    """What a worker is given.

    Attributes:
        payload: The input bytes.
        read_only: Files and folders that it may read, in the caller's order.
        output: The folder with its outputs, which exist already and are empty; None without.
    """

    payload: bytes
    read_only: tuple[Path, ...]
    output: Path | None


def main() -> None:
    """Read the settings, build the sandbox, run the worker, write its result; never returns."""
    source = os.fdopen(0, "rb")
    settings: dict[str, Any] = json.loads(source.readline())
    result = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no result
    try:
        build(settings, keep=result)
        verify_built()
    except (OSError, RuntimeError) as error:
        sys.stderr.write(str(error))
        sys.stderr.flush()
        os._exit(NOT_BUILT)
    with os.fdopen(result, "wb") as stream:
        stream.write(_answer(settings, source))
    os._exit(0)


def build(settings: dict[str, Any], keep: int) -> None:
    """Put up every layer, the ones that others need first. Raises OSError or RuntimeError."""
    machine = this_machine()
    if machine is None or landlock_abi() < settings["landlock_abi"]:
        raise RuntimeError("the machine or its Landlock is not the one that was probed")
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if settings["parent"] not in (None, os.getppid()):
        raise RuntimeError("the caller ended before the sandbox was built")
    os.umask(0o077)
    os.chdir("/")
    call("prctl", _DUMPABLE, 0, 0, 0, 0)
    apply_limits(settings["rlimits"])
    call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities()
    restrict(_paths(settings["readable"]), _paths(settings["writable"]), settings["landlock_abi"])
    install(program(machine, os.getpid(), threads=settings["threads"]))


def _paths(names: list[str]) -> list[Path]:
    return [Path(name) for name in names]


def _drop_capabilities() -> None:
    """Root without them cannot lift limits, mount or trace."""
    header = ctypes.create_string_buffer(struct.pack("=II", _CAPABILITY_VERSION_3, 0), 8)
    none = ctypes.create_string_buffer(24)
    call("capset", ctypes.addressof(header), ctypes.addressof(none))


def verify_built() -> None:
    """Try one thing that Landlock and one that seccomp refuses. Raises RuntimeError."""
    tries: tuple[tuple[str, Callable[[], object]], ...] = (
        ("Landlock let the root folder be listed", lambda: os.listdir("/")),
        ("seccomp let a socket be made", socket.socket),
    )
    for complaint, attempt in tries:
        try:
            attempt()
        except PermissionError:
            continue
        raise RuntimeError(complaint)


def _answer(settings: dict[str, Any], source: BinaryIO) -> bytes:
    """Return the worker's value as JSON, or what it raised."""
    # Not one thread a core: each takes address space, of which there is little.
    os.putenv("OMP_NUM_THREADS", "1")
    try:
        request = WorkerRequest(
            source.read(),
            tuple(_paths(settings["read_only"])),
            Path(settings["output"]) if settings["output"] else None,
        )
        return json.dumps({"value": _load(settings["worker"])(request)}).encode()
    except BaseException as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"[:1000]}).encode()


def _load(worker: dict[str, str]) -> Callable[[WorkerRequest], object]:
    """Load the worker from its file: folders on the way to it need not be readable."""
    spec = importlib.util.spec_from_file_location(worker["module"], worker["file"])
    if spec is None or spec.loader is None:
        raise ImportError(f"{worker['file']} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[worker["module"]] = module
    spec.loader.exec_module(module)
    return getattr(module, worker["function"])

"""Run one worker in the sandbox: start it, watch it, take its result, keep its outputs or none.

The worker reads settings and input from a pipe only after the watchdog watches. Its result and
what it prints go to files, which its own limit on file sizes bounds and no full pipe can block.
"""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pedigree.errors import PedigreeError
from pedigree.sandbox import watchdog
from pedigree.sandbox.bubblewrap import find_bubblewrap, wrap_command
from pedigree.sandbox.inner import NOT_BUILT
from pedigree.sandbox.isolation import Isolation, Level
from pedigree.sandbox.limits import Limits, kernel_limits

_RESULT_BYTES = 1 << 20
_SHOWN_BYTES = 600
_WATCHDOG_SECONDS = 10
_SHELL_SIGNAL = 128
# What an interpreter and its libraries read. Not /proc, not /etc but for the loader's cache.
_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache",
           "/dev/null", "/dev/urandom", "/sys/devices/system/cpu")  # fmt: skip


@dataclass(frozen=True)
class SandboxResult:
    """What came out. It is the worker's word: as trustworthy as the input it was given.

    Attributes:
        value: The worker's return value, through JSON.
        isolation: The isolation under which it ran.
        seconds: Wall time.
        outputs: Name and size in bytes of each output, all regular files.
    """

    value: object
    isolation: Isolation
    seconds: float
    outputs: dict[str, int]


@dataclass(frozen=True)
class Job:
    """One run, as the processes are told of it."""

    worker: dict[str, str]
    payload: bytes
    read_only: tuple[Path, ...]
    output: Path | None
    writable: tuple[Path, ...]
    limits: Limits


def run_job(
    worker: str, payload: bytes, read_only: Sequence[Path], output: Path | None,
    outputs: Sequence[str], limits: Limits, isolation: Isolation,
) -> SandboxResult:  # fmt: skip
    """Run the worker at exactly this isolation; see `run_sandboxed` for the arguments."""
    # Here, because the worker's process imports this package too and needs none of it.
    from pedigree.files import folder_written_atomically

    _check_outputs(output, outputs)
    paths = tuple(path.absolute() for path in read_only)
    for path in paths:
        if not path.exists():
            raise PedigreeError(f"{path}, which the worker should read, is missing: correct it.")
    located = locate_worker(worker)
    writing = folder_written_atomically(output.absolute()) if output else nullcontext(None)
    with writing as folder:
        writable = tuple(folder / name for name in outputs) if folder else ()
        for path in writable:
            path.touch(exist_ok=False)
        job = Job(located, payload, paths, folder, writable, limits)
        started = time.monotonic()
        value = _value_of(worker, *_run_watched(worker, job, isolation))
        sizes = {path.name: path.stat().st_size for path in writable}
        if empty := [name for name, size in sizes.items() if not size]:
            raise PedigreeError(
                f"The worker {worker} ended well but wrote nothing to {', '.join(empty)}: nothing "
                "was kept; its input is not what it expects."
            )
        return SandboxResult(value, isolation, time.monotonic() - started, sizes)


def _check_outputs(output: Path | None, outputs: Sequence[str]) -> None:
    if (output is None) != (not outputs):
        raise PedigreeError("Outputs need a folder and a folder needs named outputs: give both.")
    if output is not None and (output.exists() or output.is_symlink()):
        raise PedigreeError(f"{output} exists already: name a new folder for the outputs.")
    for name in outputs:
        if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
            raise PedigreeError(f"{name!r} is no plain file name for an output: give one.")


def locate_worker(worker: str) -> dict[str, str]:
    """Return module, function and file of `package.module:function`, without importing it."""
    module, _, function = worker.partition(":")
    try:
        spec = importlib.util.find_spec(module) if module and function.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not spec.has_location:
        raise PedigreeError(
            f"There is no worker {worker!r}: name a function as package.module:function."
        )
    return {"module": module, "function": function, "file": str(Path(spec.origin).absolute())}


def _run_watched(worker: str, job: Job, isolation: Isolation) -> tuple[int, bool, bytes, bytes]:
    """Return exit code, whether time ran out, result and the end of what it printed."""
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            _command(job, isolation), stdin=subprocess.PIPE, stdout=result, stderr=printed,
            env={}, cwd="/", close_fds=True, start_new_session=True,
        )  # fmt: skip
        try:
            late = _feed_and_wait(process, job, isolation)
        finally:
            process.kill()
            process.wait()
            if process.stdin:
                _close_quietly(process.stdin)
        if os.fstat(result.fileno()).st_size > _RESULT_BYTES:
            raise PedigreeError(
                f"The worker {worker} answered with more than {_RESULT_BYTES} bytes: nothing was "
                "kept; large results belong into outputs."
            )
        tail = max(0, os.fstat(printed.fileno()).st_size - _SHOWN_BYTES)
        code = process.returncode
        if isolation.level is Level.BUBBLEWRAP and code > _SHELL_SIGNAL:
            code = _SHELL_SIGNAL - code  # bubblewrap answers as a shell does
        return (
            code, late,
            os.pread(result.fileno(), _RESULT_BYTES, 0),
            os.pread(printed.fileno(), _SHOWN_BYTES, tail),
        )  # fmt: skip


def _feed_and_wait(process: "subprocess.Popen[bytes]", job: Job, isolation: Isolation) -> bool:
    """Start the watchdog, hand over the input, wait; return whether the watchdog had to kill."""
    command = [_interpreter(), "-I", "-S", watchdog.__file__, str(process.pid),
               str(job.limits.wall_seconds)]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={}, cwd="/", start_new_session=True,
    ) as dog:  # fmt: skip
        try:
            if not dog.stdout or dog.stdout.readline() != b"watching\n":
                raise PedigreeError("The sandbox's watchdog did not start: nothing was run.")
            assert process.stdin is not None  # noqa: S101
            settings = json.dumps(_settings(job, isolation)).encode() + b"\n"
            try:
                process.stdin.write(settings + job.payload)
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its exit code says why
            # The watchdog is the one that kills; this is for one that was itself killed.
            process.wait(job.limits.wall_seconds + _WATCHDOG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
        except BaseException:
            process.kill()
            process.wait()
            raise
        return dog.wait() == watchdog.KILLED


def _close_quietly(stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stream.close()


def _interpreter() -> str:
    """Return the interpreter behind a virtual environment, which finds its library by itself."""
    return os.path.realpath(sys.executable)


def _readable(job: Job) -> list[Path]:
    paths = sysconfig.get_paths()
    folders = {str(Path(paths["stdlib"]).parent), paths["purelib"], paths["platlib"]}
    code = (_package(), Path(job.worker["file"]))
    return [*map(Path, _SYSTEM), *map(Path, sorted(folders)), *code, *job.read_only]


def _package() -> Path:
    return Path(__file__).absolute().parent.parent


def _command(job: Job, isolation: Isolation) -> list[str]:
    paths = sysconfig.get_paths()
    folders = [str(_package().parent), paths["purelib"], paths["platlib"]]
    # -I and -S: no environment, no user's or site's start-up code, which `.pth` files are.
    code = f"import sys; sys.path += {folders!r}; from pedigree.sandbox.inner import main; main()"
    command = [_interpreter(), "-I", "-S", "-c", code]
    if isolation.level < Level.BUBBLEWRAP:
        return command
    bubblewrap = find_bubblewrap()
    if bubblewrap is None:
        raise PedigreeError("Bubblewrap, which was there when it was probed, is gone: probe again.")
    return wrap_command(bubblewrap, [*_readable(job), Path(_interpreter())], job.writable, command)


def _settings(job: Job, isolation: Isolation) -> dict[str, Any]:
    return {
        "worker": job.worker,
        "readable": [str(path) for path in _readable(job)],
        "writable": [str(path) for path in job.writable],
        "read_only": [str(path) for path in job.read_only],
        "output": str(job.output) if job.output else None,
        "rlimits": kernel_limits(job.limits, os.getuid()),
        "landlock_abi": isolation.landlock_abi,
        "threads": job.limits.threads > 0,
        # In bubblewrap the parent is bubblewrap's own first process.
        "parent": os.getpid() if isolation.level < Level.BUBBLEWRAP else None,
    }


def _value_of(worker: str, code: int, late: bool, result: bytes, printed: bytes) -> object:
    """Return the worker's value, or raise the sentence that says how it ended."""
    shown = ascii(printed.decode("utf-8", "replace").strip())
    if late:
        raise PedigreeError(
            f"The worker {worker} did not end in time and was killed by the watchdog: nothing was "
            "kept; raise wall_seconds if its input is that large."
        )
    if code == NOT_BUILT:
        raise PedigreeError(
            f"The sandbox could not be built, so {worker} was not run: {shown}. Probe the "
            "isolation again; nothing was opened."
        )
    if code:
        raise PedigreeError(
            f"The worker {worker} ended with {code} (a negative number is a signal; -24 is too "
            f"much processor time): nothing was kept. It printed {shown}."
        )
    try:
        answer = json.loads(result)
        if "error" in answer:
            raise PedigreeError(
                f"The worker {worker} failed in the sandbox with {answer['error']!a}: "
                "nothing was kept; look at its input."
            )
        return answer["value"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PedigreeError(
            f"The worker {worker} gave no answer that can be read: nothing was kept. It printed "
            f"{shown}."
        ) from error

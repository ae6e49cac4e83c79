"""What the training process can reach: its own inputs, its own outputs, and no network.

On Linux with Landlock the kernel refuses everything else, whatever the code tries: other zones'
storage, keys, the user's files, TCP. Elsewhere nothing is confined, and the record says so::

    >>> confine([snapshot_folder, base_folder], [work_folder], gpu=False)["level"]
    'landlock'
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pedigree.digests import JSON

_NO_NEW_PRIVS = 38  # linux/prctl.h
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/opt", "/nix", "/run/nvidia")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_TCP_ABI = 4


def confine(readable: Sequence[Path], writable: Sequence[Path], *, gpu: bool) -> dict[str, JSON]:
    """Confine this process for good; return what was achieved, for the record.

    Args:
        readable: files and folders that may be read, besides the interpreter, its libraries and the
            system's.
        writable: folders in which anything may be done.
        gpu: whether the devices of GPUs have to be used.

    Raises:
        OSError: there is Landlock, and it refused; training unconfined would be a silent step down.
    """
    if sys.platform != "linux":
        return {"level": "none", "why": f"{sys.platform} has no Landlock"}
    from pedigree.sandbox.landlock import landlock_abi, restrict
    from pedigree.sandbox.syscalls import call, this_machine

    abi = landlock_abi() if this_machine() is not None else 0
    if not abi:
        return {"level": "none", "why": "this kernel has no Landlock"}
    devices = [Path("/dev/shm"), *(_find_gpus() if gpu else ())]  # noqa: S108
    call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    restrict(
        [*_interpreter(), *map(Path, _SYSTEM), *_follow_links(readable)],
        [path for path in map(Path, _DEVICES) if path.exists()],
        abi,
        folders=[path for path in (*devices, *writable) if path.exists()],
    )
    closed = ["other zones", "other files", *(["tcp"] if abi >= _TCP_ABI else [])]
    return {"level": "landlock", "landlock_abi": abi, "closed": closed}


def _find_gpus() -> Iterable[Path]:
    for pattern in ("nvidia*", "dri", "kfd"):
        yield from Path("/dev").glob(pattern)


def _interpreter() -> Iterable[Path]:
    """Return where Python and its libraries lie, but for the project's own folder."""
    yield from (Path(sys.prefix), Path(sys.base_prefix))
    yield from (Path(entry) for entry in sys.path if "site-packages" in entry)


def _follow_links(paths: Iterable[Path]) -> Iterable[Path]:
    """Return the paths, and where files in them lie that are links, as in DVC's cache."""
    for path in paths:
        yield path
        if path.is_dir():
            yield from (one.resolve() for one in path.rglob("*") if one.is_symlink())

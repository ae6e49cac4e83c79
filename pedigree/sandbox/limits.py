"""How much a worker may use: resource limits that it cannot raise, set before it starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pedigree.errors import PedigreeError

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one run may use; all of them end it, none lets it go on with less.

    Attributes:
        memory_bytes: Address space. Importing torch takes about 1 GiB of it.
        cpu_seconds: Processor time of all threads together.
        wall_seconds: Time by the clock, kept by a watchdog outside the worker.
        threads: Threads that the worker may start, 0 for none. The kernel does not count those of
            root, so whoever runs as root should leave it at 0.
        open_files: Open files.
        file_bytes: Size of each output.
    """

    memory_bytes: int = 4 * GIB
    cpu_seconds: int = 120
    wall_seconds: float = 180.0
    threads: int = 0
    open_files: int = 64
    file_bytes: int = 4 * GIB

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value > 0 or (name == "threads" and value == 0)):
                raise PedigreeError(
                    f"The sandbox's limit {name} is {value}, which allows nothing: give a number "
                    "above 0."
                )


def tasks_of_user(uid: int) -> int:
    """Return how many threads this user runs, as far as /proc shows."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == uid:
                count += sum(1 for _ in (folder / "task").iterdir())
        except OSError:  # it ended meanwhile, or is hidden
            continue
    return count


def kernel_limits(limits: Limits, uid: int) -> dict[str, int]:
    """Return the limits under the names of the `resource` module."""
    return {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_NPROC": tasks_of_user(uid) + limits.threads,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }


def apply_limits(kernel: Mapping[str, int]) -> None:
    """Set soft and hard limits of this process; one that is already lower stays. Raises OSError."""
    import resource

    for name, wanted in kernel.items():
        which = int(getattr(resource, name))
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))

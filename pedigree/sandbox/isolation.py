"""How far this machine can isolate a worker: the levels, and the record of what was found."""

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """What stands between a worker and the machine; a higher level has all of the lower ones."""

    NONE = 0
    RLIMITS = 1
    LANDLOCK_SECCOMP = 2
    BUBBLEWRAP = 3

    @property
    def label(self) -> str:
        """Return the word that policies and records use."""
        return ("none", "rlimits", "landlock+seccomp", "bubblewrap+landlock+seccomp")[self]


INNER_LAYERS = ("empty_environment", "closed_descriptors", "watchdog", "rlimits", "no_new_privs",
                "no_capabilities", "landlock", "seccomp")  # fmt: skip


@dataclass(frozen=True)
class Isolation:
    """The isolation that was achieved when it was tried, with the reason for what is not there.

    Attributes:
        level: The highest level at which a trial run succeeded.
        layers: The layers of that level.
        landlock_abi: The kernel's Landlock ABI, 0 for none.
        machine: Instruction set, such as x86_64.
        kernel: The kernel's release.
        absent: A sentence for each layer that is not there.
    """

    level: Level
    layers: tuple[str, ...]
    landlock_abi: int
    machine: str
    kernel: str
    absent: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Return what goes into statements, as plain JSON."""
        return {
            "level": self.level.label,
            "layers": list(self.layers),
            "landlock_abi": self.landlock_abi,
            "machine": self.machine,
            "kernel": self.kernel,
            "absent": list(self.absent),
        }


def level_of(label: str) -> Level:
    """Return the level that a policy names."""
    return next(level for level in Level if level.label == label)


def layers_of(level: Level) -> tuple[str, ...]:
    """Return the layers that a level consists of."""
    if level is Level.BUBBLEWRAP:
        return (*INNER_LAYERS, "bubblewrap")
    if level is Level.LANDLOCK_SECCOMP:
        return INNER_LAYERS
    return ("rlimits",) if level is Level.RLIMITS else ()

"""System calls by name: their numbers on the two machines that the sandbox knows, and how to call.

The numbers are the kernel's: `asm/unistd_64.h` for x86_64 and `asm-generic/unistd.h` for aarch64
(None: that machine has no such call). A test compares them with the headers where those are.
"""

import ctypes
import os
import platform
from dataclasses import dataclass

# What a CPython worker needs that computes, reads the files it was given and writes to the
# outputs it was given. Not here, hence refused: anything that makes, renames, links or removes a
# name, changes an owner, mode, time or attribute, starts or signals a process, or talks.
FREE: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "pipe": (22, None),
    "pipe2": (293, 59), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "mremap": (25, 216), "madvise": (28, 233), "msync": (26, 227), "mincore": (27, 232),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "getpid": (39, 172), "getppid": (110, 173),
    "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "flock": (73, 32), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "fadvise64": (221, 223), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "readlink": (89, None),
    "readlinkat": (267, 78), "umask": (95, 166), "getrlimit": (97, 163), "getrusage": (98, 165),
    "sysinfo": (99, 179), "times": (100, 153), "statfs": (137, 43), "fstatfs": (138, 44),
    "newfstatat": (262, 79), "statx": (332, 291), "arch_prctl": (158, None), "futex": (202, 98),
    "set_tid_address": (218, 96), "set_robust_list": (273, 99), "restart_syscall": (219, 128),
    "exit": (60, 93), "exit_group": (231, 94), "getcpu": (309, 168), "getrandom": (318, 278),
    "rseq": (334, 293), "membarrier": (324, 283), "get_mempolicy": (239, 236),
    "close_range": (436, 436),
}  # fmt: skip
# Allowed for some arguments only, see `pedigree.sandbox.seccomp`.
JUDGED: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "ioctl": (16, 29), "fcntl": (72, 25),
    "prctl": (157, 167), "prlimit64": (302, 261), "tgkill": (234, 131), "clone": (56, 220),
    "clone3": (435, 435),
}  # fmt: skip
# What builds the sandbox; refused once it stands.
BUILDING: dict[str, tuple[int | None, int | None]] = {
    "capset": (126, 91), "seccomp": (317, 277), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}  # fmt: skip
NUMBERS = {**FREE, **JUDGED, **BUILDING}
# Calls up to here (Linux 6.5) are known and refused with EPERM when not listed. For newer ones
# the answer is ENOSYS, upon which the C library falls back to an older call.
NEWEST_KNOWN = 451


@dataclass(frozen=True)
class Machine:
    """One instruction set: its name, its column in the tables, its AUDIT_ARCH (linux/audit.h)."""

    name: str
    column: int
    audit_arch: int


MACHINES = {
    "x86_64": Machine("x86_64", 0, 0xC000003E),
    "aarch64": Machine("aarch64", 1, 0xC00000B7),
}


def this_machine() -> Machine | None:
    """Return the machine this process runs on, or None where the sandbox does not know it.

    A 32-bit Python on a 64-bit kernel reports the kernel's name but uses another table: None.
    """
    return MACHINES.get(platform.machine()) if ctypes.sizeof(ctypes.c_void_p) == 8 else None


def number_of(name: str, machine: Machine) -> int | None:
    """Return the number of the system call `name`, or None where the machine has none."""
    return NUMBERS[name][machine.column]


def call(name: str, *arguments: int) -> int:
    """Call the kernel directly; pointers are passed as addresses. Raises OSError."""
    machine = this_machine()
    number = None if machine is None else number_of(name, machine)
    if number is None:
        raise OSError(38, f"This machine has no system call {name}")
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    result = int(library.syscall(*(ctypes.c_long(value) for value in (number, *arguments))))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result

"""The seccomp filter: a list of allowed system calls as a BPF program, written by hand.

    install(program(this_machine(), os.getpid(), threads=False))

What is not on the list is refused with EPERM, a call through another instruction set (32-bit code
on a 64-bit kernel) kills. Landlock guards names and bytes of files; this guards everything else:
sockets, processes, signals, tracing, modes, owners, times, mounts, keys, io_uring and what the
next kernel brings.
"""

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from pedigree.sandbox.syscalls import FREE, NEWEST_KNOWN, Machine, call, number_of

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_SET_MODE_FILTER = 1
# Offsets in struct seccomp_data {int nr; u32 arch; u64 instruction_pointer; u64 args[6]}, little
# endian on both machines: the low half of an argument comes first.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

# What pthread_create asks of glibc (CLONE_VM|FS|FILES|SYSVSEM|SIGHAND|THREAD|SETTLS|
# PARENT_SETTID|CHILD_CLEARTID) and of musl (also the unused CLONE_DETACHED): a thread, never a
# process or a namespace.
_THREAD, _THREAD_MUSL = 0x3D0F00, 0x7D0F00
# TCGETS and TIOCGWINSZ answer isatty; FIOCLEX and FIONCLEX are close-on-exec.
_IOCTLS = (0x5401, 0x5413, 0x5451, 0x5450)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. F_SETOWN and F_SETSIG are not
# here: together they send any signal to any process of the same user.
_FCNTLS = (0, 1, 2, 3, 4, 1030)
# PR_SET_NAME, PR_GET_NAME, PR_SET_VMA (malloc names its arenas).
_PRCTLS = (15, 16, 0x53564D41)
_TRUNCATE, _ACCESS_MODE = os.O_TRUNC, os.O_ACCMODE


@dataclass(frozen=True)
class Instruction:
    """One struct sock_filter {u16 code; u8 jt; u8 jf; u32 k}."""

    code: int
    k: int
    if_true: int = 0
    if_false: int = 0

    def encode(self) -> bytes:
        """Return its eight bytes."""
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.k)


_PERMIT = Instruction(_RETURN, _ALLOW)
_REFUSE = Instruction(_RETURN, _ERRNO | errno.EPERM)
_UNKNOWN = Instruction(_RETURN, _ERRNO | errno.ENOSYS)


def program(machine: Machine, pid: int, *, threads: bool) -> list[Instruction]:
    """Return the filter for the process `pid` (its own number as it sees it) on `machine`.

    Without `threads` the process cannot start any.
    """
    code = [
        Instruction(_LOAD, _ARCH),
        Instruction(_EQUAL, machine.audit_arch, if_true=1),
        Instruction(_RETURN, _KILL_PROCESS),
        Instruction(_LOAD, _NUMBER),
    ]
    for name in FREE:
        code += _when(number_of(name, machine), [_PERMIT])
    for name, judgement in _judgements(pid, threads).items():
        code += _when(number_of(name, machine), judgement)
    # Also refuses the x32 calls, whose numbers have bit 30 set.
    return [*code, Instruction(_AT_LEAST, NEWEST_KNOWN + 1, if_false=1), _UNKNOWN, _REFUSE]


def _judgements(pid: int, threads: bool) -> dict[str, list[Instruction]]:
    return {
        "open": _open(1),
        "openat": _open(2),
        "ioctl": _one_of(1, _IOCTLS),
        "fcntl": _one_of(1, _FCNTLS),
        "prctl": _one_of(0, _PRCTLS),
        # Reading one's own limits, not setting any: pid 0 and no new limit (a null pointer).
        "prlimit64": [*_demand(0, 0), *_demand(2, 0), *_demand(2, 0, half=1), _PERMIT],
        # abort() and raise() signal the own process.
        "tgkill": _one_of(0, (pid,)),
        "clone": [*_demand(0, 0, half=1), *_one_of(0, (_THREAD, _THREAD_MUSL) if threads else ())],
        # Its flags lie behind a pointer, where a filter cannot look; glibc falls back to clone.
        "clone3": [_UNKNOWN],
    }


def _when(number: int | None, block: list[Instruction]) -> list[Instruction]:
    """Run `block`, which ends in returns, for this call and jump over it for others."""
    if number is None:
        return []
    return [Instruction(_EQUAL, number, if_false=len(block)), *block]


def _argument(index: int, half: int = 0) -> Instruction:
    return Instruction(_LOAD, _ARGUMENTS + 8 * index + 4 * half)


def _demand(index: int, value: int, half: int = 0) -> list[Instruction]:
    """Go on if this half of the argument is `value`, refuse otherwise."""
    return [_argument(index, half), Instruction(_EQUAL, value, if_true=1), _REFUSE]


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow if the argument's low half (all that the kernel reads of an int) is one of these."""
    tests = [
        Instruction(_EQUAL, value, if_true=len(values) - position)
        for position, value in enumerate(values)
    ]
    return [_argument(index), *tests, _REFUSE, _PERMIT]


def _open(index: int) -> list[Instruction]:
    """Refuse to truncate what is opened for reading, which Landlock before ABI 3 lets pass."""
    return [
        _argument(index),
        Instruction(_AND, _TRUNCATE | _ACCESS_MODE),
        Instruction(_EQUAL, _TRUNCATE, if_false=1),
        _REFUSE,
        _PERMIT,
    ]


class _Program(ctypes.Structure):
    """Mirrors struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(code: list[Instruction]) -> None:
    """Bind this thread, and every one it starts, to the filter for good. Raises OSError.

    Needs no_new_privs. Call it while the process has one thread.
    """
    encoded = b"".join(instruction.encode() for instruction in code)
    structure = _Program(len(code), encoded)
    call("seccomp", _SET_MODE_FILTER, 0, ctypes.addressof(structure))

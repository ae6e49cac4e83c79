"""The filter and its numbers, judged by an interpreter of BPF and by the kernel's headers."""

import ctypes
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.sandbox import (
    seccomp,
    syscalls,
)

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
X86, ARM = syscalls.MACHINES["x86_64"], syscalls.MACHINES["aarch64"]


def run_filter(code: list[seccomp.Instruction], number: int, arch: int, *arguments: int) -> int:
    """Interpret the program as the kernel does: the oracle for both machines."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    position, value = 0, 0
    while True:
        step = code[position]
        position += 1
        if step.code == 0x20:
            value = struct.unpack_from("<I", data, step.k)[0]
        elif step.code == 0x54:
            value &= step.k
        elif step.code == 0x06:
            return step.k
        else:
            holds = value == step.k if step.code == 0x15 else value >= step.k
            position += step.if_true if holds else step.if_false


@pytest.mark.parametrize("machine", [X86, ARM], ids=lambda machine: machine.name)
@given(number=st.integers(0, 2**32 - 1), arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_every_call_is_answered_and_only_listed_ones_are_allowed(
    machine: syscalls.Machine, number: int, arguments: list[int]
) -> None:
    answer = run_filter(
        seccomp.program(machine, 1, threads=True), number, machine.audit_arch, *arguments
    )
    listed = {syscalls.number_of(name, machine) for name in (*syscalls.FREE, *syscalls.JUDGED)}
    assert answer in (ALLOW, EPERM, ENOSYS)
    assert answer != ALLOW or number in listed


@pytest.mark.parametrize("machine", [X86, ARM], ids=lambda machine: machine.name)
def test_all_free_calls_are_allowed_and_another_architecture_kills(
    machine: syscalls.Machine,
) -> None:
    code = seccomp.program(machine, 1, threads=True)
    for name in syscalls.FREE:
        number = syscalls.number_of(name, machine)
        if number is not None:
            assert run_filter(code, number, machine.audit_arch) == ALLOW
            assert run_filter(code, number, 0x40000003) == KILL  # AUDIT_ARCH_I386
    assert len(code) < 4096  # BPF_MAXINSNS


THREAD = 0x3D0F00


@pytest.mark.parametrize("machine", [X86, ARM], ids=lambda machine: machine.name)
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("clone", (THREAD,), ALLOW),
        ("clone", (17,), EPERM),  # SIGCHLD: fork
        ("clone", (THREAD | 0x10000000,), EPERM),  # CLONE_NEWUSER
        ("clone", (THREAD | 1 << 33,), EPERM),
        ("clone3", (), ENOSYS),
        ("prlimit64", (0, 7, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1 << 32, 0), EPERM),
        ("prlimit64", (77, 7, 0, 1), EPERM),
        ("tgkill", (4242, 4242, 6), ALLOW),
        ("tgkill", (1, 1, 9), EPERM),
        ("fcntl", (0, 1), ALLOW),
        ("fcntl", (0, 8), EPERM),  # F_SETOWN
        ("fcntl", (0, 10), EPERM),  # F_SETSIG
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),  # TIOCSTI
        ("prctl", (15,), ALLOW),
        ("prctl", (1,), EPERM),  # PR_SET_PDEATHSIG
        ("openat", (0, 0, 0), ALLOW),
        ("openat", (0, 0, os.O_WRONLY | os.O_TRUNC), ALLOW),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), EPERM),
    ],
)
def test_calls_that_are_judged_by_their_arguments(
    machine: syscalls.Machine, name: str, arguments: tuple[int, ...], answer: int
) -> None:
    number = syscalls.number_of(name, machine)
    assert number is not None
    code = seccomp.program(machine, 4242, threads=True)
    assert run_filter(code, number, machine.audit_arch, *arguments) == answer


@pytest.mark.parametrize(
    ("machine", "header", "prelude"),
    [
        (X86, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", ""),
        (ARM, "/usr/include/asm-generic/unistd.h", "#include <asm-generic/bitsperlong.h>\n"),
    ],
    ids=["x86_64", "aarch64"],
)
def test_the_numbers_are_the_kernels(machine: syscalls.Machine, header: str, prelude: str) -> None:
    if not Path(header).exists() or not shutil.which("cc"):
        pytest.skip("the kernel's headers and a C compiler are not installed")
    # What asm/unistd.h of aarch64 defines before it includes the generic table.
    wanted = "#define __ARCH_WANT_RENAMEAT\n#define __ARCH_WANT_NEW_STAT\n"
    wanted += "#define __ARCH_WANT_SET_GET_RLIMIT\n#define __ARCH_WANT_SYS_CLONE3\n"
    text = f"{prelude}{wanted}#include <{header}>\n"
    for name in syscalls.NUMBERS:
        text += f"#ifdef __NR_{name}\nNUMBER {name} __NR_{name}\n#endif\n"
    done = subprocess.run(
        ["cc", "-E", "-P", "-D__BITS_PER_LONG=64", "-xc", "-"],
        input=text.replace("NUMBER ", "NUMBER_"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {name: int(number) for name, number in re.findall(r"NUMBER_(\w+) (\d+)", done.stdout)}
    ours = {name: syscalls.number_of(name, machine) for name in syscalls.NUMBERS}
    assert found == {name: number for name, number in ours.items() if number is not None}


@pytest.mark.parametrize("machine", [X86, ARM], ids=lambda machine: machine.name)
def test_without_threads_none_starts(machine: syscalls.Machine) -> None:
    number = syscalls.number_of("clone", machine)
    assert number is not None
    code = seccomp.program(machine, 1, threads=False)
    assert run_filter(code, number, machine.audit_arch, THREAD) == EPERM


def test_the_layout_of_an_instruction_is_the_kernels() -> None:
    class SockFilter(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8),
                    ("k", ctypes.c_uint32))  # fmt: skip

    step = seccomp.Instruction(0x15, 0xC000003E, if_true=1, if_false=2)
    assert step.encode() == bytes(SockFilter(0x15, 1, 2, 0xC000003E))

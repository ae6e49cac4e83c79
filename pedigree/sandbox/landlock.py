"""Landlock: which files may be read and which written, by a rule set that nothing can lift.

    restrict([Path("/usr/lib")], [Path("out/model.safetensors")], landlock_abi())

Without a rule a file can be neither opened nor listed; no name can be made, renamed or removed
anywhere. TCP (ABI 4) and abstract sockets and signals (ABI 6) are closed where the kernel can;
seccomp refuses them in any case. https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from pedigree.sandbox.syscalls import call

_ABI_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
# linux/landlock.h
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
# Execute, write, read, truncate and, with ABI 5, ioctl: what a rule about a single file may grant.
_OF_A_FILE = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15
# How many of the file rights an ABI knows: 13 at first, then REFER, TRUNCATE and, with the fifth,
# IOCTL_DEV. All that are known are handled, and so refused unless a rule grants them.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_RIGHTS = 0b11  # bind and connect TCP, from ABI 4
_SCOPES = 0b11  # abstract unix sockets and signals, from ABI 6
_O_PATH = getattr(os, "O_PATH", 0)


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI, 0 where there is none or it is switched off."""
    try:
        return call("landlock_create_ruleset", 0, 0, _ABI_VERSION)
    except OSError:
        return 0


def file_rights(abi: int) -> int:
    """Return the mask of all file rights that this ABI can refuse."""
    return (1 << _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]) - 1


def restrict(
    readable: Iterable[Path], writable: Iterable[Path], abi: int, folders: Iterable[Path] = ()
) -> None:
    """Confine this thread, and those it starts, to these paths. Raises OSError.

    Folders in `readable` may be read with all below them. `writable` are existing files. In
    `folders` anything may be done; a device among them may be used. A path of `readable` that does
    not exist grants nothing. Needs no_new_privs and ABI 1 or later.
    """
    attributes = struct.pack(
        "=QQQ", file_rights(abi), _NET_RIGHTS if abi >= 4 else 0, _SCOPES if abi >= 6 else 0
    )
    # A kernel before a field existed wants the structure without it.
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    buffer = ctypes.create_string_buffer(attributes[:size], size)
    rules = call("landlock_create_ruleset", ctypes.addressof(buffer), size, 0)
    try:
        for path in readable:
            if path.exists():
                _grant(rules, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _grant(rules, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & file_rights(abi))
        for path in folders:
            rights = file_rights(abi)
            _grant(rules, path, rights if path.is_dir() else rights & _OF_A_FILE)
        call("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)


def _grant(rules: int, path: Path, rights: int) -> None:
    handle = os.open(path, _O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= ~_READ_DIR
        # struct landlock_path_beneath_attr {u64 allowed_access; s32 parent_fd} packed
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle), 12)
        call("landlock_add_rule", rules, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(handle)

"""Who uses what: advisory locks that the kernel releases when their holder dies.

with hold(project.lock, shared=True): ...      # jobs, any number at a time
with hold(project.lock, shared=False): ...     # doctor, alone
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pedigree.errors import PedigreeError


class InUse(PedigreeError):
    """Somebody else holds the lock."""


@contextmanager
def hold(path: Path, *, shared: bool) -> Generator[None]:
    """Hold a lock on `path` while the block runs.

    Raises:
        InUse: another process holds it in a way that excludes this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"{path} is held by another process that needs what it guards alone, such as "
                "`pedigree doctor`: wait until it has ended, then run again."
            ) from None
        yield
    finally:
        os.close(handle)

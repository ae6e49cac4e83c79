"""The optional outer layer: bubblewrap gives the worker its own file tree, processes and network.

With it, what is not bound does not exist for the worker, not even as a name. It needs user
namespaces or a setuid `bwrap`, which many containers deny; the inner layers do not need it.
"""

import stat
from collections.abc import Iterable
from pathlib import Path

# Fixed places, not the PATH: whoever can write there is root anyway.
_PLACES = (Path("/usr/bin/bwrap"), Path("/usr/local/bin/bwrap"), Path("/bin/bwrap"))


def find_bubblewrap() -> Path | None:
    """Return the machine's bubblewrap: a program that belongs to root and only root can write."""
    for place in _PLACES:
        try:
            status = place.stat()
        except OSError:
            continue
        others = stat.S_IWGRP | stat.S_IWOTH
        if status.st_uid == 0 and status.st_mode & stat.S_IXUSR and not status.st_mode & others:
            return place
    return None


def wrap_command(
    bubblewrap: Path, readable: Iterable[Path], writable: Iterable[Path], command: list[str]
) -> list[str]:
    """Return `command` inside bubblewrap: these paths and a bare /dev, no namespace shared.

    `--die-with-parent` and the namespace of processes make sure that killing bubblewrap, which is
    what the watchdog does, kills the worker.
    """
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
               "--clearenv", "--dev", "/dev"]  # fmt: skip
    for path in readable:
        if path.exists() and path.parts[:2] != ("/", "dev"):
            options += ["--ro-bind", str(path), str(path)]
    for path in writable:
        options += ["--bind", str(path), str(path)]
    return [str(bubblewrap), *options, "--chdir", "/", "--", *command]

"""Checkpoints of a ledger that are kept where its writers cannot reach: another disk, git, paper.

Whoever can write the ledger's place can put an older state of it back, with its older, valid head.
Only a memory outside shows that. A checkpoint is one line, short enough to print::

    pedigree-ledger/v1 <size> <newest entry's 64 hex digits> 2026-01-02T03:04:05+00:00

    >>> keep_checkpoint(Path("/mnt/elsewhere/checkpoints.txt"), checkpoint)
    >>> verify_ledger(ledger, witnesses=read_checkpoints(Path("/mnt/elsewhere/checkpoints.txt")))
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.files import explain_disk_errors, sync_folder

FORMAT = "pedigree-ledger/v1"
_LINE = re.compile(rf"{re.escape(FORMAT)} (0|[1-9][0-9]{{0,15}}) ([0-9a-f]{{64}}) (\S+)", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A ledger as somebody saw it: its size, the sha256 of its newest entry, the head's time."""

    size: int
    entry: str
    time: str

    def __str__(self) -> str:
        """Return the line to keep."""
        return f"{FORMAT} {self.size} {self.entry} {self.time}"


def parse_checkpoints(text: str, where: str) -> tuple[Checkpoint, ...]:
    """Return the checkpoints of a text, one a line; empty lines do not count.

    Raises:
        PedigreeError: a line is none. Leaving it out could hide the one that shows a rollback.
        EvidenceMissing: there is none at all, so nothing was witnessed.
    """
    found: list[Checkpoint] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise PedigreeError(
                f"Line {number} of {where} is no checkpoint of a ledger: expected '{FORMAT} SIZE "
                f"SHA256 TIME', found {line[:100]!r}. Restore the file, or name the right one."
            )
        found.append(Checkpoint(int(match[1]), match[2], match[3]))
    if not found:
        raise EvidenceMissing(
            f"{where} holds no checkpoint, so it witnesses nothing: keep one there first."
        )
    return tuple(found)


def read_checkpoints(path: Path) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that a file holds.

    Raises:
        EvidenceMissing: there is no such file, or no checkpoint in it.
        PedigreeError: it cannot be read, or a line is no checkpoint.
    """
    try:
        return parse_checkpoints(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise EvidenceMissing(
            f"There is no file {path}, so it witnesses nothing: name the file that checkpoints "
            "were kept in."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PedigreeError(f"{path} cannot be read ({error}): restore it from a copy.") from None


def read_committed_checkpoints(
    repository: Path, path: str, revision: str = "HEAD"
) -> tuple[Checkpoint, ...]:
    """Return the checkpoints in a file as git has it, whatever the working tree says.

    Raises:
        EvidenceMissing: there is no such file in that revision.
        PedigreeError: a line is no checkpoint.
    """
    command = ["git", "-C", str(repository), "show", "--end-of-options", f"{revision}:{path}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise EvidenceMissing(
            f"git has no {path} in {revision} of {repository} ({reason}): commit the checkpoints."
        )
    text = done.stdout.decode("utf-8", errors="replace")
    return parse_checkpoints(text, f"{path} in {revision} of {repository}")


def keep_checkpoint(path: Path, checkpoint: Checkpoint) -> bool:
    """Add a checkpoint to a file of them, durably; False where it is the last one there already.

    Raises:
        PedigreeError: what is there is no file of checkpoints, or it cannot be written.
    """
    known = read_checkpoints(path) if path.exists() and path.stat().st_size else ()
    last = known[-1] if known else None
    if last is not None and (last.size, last.entry) == (checkpoint.size, checkpoint.entry):
        return False
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        with os.fdopen(handle, "ab") as out:
            # A line that a killed writer left half is not joined with this one.
            broken = known and not path.read_bytes().endswith(b"\n")
            out.write((b"\n" if broken else b"") + f"{checkpoint}\n".encode())
            out.flush()
            os.fsync(out.fileno())
        sync_folder(path.parent)
    return True

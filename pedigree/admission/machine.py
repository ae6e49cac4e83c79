"""A pickle, walked opcode by opcode on a stack of symbols: nothing is imported, called or built.

`walk_pickle` follows what the unpickler's stack and memo would hold, so that an import whose name
is put together (STACK_GLOBAL, through the memo, or below a dropped value) is named all the same.
What Python's own `genops` cannot parse, what leaves the stack or memo, and frames that
do not fit their content end the walk with a fault. Everything imported before the fault is kept:
the unpickler would have executed it.
"""

import struct
from collections.abc import Callable
from pickletools import genops  # reads opcodes; it executes nothing
from typing import IO, Any, cast

from pedigree.admission.blobs import Blob
from pedigree.admission.opcodes import HANDLERS
from pedigree.admission.pickle_state import Fault, Machine, Made, Walk
from pedigree.admission.verdict import Report, TooMuch

_LONGEST = 8 << 20  # bytes of a constant that is read whole
_SHOWN = 4096  # of a longer one

# Called after each BUILD: how many bytes of raw array data follow, or None.
ArrayAfter = Callable[[str, dict[str, Any], int], int | None]


def walk_pickle(
    blob: Blob, report: Report, array_after: ArrayAfter | None = None, start: int = 0
) -> Walk:
    """Walk the pickle at `start` of a blob, up to its STOP.

    Args:
        blob: the content; of a constant longer than 8 MiB only the beginning is read.
        report: counts the opcodes.
        array_after: told of each BUILD (name of the class, its state, position after it); returns
            how many bytes of raw data follow, which some writers put between two opcodes.
        start: where the pickle begins.

    Raises:
        TooMuch: the scan's limit of opcodes was reached.
    """
    walk = Walk(end=start)
    stream = _Stream(blob)
    machine = Machine(walk, blob.size)
    try:
        _run(machine, stream, report, array_after, start)
    except Fault as fault:
        walk.fault = str(fault)
    except TooMuch:
        raise
    except (ValueError, EOFError, OverflowError, struct.error, MemoryError) as error:
        walk.fault = f"byte {stream.tell()}: {error}"
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        walk.fault = f"byte {walk.end}: an opcode does not fit the stack ({type(error).__name__})"
    return walk


def _run(
    machine: "Machine", stream: "_Stream", report: Report, array_after: ArrayAfter | None, at: int
) -> None:
    walk = machine.walk
    while True:  # once, and again after each piece of raw data
        stream.seek(at)
        machine.frame_end = None
        skip = None
        for opcode, argument, position in genops(cast(IO[bytes], stream)):
            walk.opcodes += 1
            report.spend_opcodes(1)
            end = stream.tell()
            walk.end = end
            _step(machine, opcode.name, argument, position or 0)
            if opcode.name == "STOP":
                return
            if opcode.name == "BUILD" and array_after is not None:
                built = machine.stack[-1]
                skip = (
                    array_after(str(built.parts[0]), built.entries, end)
                    if (isinstance(built, Made) and built.parts)
                    else None
                )
                if skip is not None:
                    at = end + skip
                    break
        if skip is None:
            raise Fault(f"byte {walk.end}: it ends without STOP")


def _step(machine: Machine, opcode: str, argument: Any, position: int) -> None:
    machine.check_frame(opcode, position, machine.walk.end)
    handler = HANDLERS.get(opcode)
    if handler is None:
        raise Fault(f"byte {position}: opcode {opcode} has no place in a model")
    handler(machine, argument, position)


class _Long(bytes):
    """The beginning of a constant that is too long to be read; its length is the whole's."""

    length = 0

    def __len__(self) -> int:
        return self.length


class _Stream:
    """What `genops` reads from, with a bound on what it holds in memory."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._stream = blob.open()

    def read(self, size: int) -> bytes:
        at = self._stream.tell()
        if size <= _LONGEST or at + size > self._blob.size:
            return self._stream.read(min(size, max(self._blob.size - at, 0)))
        data = _Long(self._stream.read(_SHOWN))
        data.length = size
        self._stream.seek(at + size)
        return data

    def readline(self) -> bytes:
        line = self._stream.readline(_LONGEST)
        if len(line) == _LONGEST:
            raise ValueError(f"a line of more than {_LONGEST} bytes")
        return line

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int) -> None:
        self._stream.seek(offset)

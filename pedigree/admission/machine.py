"""A pickle, walked opcode by opcode on a stack of symbols: nothing is imported, called or built.

`walk_pickle` follows what the unpickler's stack and memo would hold, so that an import whose name
is put together (STACK_GLOBAL, through the memo, or below a dropped value) is named all the same.
What Python's own `genops` cannot parse, what leaves the stack or memo, and frames that
do not fit their content end the walk with a fault. Everything imported before the fault is kept:
the unpickler would have executed it.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pickletools import genops  # reads opcodes; it executes nothing
from typing import IO, Any, cast

from pedigree.admission.blobs import Blob
from pedigree.admission.verdict import Report, TooMuch, words

# An honest object graph shares references; one that unfolds to this many items is a bomb.
MAX_UNFOLDED = 10**12
_MAX_ENTRIES = 64  # of a dict that are remembered, enough for the state of an array's wrapper
_MAX_FIXED_BYTES = 2**31
_LONGEST = 8 << 20  # of a constant that is read whole
_SHOWN = 4096  # of a longer one
_KEPT = 64 << 20  # of constants that are kept for a closer look
# How a pickle or a compressed stream begins, as it is, in base64 or in hexadecimal.
_HIDING = re.compile(
    rb"\s*(\x80[\x00-\x05]|[c(i][\w.\n]|\x1f\x8b|x[\x01\x5e\x9c\xda]|PK\x03\x04|BZh|\xfd7zXZ|"
    rb"gA[A-X]|H4sI|eJ|eN|eA|UEsD|Qlpo|/Td6|Y[0-9A-Z]|KG|KF|a[A-Z]|"
    rb"800[0-5]|1f8b|789c|504b0304|63[67]|28[26])"
)


@dataclass(frozen=True)
class Import:
    """A name that the pickle imports, and the position of the opcode in bytes."""

    module: str
    name: str
    position: int


@dataclass
class Walk:
    """What one pickle does.

    Attributes:
        imports: names it imports, in order.
        called: `module.name` of those that it calls.
        indirect: calls of something that is no import: the result of another call, a number.
        constants: position and content of those that may hide another pickle or an archive.
        end: position after STOP, or of the last opcode that was read.
        fault: why it is no whole pickle, or None.
        opcodes: how many were read.
        result: the value (or a symbol for it) that it ends with.
    """

    imports: list[Import] = field(default_factory=list[Import])
    called: set[str] = field(default_factory=set[str])
    indirect: list[str] = field(default_factory=list[str])
    constants: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    end: int = 0
    fault: str | None = None
    opcodes: int = 0
    result: Any = None


class Fault(Exception):
    """The pickle is broken here; the message is a clause."""


@dataclass(frozen=True)
class _Name:
    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class _Made:
    """A value that the pickle would build: what kind, from what, how much it unfolds to."""

    kind: str
    parts: tuple[Any, ...] = ()
    weight: int = 1
    entries: dict[str, Any] = field(default_factory=dict[str, Any])


class _Mark:
    pass


_MARK = _Mark()

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
    machine = _Machine(walk, blob.size)
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
    machine: "_Machine", stream: "_Stream", report: Report, array_after: ArrayAfter | None, at: int
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
            machine.step(opcode.name, argument, position or 0, end)
            if opcode.name == "STOP":
                return
            if opcode.name == "BUILD" and array_after is not None:
                built = machine.stack[-1]
                skip = (
                    array_after(str(built.parts[0]), built.entries, end)
                    if (isinstance(built, _Made) and built.parts)
                    else None
                )
                if skip is not None:
                    at = end + skip
                    break
        if skip is None:
            raise Fault(f"byte {walk.end}: it ends without STOP")


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


class _Machine:
    """The stack, the memo and the frame of one pickle."""

    def __init__(self, walk: Walk, size: int) -> None:
        self.walk = walk
        self.size = size
        self.kept = 0  # bytes of constants
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.frame_end: int | None = None

    def step(self, opcode: str, argument: Any, position: int, end: int) -> None:
        """Do what one opcode does, on symbols."""
        self._check_frame(opcode, position, end)
        handler = _HANDLERS.get(opcode)
        if handler is None:
            raise Fault(f"byte {position}: opcode {opcode} has no place in a model")
        handler(self, argument, position)

    def _check_frame(self, opcode: str, position: int, end: int) -> None:
        if self.frame_end is None:
            return
        if position >= self.frame_end:
            self.frame_end = None
        elif end > self.frame_end:
            raise Fault(f"byte {position}: an opcode reaches beyond its frame")
        elif opcode == "FRAME":
            raise Fault(f"byte {position}: a frame begins within a frame")
        elif opcode == "STOP" and end != self.frame_end:
            raise Fault(f"byte {position}: it ends before its frame does")

    def pop(self) -> Any:
        """Take the topmost value; a mark is none."""
        if not self.stack or self.stack[-1] is _MARK:
            raise Fault(f"byte {self.walk.end}: the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        items: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return items[::-1]
            items.append(value)
        raise Fault(f"byte {self.walk.end}: there is no mark")

    def top(self) -> Any:
        """Return the topmost value."""
        if not self.stack or self.stack[-1] is _MARK:
            raise Fault(f"byte {self.walk.end}: the stack is empty")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def remember(self, index: int) -> None:
        """Put the topmost value into the memo."""
        # The unpickler makes room for the index: one of 2^31 costs it 32 GB.
        if not 0 <= index <= 2 * self.walk.opcodes + 65536:
            raise Fault(f"byte {self.walk.end}: an index of the memo is far beyond its size")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value from the memo."""
        if index not in self.memo:
            raise Fault(f"byte {self.walk.end}: the memo has no value {index}")
        self.push(self.memo[index])

    def imported(self, module: Any, name: Any, position: int) -> _Name:
        """Note an import."""
        if not isinstance(module, str) or not isinstance(name, str):
            # The C unpickler refuses it; other readers may not.
            self.walk.indirect.append(f"byte {position}: it imports what is no name")
            return _Name("", "")
        self.walk.imports.append(Import(module, name, position))
        return _Name(module, name)

    def call(self, function: Any, arguments: Any, position: int) -> None:
        """Note a call, and push a symbol for what it returns."""
        if isinstance(function, _Name):
            self.walk.called.add(str(function))
            if str(function).rpartition(".")[2] in _ALLOCATORS:
                _refuse_huge(arguments, position)
        else:
            self.walk.indirect.append(f"byte {position}: it calls what is no import")
        # A reconstructor gets the class as its first argument; that class is what BUILD fills.
        parts = arguments.parts if isinstance(arguments, _Made) else ()
        made = function
        if str(function) in _RECONSTRUCTORS and parts:
            made = parts[0]
        self.push(_Made("call", (made, *parts), 1 + _weight(arguments)))


_ALLOCATORS = words("bytearray bytes ndarray _reconstruct array")
_RECONSTRUCTORS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor"})


def _refuse_huge(arguments: Any, position: int) -> None:
    waiting, size = [arguments], 1
    while waiting:
        value = waiting.pop()
        if isinstance(value, int):
            size *= max(abs(value), 1)
        elif isinstance(value, _Made) and value.kind == "tuple" and value.weight < _MAX_ENTRIES:
            waiting += value.parts
        if size > _MAX_FIXED_BYTES:
            raise Fault(f"byte {position}: it asks for more than {_MAX_FIXED_BYTES} items at once")


def _weight(value: Any) -> int:
    return value.weight if isinstance(value, _Made) else 1


def _tuple(machine: _Machine, items: list[Any]) -> None:
    weight = 1 + sum(map(_weight, items))
    if weight > MAX_UNFOLDED:
        raise Fault(f"byte {machine.walk.end}: shared tuples unfold to {weight} items")
    machine.push(_Made("tuple", tuple(items[:_MAX_ENTRIES]), weight))


def _grow(machine: _Machine, items: list[Any]) -> None:
    target = machine.top()
    if isinstance(target, _Name):
        machine.walk.indirect.append(f"byte {machine.walk.end}: it changes what it imported")
    if not isinstance(target, _Made):
        return
    target.weight += sum(map(_weight, items))
    if target.weight > MAX_UNFOLDED:
        raise Fault(f"byte {machine.walk.end}: shared objects unfold to {target.weight} items")


def _set_items(machine: _Machine, items: list[Any]) -> None:
    _grow(machine, items)
    target = machine.top()
    if not isinstance(target, _Made):
        return
    for key, value in zip(items[::2], items[1::2], strict=len(items) % 2 == 0):
        if isinstance(key, str) and (key in target.entries or len(target.entries) < _MAX_ENTRIES):
            target.entries[key] = value


def _constant(machine: _Machine, argument: Any, position: int) -> None:
    machine.push(argument)
    if isinstance(argument, str):
        encoding = "latin-1" if argument.isascii() or max(argument) < "\u0100" else "utf-8"
        argument = argument.encode(encoding, "replace")
    if not isinstance(argument, bytes | bytearray) or len(argument) < 16:
        return
    if machine.kept + len(argument) <= _KEPT and _HIDING.match(argument):
        machine.kept += len(argument)
        machine.walk.constants.append((position, bytes(argument)))


def _build(machine: _Machine, _argument: Any, position: int) -> None:
    state = machine.pop()
    target = machine.top()
    if isinstance(target, _Name) or not isinstance(target, _Made):
        machine.walk.indirect.append(f"byte {position}: it sets attributes of what it imported")
        return
    if isinstance(state, _Made):
        target.entries.update(state.entries)
        target.weight += state.weight
        if state.kind == "tuple":
            target.entries["state"] = state


def _stop(machine: _Machine, _argument: Any, _position: int) -> None:
    machine.walk.result = machine.pop()
    if _MARK in machine.stack:
        raise Fault(f"byte {machine.walk.end}: a mark is left on the stack")


def _frame(machine: _Machine, argument: Any, _position: int) -> None:
    end = machine.walk.end + argument
    machine.frame_end = end
    if end > machine.size:
        raise Fault(f"byte {machine.walk.end}: a frame is longer than the file")


def _proto(_machine: _Machine, argument: Any, position: int) -> None:
    if argument > 5:
        raise Fault(f"byte {position}: protocol {argument} does not exist")


def _global(machine: _Machine, argument: Any, position: int) -> None:
    module, _, name = argument.partition(" ")
    machine.push(machine.imported(module, name, position))


def _stack_global(machine: _Machine, _argument: Any, position: int) -> None:
    name = machine.pop()
    module = machine.pop()
    machine.push(machine.imported(module, name, position))


def _inst(machine: _Machine, argument: Any, position: int) -> None:
    module, _, name = argument.partition(" ")
    items = machine.pop_to_mark()
    machine.call(machine.imported(module, name, position), _Made("tuple", tuple(items)), position)


def _obj(machine: _Machine, _argument: Any, position: int) -> None:
    items = machine.pop_to_mark()
    machine.call(items[0], _Made("tuple", tuple(items[1:])), position)


def _reduce(machine: _Machine, _argument: Any, position: int) -> None:
    arguments = machine.pop()
    machine.call(machine.pop(), arguments, position)


def _newobj_ex(machine: _Machine, _argument: Any, position: int) -> None:
    machine.pop()
    _reduce(machine, None, position)


def _pop(machine: _Machine, _argument: Any, _position: int) -> None:
    if not machine.stack:
        raise Fault(f"byte {machine.walk.end}: the stack is empty")
    machine.stack.pop()


def _pop_mark(machine: _Machine, _argument: Any, _position: int) -> None:
    machine.pop_to_mark()


def _persistent(machine: _Machine, _argument: Any, _position: int) -> None:
    machine.push(_Made("persistent"))


def _binpersid(machine: _Machine, _argument: Any, _position: int) -> None:
    machine.push(_Made("persistent", (machine.pop(),)))


def _container(kind: str) -> Callable[[_Machine, Any, int], None]:
    return lambda machine, _argument, _position: machine.push(_Made(kind))


def _from_mark(kind: str) -> Callable[[_Machine, Any, int], None]:
    def handler(machine: _Machine, _argument: Any, _position: int) -> None:
        items = machine.pop_to_mark()
        machine.push(_Made(kind))
        (_set_items if kind == "dict" else _grow)(machine, items)

    return handler


def _set_one(machine: _Machine, _argument: Any, _position: int) -> None:
    value = machine.pop()
    _set_items(machine, [machine.pop(), value])


_Handler = Callable[[_Machine, Any, int], None]
_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(
        [
            "INT",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG",
            "LONG1",
            "LONG4",
            "FLOAT",
            "BINFLOAT",
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "BINBYTES",
            "SHORT_BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
            "UNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE",
            "BINUNICODE8",
        ],
        _constant,
    ),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda m, a, _p: m.recall(int(a))),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], lambda m, a, _p: m.remember(int(a))),
    "MEMOIZE": lambda m, _a, _p: m.remember(len(m.memo)),
    "NONE": lambda m, _a, _p: m.push(None),
    "NEWTRUE": lambda m, _a, _p: m.push(True),
    "NEWFALSE": lambda m, _a, _p: m.push(False),
    "NEXT_BUFFER": _container("buffer"),
    "READONLY_BUFFER": lambda m, _a, _p: m.top(),
    "EMPTY_LIST": _container("list"),
    "EMPTY_DICT": _container("dict"),
    "EMPTY_SET": _container("set"),
    "EMPTY_TUPLE": lambda m, _a, _p: _tuple(m, []),
    "LIST": _from_mark("list"),
    "DICT": _from_mark("dict"),
    "FROZENSET": _from_mark("frozenset"),
    "TUPLE": lambda m, _a, _p: _tuple(m, m.pop_to_mark()),
    "TUPLE1": lambda m, _a, _p: _tuple(m, [m.pop()]),
    "TUPLE2": lambda m, _a, _p: _tuple(m, [m.pop(), m.pop()][::-1]),
    "TUPLE3": lambda m, _a, _p: _tuple(m, [m.pop(), m.pop(), m.pop()][::-1]),
    "APPEND": lambda m, _a, _p: _grow(m, [m.pop()]),
    "APPENDS": lambda m, _a, _p: _grow(m, m.pop_to_mark()),
    "ADDITEMS": lambda m, _a, _p: _grow(m, m.pop_to_mark()),
    "SETITEM": _set_one,
    "SETITEMS": lambda m, _a, _p: _set_items(m, m.pop_to_mark()),
    "MARK": lambda m, _a, _p: m.push(_MARK),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda m, _a, _p: m.push(m.top()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _inst,
    "OBJ": _obj,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": _binpersid,
    "FRAME": _frame,
    "PROTO": _proto,
    "STOP": _stop,
}

"""What the stack and the memo of an unpickler would hold, as symbols."""

from dataclasses import dataclass, field
from typing import Any

from pedigree.admission.imports import ACT_WHEN_MADE, normalise
from pedigree.admission.verdict import words

MAX_ENTRIES = 64  # of a dict that are remembered, enough for the state of an array's wrapper
_MAX_FIXED_BYTES = 2**31
# Writers empty the stack every thousand items, and remember each value once; so many values take
# the scan about a gigabyte.
_MAX_HELD = 5_000_000


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
        called: `module.name` of those that it calls; making an instance without `__init__` is
            no call.
        settled: `module.name` of those whose every use so far only refers to another value.
        indirect: calls of something that is no import: the result of another call, a number.
        constants: position and content of those that may hide another pickle or an archive.
        end: position after STOP, or of the last opcode that was read.
        fault: why it is no whole pickle, or None.
        opcodes: how many were read.
        result: the value (or a symbol for it) that it ends with.
    """

    imports: list[Import] = field(default_factory=list[Import])
    called: set[str] = field(default_factory=set[str])
    settled: set[str] = field(default_factory=set[str])
    indirect: list[str] = field(default_factory=list[str])
    constants: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    end: int = 0
    fault: str | None = None
    opcodes: int = 0
    result: Any = None


class Fault(Exception):
    """The pickle is broken here; the message is a clause."""


@dataclass(frozen=True)
class Named:
    """An imported name on the stack."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False, slots=True)  # a shared value would print as often as reached
class Made:
    """A value that the pickle would build: what kind, from what, how much it unfolds to."""

    kind: str
    parts: tuple[Any, ...] = ()
    weight: int = 1
    entries: dict[str, Any] = field(default_factory=dict[str, Any])


class Mark:
    """What MARK leaves on the stack."""


MARK = Mark()


class Machine:
    """The stack, the memo and the frame of one pickle."""

    def __init__(self, walk: Walk, size: int) -> None:
        self.walk = walk
        self.size = size
        self.kept = 0  # bytes of constants
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.frame_end: int | None = None

    def check_frame(self, opcode: str, position: int, end: int) -> None:
        """Refuse an opcode that does not lie in its frame as the frame says."""
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
        if not self.stack or self.stack[-1] is MARK:
            raise Fault(f"byte {self.walk.end}: the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        items: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is MARK:
                return items[::-1]
            items.append(value)
        raise Fault(f"byte {self.walk.end}: there is no mark")

    def top(self) -> Any:
        """Return the topmost value."""
        if not self.stack or self.stack[-1] is MARK:
            raise Fault(f"byte {self.walk.end}: the stack is empty")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        if len(self.stack) >= _MAX_HELD:
            raise Fault(f"byte {self.walk.end}: the stack holds more than {_MAX_HELD} values")
        self.stack.append(value)

    def remember(self, index: int) -> None:
        """Put the topmost value into the memo."""
        # The unpickler makes room for the index: one of 2^31 costs it 32 GB.
        if not 0 <= index <= 2 * self.walk.opcodes + 65536:
            raise Fault(f"byte {self.walk.end}: an index of the memo is far beyond its size")
        if len(self.memo) >= _MAX_HELD and index not in self.memo:
            raise Fault(f"byte {self.walk.end}: the memo holds more than {_MAX_HELD} values")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value from the memo."""
        if index not in self.memo:
            raise Fault(f"byte {self.walk.end}: the memo has no value {index}")
        self.push(self.memo[index])

    def imported(self, module: Any, name: Any, position: int) -> Named:
        """Note an import."""
        if not isinstance(module, str) or not isinstance(name, str):
            # The C unpickler refuses it; other readers may not.
            self.walk.indirect.append(f"byte {position}: it imports what is no name")
            return Named("", "")
        self.walk.imports.append(Import(module, name, position))
        return Named(module, name)

    def call(self, function: Any, arguments: Any, position: int) -> None:
        """Note a call, and push a symbol for what it returns."""
        if isinstance(function, Named):
            if self._settle(function, arguments, position):
                return
            self.walk.called.add(str(function))
            self._note_passed_on(function, arguments, position)
            if str(function).rpartition(".")[2] in _ALLOCATORS:
                _refuse_huge(arguments, position)
        else:
            self.walk.indirect.append(f"byte {position}: it calls what is no import")
        # A reconstructor gets the class as its first argument; that class is what BUILD fills.
        parts = arguments.parts if isinstance(arguments, Made) else ()
        made = function
        if str(function) in _RECONSTRUCTORS and parts:
            made = parts[0]
        self.push(Made("call", (made, *parts), 1 + weight_of(arguments)))

    def construct(self, kind: Any, arguments: Any, position: int) -> None:
        """Note an instance that is made by `__new__` alone, which only a class has."""
        if not isinstance(kind, Named) or str(kind) in ACT_WHEN_MADE:
            self.call(kind, arguments, position)
            return
        parts = arguments.parts if isinstance(arguments, Made) else ()
        self.push(Made("call", (kind, *parts), 1 + weight_of(arguments)))

    def _settle(self, function: Named, arguments: Any, position: int) -> bool:
        """Follow a call that only refers to a value, as pickles of methods and types have it.

        What it refers to is judged as an import; to call the outcome is a call of no import.
        """
        parts = arguments.parts if isinstance(arguments, Made) else ()
        name = normalise(function.module, function.name)
        if name == ("builtins", "getattr") and len(parts) == 2 and _is_plain(parts[1]):
            if isinstance(parts[0], Named):
                owner = parts[0]
                self.push(self.imported(owner.module, f"{owner.name}.{parts[1]}", position))
            elif isinstance(parts[0], Made):
                self.push(Made("attribute", parts, 1 + weight_of(arguments)))
            else:
                return False
        elif (name == ("functools", "partial") and parts and isinstance(parts[0], Named)) or (
            name == ("builtins", "type") and len(parts) == 1
        ):
            self.push(Made("reference", parts, 1 + weight_of(arguments)))
        else:
            return False
        self.walk.settled.add(str(function))
        return True

    def _note_passed_on(self, function: Named, arguments: Any, position: int) -> None:
        """Note what an allowed function calls on behalf of the pickle: its first argument."""
        parts = arguments.parts if isinstance(arguments, Made) else ()
        makes = str(function) in _MAKERS
        if parts and (makes or str(function) in _CALLERS):
            if isinstance(parts[0], Named):
                if makes and str(parts[0]) not in ACT_WHEN_MADE:
                    return
                self.walk.called.add(str(parts[0]))
            else:
                self.walk.indirect.append(f"byte {position}: it has called what is no import")


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("__")


_CALLERS = frozenset({"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"})
_MAKERS = frozenset(
    f"{module}.{name}"
    for module in ("copyreg", "copy_reg")
    for name in ("__newobj__", "__newobj_ex__")
)
_ALLOCATORS = words("bytearray bytes ndarray _reconstruct array")
_RECONSTRUCTORS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor"})


def _refuse_huge(arguments: Any, position: int) -> None:
    waiting, size = [arguments], 1
    while waiting:
        value = waiting.pop()
        if isinstance(value, int):
            size *= max(abs(value), 1)
        elif isinstance(value, Made) and value.kind == "tuple" and value.weight < MAX_ENTRIES:
            waiting += value.parts
        if size > _MAX_FIXED_BYTES:
            raise Fault(f"byte {position}: it asks for more than {_MAX_FIXED_BYTES} items at once")


def weight_of(value: Any) -> int:
    """Return how many items a value unfolds to."""
    return value.weight if isinstance(value, Made) else 1

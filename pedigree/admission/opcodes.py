"""What each pickle opcode does to the stack of symbols; an opcode that is not here is a fault."""

import re
from collections.abc import Callable
from typing import Any

from pedigree.admission.pickle_state import (
    MARK,
    MAX_ENTRIES,
    Fault,
    Machine,
    Made,
    Named,
    weight_of,
)

# An honest object graph shares references; one that unfolds to this many items is a bomb.
MAX_UNFOLDED = 10**12
_NAMED = 4096  # characters of a constant that may be a name or the type of an array
_KEPT = 64 << 20  # bytes of constants that are kept for a closer look
# How a pickle or a compressed stream begins, as it is, in base64 or in hexadecimal.
_HIDING = re.compile(
    rb"\s*(\x80[\x00-\x05]|[c(i][\w.\n]|\x1f\x8b|x[\x01\x5e\x9c\xda]|PK\x03\x04|BZh|\xfd7zXZ|"
    rb"gA[A-X]|H4sI|eJ|eN|eA|UEsD|Qlpo|/Td6|Y[0-9A-Z]|KG|KF|a[A-Z]|"
    rb"800[0-5]|1f8b|789c|504b0304|63[67]|28[26])"
)


def _tuple(machine: Machine, items: list[Any]) -> None:
    weight = 1 + sum(map(weight_of, items))
    if weight > MAX_UNFOLDED:
        raise Fault(f"byte {machine.walk.end}: shared tuples unfold to {weight} items")
    machine.push(Made("tuple", tuple(items[:MAX_ENTRIES]), weight))


def _grow(machine: Machine, items: list[Any]) -> None:
    target = machine.top()
    if isinstance(target, Named):
        machine.walk.indirect.append(f"byte {machine.walk.end}: it changes what it imported")
    if not isinstance(target, Made):
        return
    target.weight += sum(map(weight_of, items))
    if target.weight > MAX_UNFOLDED:
        raise Fault(f"byte {machine.walk.end}: shared objects unfold to {target.weight} items")


def _set_items(machine: Machine, items: list[Any]) -> None:
    _grow(machine, items)
    target = machine.top()
    if not isinstance(target, Made):
        return
    for key, value in zip(items[::2], items[1::2], strict=len(items) % 2 == 0):
        if isinstance(key, str) and (key in target.entries or len(target.entries) < MAX_ENTRIES):
            target.entries[key] = value


def _constant(machine: Machine, argument: Any, position: int) -> None:
    # A name is short; what is longer is looked into here, and does not stay in memory.
    long = isinstance(argument, str | bytes | bytearray) and len(argument) > _NAMED
    machine.push(Made("constant") if long else argument)
    if isinstance(argument, str):
        encoding = "latin-1" if argument.isascii() or max(argument) < "\u0100" else "utf-8"
        argument = argument.encode(encoding, "replace")
    if not isinstance(argument, bytes | bytearray) or len(argument) < 16:
        return
    if machine.kept + len(argument) <= _KEPT and _HIDING.match(argument):
        machine.kept += len(argument)
        machine.walk.constants.append((position, bytes(argument)))


def _build(machine: Machine, _argument: Any, position: int) -> None:
    state = machine.pop()
    target = machine.top()
    if isinstance(target, Named) or not isinstance(target, Made):
        machine.walk.indirect.append(f"byte {position}: it sets attributes of what it imported")
        return
    if isinstance(state, Made):
        target.entries.update(state.entries)
        target.weight += state.weight
        if state.kind == "tuple":
            target.entries["state"] = state


def _stop(machine: Machine, _argument: Any, _position: int) -> None:
    machine.walk.result = machine.pop()
    if MARK in machine.stack:
        raise Fault(f"byte {machine.walk.end}: a mark is left on the stack")


def _frame(machine: Machine, argument: Any, _position: int) -> None:
    end = machine.walk.end + argument
    machine.frame_end = end
    if end > machine.size:
        raise Fault(f"byte {machine.walk.end}: a frame is longer than the file")


def _proto(_machine: Machine, argument: Any, position: int) -> None:
    if argument > 5:
        raise Fault(f"byte {position}: protocol {argument} does not exist")


def _global(machine: Machine, argument: Any, position: int) -> None:
    module, _, name = argument.partition(" ")
    machine.push(machine.imported(module, name, position))


def _stack_global(machine: Machine, _argument: Any, position: int) -> None:
    name = machine.pop()
    module = machine.pop()
    machine.push(machine.imported(module, name, position))


def _inst(machine: Machine, argument: Any, position: int) -> None:
    module, _, name = argument.partition(" ")
    items = machine.pop_to_mark()
    machine.call(machine.imported(module, name, position), Made("tuple", tuple(items)), position)


def _obj(machine: Machine, _argument: Any, position: int) -> None:
    items = machine.pop_to_mark()
    machine.call(items[0], Made("tuple", tuple(items[1:])), position)


def _reduce(machine: Machine, _argument: Any, position: int) -> None:
    arguments = machine.pop()
    machine.call(machine.pop(), arguments, position)


def _newobj(machine: Machine, _argument: Any, position: int) -> None:
    arguments = machine.pop()
    machine.construct(machine.pop(), arguments, position)


def _newobj_ex(machine: Machine, _argument: Any, position: int) -> None:
    machine.pop()
    _newobj(machine, None, position)


def _pop(machine: Machine, _argument: Any, _position: int) -> None:
    if not machine.stack:
        raise Fault(f"byte {machine.walk.end}: the stack is empty")
    machine.stack.pop()


def _pop_mark(machine: Machine, _argument: Any, _position: int) -> None:
    machine.pop_to_mark()


def _persistent(machine: Machine, _argument: Any, _position: int) -> None:
    machine.push(Made("persistent"))


def _binpersid(machine: Machine, _argument: Any, _position: int) -> None:
    reference = machine.pop()
    parts = reference.parts if isinstance(reference, Made) else ()
    if len(parts) > 1 and parts[0] == "module" and isinstance(parts[1], Named):
        machine.push(parts[1])  # PyTorch's format before 1.6: a class, with its source for show
        return
    machine.push(Made("persistent", (reference,)))


def _container(kind: str) -> Callable[[Machine, Any, int], None]:
    return lambda machine, _argument, _position: machine.push(Made(kind))


def _from_mark(kind: str) -> Callable[[Machine, Any, int], None]:
    def handler(machine: Machine, _argument: Any, _position: int) -> None:
        items = machine.pop_to_mark()
        machine.push(Made(kind))
        (_set_items if kind == "dict" else _grow)(machine, items)

    return handler


def _set_one(machine: Machine, _argument: Any, _position: int) -> None:
    value = machine.pop()
    _set_items(machine, [machine.pop(), value])


_Handler = Callable[[Machine, Any, int], None]
HANDLERS: dict[str, _Handler] = {
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
    "MARK": lambda m, _a, _p: m.push(MARK),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda m, _a, _p: m.push(m.top()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _inst,
    "OBJ": _obj,
    "REDUCE": _reduce,
    "NEWOBJ": _newobj,
    "NEWOBJ_EX": _newobj_ex,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": _binpersid,
    "FRAME": _frame,
    "PROTO": _proto,
    "STOP": _stop,
}

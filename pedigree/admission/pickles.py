"""Pickles: what they import decides, and none is ever loaded.

A file is judged as a sequence of pickles, as its readers take it: several dumps one after the
other, PyTorch's old format (five pickles, then raw storages), arrays between two opcodes (joblib),
and pickles hidden in constants, also in base64 or compressed. No pickle is admitted. One whose
imports are all known to be harmless is quarantined for what it is, code; one that imports what can
be turned against its reader is rejected, naming the import.
"""

import base64
import binascii
import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pedigree.admission.blobs import Blob
from pedigree.admission.imports import Judged, is_standard, judge_import, normalise
from pedigree.admission.machine import walk_pickle
from pedigree.admission.pickle_state import Import, Walk
from pedigree.admission.verdict import Report, show

# What PyTorch wrote first into its format before 1.6.
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
_LISTED = 12
_SEARCHED = 1000
_PICKLE_HEAD = re.compile(rb"\x80[\x02-\x05][\x95c(}\]X\x8c]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]{16,}={0,2}\s*\Z")
_HEXADECIMAL = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}\Z")
_ITEM = re.compile(r"[|<>=]?([a-zA-Z])(\d*)\Z")

JudgeInner = Callable[[Blob, str], None]


@dataclass
class _Sequence:
    """What all pickles of one file import and do."""

    imports: dict[str, Judged] = field(default_factory=dict[str, Judged])
    indirect: list[str] = field(default_factory=list[str])
    pickles: int = 0
    fault: str | None = None
    at: int = 0  # where the pickle with the fault begins
    rest: int = 0

    @property
    def dangerous(self) -> list[str]:
        return [
            f"{show(name)} ({judged.why})"
            for name, judged in self.imports.items()
            if judged.verdict == "dangerous"
        ]

    def take(self, walk: Walk) -> None:
        for item in walk.imports:
            module, name = normalise(item.module, item.name)
            called = f"{item.module}.{item.name}" in walk.called
            judged = judge_import(item.module, item.name, called)
            full = f"{module}.{name}"
            if not called and f"{item.module}.{item.name}" in walk.settled:
                judged = Judged("unknown", "it only refers to what is named beside it")
            if full not in self.imports or judged.verdict == "dangerous":
                self.imports[full] = judged
        self.indirect += walk.indirect[: _LISTED - len(self.indirect)]


def is_pickle(blob: Blob, report: Report) -> bool:
    """Whether a file without other marks is a pickle, by what an unpickler would make of it.

    True if it begins as one of protocol 2 or later does; or if it parses up to its end; or if it
    breaks only after it has called what it should not.
    """
    head = blob.read(0, 2)
    if len(head) == 2 and head[0] == 0x80 and head[1] < 16:
        return True
    return acts_as_pickle(blob, report)


def acts_as_pickle(blob: Blob, report: Report) -> bool:
    """Whether an unpickler would do something with it, whatever its first bytes are."""
    walk = walk_pickle(blob, report)
    sequence = _Sequence()
    sequence.take(walk)
    if walk.fault is None:
        whole = walk.end == blob.size or blob.read(0, 1) == b"\x80"
        return walk.opcodes > 2 and (bool(walk.imports) or whole)
    # It breaks, but what it imported first would have been imported. A text that only looks like
    # an import names no module of the standard library, or calls nothing.
    return any(is_standard(item.module) for item in walk.imports if _is_dangerous(item)) or (
        bool(walk.called) and bool(sequence.dangerous)
    )


def _is_dangerous(item: Import) -> bool:
    return judge_import(item.module, item.name, called=False).verdict == "dangerous"


def search_for_pickles(blob: Blob, where: str, report: Report, judge_inner: JudgeInner) -> None:
    """Judge what begins like a pickle anywhere within a file that could not be opened."""
    data = blob.read(0, report.limits.in_memory)
    for match in list(_PICKLE_HEAD.finditer(data))[:_SEARCHED]:
        inner = blob.window(match.start())
        if acts_as_pickle(inner, report):
            judge_inner(inner, f"{where}!byte {match.start()}")


def judge_pickles(blob: Blob, where: str, report: Report, judge_inner: JudgeInner) -> None:
    """Judge a file of one or several pickles.

    Args:
        blob: the content.
        where: what findings call it.
        report: takes the findings; its limits bound the work.
        judge_inner: called for what hides in a constant and would act if it were loaded.
    """
    sequence = _walk_all(blob, where, report, judge_inner)
    if sequence.dangerous:
        listed = "; ".join(sequence.dangerous[:_LISTED])
        more = len(sequence.dangerous) - _LISTED
        report.reject(
            where,
            "pickle_imports",
            f"loading this pickle would run code: it imports {listed}"
            + (f" and {more} more." if more > 0 else "."),
        )
    if sequence.indirect:
        report.reject(
            where,
            "pickle_calls",
            "this pickle does what none that holds data does: "
            + "; ".join(sequence.indirect[:_LISTED]) + ".",
        )  # fmt: skip
    if sequence.fault is not None:
        report.reject(
            where,
            "pickle_malformed",
            f"it cannot be parsed as a pickle ({sequence.fault}), so nobody can say what it does.",
        )
    if not sequence.dangerous and not sequence.indirect and sequence.fault is None:
        report.quarantine(where, "pickle", _describe(sequence))


def _describe(sequence: _Sequence) -> str:
    unknown = [name for name, judged in sequence.imports.items() if judged.verdict == "unknown"]
    if unknown:
        names = ", ".join(show(name) for name in sorted(unknown)[:_LISTED])
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        reason = (
            f"a pickle is code, and nobody has reviewed what it imports ({names}{more}); nothing "
            "was found that says that it is hostile"
        )
    elif sequence.imports:
        names = ", ".join(sorted(sequence.imports)[:_LISTED])
        reason = f"a pickle is code; its imports are all on the allowlist ({names})"
    else:
        reason = "a pickle is code; this one imports nothing"
    if sequence.rest:
        reason += f"; {sequence.rest} bytes after it are no pickle"
    return reason + ". Convert it to safetensors."


def _walk_all(blob: Blob, where: str, report: Report, judge_inner: JudgeInner) -> _Sequence:
    sequence = _Sequence()
    at, legacy = 0, False
    while at < blob.size:
        walk = walk_pickle(blob, report, _ArrayReader(blob, report, sequence), at)
        if at and walk.fault is not None and not (walk.imports or walk.indirect):
            sequence.rest = blob.size - at
            break
        sequence.take(walk)
        sequence.pickles += 1
        _look_into_constants(walk, where, report, judge_inner)
        if walk.fault is not None:
            sequence.fault, sequence.at = walk.fault, at
            break
        legacy = legacy or (at == 0 and walk.result == TORCH_MAGIC)
        at = walk.end
        if legacy and sequence.pickles == _LEGACY_PICKLES:
            break  # raw storages follow
    return sequence


class _ArrayReader:
    """Says how many bytes of an array follow the wrapper that joblib writes before it."""

    def __init__(self, blob: Blob, report: Report, sequence: _Sequence) -> None:
        self._blob = blob
        self._report = report
        self._sequence = sequence

    def __call__(self, name: str, state: dict[str, Any], end: int) -> int | None:
        if not name.endswith("joblib.numpy_pickle.NumpyArrayWrapper"):
            return None
        shape = getattr(state.get("shape"), "parts", None)
        item = _item_size(state.get("dtype"))
        if item is None or shape is None or not all(type(n) is int and n >= 0 for n in shape):
            return None
        if item == 0:  # an array of objects: a pickle of its own
            inner = walk_pickle(self._blob, self._report, None, end)
            self._sequence.take(inner)
            return None if inner.fault is not None else inner.end - end
        padding = 0
        if isinstance(state.get("numpy_array_alignment_bytes"), int):
            padding = 1 + sum(self._blob.read(end, 1))
        size = padding + item * math.prod(shape)
        return size if end + size <= self._blob.size else None


def _item_size(dtype: Any) -> int | None:
    """Return the bytes of an item of a symbolic numpy dtype; 0 for objects, None if unclear."""
    parts = getattr(dtype, "parts", ())
    if len(parts) < 2 or str(parts[0]) != "numpy.dtype" or not isinstance(parts[1], str | bytes):
        return None
    code = parts[1] if isinstance(parts[1], str) else parts[1].decode("latin-1")
    match = _ITEM.match(code)
    if match is None:
        return None
    kind, size = match.group(1), int(match.group(2) or 0)
    if kind == "O":
        return 0
    if kind == "V":
        state = getattr(dtype.entries.get("state"), "parts", ())
        flags = state[7] if len(state) > 7 else 1
        return size if size and isinstance(flags, int) and not flags & 1 else None
    return (size * 4 if kind == "U" else size) or None


def _look_into_constants(walk: Walk, where: str, report: Report, judge_inner: JudgeInner) -> None:
    for position, data in walk.constants:
        for content in _decodings(data):
            judge_inner(Blob(content), f"{where}!byte {position}")


def _decodings(data: bytes) -> list[bytes]:
    """Return what a constant may stand for: itself, and itself from base64 or hexadecimal."""
    found = [data]
    bare = data.strip()
    if _HEXADECIMAL.match(bare):
        found.append(binascii.unhexlify(bare))
    if _BASE64.match(bare):
        with contextlib.suppress(binascii.Error, ValueError):
            found.append(base64.b64decode(bare))
    return found

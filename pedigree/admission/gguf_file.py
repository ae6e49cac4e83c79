"""GGUF: header, metadata and table of tensors within bounds; its chat templates sandboxed."""

import math
import struct
from typing import Any

from pedigree.admission.blobs import Blob
from pedigree.admission.templates import judge_template
from pedigree.admission.texts import judge_text
from pedigree.admission.verdict import Report, Unreadable, show

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Items of a block, and its bytes, by the number of the type in ggml.h.
_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
_MAX_RANK = 4
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 4_000_000  # of one array: a vocabulary has at most some 300,000 words
_MAX_TEXT = 16 << 20
_MAX_ENTRIES = 100_000


class _UnknownType(Exception):
    """A tensor has a type that is newer than this table, or no type at all."""


class _Reader:
    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._stream = blob.open()
        self.items = 0

    def take(self, size: int) -> bytes:
        data = self._stream.read(size) if size <= _MAX_TEXT else b""
        if len(data) != size:
            raise Unreadable(f"a field of {size} bytes is longer than the file or the limit")
        return data

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int, deep: int = 0) -> Any:
        if kind in _FIXED:
            return self.number(_FIXED[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or deep:
            raise Unreadable(f"a value of the unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if count > _MAX_ITEMS:
            raise Unreadable(f"an array of {count} items (at most {_MAX_ITEMS})")
        if inner in _FIXED:
            self.take(struct.calcsize("<" + _FIXED[inner]) * count)
            return None
        self.items += count
        if self.items > _MAX_ITEMS:
            raise Unreadable(f"more than {_MAX_ITEMS} texts in arrays")
        for _ in range(count):
            self.value(inner, 1)
        return None

    @property
    def at(self) -> int:
        return self._stream.tell()


def judge_gguf(blob: Blob, where: str, report: Report) -> None:
    """Judge a GGUF file by its metadata and its table of tensors; weights are not looked at."""
    try:
        _judge(blob, where, report)
    except _UnknownType as error:
        report.quarantine(where, "gguf", f"{error}, so its bytes cannot be accounted for.")
    except (Unreadable, struct.error) as error:
        report.reject(where, "gguf", f"it cannot be read as GGUF: {error}.")


def _judge(blob: Blob, where: str, report: Report) -> None:
    reader = _Reader(blob)
    reader.take(4)
    version, tensors, entries = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version not in (2, 3):
        raise Unreadable(f"version {version} is none of 2 and 3")
    if tensors > _MAX_ENTRIES or entries > _MAX_ENTRIES:
        raise Unreadable(
            f"it claims {tensors} tensors and {entries} entries (at most {_MAX_ENTRIES})"
        )
    alignment, seen = 32, set[str]()
    for _ in range(entries):
        key = reader.text()
        value = reader.value(reader.number("I"))
        if key in seen:
            raise Unreadable(f"the key {show(key)!r} is there twice")
        seen.add(key)
        if key == "general.alignment" and isinstance(value, int):
            alignment = value
        if "chat_template" in key and not isinstance(value, str) and not key.endswith("s"):
            raise Unreadable(f"{show(key)!r} is no text")
        if isinstance(value, str):
            if "chat_template" in key:
                judge_template(value, key, where, report)
            else:
                judge_text(value, key, where, report)
    if not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise Unreadable(f"an alignment of {alignment}")
    places = sorted(_read_tensor(reader, seen) for _ in range(tensors))
    start = -(-reader.at // alignment) * alignment
    end = 0
    for offset, size in places:
        if offset % alignment or start + offset + size > blob.size:
            raise Unreadable("the file does not hold all of a tensor")
        if offset < end:
            raise Unreadable("two tensors share their bytes")
        end = offset + size
    if places and blob.size - (start + end) >= alignment:
        report.quarantine(
            where, "trailing_bytes", f"{blob.size - start - end} bytes of it belong to no tensor."
        )


def _read_tensor(reader: _Reader, seen: set[str]) -> tuple[int, int]:
    """Return where a tensor begins, and its size in bytes."""
    name = reader.text()
    if f"tensor {name}" in seen or not name.isprintable() or ".." in name:
        raise Unreadable(f"a tensor is named {show(name)!r}, which is odd or there twice")
    seen.add(f"tensor {name}")
    rank = reader.number("I")
    if rank > _MAX_RANK:
        raise Unreadable(f"a tensor of rank {rank} (at most {_MAX_RANK})")
    sizes = [reader.number("Q") for _ in range(rank)]
    items = math.prod(sizes)
    if not 0 < items < 1 << 63 or max(sizes, default=1) >= 1 << 63:
        raise Unreadable(f"{show(name, 60)!r} has the sizes {sizes}: none, or more than can be")
    kind = reader.number("I")
    block, size = _TYPES.get(kind, (0, 0))
    if not block:
        raise _UnknownType(f"{show(name, 60)!r} is of the unknown type {kind}")
    if (sizes[0] if sizes else 1) % block:
        raise Unreadable(f"a row of {show(name, 60)!r} is no whole number of blocks of {block}")
    return reader.number("Q"), items // block * size

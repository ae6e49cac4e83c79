"""GGUF: header, metadata and table of tensors within bounds; its chat templates sandboxed."""

import struct
from typing import Any

from pedigree.admission.blobs import Blob
from pedigree.admission.templates import judge_template
from pedigree.admission.texts import judge_text
from pedigree.admission.verdict import Report, Unreadable, show

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 4_000_000  # of one array: a vocabulary has at most some 300,000 words
_MAX_TEXT = 16 << 20
_MAX_ENTRIES = 100_000


class _Reader:
    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._stream = blob.open()

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
        return [self.value(inner, 1) for _ in range(count)] and None

    @property
    def at(self) -> int:
        return self._stream.tell()


def judge_gguf(blob: Blob, where: str, report: Report) -> None:
    """Judge a GGUF file by its metadata and its table of tensors; weights are not looked at."""
    try:
        _judge(blob, where, report)
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
        if isinstance(value, str):
            if "chat_template" in key:
                judge_template(value, key, where, report)
            else:
                judge_text(value, key, where, report)
    if not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise Unreadable(f"an alignment of {alignment}")
    offsets = [_read_tensor(reader, seen) for _ in range(tensors)]
    start = -(-reader.at // alignment) * alignment
    if any(offset % alignment or start + offset >= blob.size for offset in offsets):
        raise Unreadable("a tensor begins where the file has no data for it")
    if len(set(offsets)) != len(offsets):
        raise Unreadable("two tensors share their bytes")


def _read_tensor(reader: _Reader, seen: set[str]) -> int:
    name = reader.text()
    if f"tensor {name}" in seen or not name.isprintable() or ".." in name:
        raise Unreadable(f"a tensor is named {show(name)!r}, which is odd or there twice")
    seen.add(f"tensor {name}")
    rank = reader.number("I")
    if rank > 8:
        raise Unreadable(f"a tensor of rank {rank}")
    for _ in range(rank):
        reader.number("Q")
    reader.number("I")
    return reader.number("Q")

"""numpy's npy: the header decides whether numbers follow, or a pickle."""

import ast
import math
import re
import struct
import warnings
from typing import Any

from pedigree.admission.blobs import Blob
from pedigree.admission.containers import JudgeMember
from pedigree.admission.verdict import Report, Unreadable

_MAX_HEADER = 10_000  # numpy's own limit for files that are not trusted
_DESCR = re.compile(r"'descr':\s*(?P<descr>.+?),\s*'fortran_order'", re.DOTALL)
_SHAPE = re.compile(r"'shape':\s*\((?P<shape>[\dL, ]*)\)")
_SIMPLE = re.compile(r"[|<>=]?(?P<kind>[a-zA-Z])(?P<size>\d*)(\[\w+\])?\Z")


def judge_npy(blob: Blob, where: str, report: Report, judge_member: JudgeMember) -> None:
    """Quarantine an array of numbers; judge the pickle of an array of objects."""
    try:
        size, start = _read_header(blob)
    except (
        Unreadable,
        ValueError,
        SyntaxError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        report.reject(where, "npy", f"its header cannot be read ({error}).")
        return
    if size is None:
        report.quarantine(
            where,
            "npy_objects",
            "an array of objects is a pickle, which was judged. Store numbers.",
        )
        judge_member(blob.window(start), f"{where}!objects")
    elif size != blob.size - start:
        report.reject(
            where,
            "npy",
            f"its header promises {size} bytes of numbers, and {blob.size - start} follow.",
        )
    else:
        report.quarantine(
            where, "npy", "an array of plain numbers; npy is no allowed format: use safetensors."
        )


def _read_header(blob: Blob) -> tuple[int | None, int]:
    """Return the bytes of numbers that must follow (None: objects), and where they begin."""
    head = blob.read(0, 12)
    if len(head) < 12:
        raise Unreadable("it ends within its header")
    wide = head[6] >= 2
    (length,) = struct.unpack_from("<I" if wide else "<H", head, 8)
    start = 8 + (4 if wide else 2)
    if length > _MAX_HEADER or start + length > blob.size:
        raise Unreadable(f"it claims {length} bytes")
    text = blob.read(start, length).decode("latin-1")
    descr, shape = _DESCR.search(text), _SHAPE.search(text)
    if descr is None or shape is None:
        raise Unreadable("it has no descr and shape")
    sizes = [int(part.strip(" L")) for part in shape["shape"].split(",") if part.strip()]
    with warnings.catch_warnings():  # what the parser thinks of a hostile header interests nobody
        warnings.simplefilter("ignore", SyntaxWarning)
        parsed = ast.literal_eval(descr["descr"])
    item = _item_size(parsed)
    return None if item is None else item * math.prod(sizes), start + length


def _item_size(descr: Any) -> int | None:
    """Return the bytes of an item, or None where it is or holds an object."""
    if isinstance(descr, tuple) and len(descr) == 2 and not isinstance(descr[1], str):
        inner = _item_size(descr[0])
        return None if inner is None else inner * _count(descr[1])
    if isinstance(descr, list):
        total = 0
        for field in descr:
            if not isinstance(field, tuple) or len(field) not in (2, 3):
                raise Unreadable("a field of its type is odd")
            inner = _item_size(field[1])
            if inner is None:
                return None
            total += inner * (_count(field[2]) if len(field) == 3 else 1)
        return total
    match = _SIMPLE.match(descr) if isinstance(descr, str) else None
    if match is None:
        raise Unreadable("its type is odd")
    if match["kind"] == "O":
        return None
    size = int(match["size"] or 1)
    return size * 4 if match["kind"] == "U" else size


def _count(shape: Any) -> int:
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise Unreadable("a shape within its type is odd")
    return math.prod(sizes)

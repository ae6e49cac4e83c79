"""Safetensors, stricter than the library: every byte accounted for, every number finite.

The library accepts files that mean different things to different readers or are no honest model.
This validator refuses all that it refuses, and besides: a name twice, leading space, names with
`..` or control characters, scripts in metadata, NaN and infinite values, crowds of empty tensors,
and a file that is a zip as well.
"""

import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from pedigree.admission.blobs import Blob
from pedigree.admission.content import also_a_zip
from pedigree.admission.strict_json import parse_json
from pedigree.admission.texts import judge_text
from pedigree.admission.verdict import Report, Unreadable, show

# Bits of an item, as the format's own table has them.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
# Type of the integers that floats are read as, and the bits that are all set in NaN and infinity.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "C64": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),  # no infinity; NaN alone has all bits but the sign set
    "F8_E8M0": ("u1", 0xFF),
}
_FNUZ = {"F8_E4M3FNUZ": ("u1", 0x80), "F8_E5M2FNUZ": ("u1", 0x80)}  # NaN is minus zero
_VIEWS = _EXPONENTS | _FNUZ
_MAX_HEADER = 100_000_000  # the library's own limit
_MAX_TENSORS = 100_000  # the largest published models have some 60,000 tensors in all shards
_MAX_EMPTY = 1_000
_MAX_NAME = 512
_MAX_RANK = 16
_BUFFER = 1 << 20  # fits the second-level cache: each byte is touched once in memory
_WORKERS = 2
_BAD_NAME = re.compile(r"(^|[/\\.])\.\.|^[/\\~]|[\\<>|*?\"]|\.\.")
_METADATA_KEY = re.compile(r"[\w.\-:/ ]{1,128}\Z")


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    begin: int
    end: int


def judge_safetensors(blob: Blob, where: str, report: Report) -> None:
    """Judge a safetensors file: header, layout, metadata, and every float of it."""
    if also_a_zip(blob):
        report.reject(where, "polyglot", "it is a zip file as well: readers differ in what it is.")
    try:
        header, start = _read_header(blob)
        metadata = header.pop("__metadata__", {})
        tensors = [_read_tensor(name, entry) for name, entry in header.items()]
        _require_layout(tensors, blob.size - start)
    except Unreadable as error:
        report.reject(where, "safetensors", f"{error}.")
        return
    _judge_metadata(metadata, where, report)
    _judge_names(tensors, where, report)
    _judge_numbers(blob.window(start), tensors, where, report)


def _read_header(blob: Blob) -> tuple[dict[str, Any], int]:
    if blob.size < 8:
        raise Unreadable(f"it has {blob.size} bytes: too few for a header")
    (length,) = struct.unpack("<Q", blob.read(0, 8))
    if length > _MAX_HEADER:
        raise Unreadable(f"its header claims {length} bytes (at most {_MAX_HEADER})")
    if length > blob.size - 8:
        raise Unreadable(f"its header claims {length} bytes, and {blob.size - 8} follow")
    raw = blob.read(8, length)
    if raw[:1] != b"{":
        raise Unreadable("its header does not begin with '{': some readers skip what others take")
    if raw.rstrip(b" ")[-1:] != b"}":
        raise Unreadable("its header does not end with '}' and spaces")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"its header is no UTF-8 ({error.reason})") from None
    value = parse_json(text)
    if not isinstance(value, dict):
        raise Unreadable("its header is no object")
    if len(value) > _MAX_TENSORS:
        raise Unreadable(f"it has {len(value)} tensors (at most {_MAX_TENSORS})")
    return value, 8 + length


def _read_tensor(name: str, entry: Any) -> _Tensor:
    shown = show(name, 60)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Unreadable(f"tensor {shown!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise Unreadable(f"tensor {shown!r} has the unknown dtype {show(repr(dtype), 40)}")
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
        raise Unreadable(f"tensor {shown!r} has no shape of at most {_MAX_RANK} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise Unreadable(f"tensor {shown!r} has no two offsets")
    items = 1
    for size in shape:
        items *= size
        if items >= 1 << 63:
            raise Unreadable(f"tensor {shown!r} has more items than can be counted")
    bits = items * _BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise Unreadable(
            f"tensor {shown!r} needs {bits / 8:g} bytes by its shape and has "
            f"{offsets[1] - offsets[0]}"
        )
    return _Tensor(name, dtype, offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size < 1 << 63 for size in value
    )


def _require_layout(tensors: list[_Tensor], size: int) -> None:
    """Refuse holes, overlaps and bytes that belong to no tensor."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            what = "leaves a hole before it" if tensor.begin > end else "overlaps another"
            raise Unreadable(f"tensor {show(tensor.name, 60)!r} {what}")
        end = tensor.end
    if end != size:
        raise Unreadable(f"its tensors take {end} bytes, and {size} follow the header")


def _judge_metadata(metadata: Any, where: str, report: Report) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        report.reject(where, "metadata", "its metadata is no object.")
        return
    for key, value in metadata.items():
        if not isinstance(value, str):
            report.reject(where, "metadata", f"{show(key)!r} of its metadata is no text.")
            continue
        if not _METADATA_KEY.match(key):
            report.reject(where, "metadata", f"its metadata has the odd name {show(key)!r}.")
        judge_text(value, key, where, report)


def _judge_names(tensors: list[_Tensor], where: str, report: Report) -> None:
    empty = sum(tensor.begin == tensor.end for tensor in tensors)
    if empty > _MAX_EMPTY:
        report.reject(
            where, "empty_tensors", f"{empty} of its tensors are empty (at most {_MAX_EMPTY})."
        )
    for tensor in tensors:
        name = tensor.name
        if not name or len(name) > _MAX_NAME or not name.isprintable() or _BAD_NAME.search(name):
            report.reject(
                where,
                "tensor_names",
                f"a tensor is named {show(name, 80)!r}: as a path or on a screen "
                "it is something else.",
            )
            return


def _judge_numbers(data: Blob, tensors: list[_Tensor], where: str, report: Report) -> None:
    pieces = list(_pieces([tensor for tensor in tensors if tensor.dtype in _VIEWS]))
    shares = [pieces[i::_WORKERS] for i in range(_WORKERS)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        found = [
            name
            for names in pool.map(lambda share: _not_finite(data, share), shares)
            for name in names
        ]
    if found:
        names = ", ".join(show(name, 60) for name in sorted(set(found))[:5])
        report.reject(where, "not_finite", f"NaN or infinite values in {names}.")


def _pieces(tensors: list[_Tensor]) -> Iterator[tuple[str, str, int, int]]:
    for tensor in tensors:
        for begin in range(tensor.begin, tensor.end, _BUFFER):
            yield tensor.name, tensor.dtype, begin, min(begin + _BUFFER, tensor.end)


def _not_finite(data: Blob, pieces: list[tuple[str, str, int, int]]) -> list[str]:
    """Return the tensors with a value whose exponent's bits are all set (IEEE 754)."""
    import numpy as np

    buffer = np.empty(_BUFFER, dtype=np.uint8)
    masked = np.empty(_BUFFER, dtype=np.uint8)
    found: list[str] = []
    for name, dtype, begin, end in pieces:
        view, mask = _VIEWS[dtype]
        if data.read_into(memoryview(cast(Any, buffer))[: end - begin], begin) != end - begin:
            raise Unreadable("the file became shorter while it was read")
        bits = buffer[: end - begin].view(view)
        target = masked[: end - begin].view(view)
        np.bitwise_and(bits, bits.dtype.type(mask), out=target)
        if dtype in _FNUZ:
            if bool((bits == mask).any()):
                found.append(name)
        elif len(target) and int(target.max()) == mask:
            found.append(name)
    return found

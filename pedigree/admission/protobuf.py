"""The wire format of protocol buffers, read field by field; and which model format it is.

ONNX models, TensorFlow graphs and SentencePiece tokenizers have no magic bytes: they are told
apart by the fields that they must have.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pedigree.admission.blobs import Blob
from pedigree.admission.verdict import Unreadable

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 500_000  # a vocabulary has some 300,000 pieces


@dataclass(frozen=True)
class Field:
    """One field: its number, its wire type, a number, or where its bytes are."""

    number: int
    wire: int
    value: int
    start: int
    size: int

    def blob(self, parent: Blob) -> Blob:
        """Return the content of a field of bytes."""
        return parent.window(self.start, self.size)


def read_fields(blob: Blob) -> Iterator[Field]:
    """Yield the fields of one message, without reading what is in them.

    Raises:
        Unreadable: it is no protocol buffer.
    """
    offset = count = 0
    page, page_start = b"", 0
    while offset < blob.size:
        count += 1
        if count > _MAX_FIELDS:
            raise Unreadable(f"more than {_MAX_FIELDS} fields")
        if not page_start <= offset < page_start + len(page) - 32:
            page, page_start = blob.read(offset, 1 << 16), offset
        tag, at = _varint(page, offset - page_start)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Unreadable("a field without a number")
        value, size = 0, 0
        if wire in (VARINT, BYTES):
            value, at = _varint(page, at)
        start = page_start + at
        if wire == BYTES:
            value, size = 0, value
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        elif wire != VARINT:
            raise Unreadable(f"a field of the unknown type {wire}")
        offset = start + size
        if offset > blob.size:
            raise Unreadable("a field that is longer than its message")
        yield Field(number, wire, value, start, size)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Unreadable("a number that does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def recognise(blob: Blob) -> str | None:
    """Return which model format a protocol buffer is, or None."""
    try:
        fields = list(_first(blob, 4096))
    except Unreadable:
        return None
    shape = {(field.number, field.wire) for field in fields}
    if (7, BYTES) in shape and ((1, VARINT) in shape or (8, BYTES) in shape):
        return "onnx"
    pieces = shape == {(1, BYTES), (2, BYTES)} or shape >= {(1, BYTES), (2, BYTES), (3, BYTES)}
    if pieces and _is_piece(fields[0].blob(blob)):
        return "sentencepiece"
    if shape <= {(1, VARINT), (2, BYTES)} and (2, BYTES) in shape:
        return "tensorflow graph"
    if (
        fields
        and shape <= {(1, BYTES), (2, BYTES), (3, VARINT), (4, BYTES)}
        and _is_node(fields[0], blob)
    ):
        return "tensorflow graph"
    return None


def _first(blob: Blob, count: int) -> Iterator[Field]:
    for position, field in enumerate(read_fields(blob)):
        if position >= count and field.number == 1:
            continue  # a vocabulary has as many pieces as it has words
        yield field


def _is_piece(blob: Blob) -> bool:
    try:
        shape = [(field.number, field.wire) for field in read_fields(blob)]
    except Unreadable:
        return False
    return shape[:2] == [(1, BYTES), (2, FIXED32)]


def _is_node(field: Field, blob: Blob) -> bool:
    try:
        shape = {(item.number, item.wire) for item in read_fields(field.blob(blob))}
    except Unreadable:
        return False
    return {(1, BYTES), (2, BYTES)} <= shape

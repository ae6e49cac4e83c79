"""What a file is, decided by its content: magic bytes, structure, and a second format inside.

A name is believed in one direction only: it can demand a stricter look, never a milder one.
"""

import ast
import re
import struct
import warnings
import zlib

from pedigree.admission import protobuf
from pedigree.admission.blobs import Blob
from pedigree.admission.pickles import is_pickle
from pedigree.admission.strict_json import parse_json
from pedigree.admission.verdict import Report, Unreadable

_MAGIC: list[tuple[int, bytes, str]] = [
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x07\x08", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x5d\x00\x00", "lzma"),
    (0, b"ZF0x", "zfile"),
    (0, b"ZF    ", "zfile"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\x07", "rar archive"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard stream"),
    (0, b"\x04\x22\x4d\x18", "lz4 stream"),
    (0, b"MSCF", "cab archive"),
    (0, b"!<arch>\n", "ar archive"),
    (257, b"ustar", "tar"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"GGUF", "gguf"),
    (0, b"ggml", "ggml file"),
    (4, b"TFL3", "tflite model"),
    (0, b"\x7fELF", "ELF executable"),
    (0, b"MZ", "Windows executable"),
    (0, b"\xfe\xed\xfa\xce", "Mach-O executable"),
    (0, b"\xfe\xed\xfa\xcf", "Mach-O executable"),
    (0, b"\xce\xfa\xed\xfe", "Mach-O executable"),
    (0, b"\xcf\xfa\xed\xfe", "Mach-O executable"),
    (0, b"\xca\xfe\xba\xbe", "Java class or Mach-O executable"),
    (0, b"dex\n", "Dalvik executable"),
    (0, b"\x00asm", "WebAssembly executable"),
    (0, b"SQLite format 3\x00", "SQLite database"),
    (0, b"PAR1", "Parquet file"),
    (0, b"ARROW1", "Arrow file"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG image"),
    (0, b"\xff\xd8\xff", "JPEG image"),
    (0, b"GIF8", "GIF image"),
    (0, b"%PDF-", "PDF document"),
]
_ZLIB_HEADS = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_PYC_TAIL = b"\r\n"
_END_OF_ZIP = b"PK\x05\x06"
_CENTRAL = b"PK\x01\x02"
_ZIP_TAIL = 65_557  # the longest comment, and the record before it
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_SCRIPT = re.compile(
    rb"\A(\xef\xbb\xbf)?\s*(#!|<\?php|<script\b|<!doctype html|<html\b|@echo off"
    rb"|import[ \t]+\w+(\.\w+)*[ \t]*(as[ \t]+\w+[ \t]*)?[\r\n;,]"
    rb"|from[ \t]+[\w.]+[ \t]+import\s"
    rb"|def[ \t]+\w+\s*\(.{0,500}\)\s*(->.{0,100})?:|class\s+\w+\s*(\(.*\))?:\s*\n)",
    re.IGNORECASE,
)
_RUNS_CODE = re.compile(r"\b(import|__\w+__|eval|exec|compile|open|getattr|globals)\b")
_PARSED = 200_000  # characters; the parser takes about a second for them
_PYTHON_BODY = re.compile(
    rb"^(import\s+\w+(\.\w+)*\s*(as\s+\w+\s*)?$|from\s+[\w.]+\s+import\s+[\w(*]"
    rb"|def\s+\w+\(.{0,200}:[ \t]*$"
    rb"|class\s+\w+(\(.{0,200}\))?:[ \t]*$)",
    re.MULTILINE,
)


def recognise(blob: Blob, name: str, report: Report) -> str:
    """Return what the content is, as a word or two.

    Args:
        blob: the content.
        name: the file's name; a name that promises safetensors gets that format's validator.
        report: its limits bound the look for a pickle.
    """
    if blob.size == 0:
        return "empty file"
    head = blob.read(0, 4096)
    promised = name.lower().endswith(".safetensors")
    if promised or _has_safetensors_header(head, blob.size):
        return "safetensors"
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic and not _is_word(magic, head):
            return kind
    if head[8:12] == b"WEBP" and head[:4] == b"RIFF":
        return "WebP image"
    if head[2:4] == _PYC_TAIL and len(head) >= 16 and head[1] < 0x10:
        return "Python bytecode"
    if _is_old_tar(head):
        return "tar"
    if head[8:10] in (b'{"', b"{}") and _CONTROL.search(head[:8].decode("latin-1")):
        return "safetensors"  # its header claims more than there is
    return _recognise_structure(blob, head, name, report)


def _recognise_structure(blob: Blob, head: bytes, name: str, report: Report) -> str:
    if head[:2] in _ZLIB_HEADS and _inflates(head):
        return "zlib"
    if is_pickle(blob, report):
        return "pickle"
    text = read_text(blob, report)
    if text is not None:
        return recognise_text(text, name)
    return protobuf.recognise(blob) or "unknown data"


def recognise_text(text: str, name: str = "") -> str:
    """Return what a text is: json, template, script or text; broken JSON only by its name."""
    data = text[:65536].encode("utf-8", "replace")
    if name.lower().endswith(".json") or _parses(text):
        return "json"
    if _SCRIPT.match(data):
        return "script"
    if is_templated(text):
        return "template"
    return "text"


def is_templated(text: str) -> bool:
    """Whether a text has a pair of Jinja's delimiters; in time linear in its length."""
    for opening, closing in (("{{", "}}"), ("{%", "%}")):
        at = text.find(opening)
        if at >= 0 and text.find(closing, at + 2) >= 0:
            return True
    return False


def reads_as_code(text: str) -> bool:
    """Whether a text has the lines of a Python module outside the fences of Markdown."""
    parts = re.split(r"^(?:```|~~~)", text, flags=re.MULTILINE)
    plain = "".join(parts[::2])  # every other part lies within a fence
    found = _PYTHON_BODY.findall(plain[:1_000_000].encode("utf-8", "replace"))
    return len(found) >= 2


def read_text(blob: Blob, report: Report) -> str | None:
    """Return a UTF-8 text without control characters; None if it is none, or too long."""
    if blob.size > report.limits.in_memory:
        return None
    # Decoded first in part: most data shows within a page that it is no text.
    if _CONTROL.search(blob.read(0, 4096).decode("latin-1")):
        return None
    try:
        text = blob.read().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def also_a_zip(blob: Blob) -> bool:
    """Whether the end of a file would make a reader of zips take it for one."""
    tail = blob.read(max(0, blob.size - _ZIP_TAIL - (1 << 20)))
    at = tail.rfind(_END_OF_ZIP)
    # Two four-byte marks in this order within a megabyte: in random weights once in 10^13 files.
    return at >= 0 and tail.rfind(_CENTRAL, 0, at) >= 0


def _inflates(head: bytes) -> bool:
    """Whether a zlib stream begins here; a text may begin with the same two letters."""
    if _CONTROL.search(head.decode("latin-1")) is None and head.isascii():
        return False
    try:
        zlib.decompressobj().decompress(head, 1)
    except zlib.error:
        return False
    return True


def _is_word(magic: bytes, head: bytes) -> bool:
    """Whether a short mark in letters is how a text begins; a program has other bytes soon."""
    return magic in (b"MZ", b"dex\n") and not _CONTROL.search(head.decode("latin-1"))


def is_python(text: str) -> bool:
    """Whether the whole of a text is Python that imports something or runs a text as code.

    Prose and lists of words do not parse. A text of other letters is not tried.
    """
    if len(text) > _PARSED or not _RUNS_CODE.search(text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Name) and _RUNS_CODE.fullmatch(node.id) is not None)
        for node in ast.walk(tree)
    )


def _parses(text: str) -> bool:
    if text.lstrip("\ufeff \t\r\n")[:1] not in ("{", "["):
        return False
    try:
        parse_json(text.removeprefix("\ufeff"))
    except Unreadable:
        return False
    return True


def _has_safetensors_header(head: bytes, size: int) -> bool:
    if len(head) < 9:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    begins = head[8:].lstrip(b" \t\r\n")[:1] == b"{"
    return begins and 0 < length <= size - 8


def _is_old_tar(head: bytes) -> bool:
    if len(head) < 512 or not head[0]:
        return False
    field = head[148:156].strip(b" \0")
    try:
        stated = int(field, 8) if field else -1
    except ValueError:
        return False
    return stated == sum(head[:148]) + sum(head[156:512]) + 8 * 32

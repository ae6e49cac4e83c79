"""Zip files: as their directory tells, and as their bytes tell; where the two differ, rejected.

Readers differ: Python checks the CRC and flags that other readers ignore. So a member that Python
refuses is expanded from its raw bytes too, and judged. PyTorch's checkpoints, TorchScript, numpy's
npz and Keras files are zips and are told apart by what is in them.
"""

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from pedigree.admission.blobs import CHUNK, Blob, expand
from pedigree.admission.containers import JudgeMember, judge_member_name
from pedigree.admission.verdict import Report, TooMuch, show

_LOCAL = b"PK\x03\x04"
_LOCAL_SIZE = 30
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_END_TAIL = 65_557 + 128  # the longest comment, and the records of the end
_MAX_DIRECTORY = 16 << 20  # 800 bytes for each of the members that a scan may have
_DESCRIPTOR = 24  # the longest data descriptor
_SCRIPT_MEMBER = re.compile(r"(^|/)(code/|.*\.debug_pkl$|mobile_debug_handles|bytecode\.pkl$)")
_UNREADABLE = (
    zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, KeyError,
    zlib.error, struct.error, IndexError, OverflowError, AttributeError, TypeError, MemoryError,
)  # fmt: skip


def judge_zip(blob: Blob, where: str, report: Report, judge_member: JudgeMember) -> None:
    """Judge each member of a zip, and the zip as what it is."""
    _limit_directory(blob)
    try:
        with zipfile.ZipFile(blob.open()) as archive:
            entries = archive.infolist()
            _judge_layout(blob, entries, where, report)
            _judge_kind([entry.filename for entry in entries], where, report)
            for entry in entries:
                report.spend_member()
                _judge_entry(blob, archive, entry, where, report, judge_member)
    except TooMuch:
        raise
    except _UNREADABLE as error:
        report.reject(
            where, "archive_malformed", f"it cannot be read as a zip ({show(str(error))})."
        )
        _judge_raw(blob, where, report, judge_member)


def _limit_directory(blob: Blob) -> None:
    """Refuse a directory that would take much memory; it is read as a whole to be listed."""
    tail_at = max(0, blob.size - _END_TAIL)
    tail = blob.read(tail_at)
    at = tail.rfind(_END)
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    wide = tail.rfind(_END_64)
    if wide >= 0:
        size = max(
            size if size < 0xFFFFFFFF else 0, int.from_bytes(tail[wide + 40 : wide + 48], "little")
        )
    if min(size, tail_at + max(at, 0)) > _MAX_DIRECTORY:
        raise TooMuch(f"a directory of {size} bytes in a zip (at most {_MAX_DIRECTORY})")


def _judge_kind(names: list[str], where: str, report: Report) -> None:
    if any(_SCRIPT_MEMBER.search(name) for name in names):
        report.reject(
            where,
            "torchscript",
            "it is TorchScript, a program: only weights come in, as safetensors.",
        )
    elif any(name.rpartition("/")[2] == "data.pkl" for name in names):
        report.quarantine(
            where, "torch_checkpoint", "a PyTorch checkpoint is a pickle in a zip: its pickle was "
            "judged. Convert it to safetensors.",
        )  # fmt: skip
    elif names and all(name.endswith(".npy") for name in names):
        report.quarantine(where, "npz", "arrays in a zip are no allowed format; each was judged.")
    elif "config.json" in names and "metadata.json" in names:
        report.quarantine(
            where, "keras", "a Keras file is no allowed format: its config was looked at."
        )
    else:
        report.quarantine(
            where, "archive", "an archive is no allowed format: unpack it, and admit the folder."
        )


def _judge_layout(blob: Blob, entries: list[zipfile.ZipInfo], where: str, report: Report) -> None:
    """Reject names twice, members that share bytes, and bytes that no member accounts for."""
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        report.reject(
            where, "archive_names", "it has a name twice: readers differ in which counts."
        )
    if sum(entry.compress_size for entry in entries) > blob.size:
        # Each would be read: a few megabytes could keep the scan busy for hours.
        raise TooMuch("members of a zip that share their bytes")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        start = entry.header_offset
        if start < end:
            report.reject(where, "archive_overlap", "members share bytes, as in a zip bomb.")
            return
        if start > end + _DESCRIPTOR:
            report.reject(
                where, "archive_hidden", f"{start - end} bytes before a member belong to none."
            )
        head = blob.read(start, _LOCAL_SIZE)
        if len(head) < _LOCAL_SIZE or head[:4] != _LOCAL:
            report.reject(where, "archive_malformed", "a member has no header of its own.")
            return
        name, extra = struct.unpack("<HH", head[26:30])
        end = start + _LOCAL_SIZE + name + extra + entry.compress_size


def _judge_entry(
    blob: Blob,
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    where: str,
    report: Report,
    judge_member: JudgeMember,
) -> None:
    inner = f"{where}!{show(entry.orig_filename)}"
    judge_member_name(entry.orig_filename, inner, report)
    if (entry.external_attr >> 16) & 0o170000 == 0o120000:
        report.reject(inner, "archive_link", "it is a link.")
    if entry.is_dir():
        if entry.file_size or entry.compress_size:
            report.reject(inner, "archive_hidden", "a folder's entry has content.")
        return
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        plain = _stored_window(blob, entry)
        if plain is not None:
            _require_crc(plain, entry, inner, report)
            judge_member(plain, inner)
            return
    try:
        with archive.open(entry) as stream:
            content = expand(_read(stream), entry.compress_size, report)
    except _UNREADABLE as error:
        _judge_refused(blob, entry, inner, str(error), report, judge_member)
        return
    judge_member(content, inner)


def _stored_window(blob: Blob, entry: zipfile.ZipInfo) -> Blob | None:
    """Return the bytes of a stored member without a copy, if both headers agree about it."""
    head = blob.read(entry.header_offset, _LOCAL_SIZE)
    if len(head) < _LOCAL_SIZE or head[:4] != _LOCAL or entry.file_size != entry.compress_size:
        return None
    flags, method = struct.unpack("<HH", head[6:10])
    name, extra = struct.unpack("<HH", head[26:30])
    stated = blob.read(entry.header_offset + _LOCAL_SIZE, name)
    own = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437", "replace")
    start = entry.header_offset + _LOCAL_SIZE + name + extra
    if stated != own or method or flags & 1 or start + entry.file_size > blob.size:
        return None
    return blob.window(start, entry.file_size)


def _require_crc(content: Blob, entry: zipfile.ZipInfo, inner: str, report: Report) -> None:
    crc = 0
    for chunk in content.chunks():
        crc = zlib.crc32(chunk, crc)
    if crc != entry.CRC:
        report.reject(inner, "archive_malformed", "its checksum does not fit: readers differ.")


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(CHUNK):
        yield piece


def _judge_refused(
    blob: Blob,
    entry: zipfile.ZipInfo,
    inner: str,
    error: str,
    report: Report,
    judge_member: JudgeMember,
) -> None:
    """Judge a member that Python's reader refuses by its raw bytes, if they can be expanded."""
    content = _expand_local(blob, entry.header_offset, entry.compress_size, report)
    encrypted = entry.flag_bits & 1 or "encrypted" in error or "password" in error
    if encrypted and content is None:
        report.quarantine(inner, "encrypted", "it is encrypted, so it could not be looked at.")
        return
    if content is not None:
        before = report.outcome
        judge_member(content, f"{inner} (raw bytes)")
        if encrypted and report.outcome == before:
            # Stored and encrypted: the raw bytes say nothing either way.
            report.quarantine(inner, "encrypted", "it is encrypted, so it could not be looked at.")
            return
    report.reject(inner, "archive_malformed", f"it cannot be read ({show(error)}).")


def _judge_raw(blob: Blob, where: str, report: Report, judge_member: JudgeMember) -> None:
    """Judge every local header that can be found, where the directory cannot be read."""
    data = blob.read(0, report.limits.in_memory)
    at = data.find(_LOCAL)
    while at >= 0:
        report.spend_member()
        size = int.from_bytes(data[at + 18 : at + 22], "little")  # fewer bytes where it ends there
        report.spend_expanded(min(size or blob.size, blob.size - at))  # they may share their bytes
        content = _expand_local(blob, at, size, report)
        if content is not None and content.size:
            judge_member(content, f"{where}!member at byte {at}")
        at = data.find(_LOCAL, at + 4)


def _expand_local(blob: Blob, offset: int, size: int, report: Report) -> Blob | None:
    """Return what lies behind a local header, whatever its flags say; None if it is unclear."""
    head = blob.read(offset, _LOCAL_SIZE)
    if len(head) < _LOCAL_SIZE or head[:4] != _LOCAL:
        return None
    method = struct.unpack("<H", head[8:10])[0]
    name, extra = struct.unpack("<HH", head[26:30])
    body = blob.window(offset + _LOCAL_SIZE + name + extra, size or None)
    if method == zipfile.ZIP_STORED:
        return body
    if method != zipfile.ZIP_DEFLATED:
        return None
    try:
        return expand(_inflate(body), body.size, report)
    except zlib.error:
        return None


def _inflate(blob: Blob) -> Iterator[bytes]:
    stream = zlib.decompressobj(-15)
    for data in blob.chunks():
        while data and not stream.eof:
            yield stream.decompress(data, CHUNK)
            data = stream.unconsumed_tail
        if stream.eof:
            return
    if not stream.eof:
        raise zlib.error("it ends too early")


def find_lambda(config: bytes) -> bool:
    """Whether a Keras configuration holds a Lambda layer, which is a marshalled function."""
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError):
        return b"Lambda" in config
    waiting = [parsed]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "Lambda" in str(value.get("class_name", "")):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False

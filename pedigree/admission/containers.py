"""Compressed streams and tar archives: expanded within limits, and each member judged.

Nothing is extracted to a path. An archive is never admitted: its members may be, once they come
in as files of a folder. What cannot be opened here, or is encrypted, is quarantined as not
looked at. Zip files have a module of their own, `zips`.
"""

import bz2
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from pedigree.admission.blobs import CHUNK, Blob, expand
from pedigree.admission.verdict import Report, Unreadable, show

JudgeMember = Callable[[Blob, str], None]
_LONGEST_HEADER = 1 << 20
_STREAM_HEADS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # of streams that may follow one another


def judge_compressed(
    blob: Blob, kind: str, where: str, report: Report, judge_member: JudgeMember
) -> None:
    """Expand a gzip, bzip2, xz, lzma, zlib or old joblib stream, and judge what comes out."""
    try:
        content, rest = _expand(blob, kind, report)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        report.reject(where, "compressed_malformed", f"its {kind} stream is broken ({error}).")
        return
    report.quarantine(
        where, "compressed", f"a {kind} stream is no allowed format; what is in it was judged."
    )
    if rest:
        report.reject(
            where, "trailing_bytes", f"{rest} bytes follow the {kind} stream: nothing reads them."
        )
    judge_member(content, f"{where}!content")


def _expand(blob: Blob, kind: str, report: Report) -> tuple[Blob, int]:
    start = _zfile_head(blob) if kind == "zfile" else 0
    rest = [0]
    pieces = _decompress(blob.window(start), _FRESH[kind], rest, report)
    return expand(pieces, blob.size, report), rest[0]


def _zfile_head(blob: Blob) -> int:
    # "ZF" and the length in hexadecimal, padded to that of 2^64 (longer under Python 2); the
    # stream begins where a zlib header does.
    for length in (21, 22, 23, 24):
        if blob.read(length, 1) == b"x":
            return length
    raise ValueError("no zlib stream after the header")


_FRESH: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zlib": lambda: zlib.decompressobj(15),
    "zfile": lambda: zlib.decompressobj(15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20),
}


def _decompress(
    blob: Blob, fresh: Callable[[], Any], rest: list[int], report: Report
) -> Iterator[bytes]:
    """Yield the content of one or more streams, in pieces of at most a megabyte.

    `rest[0]` becomes the count of bytes after the last stream.
    """
    offset, data = 0, b""
    while True:
        report.spend_member()
        stream = fresh()
        while not stream.eof:
            if not data:
                data = blob.read(offset, 1 << 16)
                offset += len(data)
            if not data:
                raise EOFError("it ends too early")
            yield from _feed(stream, data)
            data = b""
        data = stream.unused_data or blob.read(offset, 1 << 16)
        offset += 0 if stream.unused_data else len(data)
        if not data.startswith(_STREAM_HEADS):
            rest[0] = len(data) + max(blob.size - offset, 0) if data else 0
            return


def _feed(stream: Any, data: bytes) -> Iterator[bytes]:
    if hasattr(stream, "unconsumed_tail"):  # zlib
        while data and not stream.eof:
            yield stream.decompress(data, CHUNK)
            data = stream.unconsumed_tail
        return
    yield stream.decompress(data, CHUNK)
    while not stream.eof and not stream.needs_input:
        yield stream.decompress(b"", CHUNK)


def judge_tar(blob: Blob, where: str, report: Report, judge_member: JudgeMember) -> None:
    """Judge each member of an uncompressed tar archive; links and odd names are rejected."""
    report.quarantine(
        where, "archive", "an archive is no allowed format: unpack it, and admit the folder."
    )
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Headers(blob)), mode="r:") as archive:
            for entry in archive:
                report.spend_member()
                inner = f"{where}!{show(entry.name)}"
                judge_member_name(entry.name, inner, report)
                if entry.name in seen and not entry.isdir():
                    report.reject(inner, "archive_names", "the archive has this name twice.")
                seen.add(entry.name)
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse():
                    report.reject(inner, "archive_link", "it is a link, a device or a sparse file.")
                    continue
                if entry.offset_data + entry.size > blob.size:
                    raise Unreadable("a member is longer than the archive")
                judge_member(blob.window(entry.offset_data, entry.size), inner)
    except (tarfile.TarError, OSError, EOFError, ValueError, Unreadable, OverflowError) as error:
        report.reject(where, "archive_malformed", f"it cannot be read as a tar archive ({error}).")


class _Headers:
    """What a reader of tar archives reads its headers from; members are not read through it."""

    def __init__(self, blob: Blob) -> None:
        self._stream = blob.open()
        self.seek, self.tell = self._stream.seek, self._stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read a header, of a bounded length.

        Raises:
            OSError: it is longer: the reader would hold it in memory as a whole.
        """
        if not 0 <= size <= _LONGEST_HEADER:
            raise OSError(f"a header of {size} bytes")
        return self._stream.read(size)


def judge_member_name(name: str, where: str, report: Report) -> None:
    """Reject a member's name that would leave the archive's folder, or deceive a reader."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        report.reject(where, "archive_names", "its name leaves the folder that it is unpacked to.")
    elif not name.isprintable() or "\\" in name:
        report.reject(where, "archive_names", "its name has control characters or backslashes.")

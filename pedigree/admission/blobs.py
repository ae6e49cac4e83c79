"""Bytes that are scanned: a window of an open file, or of memory, read by position.

A scan never opens a path a second time. It gets the open copy that was hashed, and members of
archives are windows of it or were expanded from it.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any, cast

from pedigree.admission.verdict import Report, TooMuch

CHUNK = 1 << 20


class Blob:
    """`size` bytes from `start` of an open file descriptor or of bytes in memory."""

    def __init__(self, source: int | bytes, start: int = 0, size: int | None = None) -> None:
        self._source = source
        self._start = start
        self._keep: object = None
        if size is None:
            size = len(source) if isinstance(source, bytes) else os.fstat(source).st_size
        self.size = size

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return at most `size` bytes from `offset`; fewer only where the blob ends."""
        size = self.size - offset if size is None else min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        start = self._start + offset
        if isinstance(self._source, bytes):
            return self._source[start : start + size]
        parts: list[bytes] = []
        while size > 0:
            part = os.pread(self._source, size, start)
            if not part:
                break
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`, without a copy where a file is behind; return the count."""
        if isinstance(self._source, bytes):
            data = self.read(offset, len(buffer))
            buffer[: len(data)] = data
            return len(data)
        wanted, done = min(len(buffer), max(self.size - offset, 0)), 0
        while done < wanted:
            count = os.preadv(self._source, [buffer[done:wanted]], self._start + offset + done)
            if not count:
                break
            done += count
        return done

    def window(self, offset: int, size: int | None = None) -> "Blob":
        """Return a part of the blob as a blob."""
        offset = min(max(offset, 0), self.size)
        size = self.size - offset if size is None else min(size, self.size - offset)
        part = Blob(self._source, self._start + offset, size)
        part._keep = self
        return part

    def chunks(self, overlap: int = 0) -> Iterator[bytes]:
        """Yield the content in pieces of about a megabyte that overlap by `overlap` bytes."""
        for offset in range(0, self.size, CHUNK):
            yield self.read(offset, CHUNK + overlap)

    def open(self) -> IO[bytes]:
        """Return the content as a seekable stream."""
        return cast(IO[bytes], io.BufferedReader(_Window(self), 1 << 16))


class _Window(io.RawIOBase):
    """A seekable raw stream over a blob."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = {0: 0, 1: self._at, 2: self._blob.size}[whence]
        if base + offset < 0:
            raise OSError(f"a seek to {base + offset}, before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        count = self._blob.read_into(memoryview(buffer).cast("B"), self._at)
        self._at += count
        return count


def expand(pieces: Iterator[bytes], compressed: int, report: Report) -> Blob:
    """Return decompressed content as a blob: small in memory, large in an unlinked file.

    Args:
        pieces: the content in pieces, each of a bounded size.
        compressed: bytes that it came from.
        report: counts the bytes.

    Raises:
        TooMuch: the content is out of proportion, or more than the scan's limit.
    """
    limits = report.limits
    size = 0
    file = tempfile.SpooledTemporaryFile(max_size=limits.in_memory // 4)  # noqa: SIM115
    for piece in pieces:
        size += len(piece)
        report.spend_expanded(len(piece))
        if size > limits.small and size > limits.ratio * max(compressed, 1):
            raise TooMuch(f"{compressed} bytes that expand to more than {size}")
        file.write(piece)
    file.seek(0)
    if size <= limits.in_memory // 4:
        return Blob(file.read())
    file.rollover()
    file.flush()
    blob = Blob(file.fileno())
    blob._keep = file  # pyright: ignore[reportPrivateUsage]
    return blob

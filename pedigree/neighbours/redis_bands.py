"""The bands of an index in Redis, through datasketch, for many machines that ask at once.

    >>> fill_redis("redis://localhost:6379/0", folder)
    1000000
    >>> index = open_redis_index("redis://localhost:6379/0", folder)

Each band is one of datasketch's unordered storages, a table from our 64-bit band keys to places
among the index's documents, so it finds what the local index finds. It is filled bucket by bucket
and asked for thousands of buckets at once; `MinHashLSH` on top would keep a second table of every
document's bands and ask for one text at a time (measured: 14.6 KB a document instead of a quarter).
A place is only a candidate, verified exactly, and what is no place is ignored: a tampered server
can hide copies but invent none, and nothing that comes back is unpickled.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pedigree.errors import PedigreeError
from pedigree.neighbours.index import Column, Index, Lookup, expand, open_bands, open_index
from pedigree.neighbours.kernel import BANDS, MAX_BUCKET, NO_KEY, WINDOW, Keys
from pedigree.neighbours.overlap import Integers

# Commands sent at once: beyond a few thousand the round trip no longer shows.
_BUFFER = 10_000


def fill_redis(url: str, folder: Path) -> int:
    """Put the bands of an index into Redis; return how many documents that are.

    What a broken attempt left is removed first, and the count is written last: an index that is
    not whole is never used.

    Raises:
        PedigreeError: Redis cannot be reached.
    """
    bands = open_bands(folder)
    count = len(bands[0][0])
    with _explain_redis_errors(url):
        client = _connect(url)
        _forget(client, folder.name)
        for (keys, documents), storage in zip(bands, _open_storages(url, folder.name), strict=True):
            _fill(storage, keys, documents)
        client.set(_count_key(folder.name), count)
    return count


def _fill(storage: Any, keys: Column, documents: Column) -> None:
    """Put a band's buckets into Redis; of one that is too large, enough to show that it is."""
    storage.buffer_size = _BUFFER
    distinct, first = np.unique(keys, return_index=True)
    last = np.minimum(np.r_[first[1:], len(keys)], first + MAX_BUCKET + 1)
    first, last = first[distinct != NO_KEY], last[distinct != NO_KEY]
    for start in range(0, len(first), _BUFFER):
        ends = last[start : start + _BUFFER].tolist()
        starts = first[start : start + _BUFFER]
        for key, low, high in zip(_as_bytes(keys[starts]), starts.tolist(), ends, strict=True):
            storage.insert(key, *documents[low:high].tolist(), buffer=True)
    storage.empty_buffer()


def open_redis_index(url: str, folder: Path) -> Index:
    """Open an index that looks its bands up in Redis.

    Raises:
        PedigreeError: Redis cannot be reached, or does not hold the whole index.
    """
    index = open_index(folder)
    with _explain_redis_errors(url):
        held = _connect(url).get(_count_key(folder.name))
        if held is None or int(held) != len(index.digests):
            raise PedigreeError(
                f"Redis at {_without_password(url)} does not hold the whole index of "
                f"{len(index.digests)} documents: fill it first."
            )
        lookup = _redis_lookup(url, _open_storages(url, folder.name), len(index.digests))
    return replace(index, lookup=lookup)


def holds_index(url: str, folder: Path) -> bool:
    """Return whether Redis holds the whole of an index.

    Raises:
        PedigreeError: Redis cannot be reached.
    """
    with _explain_redis_errors(url):
        return _connect(url).get(_count_key(folder.name)) is not None


def _redis_lookup(url: str, storages: Sequence[Any], count: int) -> Lookup:
    def look(asked: Keys) -> tuple[Integers, int]:
        cut = 0
        found: list[Integers] = [np.empty((0, 2), np.int64)]
        with _explain_redis_errors(url):
            for band, storage in enumerate(storages):
                distinct, bucket = np.unique(asked[:, band], return_inverse=True)
                members, sizes, large = _read(storage, distinct, count)
                cut += large
                query, place = expand(np.cumsum(sizes) - sizes, sizes, bucket)
                found.append(np.stack([query, members[place]], axis=1))
        return np.concatenate(found), cut

    return look


def _read(storage: Any, keys: Column, count: int) -> tuple[Integers, Integers, int]:
    """Return the members of each key's bucket in a row, how many each has, and how many were cut.

    Args:
        storage: a band.
        keys: (keys,) distinct and sorted; `NO_KEY` has no bucket.
        count: how many documents there are: what is no place among them is left out.
    """
    members: list[Integers] = [np.empty(0, np.int64)]
    sizes = np.zeros(len(keys), np.int64)
    large = 0
    with_bucket = int(np.searchsorted(keys, NO_KEY, "right"))
    for start in range(with_bucket, len(keys), _BUFFER):
        some = _as_bytes(keys[start : start + _BUFFER])
        for key, bucket in enumerate(storage.getmany(*some), start):
            if bucket:
                places = np.array(sorted(_places(bucket, count)), np.int64)
                if len(places) > MAX_BUCKET:
                    large, places = large + 1, places[: WINDOW + 1]
                sizes[key] = len(places)
                members.append(places)
    return np.concatenate(members), sizes, large


def _places(bucket: Iterable[bytes], count: int) -> Iterator[int]:
    for member in bucket:
        if member.isdigit() and len(member) <= 18 and int(member) < count:
            yield int(member)


def _as_bytes(keys: Column) -> list[bytes]:
    return [key.tobytes() for key in keys.astype(">u8")]


def _open_storages(url: str, name: str) -> list[Any]:
    from datasketch.storage import unordered_storage

    parts = urlsplit(url)
    server = {"host": parts.hostname or "localhost", "port": parts.port or 6379}
    server |= {"db": int(parts.path.strip("/") or 0)}
    server |= {"password": parts.password} if parts.password else {}
    server |= {"username": parts.username} if parts.username else {}
    config = {"type": "redis", "redis": server, "redis_buffer": {"transaction": False}}
    return [unordered_storage(config, _base(name) + bytes([band])) for band in range(BANDS)]


def _base(name: str) -> bytes:
    # It is part of every key: half of a digest tells indexes apart in half the memory.
    return b"pedigree:" + hashlib.sha256(name.encode()).digest()[:12]


def _count_key(name: str) -> bytes:
    return _base(name) + b":documents"


def _connect(url: str) -> Any:
    import redis

    return redis.Redis.from_url(url)


def _forget(client: Any, name: str) -> None:
    client.delete(_count_key(name))
    for key in client.scan_iter(match=_escape(_base(name)) + b"*", count=10_000):
        client.delete(key)


def _escape(pattern: bytes) -> bytes:
    """Return a pattern of Redis that only these bytes match."""
    return b"".join(b"\\" + bytes([one]) if one in b"*?[]\\^-" else bytes([one]) for one in pattern)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"


@contextmanager
def _explain_redis_errors(url: str) -> Generator[None]:
    import redis

    try:
        yield
    except (redis.RedisError, ValueError) as error:
        raise PedigreeError(
            f"Redis at {_without_password(url)} cannot be used ({error}): check that the server "
            "runs, that the URL is redis://HOST:PORT/DB and that its memory suffices."
        ) from None

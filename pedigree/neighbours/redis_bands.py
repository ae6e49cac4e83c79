"""The bands of an index in Redis, through datasketch, for many machines that ask at once.

    >>> fill_redis("redis://localhost:6379/0", folder)
    1000000
    >>> index = open_redis_index("redis://localhost:6379/0", folder)

datasketch keeps each band as a table from a key to digests. It is given our 64-bit band keys as
sketches of one value a band, so it finds what the local index finds. What Redis holds are raw
digests (`prepickle=False`): nothing that comes back is unpickled. It is only a candidate, and a
digest that the index does not hold is ignored: a tampered server can hide copies but invent none.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pedigree.errors import PedigreeError
from pedigree.neighbours.index import (
    Digests,
    Index,
    Lookup,
    find_places,
    open_index,
    read_bands,
)
from pedigree.neighbours.kernel import BANDS, MAX_BUCKET, NO_KEY, Keys
from pedigree.neighbours.overlap import Integers

_BUFFER = 20_000


def fill_redis(url: str, folder: Path) -> int:
    """Put the bands of an index into Redis; return how many documents that are.

    What a broken attempt left is removed first, and the count is written last: an index that is
    not whole is never used.

    Raises:
        PedigreeError: Redis cannot be reached.
    """
    documents, keys = read_bands(folder)
    digests: list[bytes] = documents.column("digest").to_pylist()
    with _explain_redis_errors(url):
        client = _connect(url)
        _forget(client, folder.name)
        sketches = _open_sketches(url, folder.name)
        with sketches.insertion_session(buffer_size=_BUFFER) as session:
            for digest, sketch in zip(digests, _sketch(keys, digests), strict=True):
                session.insert(digest, sketch, check_duplication=False)
        client.set(_count_key(folder.name), len(digests))
    return len(digests)


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
        lookup = _redis_lookup(url, _open_sketches(url, folder.name), index.digests)
    return replace(index, lookup=lookup)


def holds_index(url: str, folder: Path) -> bool:
    """Return whether Redis holds the whole of an index.

    Raises:
        PedigreeError: Redis cannot be reached.
    """
    with _explain_redis_errors(url):
        return _connect(url).get(_count_key(folder.name)) is not None


def _redis_lookup(url: str, sketches: Any, known: Digests) -> Lookup:
    def look(asked: Keys, own: Sequence[bytes]) -> tuple[Integers, int]:
        cut = 0
        found: list[Integers] = [np.empty((0, 2), np.int64)]
        with _explain_redis_errors(url):
            for query, sketch in enumerate(_sketch(asked, own)):
                members: list[bytes] = sorted(sketches.query(sketch))
                if len(members) > MAX_BUCKET * BANDS:
                    cut, members = cut + 1, members[: MAX_BUCKET * BANDS]
                places = find_places(known, members)
                places = places[places >= 0]
                found.append(np.stack([np.full(len(places), query), places], axis=1))
        return np.concatenate(found), cut

    return look


def _sketch(keys: Keys, digests: Sequence[bytes]) -> Iterator[Any]:
    """Yield each row's keys as datasketch's sketch of one value a band.

    A band that a text does not have is given a value of its own, so that it meets nobody.
    """
    from datasketch import LeanMinHash

    own = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)[:, 0]
    filled = np.where(keys == NO_KEY, own[:, None], keys)
    for row in filled:
        yield LeanMinHash(seed=1, hashvalues=row, scheme="affine64")


def _open_sketches(url: str, name: str) -> Any:
    from datasketch import MinHashLSH

    parts = urlsplit(url)
    server = {"host": parts.hostname or "localhost", "port": parts.port or 6379}
    server |= {"db": int(parts.path.strip("/") or 0)}
    server |= {"password": parts.password} if parts.password else {}
    server |= {"username": parts.username} if parts.username else {}
    return MinHashLSH(
        num_perm=BANDS,
        params=(BANDS, 1),
        storage_config={"type": "redis", "basename": _base(name), "redis": server},
        prepickle=False,
    )


def _base(name: str) -> bytes:
    return b"pedigree:index:" + name.encode()


def _count_key(name: str) -> bytes:
    return _base(name) + b":documents"


def _connect(url: str) -> Any:
    import redis

    return redis.Redis.from_url(url)


def _forget(client: Any, name: str) -> None:
    client.delete(_count_key(name))
    for key in client.scan_iter(match=_base(name) + b"*", count=10_000):
        client.delete(key)


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

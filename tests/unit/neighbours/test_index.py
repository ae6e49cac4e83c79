"""The kept sketches of a table: what the local index and a real Redis server find."""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.neighbours import index as index_module
from pedigree.neighbours import kernel, redis_bands
from pedigree.neighbours.index import (
    build_index,
    find_known_copies,
    find_places,
    open_index,
    read_digests,
)
from pedigree.neighbours.local import find_near_duplicates
from pedigree.neighbours.redis_bands import fill_redis, open_redis_index

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 8))) for _ in range(500)]
    return [" ".join(draw.choices(words, k=draw.randint(4, 60))) for _ in range(count)]


def edit(text: str, seed: int) -> str:
    draw = random.Random(seed)
    words = text.split()
    words.insert(draw.randrange(len(words)), "really")
    return " ".join(words).upper()


OLD = [*make_texts(400, 0), "same", "Same!", "一二三四五六七八九十"]
NEW = [*[edit(text, i) for i, text in enumerate(OLD[:60])], *make_texts(40, 1), "SAME", OLD[7]]


def both_ways(old: list[str], new: list[str], similarity: float) -> set[tuple[int, str]]:
    """What a joint search of both tables finds: (row of the batch, normalised old text)."""
    found = find_near_duplicates([*old, *new], similarity)
    rows_of: dict[int, list[int]] = {}
    for row, document in enumerate(found.document.tolist()):
        rows_of.setdefault(document, []).append(row)
    pairs = [*found.pairs.tolist(), *([d, d] for d in rows_of)]
    result: set[tuple[int, str]] = set()
    for left, right in pairs:
        for one, other in ((left, right), (right, left)):
            result |= {
                (row - len(old), found.digests[other].as_py().hex())
                for row in rows_of[one]
                if row >= len(old) and any(r < len(old) for r in rows_of[other])
            }
    return result


def ask(index: index_module.Index, new: list[str], similarity: float) -> set[tuple[int, str]]:
    known = find_known_copies(index, new, similarity)
    return {
        (row, index.digests[place].tobytes().hex())
        for row, document in enumerate(known.document.tolist())
        for query, place in known.pairs.tolist()
        if query == document
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "old"
    path.mkdir()
    labels = ["good" if i % 2 else "bad" for i in range(len(OLD))]
    assert build_index(path, OLD, labels) == len(OLD) - 1
    return path


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The server, with nothing in it."""
    import redis

    redis.Redis.from_url(redis_server).flushall()
    return redis_server


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis server on this machine, for this module alone."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.95])
def test_the_index_finds_what_a_search_of_both_tables_finds(
    folder: Path, similarity: float
) -> None:
    expected = both_ways(OLD, NEW, similarity)
    assert len(expected) > 20
    assert ask(open_index(folder), NEW, similarity) == expected


def test_redis_finds_what_the_files_find(folder: Path, redis_url: str) -> None:
    assert fill_redis(redis_url, folder) == len(OLD) - 1
    index = open_redis_index(redis_url, folder)
    assert ask(index, NEW, 0.7) == ask(open_index(folder), NEW, 0.7)
    # Filling again leaves the same, and not everything twice.
    fill_redis(redis_url, folder)
    assert ask(open_redis_index(redis_url, folder), NEW, 0.7) == ask(index, NEW, 0.7)


def buckets(client: Any) -> dict[bytes, set[bytes]]:
    return {
        key: client.smembers(key)
        for key in client.scan_iter(match=b"pedigree:*")
        if client.type(key) == b"set"
    }


def test_redis_holds_places_and_nothing_pickled(folder: Path, redis_url: str) -> None:
    import redis

    fill_redis(redis_url, folder)
    members = set().union(*buckets(redis.Redis.from_url(redis_url)).values())
    assert members == {str(place).encode() for place in range(len(OLD) - 1)}


def test_redis_cuts_a_large_bucket_as_the_files_do(tmp_path: Path, redis_url: str) -> None:
    draw = random.Random(0)
    line = " ".join("".join(draw.choices(LETTERS, k=7)) for _ in range(12))
    build_index(tmp_path, [f"{line} {i:03}" for i in range(300)])
    fill_redis(redis_url, tmp_path)
    local = find_known_copies(open_index(tmp_path), [f"{line} xyz", "another"], 0.7)
    remote = find_known_copies(
        open_redis_index(redis_url, tmp_path), [f"{line} xyz", "another"], 0.7
    )
    assert local.cut_buckets == remote.cut_buckets > 0
    assert np.array_equal(local.pairs, remote.pairs)


def test_what_is_put_in_again_leaves_other_indexes_alone(
    folder: Path, tmp_path: Path, redis_url: str
) -> None:
    import redis

    other = tmp_path / "other"
    other.mkdir()
    build_index(other, NEW)
    fill_redis(redis_url, folder)
    fill_redis(redis_url, other)
    before = buckets(redis.Redis.from_url(redis_url))
    fill_redis(redis_url, folder)
    assert buckets(redis.Redis.from_url(redis_url)) == before


def test_an_index_that_redis_does_not_hold_whole_is_refused(folder: Path, redis_url: str) -> None:
    import redis

    fill_redis(redis_url, folder)
    redis.Redis.from_url(redis_url).set(redis_bands._count_key(folder.name), 5)
    with pytest.raises(PedigreeError, match="does not hold the whole index of 402 documents"):
        open_redis_index(redis_url, folder)


def test_what_redis_invents_is_ignored(folder: Path, redis_url: str) -> None:
    import redis

    fill_redis(redis_url, folder)
    client = redis.Redis.from_url(redis_url)
    for key in buckets(client):
        client.sadd(key, os.urandom(16), 10**9, -1, b"9" * 400, 3)
    index = open_redis_index(redis_url, folder)
    assert ask(index, NEW, 0.7) == ask(open_index(folder), NEW, 0.7)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis://:secret@127.0.0.1:1/0", "nonsense"]
)
def test_a_server_that_is_not_there_is_a_sentence_without_its_password(
    folder: Path, url: str
) -> None:
    with pytest.raises(PedigreeError, match="cannot be used") as caught:
        open_redis_index(url, folder)
    assert "secret" not in str(caught.value)


def test_a_broken_file_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    (copy / index_module.BAND_FILE).write_bytes(b"ARROW1 and no more")
    with pytest.raises(VerificationFailed, match="it is made again"):
        open_index(copy)


def test_a_large_bucket_of_the_index_is_cut_and_counted(tmp_path: Path) -> None:
    draw = random.Random(0)
    line = " ".join("".join(draw.choices(LETTERS, k=7)) for _ in range(12))
    build_index(tmp_path, [f"{line} {i:03}" for i in range(300)])
    known = find_known_copies(open_index(tmp_path), [f"{line} xyz"], 0.7)
    assert known.cut_buckets > 0
    assert 0 < len(known.pairs) < kernel.BANDS * (kernel.WINDOW + 1)


def test_labels_of_all_rows_of_a_text_are_kept(folder: Path) -> None:
    index = open_index(folder)
    known = find_known_copies(index, ["same"], 0.9)
    (place,) = known.pairs[:, 1]
    assert index.labels[place].as_py() == ["bad", "good"]
    assert OLD[index.rows[place]] == "same"


def test_places_of_digests_are_found_even_where_first_halves_agree() -> None:
    same = b"\1" * 8
    digests = sorted(
        [same + bytes([i]) * 8 for i in range(5)] + [os.urandom(16) for _ in range(50)]
    )
    ranked = read_digests(pa.table({"digest": pa.array(digests, pa.binary(16))}))
    assert find_places(ranked, digests).tolist() == list(range(55))
    assert find_places(ranked, [same + b"\xff" * 8, b"\0" * 16]).tolist() == [-1, -1]


@pytest.mark.parametrize("new", [[], [""], ["…"]])
def test_empty_batches_and_texts_are_handled(folder: Path, new: list[str]) -> None:
    assert len(find_known_copies(open_index(folder), new, 0.7).pairs) == 0


def test_an_empty_table_has_an_index(tmp_path: Path) -> None:
    assert build_index(tmp_path, []) == 0
    assert len(find_known_copies(open_index(tmp_path), NEW, 0.7).pairs) == 0

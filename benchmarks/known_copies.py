"""A new batch against what is there already: the kept index, in files and in Redis.

    python benchmarks/known_copies.py --documents 1000000 --batch 10000
    python benchmarks/known_copies.py --documents 1000000 --batch 10000 --redis redis://localhost:6379/0

Prints CPU-seconds and wall seconds of making the index once, of verifying and opening it, and of
looking a batch up in which half the rows are edited copies, with recall and memory.
"""

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pedigree.digests import digest_tree
from pedigree.neighbours.index import Index, build_index, find_known_copies, open_index
from pedigree.neighbours.normalisation import normalise_texts
from pedigree.neighbours.overlap import count_common
from pedigree.neighbours.redis_bands import fill_redis, open_redis_index

T = TypeVar("T")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_texts(count: int, seed: int) -> list[str]:
    """Return texts of 20 to 60 words whose frequencies follow Zipf's law."""
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(30_000)]
    weights = 1 / np.arange(1, len(words) + 1)
    chosen = numbers.choice(len(words), size=count * 40, p=weights / weights.sum())
    lengths = numbers.integers(20, 61, count)
    starts = (np.cumsum(lengths) - lengths) % (len(chosen) - 60)
    pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
    return [" ".join(words[i] for i in chosen[a : a + n].tolist()) for a, n in pairs]


def edit(text: str, draw: random.Random) -> str:
    """Return a copy with up to three words replaced or put in."""
    words = text.split()
    for _ in range(draw.randint(1, 3)):
        word = "".join(draw.choices(LETTERS, k=6))
        place = draw.randrange(len(words))
        words[place : place + draw.randint(0, 1)] = [word]
    return " ".join(words)


def timed(name: str, call: Callable[[], T]) -> T:
    """Run a step and print what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {name} | {time.process_time() - cpu:.2f} | {time.perf_counter() - wall:.2f} "
        f"| {peak:,.0f} |",
        flush=True,
    )
    return result


def main() -> None:
    """Measure."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--documents", type=int, default=1_000_000)
    ask.add_argument("--batch", type=int, default=10_000)
    ask.add_argument("--redis", metavar="URL")
    options = ask.parse_args()
    draw = random.Random(7)
    texts = make_texts(options.documents, 1)
    chosen = draw.sample(range(len(texts)), options.batch // 2)
    batch = [edit(texts[i], draw) for i in chosen]
    planted = _which_are_alike(batch, [texts[i] for i in chosen])
    batch += make_texts(options.batch - len(batch), 2)
    print("| step | CPU-seconds | seconds | peak MB so far |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / f"benchmark-{options.documents}"
        folder.mkdir()
        old = pa.array(texts, pa.large_string())
        del texts
        timed("make the index, once", lambda: build_index(folder, old))
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        timed("verify its bytes", lambda: digest_tree(folder))
        _ask(folder, lambda: open_index(folder), "files", batch, planted)
        if options.redis:
            timed("fill Redis, once", lambda: fill_redis(options.redis, folder))
            _ask(folder, lambda: open_redis_index(options.redis, folder), "Redis", batch, planted)
        print(f"\nindex on disk: {size:,.0f} MB")


def _which_are_alike(copies: list[str], originals: list[str]) -> npt.NDArray[np.int64]:
    """Return the positions of the copies that are still 0.8 alike to their originals."""
    both = normalise_texts([*copies, *originals])
    pairs = np.stack([np.arange(len(copies)), np.arange(len(copies), len(both))], axis=1)
    return count_common(both, pairs, Fraction(4, 5)).kept


def _ask(
    folder: Path,
    open_it: Callable[[], Index],
    where: str,
    batch: list[str],
    planted: npt.NDArray[np.int64],
) -> None:
    index = timed(f"open it ({where})", open_it)
    known = timed(
        f"look {len(batch):,} rows up ({where})", lambda: find_known_copies(index, batch, 0.8)
    )
    hit = np.isin(known.document, known.pairs[:, 0])
    print(
        f"\n{where}: {hit[planted].mean():.4f} of {len(planted)} copies that are 0.8 alike found, "
        f"{hit[len(batch) // 2 :].sum()} of the new rows named\n"
    )


if __name__ == "__main__":
    main()

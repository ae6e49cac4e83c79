"""What row-level lineage costs: size and build time of the index, and the time of one trace.

    python benchmarks/lineage_index.py --rows 10000000 --snapshots 1

The rows are generated: row keys are random, there are 200 sources of 25 annotators each, and
each snapshot has a model in an environment. Later snapshots share nine rows in ten with the first.
"""

import argparse
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pedigree.lineage_index import Link, open_index
from pedigree.tracing import trace_thing

SOURCES, ANNOTATORS, TRACES = 200, 5_000, 200


def make_keys(count: int, seed: int) -> "np.ndarray":
    """Return row keys, shape (count, 32), as bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)


def make_table(keys: "np.ndarray", seed: int) -> pa.Table:
    """Return as much of a snapshot as lineage needs, with the row keys as hex digits."""
    draw = np.random.default_rng(seed)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    parts: list[pa.Array] = []
    for start in range(0, len(keys), 1 << 20):
        block = keys[start : start + (1 << 20)]
        text = np.empty((len(block), 64), np.uint8)
        text[:, 0::2], text[:, 1::2] = digits[block >> 4], digits[block & 15]
        offsets = np.arange(0, 64 * len(block) + 1, 64, dtype=np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
        parts.append(pa.Array.from_buffers(pa.string(), len(block), buffers))

    def names(what: str, numbers: "np.ndarray", count: int) -> pa.Array:
        options = pa.array([f"{what}-{number}" for number in range(count)])
        return pa.DictionaryArray.from_arrays(pa.array(numbers), options)

    each = ANNOTATORS // SOURCES
    sources = draw.integers(0, SOURCES, len(keys), np.int32)
    annotators = sources * each + draw.integers(0, each, len(keys), np.int32)
    return pa.table(
        {
            "row_key": pa.chunked_array(parts),
            "source": names("source", sources, SOURCES),
            "label_batch": names("batch", sources // 10, SOURCES // 10),
            "guideline_version": pa.nulls(len(keys), pa.string()),
            "annotator": names("annotator", annotators, ANNOTATORS),
        }
    )


def build(path: Path, rows: int, snapshots: int) -> "np.ndarray":
    """Build the index, print what each snapshot took, and return the first one's row keys."""
    first = make_keys(rows, 0)
    for number in range(snapshots):
        keys = first
        if number:
            keys = np.concatenate([first[rows // 10 :], make_keys(rows // 10, number)])
        table, snapshot = make_table(keys, number), f"sha256:{number:064x}"
        wall, cpu = time.perf_counter(), time.process_time()
        with open_index(path) as index:
            model = f"model:sha256:{number + 1000:064x}"
            links = [
                Link(f"snapshot:{snapshot}", model, "trained", f"training-{number}", rows),
                Link(model, "environment:production", "was promoted", f"promotion-{number}"),
                *(
                    Link(f"source:source-{one}", f"snapshot:{snapshot}", "has rows in", "snapshot")
                    for one in range(SOURCES)
                ),
            ]
            index.add_statement(f"statement-{number}", links)
            index.add_rows(snapshot, table)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"snapshot {number}: {rows:,} rows added in {cpu:.1f} CPU-s, {wall:.1f} s; the index "
            f"has {path.stat().st_size / 1e6:,.0f} MB; peak {peak:,.0f} MB with the table"
        )
    return first


def forget(path: Path) -> None:
    """Ask the system to drop the file from its cache, so that the next read is from the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def trace(path: Path, things: Sequence[str], *, cold: bool) -> None:
    """Print how long tracing each thing takes, opening the index every time."""
    times: list[float] = []
    for thing in things:
        if cold:
            forget(path)
        start = time.perf_counter()
        found = trace_thing(path, thing)
        times.append(1000 * (time.perf_counter() - start))
        assert found.reached("environment") == ["production"]
    kind = things[0].partition(":")[0]
    print(
        f"trace {kind}, {'cold' if cold else 'warm'}: median {statistics.median(times):.1f} ms, "
        f"worst of {len(times)} {max(times):.1f} ms"
    )


def main() -> None:
    """Parse the arguments, build and trace."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows a snapshot")
    parser.add_argument("--snapshots", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lineage.sqlite"
        keys = build(path, arguments.rows, arguments.snapshots)
        draw = random.Random(1)
        chosen = draw.sample(range(len(keys)), TRACES)
        rows = [f"row:{keys[number].tobytes().hex()}" for number in chosen]
        trace(path, rows[:50], cold=True)
        trace(path, rows, cold=False)
        trace(path, [one[: 4 + 12] for one in rows], cold=False)
        trace(path, [f"source:source-{number}" for number in range(20)], cold=True)
        trace(path, [f"annotator:annotator-{number}" for number in range(20)], cold=True)


if __name__ == "__main__":
    main()

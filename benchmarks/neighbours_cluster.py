"""What near-duplicates cost over Daft, by stage, and what 10^10 documents would.

    python benchmarks/neighbours_cluster.py 50000 200000

Each size runs in a process of its own, on Daft's native runner with one thread, over synthetic
short texts (20 to 60 words drawn by Zipf's law, 10% of them copies with one to four words
changed). CPU-seconds, rows and bytes are measured; a shuffle's volume is rows times the width of
its columns in Arrow, because nothing is shuffled on one machine. The model multiplies the costs of
the largest size, and lets candidates that are no pairs grow as fast as they did between the
two largest sizes, up to the bound that cut buckets give.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

os.environ.update(DO_NOT_TRACK="1", DAFT_PROGRESS_BAR="0", OMP_NUM_THREADS="1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pedigree.neighbours import join, kernel, request, stage_files

MILLION = 1_000_000
SIMILARITY = Fraction(4, 5)
VOCABULARY = 200_000
COPIES = 0.1
MODEL_DOCUMENTS = 10**10
MODEL_NODES = 100


def write_texts(path: Path, count: int, seed: int = 0) -> int:
    """Write `count` texts; return how many of them are copies."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, n)) for n in draw.integers(2, 10, VOCABULARY)])
    rank = np.arange(1, VOCABULARY + 1)
    chances = np.cumsum(1 / rank)
    chances /= chances[-1]
    texts: list[str] = []
    copies = int(count * COPIES)
    for start in range(0, count - copies, 10_000):
        lengths = draw.integers(20, 61, min(10_000, count - copies - start))
        drawn = words[np.searchsorted(chances, draw.random(lengths.sum()))]
        texts += [" ".join(one) for one in np.split(drawn, np.cumsum(lengths)[:-1])]
    for place in draw.integers(0, len(texts), copies):
        copy = texts[place].split(" ")
        for _ in range(draw.integers(1, 5)):
            copy[draw.integers(len(copy))] = words[np.searchsorted(chances, draw.random())]
        texts.append(" ".join(copy))
    order = draw.permutation(count)
    labels = pa.array(draw.integers(0, 2, count))
    table = pa.table({"id": np.arange(count), "text": pa.array(texts).take(order), "label": labels})
    pq.write_table(table, path, row_group_size=50_000)
    return copies


def measure(count: int, folder: Path) -> dict[str, object]:
    """Run the job once; return its counts, and CPU-seconds and bytes by stage."""
    import daft

    write_texts(folder / "in.parquet", count)
    daft.set_runner_native(num_threads=1)
    join._RUNNING["runner"] = "native"
    stages: dict[str, dict[str, float]] = {}
    save = stage_files.StageFiles.save

    def timed(job: stage_files.StageFiles, name: str, frame: object) -> list[str]:
        start = time.process_time()
        files = save(job, name, frame)  # type: ignore[arg-type]
        stage = stages.setdefault(name.split("/")[-1].split("-")[0], {"cpu": 0, "rows": 0, "mb": 0})
        stage["cpu"] += time.process_time() - start
        stage["rows"] += sum(pq.read_metadata(file).num_rows for file in files)
        stage["mb"] += sum(Path(file).stat().st_size for file in files) / MILLION
        return files

    stage_files.StageFiles.save = timed  # type: ignore[method-assign]
    wall, cpu = time.perf_counter(), time.process_time()
    result = join.join_neighbours(
        request.JoinRequest(
            (str(folder / "in.parquet"),), str(folder / "out"), SIMILARITY, label="label", row="id"
        )
    )
    texts = pq.read_table(folder / "in.parquet").column("text")
    return {
        "rows": count,
        "text_bytes": texts.nbytes / count,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "stages": stages,
        **{name: result[name] for name in ("documents", "candidates", "pairs", "cut_buckets")},
    }


def shuffle_bytes(run: dict, false_candidates: float | None = None) -> dict[str, float]:
    """Return the bytes a document that each stage moves between machines."""
    rows, text = run["rows"], run["text_bytes"]
    if false_candidates is None:
        false_candidates = (run["candidates"] - run["pairs"]) / rows
    pairs = run["pairs"] / rows
    candidates = false_candidates + pairs
    shared = run["stages"]["shared"]["rows"] / max(run["candidates"], 1) * candidates
    return {
        "collapse": 16 + text,
        "band keys": 28.0 * kernel.BANDS,
        "candidates": 32 * shared,
        "verify": 2 * (16 + text) + candidates * (32 + 32 + text),
        "components, documents, labels": 2 * 48 * pairs + 3 * 32,
    }


def model(runs: list[dict]) -> dict[str, float]:
    """Return what 10^10 such documents cost, from the two largest runs."""
    small, large = runs[-2:]
    false = [(run["candidates"] - run["pairs"]) / run["rows"] for run in (small, large)]
    power = math.log(max(false[1], 1e-9) / max(false[0], 1e-9)) / math.log(
        large["rows"] / small["rows"]
    )
    # A member of a full bucket has at most MAX_BUCKET / 2 pairs in each band, of a cut one fewer.
    most = kernel.BANDS * kernel.MAX_BUCKET / 2
    grown = min(most, false[1] * (MODEL_DOCUMENTS / large["rows"]) ** max(power, 0.0))
    verify = large["stages"]["pairs"]["cpu"] / max(large["candidates"], 1)
    paired = large["stages"]["shared"]["cpu"] + large["stages"]["candidates"]["cpu"]
    linear = (large["cpu_seconds"] - large["stages"]["pairs"]["cpu"]) / large["rows"]
    more = (grown - false[1]) * (verify + paired / max(large["stages"]["shared"]["rows"], 1))
    moved = sum(shuffle_bytes(large, grown).values())
    base = sum(shuffle_bytes(large).values())
    share = MODEL_DOCUMENTS / MODEL_NODES
    return {
        "false candidates a document, power of growth": round(power, 2),
        "false candidates a document": grown,
        "core-hours, candidates as measured": large["cpu_seconds"] / large["rows"]
        * MODEL_DOCUMENTS / 3600,
        "core-hours": (linear + verify * large["candidates"] / large["rows"] + more)
        * MODEL_DOCUMENTS / 3600,
        "shuffled TB, candidates as measured": base * MODEL_DOCUMENTS / 1e12,
        "shuffled TB": moved * MODEL_DOCUMENTS / 1e12,
        "keys on disk, TB": (16 + 8 * kernel.BANDS) * MODEL_DOCUMENTS / 1e12,
        f"GB a node of {MODEL_NODES}, one band's shuffle held three times": 3 * 28 * share / 1e9,
        f"GB a node of {MODEL_NODES}, texts of the verification": share
        * (16 + large["text_bytes"]) / 1e9,
    }  # fmt: skip


def show(run: dict) -> None:
    """Print one run as two tables."""
    rows = run["rows"] / MILLION
    print(
        f"\n{run['rows']:,} texts of {run['text_bytes']:.0f} bytes: {run['cpu_seconds']:.1f} "
        f"CPU-seconds ({run['cpu_seconds'] / rows:.0f} a million), {run['wall_seconds']:.1f} s, "
        f"peak {run['peak_mb']:.0f} MB; {run['documents']:,} documents, {run['candidates']:,} "
        f"candidates, {run['pairs']:,} pairs, {run['cut_buckets']} cut buckets"
    )
    print("\n| stage | CPU-seconds a million | rows | Parquet MB |\n|---|---|---|---|")
    for name, stage in run["stages"].items():
        cpu = stage["cpu"] / rows
        print(f"| {name} | {cpu:.1f} | {stage['rows']:,.0f} | {stage['mb']:.1f} |")
    print("\n| shuffle | bytes a document |\n|---|---|")
    for name, size in shuffle_bytes(run).items():
        print(f"| {name} | {size:.0f} |")


def main() -> None:
    """Measure each size in a process of its own, and print the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="+", type=int)
    parser.add_argument("--one", action="store_true", help="measure here, print JSON")
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.rows[0], Path(folder))))
        return
    runs = []
    for rows in sorted(options.rows):
        command = [sys.executable, __file__, str(rows), "--one"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        show(runs[-1])
    if len(runs) > 1:
        print(f"\n| {MODEL_DOCUMENTS:.0e} documents | |\n|---|---|")
        for name, value in model(runs).items():
            print(f"| {name} | {value:,.2f} |")


if __name__ == "__main__":
    main()

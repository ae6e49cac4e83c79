"""What finding near-duplicates costs and misses: this engine, datasketch, rensa and Daft.

    python benchmarks/near_duplicates.py --sets short,long,million [--repeats 3] [--cache FOLDER]

Every competitor gets the same rows (a Parquet file, written once), each in a fresh process, and
they take turns in a rotated order. Counted are CPU-seconds of all threads, from texts in memory to
pairs of rows, without imports and reading; wall time stands beside them. Peak memory is the whole
process's (VmHWM): interpreter, libraries, rows and all. The truth is an exact join by prefix filter
(Bayardo, Ma and Srikant, 2007) over integer codes of the texts' own characters, in which no sketch
and no code of `pedigree` takes part. Needs datasketch, xxhash, rensa and daft beside the project's
packages.

Peers' pairs are unverified: the price of verifying them is not in their time.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Integers = npt.NDArray[np.int64]

SIMILARITY = (4, 5)
PERMUTATIONS = 128
# 21 bands of 6 find a pair at 0.8 with probability 0.998, as this engine's 12 of 4 do.
BANDS, ROWS = 21, 6
VOCABULARY, SHINGLE, MAX_WORDS = 50_000, 5, 32
GROWTH = (100_000, 250_000, 500_000, 1_000_000)
SETS = {"short": (100_000, 20, 60), "long": (20_000, 500, 500), "million": (1_000_000, 20, 60)}


# --- rows -----------------------------------------------------------------------------------------


def make_vocabulary(random: np.random.Generator) -> pa.Array:
    """Return distinct words, the common ones shorter (4 letters), each in four written forms."""
    drawn = 2 * VOCABULARY
    lengths = np.clip(2 + random.poisson(np.linspace(2.3, 10, drawn)), 2, 14)
    letters = np.array(list("eeeeeeetttttaaaaooooiiiinnnnssshhhrrrddllcumwfgypbvkjxqz"))
    spelled = "".join(random.choice(letters, int(lengths.sum())))
    ends = np.cumsum(lengths)
    made = [spelled[e - n : e] for e, n in zip(ends.tolist(), lengths.tolist(), strict=True)]
    words = list(dict.fromkeys(made))[:VOCABULARY]
    forms = [words, [f"{w}," for w in words], [f"{w}." for w in words], [w.title() for w in words]]
    return pa.array([word for form in forms for word in form])


def make_rows(name: str, count: int | None = None) -> pa.Table:
    """Return text, label and, for a planted copy, the row it copies: a tenth of all rows."""
    rows, fewest, most = SETS[name]
    rows = count or rows
    random = np.random.Generator(np.random.PCG64([7, rows, most]))
    vocabulary = make_vocabulary(random)
    weights = 1 / (np.arange(VOCABULARY) + 2.7)  # Zipf and Mandelbrot
    shares = np.cumsum(weights / weights.sum())

    def draw(size: int) -> Integers:
        forms = random.choice(4, size, p=[0.84, 0.06, 0.06, 0.04])
        return np.minimum(np.searchsorted(shares, random.random(size)), VOCABULARY - 1) + (
            VOCABULARY * forms
        )

    originals = rows - rows // 10
    lengths = random.integers(fewest, most + 1, originals)
    texts = np.split(draw(int(lengths.sum())), np.cumsum(lengths)[:-1])
    copied = random.choice(originals, rows - originals, replace=False)
    for row in copied.tolist():
        copy = text = texts[row]
        while np.array_equal(copy % VOCABULARY, text % VOCABULARY):
            copy = _edit(text, draw, random)
        texts.append(copy)
    order = random.permutation(rows)
    place = np.argsort(order)
    sizes = np.array([len(texts[row]) for row in order.tolist()])
    words = vocabulary.take(pa.array(np.concatenate([texts[row] for row in order.tolist()])))
    lists = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(sizes)]).astype("i4"), words)
    of = np.full(rows, -1)
    of[place[originals:]] = place[copied]
    labels = random.integers(0, 2, rows)
    return pa.table(
        {
            "text": pc.binary_join(lists, " "),
            "label": pa.array(np.array(["negative", "positive"])[labels]),
            "copy_of": of,
        }
    )


def _edit(text: Integers, draw: Callable[[int], Integers], random: np.random.Generator) -> Integers:
    """Return a text with one to three of its words replaced, put in or left out."""
    words = text.tolist()
    for _ in range(int(random.integers(1, 4))):
        place, kind = int(random.integers(len(words))), int(random.integers(3))
        words[place : place + (kind != 1)] = draw(int(kind != 2)).tolist()
    return np.array(words)


# --- competitors: texts and labels in, pairs of rows out ---------------------------------------


def run_pedigree(texts: pa.ChunkedArray, _: list[str]) -> Integers:
    """Return the verified pairs of the engine that the split, leakage and conflicts share."""
    from pedigree.neighbours.local import find_near_duplicates

    found = find_near_duplicates(texts, SIMILARITY[0] / SIMILARITY[1])
    row = np.empty(len(found.digests), np.int64)
    row[found.document] = np.arange(len(found.document))
    return np.sort(row[found.pairs], axis=1)


def run_conflicts(texts: pa.ChunkedArray, labels: list[str]) -> None:
    """Run the whole check of `pedigree check` and Dagster, at its default limits."""
    from pedigree.evidence.check_limits import ConflictLimits
    from pedigree.poisoning.near_duplicates import find_label_conflicts

    find_label_conflicts(texts, labels, ConflictLimits())


_TABLE = {c: chr(c).lower() if chr(c).isalnum() else " " for c in range(128)}


def shingle_characters(texts: pa.ChunkedArray) -> Iterator[set[str]]:
    """Yield the set of 5-grams of each normalised text without its spaces."""
    for text in texts.to_pylist():
        packed = text.translate(_TABLE).replace(" ", "")
        yield {packed[i : i + SHINGLE] for i in range(len(packed) - SHINGLE + 1)}


def shingle_words(texts: pa.ChunkedArray) -> Iterator[set[str]]:
    """Yield the set of 3-grams of the words of each normalised text."""
    for text in texts.to_pylist():
        words = text.translate(_TABLE).split()
        yield {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}


Shingle = Callable[[pa.ChunkedArray], Iterator[set[str]]]


def run_datasketch(shingle: Shingle, bands: tuple[int, int] | None) -> Callable[..., Integers]:
    """Return a run of `MinHash.bulk` with xxhash, then `insert` and `query` of `MinHashLSH`."""

    def run(texts: pa.ChunkedArray, _: list[str]) -> Integers:
        import xxhash
        from datasketch import MinHash, MinHashLSH

        sets = ([one.encode() for one in each] for each in shingle(texts))
        hashes = MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
        index = MinHashLSH(
            threshold=SIMILARITY[0] / SIMILARITY[1], num_perm=PERMUTATIONS, params=bands
        )
        pairs: list[tuple[int, int]] = []
        for row, each in enumerate(hashes):
            pairs += [(other, row) for other in index.query(each)]
            index.insert(row, each, check_duplication=False)
        return np.array(pairs, np.int64).reshape(-1, 2)

    return run


def run_rensa(shingle: Shingle) -> Callable[..., Integers]:
    """Return a run of the batch calls that give pairs."""

    def run(texts: pa.ChunkedArray, _: list[str]) -> Integers:
        from rensa import RMinHash, RMinHashLSH

        hashes = RMinHash.from_token_sets(map(list, shingle(texts)), BANDS * ROWS, 42)
        index = RMinHashLSH(SIMILARITY[0] / SIMILARITY[1], BANDS * ROWS, BANDS)
        index.insert_many(hashes)
        found = index.query_all(hashes)
        pairs = [
            (row, other) for row, others in enumerate(found) for other in others if row < other
        ]
        return np.array(pairs, np.int64).reshape(-1, 2)

    return run


def run_rensa_rows(shingle: Shingle) -> Callable[..., Integers]:
    """Return a run that updates, inserts and queries row by row, as rensa's README does."""

    def run(texts: pa.ChunkedArray, _: list[str]) -> Integers:
        from rensa import RMinHash, RMinHashLSH

        index = RMinHashLSH(SIMILARITY[0] / SIMILARITY[1], BANDS * ROWS, BANDS)
        pairs: list[tuple[int, int]] = []
        for row, each in enumerate(shingle(texts)):
            sketch = RMinHash(BANDS * ROWS, 42)
            sketch.update(list(each))
            pairs += [(other, row) for other in index.query(sketch)]
            index.insert(row, sketch)
        return np.array(pairs, np.int64).reshape(-1, 2)

    return run


def run_rensa_flags(shingle: Shingle) -> Callable[..., None]:
    """Return a run of rensa's fastest path, which says which rows have a copy but not of what."""

    def run(texts: pa.ChunkedArray, _: list[str]) -> None:
        from rensa import RMinHash, RMinHashLSH

        matrix = RMinHash.digest_matrix_from_token_sets(map(list, shingle(texts)), BANDS * ROWS, 42)
        index = RMinHashLSH(SIMILARITY[0] / SIMILARITY[1], BANDS * ROWS, BANDS)
        index.query_duplicate_flags_matrix_one_shot(matrix)

    return run


def run_daft(characters: bool) -> Callable[..., Integers]:
    """Return a run of Daft's `minhash` and a join on bands, in its native runner."""

    def run(texts: pa.ChunkedArray, _: list[str]) -> Integers:
        import daft
        from daft import col
        from daft.functions import chunk, hash, lower, minhash, regexp_replace, strip

        frame = daft.from_arrow(pa.table({"row": np.arange(len(texts)), "text": texts}))
        text = regexp_replace(lower(col("text")), "[^a-z0-9]+", "" if characters else " ")
        if characters:  # `minhash` takes words: each character becomes one
            text = regexp_replace(text, "(.)", "$1 ")
        sketch = minhash(
            strip(text),
            num_hashes=BANDS * ROWS,
            ngram_size=SHINGLE if characters else 3,
            hash_function="xxhash",
        )
        banded = (
            frame.select("row", chunk(sketch, ROWS).alias("band"))
            .with_column("number", daft.lit(list(range(BANDS))))
            .explode("band", "number")
            .select("row", "number", hash(col("band")).alias("key"))
        )
        other = banded.select(col("row").alias("other"), "number", "key")
        pairs = (
            banded.join(other, on=["number", "key"])
            .where(col("row") < col("other"))
            .select("row", "other")
            .distinct()
            .to_arrow()
        )
        return np.stack([pairs["row"].to_numpy(), pairs["other"].to_numpy()], axis=1)

    return run


COMPETITORS: dict[str, Callable[..., Integers | None]] = {
    "pedigree": run_pedigree,
    "pedigree label conflicts (0.7)": run_conflicts,
    "datasketch, 21 x 6": run_datasketch(shingle_characters, (BANDS, ROWS)),
    "datasketch, default bands": run_datasketch(shingle_characters, None),
    "rensa, batch calls": run_rensa(shingle_characters),
    "rensa, row by row": run_rensa_rows(shingle_characters),
    "rensa, flags only": run_rensa_flags(shingle_characters),
    "Daft minhash": run_daft(characters=True),
    "datasketch, word 3-grams": run_datasketch(shingle_words, (BANDS, ROWS)),
    "rensa, word 3-grams": run_rensa(shingle_words),
    "Daft minhash, word 3-grams": run_daft(characters=False),
}


def run_alone(name: str, rows: Path, out: Path) -> None:
    """Run one competitor in this process; write its pairs and print what it took."""
    for module in ("datasketch", "xxhash", "rensa", "daft", "pedigree.poisoning.near_duplicates"):
        if module.split(".")[0] == name.split()[0].strip(",").lower() or (
            module == "xxhash" and name.startswith("datasketch")
        ):
            __import__(module)
    table = pq.read_table(rows)
    labels = table["label"].to_pylist()
    cpu, wall = time.process_time(), time.monotonic()
    pairs = COMPETITORS[name](table["text"], labels)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    if pairs is not None:
        np.save(out, np.unique(np.sort(pairs, axis=1), axis=0))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"cpu": cpu, "wall": wall, "peak": int(peak[1]) / 1e3 if peak else None}))


# --- truth ----------------------------------------------------------------------------------------


def code_characters(texts: Sequence[str]) -> tuple[Integers, Integers]:
    """Return the 5-grams of texts as (row, code): seven bits a character, so codes are exact."""
    packed = [text.replace(" ", "") for text in texts]
    sizes = np.array([len(one) for one in packed])
    points = np.frombuffer("".join(packed).encode("ascii"), np.uint8).astype(np.int64)
    codes = np.zeros(max(len(points) - SHINGLE + 1, 0), np.int64)
    for place in range(SHINGLE):
        codes = codes * 128 + points[place : place + len(codes)]
    row = np.repeat(np.arange(len(sizes)), sizes)
    inside = row[: len(codes)] == row[SHINGLE - 1 :]
    return row[: len(codes)][inside], codes[inside]


def code_words(texts: Sequence[str]) -> tuple[Integers, Integers]:
    """Return the words of the texts that have at most 32, numbered as they are met."""
    numbers: dict[str, int] = {}
    row: list[int] = []
    codes: list[int] = []
    for place, text in enumerate(texts):
        words = text.split()
        if len(words) <= MAX_WORDS:
            codes += [numbers.setdefault(word, len(numbers)) for word in words]
            row += [place] * len(words)
    return np.array(row, np.int64), np.array(codes, np.int64)


def join_exactly(row: Integers, codes: Integers, rows: int) -> set[int]:
    """Return all pairs of sets with a Jaccard of 0.8 or more, as ``left * rows + right``.

    Of the ``n - ceil(0.8 n) + k`` rarest members of each, two such sets share k or more.
    """
    from scipy.sparse import csr_array

    _, codes = np.unique(codes, return_inverse=True)
    width = int(codes.max(initial=0)) + 1
    rarity = np.empty(width, np.int64)
    rarity[np.argsort(np.bincount(codes, minlength=width), kind="stable")] = np.arange(width)
    cells = np.unique(row * width + rarity[codes])
    row, codes = cells // width, cells % width
    sizes = np.bincount(row, minlength=rows)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(len(codes), np.int32)
    whole = csr_array((ones, codes.astype(np.int32), starts), shape=(rows, width))
    needed = -(-sizes * SIMILARITY[0] // SIMILARITY[1])
    shared = max(int(needed[needed > 0].min(initial=1 << 30)) // 20, 1)
    early = np.arange(len(codes)) - starts[row] < (sizes - needed + shared)[row]
    begins = np.concatenate([[0], np.cumsum(np.bincount(row[early], minlength=rows))])
    prefix = csr_array((ones[early], codes[early].astype(np.int32), begins), shape=(rows, width))
    turned = prefix.T.tocsr()
    found: set[int] = set()
    for start in range(0, rows, 1000):
        near = (prefix[start : start + 1000] @ turned).tocoo()
        enough = near.data >= shared
        left, right = near.row[enough] + start, near.col[enough]
        small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
        open_pairs = (left < right) & (small * SIMILARITY[1] >= large * SIMILARITY[0])
        left, right = left[open_pairs], right[open_pairs]
        for at in range(0, len(left), 20_000):
            one, two = left[at : at + 20_000], right[at : at + 20_000]
            common = np.asarray(whole[one].multiply(whole[two]).sum(axis=1)).ravel()
            union = sizes[one] + sizes[two] - common
            reached = common * SIMILARITY[1] >= union * SIMILARITY[0]
            found.update((one[reached].astype(np.int64) * rows + two[reached]).tolist())
    return found


def is_similar(one: str, two: str) -> bool:
    """Return whether two normalised texts are alike in either view, by Python's own sets."""
    views: list[tuple[set[str], set[str]]] = []
    packed = [text.replace(" ", "") for text in (one, two)]
    grams = [{p[i : i + SHINGLE] for i in range(len(p) - SHINGLE + 1)} for p in packed]
    views.append((grams[0], grams[1]))
    words = one.split(), two.split()
    if max(map(len, words)) <= MAX_WORDS:
        views.append((set(words[0]), set(words[1])))
    return any(len(a & b) * SIMILARITY[1] >= len(a | b) * SIMILARITY[0] for a, b in views)


def normalise(texts: pa.ChunkedArray) -> list[str]:
    """Return the texts of the generator as both views take them."""
    return [" ".join(text.translate(_TABLE).split()) for text in texts.to_pylist()]


def find_truth(rows: Path) -> tuple[set[int], set[int]]:
    """Return the exact pairs of a file's rows, by characters and in either view; kept beside it."""
    cached = rows.with_suffix(".truth.npz")
    if not cached.exists():
        texts = normalise(pq.read_table(rows)["text"])
        if len(set(texts)) < len(texts):
            raise SystemExit(f"{rows} has equal rows: pairs of rows are not pairs of texts.")
        by_characters = join_exactly(*code_characters(texts), len(texts))
        either = by_characters | join_exactly(*code_words(texts), len(texts))
        np.savez(cached, characters=sorted(by_characters), either=sorted(either))
    with np.load(cached) as truth:
        return set(truth["characters"].tolist()), set(truth["either"].tolist())


# --- the tables -----------------------------------------------------------------------------------


def measure(name: str, rows: Path) -> dict[str, Any]:
    """Run one competitor in a fresh process and return what it took, and its pairs."""
    out = rows.with_suffix(".pairs.npy")
    out.unlink(missing_ok=True)
    environment = {**os.environ, "DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
    command = [sys.executable, __file__, "--run", name, "--rows", str(rows), "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed on {rows}:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "pairs": np.load(out) if out.exists() else None}


def judge(pairs: Integers | None, truth: set[int], rows: int) -> str:
    """Return recall and false pairs as two cells."""
    if pairs is None:
        return "- | -"
    found = set((pairs[:, 0] * rows + pairs[:, 1]).tolist())
    return f"{len(found & truth) / len(truth):.4f} | {len(found - truth):,}"


def compare(name: str, rows: Path, names: Sequence[str], repeats: int) -> None:
    """Print one set's table."""
    count = pq.read_metadata(rows).num_rows
    results: dict[str, list[dict[str, Any]]] = {one: [] for one in names}
    for turn in range(repeats):
        shift = turn * max(len(names) // repeats, 1) % len(names)
        for one in [*names[shift:], *names[:shift]]:
            results[one].append(measure(one, rows))
            took = results[one][-1]
            print(f"{one}: {took['cpu']:.2f} of {took['wall']:.1f} s", file=sys.stderr, flush=True)
    by_characters, either = find_truth(rows)
    print(f"\n### {name}: {count:,} texts, {len(either):,} pairs of 0.8 or more", end="")
    print(f" ({len(by_characters):,} by characters)\n", flush=True)
    print("| | CPU-seconds: median (min to max) | wall | times ours | recall | false | peak MB |")
    print("|---|---|---|---|---|---|---|")
    base = statistics.median(r["cpu"] for r in results[names[0]])
    for one, runs in results.items():
        cpu = [run["cpu"] for run in runs]
        truth = either if one.startswith("pedigree") else by_characters
        print(
            f"| {one} | {statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}) "
            f"| {statistics.median(run['wall'] for run in runs):.1f} "
            f"| {statistics.median(cpu) / base:.1f} | {judge(runs[0]['pairs'], truth, count)} "
            f"| {max(run['peak'] for run in runs):.0f} |",
            flush=True,
        )


def grow(cache: Path) -> None:
    """Print the table of growth to a million rows: planted pairs, false pairs, memory."""
    print("\n### million: ours, as rows grow\n")
    print("| rows | CPU-seconds | wall | planted pairs >= 0.8 | found | false | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for count in GROWTH:
        rows = write_rows(cache, "million", count)
        result = measure("pedigree", rows)
        table = pq.read_table(rows)
        texts, of = normalise(table["text"]), table["copy_of"].to_numpy()
        planted = [(of[row], row) for row in np.flatnonzero(of >= 0).tolist()]
        planted = [(min(p), max(p)) for p in planted if is_similar(texts[p[0]], texts[p[1]])]
        pairs = list(map(tuple, result["pairs"].tolist()))
        found = len(set(pairs) & set(planted))
        false = sum(not is_similar(texts[a], texts[b]) for a, b in pairs)
        print(
            f"| {count:,} | {result['cpu']:.1f} | {result['wall']:.1f} | {len(planted):,} "
            f"| {found / len(planted):.4f} | {false:,} | {result['peak']:.0f} |",
            flush=True,
        )


def write_rows(cache: Path, name: str, count: int | None = None) -> Path:
    """Write a set's rows once and return where."""
    path = cache / f"{name}-{count or SETS[name][0]}.parquet"
    if not path.exists():
        pq.write_table(make_rows(name, count), path)
    return path


def main() -> None:
    """Print the machine, then one table a set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="short,long")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/pedigree-near-duplicates"))
    parser.add_argument("--only", default="", help="competitors that begin with one of these words")
    for hidden in ("--run", "--rows", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_alone(options.run, Path(options.rows), Path(options.out))
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    names = [one for one in COMPETITORS if one.startswith(wanted)]
    describe_machine()
    for name in options.sets.split(","):
        if name == "million":
            grow(options.cache)
        else:
            compare(name, write_rows(options.cache, name), names, options.repeats)


def describe_machine() -> None:
    """Print what the figures were had on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = ("numpy", "pyarrow", "datasketch", "xxhash", "rensa", "daft")
    print(f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores", end="; ")
    print(f"Python {platform.python_version()}", end=", ")
    print(", ".join(f"{one} {version(one)}" for one in packages))


if __name__ == "__main__":
    main()

"""What all checks of rows cost, check by check, and how that grows with the rows.

    OMP_NUM_THREADS=1 python benchmarks/row_checks.py 50000 100000 200000

Texts of 20 to 60 words by Zipf's law, 2% of them near-copies of others, two labels that follow from
the words with 3% of noise, at the default policy and without embeddings. Each size runs in a
process of its own, so that peak memory is its own.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterator
from itertools import chain

import numpy as np

from pedigree.evidence.check_limits import CheckLimits
from pedigree.inspection import judge_copies, judge_texts

NOISE, COPIES = 0.03, 0.02


def make_corpus(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Return texts and labels; one word in thirty says which label a text has."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(draw.choice(letters, draw.integers(2, 10))) for _ in range(30_000)]
    telling = draw.choice([-1, 0, 1], len(words), p=[1 / 60, 1 - 1 / 30, 1 / 60])
    weights = 1 / np.arange(1, len(words) + 1)
    weights /= weights.sum()
    texts: list[str] = []
    labels: list[str] = []
    for length in draw.integers(20, 61, count).tolist():
        if texts and draw.random() < COPIES:
            copied = int(draw.integers(len(texts)))
            texts.append(f"{texts[copied]} {words[int(draw.integers(len(words)))]}")
            labels.append(labels[copied])
            continue
        chosen = draw.choice(len(words), length, p=weights)
        says = telling[chosen].sum() + draw.normal() * 0.1 > 0
        texts.append(" ".join(words[i] for i in chosen.tolist()))
        labels.append(str(int(says != (draw.random() < NOISE))))
    return texts, labels


def measure(count: int) -> Iterator[tuple[str, float, float, int]]:
    """Yield (check, CPU-seconds, seconds, rows named) of each check."""
    texts, labels = make_corpus(count, 1)
    limits = CheckLimits()
    results = chain(judge_copies(texts, labels, limits), judge_texts(texts, labels, limits))
    cpu, wall = time.process_time(), time.perf_counter()
    for result in results:
        spent = time.process_time() - cpu, time.perf_counter() - wall
        named = sum(one.severity != "INFO" for one in result.findings)
        yield result.check, *spent, named
        cpu, wall = time.process_time(), time.perf_counter()


def report(count: int) -> None:
    """Print one table."""
    print(f"\n{count:,} rows\n\n| check | CPU-seconds | seconds | rows named |\n|---|---|---|---|")
    total = np.zeros(2)
    for check, cpu, wall, named in measure(count):
        total += (cpu, wall)
        print(f"| {check} | {cpu:.2f} | {wall:.2f} | {named} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| all | {total[0]:.1f} | {total[1]:.1f} | peak {peak:,.0f} MB |", flush=True)


def main() -> None:
    """Measure each size in a fresh process."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("rows", type=int, nargs="*", default=[50_000, 100_000, 200_000])
    context = multiprocessing.get_context("spawn")
    for count in ask.parse_args().rows:
        process = context.Process(target=report, args=(count,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()

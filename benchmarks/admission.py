"""What admission makes of labelled files, beside other scanners; and how fast it is.

    python benchmarks/admission.py --folder FOLDER [--manifest FOLDER/manifest.csv] [--misses]
    python benchmarks/admission.py --speed MEGABYTES

The manifest is a CSV with the columns `path` (or `file`) and `label` (malicious or benign), and
perhaps `format`. Files are scanned and never loaded. Wrong is a malicious file that is admitted,
and a benign one that is rejected. picklescan (`scan_file_path`) and fickling (`check_safety`) are
asked where they are installed, for each file in a process of its own with a limit of time and
memory. What they could not look at (an error, the limit) is counted apart from what they flag.
"""

import argparse
import csv
import hashlib
import importlib
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from pedigree.admission.scan import scan_path

_PEER_SECONDS = 20
_PEER_BYTES = 4 << 30


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--misses", action="store_true", help="list what is wrong, with reasons")
    parser.add_argument("--speed", type=int, metavar="MEGABYTES")
    options = parser.parse_args()
    if options.folder:
        manifest = options.manifest or options.folder / "manifest.csv"
        compare(options.folder, manifest, options.misses)
    if options.speed:
        measure_speed(options.speed)


def compare(folder: Path, manifest: Path, misses: bool) -> None:
    """Print a line a format and label: what became of the files."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    peers = {
        name: find() for name, find in {"picklescan": _picklescan, "fickling": _fickling}.items()
    }
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    began = time.perf_counter()
    for row in rows:
        name = row.get("path") or row["file"]
        counts = table[(row.get("format") or Path(name).suffix, row["label"])]
        scan = scan_path(folder / name)
        counts["files"] += 1
        counts[scan.outcome] += 1
        wrong = scan.outcome == ("admitted" if row["label"] == "malicious" else "rejected")
        counts["wrong"] += wrong
        if wrong and misses:
            print(f"{row['label']} {name}: {scan.outcome}", *[f.reason for f in scan.findings[:3]])
        for peer, flags in peers.items():
            if flags is not None:
                counts[f"{peer}: {_ask(flags, folder / name)}"] += 1
    seconds = time.perf_counter() - began
    known = [peer for peer, flags in peers.items() if flags is not None]
    _print_table(table, known)
    print(f"\n{len(rows)} files in {seconds:.1f} s; not installed: "
          f"{', '.join(sorted(set(peers) - set(known))) or 'none'}")  # fmt: skip


def _print_table(table: dict[tuple[str, str], Counter[str]], peers: list[str]) -> None:
    columns = ["files", "rejected", "quarantined", "admitted", "wrong"]
    columns += [f"{peer}: {answer}" for peer in peers for answer in ("flagged", "not looked at")]
    print("| format | label | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for kind, label in sorted(table):
        counts = table[(kind, label)]
        print(f"| {kind} | {label} | " + " | ".join(str(counts[c]) for c in columns) + " |")
    for label in ("malicious", "benign"):
        total: Counter[str] = Counter()
        for (_, other), counts in table.items():
            if other == label:
                total.update(counts)
        print(f"| all | {label} | " + " | ".join(str(total[c]) for c in columns) + " |")


def _ask(flags: Callable[[Path], str], path: Path) -> str:
    """Return a peer's answer, from a process of its own: `flagged`, `clean` or `not looked at`."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def answer() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_PEER_BYTES, _PEER_BYTES))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            queue.put(flags(path))
        except BaseException:
            queue.put("not looked at")

    process = context.Process(target=answer)
    process.start()
    process.join(_PEER_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return "not looked at" if queue.empty() else queue.get()


def _picklescan() -> Callable[[Path], str] | None:
    try:
        scanner = importlib.import_module("picklescan.scanner")
    except ModuleNotFoundError:
        return None

    def flags(path: Path) -> str:
        found = scanner.scan_file_path(str(path))
        if found.issues_count:
            return "flagged"
        return "clean" if found.scanned_files and not found.scan_err else "not looked at"

    return flags


def _fickling() -> Callable[[Path], str] | None:
    try:
        analysis = importlib.import_module("fickling.analysis")
        pickles = importlib.import_module("fickling.fickle")
    except ModuleNotFoundError:
        return None

    def flags(path: Path) -> str:
        with path.open("rb") as stream:
            parsed = pickles.Pickled.load(stream)
        safe = analysis.check_safety(parsed).severity == analysis.Severity.LIKELY_SAFE
        return "clean" if safe else "flagged"

    return flags


def measure_speed(megabytes: int) -> None:
    """Time the admission of a safetensors file against reading and hashing it once."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tensors = {
            f"layer.{i}": rng.standard_normal(4 << 20, dtype=np.float32)
            for i in range(max(megabytes // 16, 1))
        }
        save_file(tensors, path)
        del tensors
        size = path.stat().st_size
        hashing = min(_time(lambda: _hash(path)) for _ in range(3))
        before = resource.getrusage(resource.RUSAGE_SELF)
        store = Path(folder) / "store"
        scanning = []
        for _ in range(3):
            scanning.append(_time(lambda: scan_path(path, store)))
        after = resource.getrusage(resource.RUSAGE_SELF)
        processor = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3
        print(f"{size / 1e6:.0f} MB: read and sha256 {hashing:.2f} s; "
              f"admission {min(scanning):.2f} s "
              f"({min(scanning) / hashing:.2f} x, {size / 1e6 / min(scanning):.0f} MB/s, "
              f"{processor:.2f} CPU-seconds)")  # fmt: skip


def _time(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()

"""What admission makes of labelled files, beside other scanners; and how fast it is.

    python benchmarks/admission.py --folder FOLDER [--manifest FOLDER/manifest.csv] [--misses]
    python benchmarks/admission.py --speed MEGABYTES [--shards N] [--modelaudit ENVIRONMENT]

The manifest is a CSV with the columns `path` (or `file`) and `label` (malicious or benign), and
perhaps `format`. Files are scanned and never loaded. Wrong is a malicious file that is admitted,
and a benign one that is rejected. picklescan (`scan_file_path`) and fickling (`check_safety`) are
asked where they are installed, for each file in a process of its own with a limit of time and
memory. What they could not look at (an error, the limit) is counted apart from what they flag.

`--speed` admits a signed model folder in a project of its own, with all that the gate does, and
times reading and hashing it, `model_signing verify`, and modelaudit in the sandbox beside it.
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
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--modelaudit", type=Path, metavar="ENVIRONMENT")
    options = parser.parse_args()
    if options.folder:
        manifest = options.manifest or options.folder / "manifest.csv"
        compare(options.folder, manifest, options.misses)
    if options.speed:
        measure_speed(options.speed, options.shards, options.modelaudit)


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


def measure_speed(megabytes: int, shards: int, modelaudit: Path | None) -> None:
    """Time the admission of a signed model folder against reading and hashing it once."""
    from datetime import UTC, datetime

    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    from pedigree.admission.gate import admit_artifact, open_gate
    from pedigree.digests import digest_tree
    from pedigree.exports.model_signature import public_pem, sign_model
    from pedigree.project import Project

    with tempfile.TemporaryDirectory() as temporary:
        key = generate_private_key(SECP256R1())
        project, folder = Project(Path(temporary) / "project"), Path(temporary) / "model"
        _make_project(project.root, public_pem(key.public_key()).decode())
        _make_model(folder, megabytes, shards)
        bundle = sign_model("a model", digest_tree(folder), key)
        size = sum(path.stat().st_size for path in folder.iterdir())
        hashing = _measure("read and sha256", lambda: [_hash(p) for p in sorted(folder.iterdir())])
        public, signature = Path(temporary) / "public.pem", Path(temporary) / "model.sig"
        public.write_bytes(public_pem(key.public_key()))
        signature.write_bytes(bundle)
        _compare("model_signing verify", hashing, lambda: _verify(folder, signature, public))
        (folder / "model.sig").write_bytes(bundle)
        gate = open_gate(project)

        def admit() -> None:
            admission = admit_artifact(folder, gate, datetime.now(UTC))
            assert admission.admitted, admission.scan.findings

        _compare("admission, signature and statements included", hashing, admit)
        if modelaudit is not None:
            (folder / "model.sig").unlink()
            _compare("modelaudit", hashing, lambda: _ask_modelaudit(modelaudit, folder), runs=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{size / 1e6:.0f} MB in {shards} files; this process took {peak:.0f} MB at most, "
              "the model as it was made included")  # fmt: skip


def _make_project(root: Path, pem: str) -> None:
    import shutil

    import yaml

    root.mkdir()
    here = Path(__file__).resolve().parents[1]
    shutil.copy(here / "params.yaml", root)
    policy = yaml.safe_load((here / "policy.yaml").read_text())
    policy["admission"]["require_signature"] = True
    (root / "policy.yaml").write_text(yaml.safe_dump(policy))
    (root / "trust").mkdir()
    publishers = {"publishers": {"somebody": {"keys": [{"pem": pem}]}}}
    (root / "trust" / "publishers.yaml").write_text(yaml.safe_dump(publishers))


def _make_model(folder: Path, megabytes: int, shards: int) -> None:
    import json

    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = {
            f"layer.{shard}.{i}": rng.standard_normal(4 << 20, dtype=np.float32)
            for i in range(max(megabytes // 16 // shards, 1))
        }
        weight_map |= dict.fromkeys(tensors, name)
        save_file(tensors, folder / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _verify(folder: Path, signature: Path, public: Path) -> None:
    verifying = importlib.import_module("model_signing.verifying")
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(folder, signature)


def _ask_modelaudit(environment: Path, folder: Path) -> None:
    from pedigree.admission.modelaudit import ask_modelaudit, find_modelaudit
    from pedigree.admission.receiving import receive
    from pedigree.admission.scan import scan_received
    from pedigree.sandbox import Level, probe_isolation

    with tempfile.TemporaryDirectory(dir=folder.parent) as store:
        received = receive(folder, Path(store))
        scan = scan_received(received)
        began = time.perf_counter()
        opinion = ask_modelaudit(
            find_modelaudit(environment), received, scan, probe_isolation(), Level.LANDLOCK_SECCOMP
        )
        against = [f"{one.file}: {one.reason}" for one in opinion.findings]
        print(f"  modelaudit alone: {time.perf_counter() - began:.2f} s; against: {against}")


def _measure(what: str, action: Callable[[], object], runs: int = 3) -> float:
    """Run it; print and return the shortest time in seconds, with the CPU-seconds of that run."""
    best, processor = float("inf"), 0.0
    for _ in range(runs):
        before = os.times()
        seconds = _time(action)
        after = os.times()
        if seconds < best:
            best, processor = seconds, sum(after[:4]) - sum(before[:4])
    print(f"{what}: {best:.2f} s, {processor:.2f} CPU-seconds")
    return best


def _compare(what: str, hashing: float, action: Callable[[], object], runs: int = 3) -> None:
    seconds = _measure(what, action, runs)
    print(f"  {seconds / hashing:.2f} times reading and hashing")


def _time(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()

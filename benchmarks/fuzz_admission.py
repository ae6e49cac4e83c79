"""Fuzz the scanners for some time, with two oracles; prints what was found and what it cost.

    python benchmarks/fuzz_admission.py --seconds 600 [--seed 0]

Inputs are mutations of small honest and hostile files, and random sequences of pickle opcodes. What
`safetensors` refuses must not be admitted, nor what Python's `genops` cannot parse; no scan may end
with an error, take more than five seconds, or let memory grow. Nothing is loaded or run.
"""

import argparse
import bz2
import gzip
import io
import json
import pickletools
import random
import resource
import struct
import tarfile
import time
import zipfile
import zlib
from collections import Counter

import numpy as np
import safetensors

from pedigree.admission.scan import scan_bytes
from pedigree.admission.verdict import Limits

_LIMITS = Limits(opcodes=300_000, expanded=64 << 20, members=2_000)
_SLOW = 5.0


def seeds() -> list[bytes]:
    """Return small files of each format, honest and hostile."""
    plain = [
        b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.",
        b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
        b"cos\nsystem\n(S'id'\ntR.",
        b"(lp0\nI1\naI2\na.",
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01.",
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R.",
        b"(i__builtin__\neval\n.",
        b"\x80\x02" + b"(" * 40 + b"t" * 40 + b".",
    ]
    header = {"__metadata__": {"format": "pt"},
              "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
              "b": {"dtype": "I8", "shape": [3], "data_offsets": [16, 19]}}  # fmt: skip
    raw = json.dumps(header).encode()
    tensors = struct.pack("<Q", len(raw)) + raw + bytes(19)
    config = json.dumps({"chat_template": "{% for m in messages %}{{ m.x }}{% endfor %}"}).encode()
    buffer, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", plain[4])
        archive.writestr("archive/data/0", bytes(64))
    np.save(array, np.arange(6.0))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        info = tarfile.TarInfo("a.pkl")
        info.size = len(plain[1])
        archive.addfile(info, io.BytesIO(plain[1]))
    onnx = b'\x08\x07:\x0e\n\x0c\n\x01x\x12\x01y"\x04Relu' + b"B\x04\n\x00\x10\x0e"
    gguf = (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + struct.pack("<Q", 1)
        + b"a"
        + struct.pack("<IB", 7, 1)
    )
    packed = [gzip.compress(plain[1]), bz2.compress(plain[2]), zlib.compress(plain[0])]
    return [*plain, tensors, tensors, tensors, config, buffer.getvalue(), array.getvalue(),
            tar.getvalue(), onnx, gguf, *packed]  # fmt: skip


def mutate(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """Return `data` with one to eight changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8)))
        elif kind == 2:
            del changed[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            other = rng.choice(corpus)
            begin = rng.randrange(len(other) + 1)
            changed[at:at] = other[begin : begin + rng.randrange(64)]
        elif kind == 4:
            changed[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 255, 2**31 - 1, 2**32 - 1)))
        elif kind == 5:
            changed[at:at] = ord(rng.choice(pickletools.opcodes).code).to_bytes(1, "little")
        else:
            changed[at:at] = changed[at : at + rng.randrange(128)] * rng.choice((1, 2, 8))
    return bytes(changed[:100_000])


def opcodes(rng: random.Random) -> bytes:
    """Return a random sequence of opcodes with arguments that often fit."""
    words = [b"os", b"system", b"builtins", b"eval", b"collections", b"OrderedDict", b"x"]
    parts = [b"\x80\x04"] if rng.random() < 0.7 else []
    for _ in range(rng.randrange(40)):
        opcode = rng.choice(pickletools.opcodes)
        parts.append(opcode.code.encode("latin-1"))
        if opcode.arg is None:
            continue
        word = rng.choice(words)
        argument = {-1: word + b"\n",
                    -2: b"\x02" + word[:2], -3: struct.pack("<I", len(word)) + word,
                    -4: b"\x01\x01", -5: struct.pack("<Q", len(word)) + word}  # fmt: skip
        if opcode.name in ("GLOBAL", "INST"):
            parts.append(word + b"\n" + rng.choice(words) + b"\n")
        elif opcode.arg.n >= 0:
            parts.append(bytes([rng.choice((0, 0, 1, 2, 255))]) + bytes(max(opcode.arg.n - 1, 0)))
            parts[-1] = parts[-1][: opcode.arg.n]
        else:
            parts.append(argument.get(opcode.arg.n, b""))
    return b"".join(parts) + b"."


def check(data: bytes, name: str, counts: Counter[str]) -> str | None:
    """Scan one input; return what is wrong with the verdict, or None."""
    began = time.perf_counter()
    scan = scan_bytes(data, name, _LIMITS)
    seconds = time.perf_counter() - began
    counts[f"{scan.files[0].kind}: {scan.outcome}"] += 1
    failed = [finding.reason for finding in scan.findings if finding.rule == "scan_failed"]
    if failed:
        return failed[0]
    if seconds > _SLOW:
        return f"{seconds:.1f} seconds"
    if scan.outcome != "admitted":
        return None
    if name.endswith(".safetensors") or scan.files[0].kind == "safetensors":
        try:
            safetensors.deserialize(data)
        except Exception as error:
            return f"admitted what safetensors refuses: {error}"
    if scan.files[0].kind == "pickle":
        return "admitted a pickle"
    return None


def main() -> None:
    """Fuzz until the CPU time is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, corpus = random.Random(options.seed), seeds()
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    while time.process_time() < options.seconds:
        data = opcodes(rng) if rng.random() < 0.25 else mutate(rng.choice(corpus), rng, corpus)
        name = rng.choice(("a.bin", "a.safetensors", "a.pkl"))
        problem = check(data, name, counts)
        if problem is not None:
            wrong[problem] += 1
            if wrong[problem] <= 3:
                print(problem, name, data[:200].hex(), flush=True)
        elif len(corpus) < 2000 and rng.random() < 0.002:
            corpus.append(data)
    total = sum(counts.values())
    print(f"{total} inputs in {time.process_time():.0f} CPU-seconds; wrong: {dict(wrong)}")
    print(f"largest resident size {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    for kind, count in counts.most_common(60):
        print(f"  {count:8} {kind}")


if __name__ == "__main__":
    main()

"""What provenance costs: the product's loop against bare torch, strict against fast, the rest.

    python benchmarks/provenance_overhead.py --project . [--steps 60] [--pairs 4] [--demo]

Needs a project in which `pedigree run` has ended. Figures are ratios within one run, of runs that
take turns, in CPU-seconds (all threads) beside wall time. `--demo` runs the whole demo once more.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pedigree.evidence.store import open_store
from pedigree.params import TrainingParams
from pedigree.project import Project, find_project
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.training.determinism import worker_environment
from pedigree.training.launch import run_worker
from pedigree.training.record import TrainingRecord, read_record
from pedigree.training.worker import EvaluateRequest, TrainRequest

ROWS_A_STEP = 16


def main() -> None:
    """Print each figure with how it was had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--loop-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    project = find_project(options.project)
    record = _record(project)
    if options.loop_only:
        compare_loops(project, record, options.steps, options.pairs)
        return
    # The loops are compared in a process with the pinned environment that training has.
    command = [sys.executable, __file__, "--project", str(project.root), "--loop-only"]
    command += ["--steps", str(options.steps), "--pairs", str(options.pairs)]
    environment = worker_environment(record.inputs.params, dict(os.environ))
    subprocess.run(
        command, check=True, env={**environment, "PYTHONPATH": str(Path(__file__).parent.parent)}
    )
    compare_modes(project, record, options.steps, options.pairs)
    if options.demo:
        measure_demo(project, record)


def _record(project: Project) -> TrainingRecord:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    if promoted is None:
        raise SystemExit("No model is in production here: run `pedigree run` first.")
    return read_record(find_training(store, promoted.model))


def compare_loops(project: Project, record: TrainingRecord, steps: int, pairs: int) -> None:
    """Time the product's loop, with checkpoints and progress, against a bare torch loop."""
    from pedigree.training.determinism import prepare
    from pedigree.training.loop import TrainingRows, train
    from pedigree.training.run import CHECKPOINT_EVERY

    params = record.inputs.params.model_copy(update={"epochs": 1})
    table = open_snapshot(record.inputs.training.digest, project.snapshots("training")).read()
    columns = table.slice(0, steps * ROWS_A_STEP).to_pydict()
    labels = list(record.inputs.labels)
    rows = TrainingRows(
        columns["row_id"], columns["text"], [labels.index(one) for one in columns["label"]]
    )
    base = project.admitted / record.inputs.base.digest.removeprefix("sha256:")
    device = prepare(params)

    def product() -> int:
        with tempfile.TemporaryDirectory() as folder:
            outcome = train(
                rows, labels, params, base, device, Path(folder), "benchmark",
                CHECKPOINT_EVERY, lambda _: None,
            )  # fmt: skip
        return outcome.tokens

    def bare() -> int:
        return _train_bare(rows, labels, params, base)

    product()
    ours, theirs = _take_turns(product, bare, pairs, _own_cpu)
    print(f"product's loop   {_describe(ours)} tokens per CPU-second")
    print(f"bare torch loop  {_describe(theirs)} tokens per CPU-second")
    print(f"ratio            {statistics.median(ours) / statistics.median(theirs):.3f}")


def _train_bare(rows: Any, labels: list[str], params: TrainingParams, base: Path) -> int:
    """Train the same model on the same batches as anyone would, and keep nothing of it."""
    import torch

    from pedigree.training.model import build_model, pad_batch, tokenize
    from pedigree.training.order import plan_batches

    torch.manual_seed(params.seed)
    model = build_model(params, base, labels)
    model.train()
    ids = tokenize(base, rows.texts, params.max_tokens)
    plan = plan_batches(
        rows.ids, list(map(len, ids)), seed=params.seed, epoch=0, batch_size=params.batch_size
    )
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=params.learning_rate, foreach=False)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, len(plan))
    for batch in plan:
        inputs, mask = pad_batch(ids, batch, "cpu")
        targets = torch.tensor([rows.targets[row] for row in batch])
        logits = model(input_ids=inputs, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(trainable, params.max_gradient_norm, foreach=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return sum(map(len, ids))


def compare_modes(project: Project, record: TrainingRecord, steps: int, pairs: int) -> None:
    """Time whole training processes in strict and in fast mode."""
    rows = open_snapshot(record.inputs.training.digest, project.snapshots("training")).rows
    epochs = max(1, steps * ROWS_A_STEP // rows)

    def worker(mode: str) -> Callable[[], int]:
        params = record.inputs.params.model_copy(update={"mode": mode, "epochs": epochs})
        return lambda: _run(project, record, params)

    strict, fast = _take_turns(worker("strict"), worker("fast"), max(2, pairs // 2), _children_cpu)
    print(f"strict           {_describe(strict)} tokens per CPU-second, whole process")
    print(f"fast             {_describe(fast)} tokens per CPU-second, whole process")
    print(f"ratio            {statistics.median(strict) / statistics.median(fast):.3f}")


def _run(project: Project, record: TrainingRecord, params: TrainingParams) -> int:
    with tempfile.TemporaryDirectory() as folder:
        request = TrainRequest(
            code_root=Path(__file__).resolve().parent.parent,
            params=params,
            labels=record.inputs.labels,
            snapshots=project.snapshots("training").resolve(),
            snapshot=record.inputs.training.digest,
            base_models=project.admitted.resolve(),
            base=record.inputs.base.digest,
            configuration="benchmark",
            checkpoints=Path(folder) / "checkpoints",
            checkpoint_every=50,
            out=Path(folder) / "model",
        )
        environment = worker_environment(params, dict(os.environ))
        return run_worker(request, lambda _: None, environment)["tokens"]


def measure_demo(project: Project, record: TrainingRecord) -> None:
    """Run the demo; what its training and evaluation processes do not take is the rest."""
    start, wall = _children_cpu(), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "pedigree", "run", "--profile", "demo"],
        cwd=project.root, check=True, capture_output=True,
    )  # fmt: skip
    total, wall = _children_cpu() - start, time.monotonic() - wall
    start = _children_cpu()
    _run(project, record, record.inputs.params)
    training = _children_cpu() - start
    start = _children_cpu()
    request = EvaluateRequest(
        code_root=Path(__file__).resolve().parent.parent,
        params=record.inputs.params,
        labels=record.inputs.labels,
        snapshots=project.snapshots("evaluation").resolve(),
        snapshot=record.evaluation_snapshot.digest,
        model=(project.root / record.location).resolve(),
        model_digest=record.model_digest,
    )
    environment = worker_environment(record.inputs.params, dict(os.environ))
    run_worker(request, lambda _: None, environment)
    evaluation = _children_cpu() - start
    rest = total - training - evaluation
    print(f"demo             {total:.1f} CPU-seconds in {wall:.1f} s")
    print(f"  training       {training:.1f} CPU-seconds, {training / total:.1%}")
    print(f"  evaluation     {evaluation:.1f} CPU-seconds, {evaluation / total:.1%}")
    print(f"  all the rest   {rest:.1f} CPU-seconds, {rest / total:.1%}")


def _take_turns(
    first: Callable[[], int], second: Callable[[], int], pairs: int, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    speeds: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for which in order:
            start = clock()
            tokens = (first, second)[which]()
            speeds[which].append(tokens / (clock() - start))
    return speeds


def _own_cpu() -> float:
    return time.process_time()


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _describe(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):7.1f} ({min(speeds):.1f} to {max(speeds):.1f})"


if __name__ == "__main__":
    main()
